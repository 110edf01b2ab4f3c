"""The order of a labelling session: by novelty, then by a model's doubt, kept up to date."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from labelling import until

from detkit.labelling import ordering
from detkit.labelling.ordering import LabelOrder, queue_of
from detkit.labelling.photos import open_photos
from detkit.labelling.pool import look_at_pool
from detkit.labelling.session import Session


def scene(kind: int) -> np.ndarray:
    """Return a picture of stripes, of squares, of blobs, ..."""
    random = np.random.default_rng(kind)
    small = random.integers(0, 255, (4 + 3 * kind, 5 + 2 * kind), np.uint8)
    return cv2.resize(small, (160, 120), interpolation=cv2.INTER_NEAREST)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of a, a-copy, b and c: three scenes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, kind in (("a", 0), ("a-copy", 0), ("b", 1), ("c", 2)):
        cv2.imwrite(str(folder / f"{name}.png"), scene(kind))
    return folder


@pytest.fixture
def session(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setattr(ordering, "PAUSE", 0.01)
    monkeypatch.setattr(ordering, "MANY_LABELLED", 1)
    monkeypatch.setattr(ordering, "MANY_FOUND", 1)
    session = Session(open_photos(photos), tmp_path / "out", classes=["car"])
    yield session
    session.close()


def names_in_order(session: Session, order: LabelOrder) -> list[str]:
    return [Path(session.known[number].photo.name).stem for number in order.order()]


def number_of(session: Session, name: str) -> int:
    return next(key for key, one in session.known.items() if Path(one.photo.name).stem == name)


def label(session: Session, name: str) -> None:
    number = number_of(session, name)
    session.editors.greet("me", take=True)
    rows = [{"label": "car", "box": [10, 10, 50, 50], "difficult": False, "machine_made": False}]
    revision = session.known[number].labels.revision
    session.put(number, {"editor": "me", "revision": revision, "state": "done", "objects": rows})


def test_copies_come_last_and_labelled_images_after_all_that_is_to_do(session: Session) -> None:
    order = LabelOrder(session)
    assert until(lambda: order.times)
    first = names_in_order(session, order)
    assert sorted(first) == ["a", "a-copy", "b", "c"]
    assert first[-1] in ("a", "a-copy")
    label(session, "a")
    assert names_in_order(session, order)[-1] == "a"
    times = order.times
    assert until(lambda: order.times > times)
    assert names_in_order(session, order)[2:] == ["a-copy", "a"]
    assert order.reasons()[number_of(session, "a-copy")] == "a copy of a.png"
    order.close()


def test_what_the_model_doubts_comes_first_and_another_model_is_heard_anew(
    session: Session,
) -> None:
    order = LabelOrder(session)
    assert until(lambda: order.times)
    for doubted, sure in (("c", "b"), ("b", "c")):
        order.forget()
        times = order.times
        order.hear(number_of(session, sure), [{"label": "car", "score": 0.99}])
        order.hear(number_of(session, doubted), [{"label": "car", "score": 0.5}] * 40)
        assert until(lambda times=times: order.times > times)
        assert until(lambda name=doubted: names_in_order(session, order)[0] == name)
        assert "40 doubtful detections" in order.reasons()[number_of(session, doubted)]
    order.close()


def test_a_queue_of_a_part_keeps_copies_within_it_and_those_of_labelled_images(
    photos: Path,
) -> None:
    names = [str(photos / f"{name}.png") for name in ("a", "b", "a-copy", "c")]
    pool = look_at_pool(names)
    assert [set(pair) for pair in pool.copies] == [{0, 2}]
    both = queue_of(pool, [2, 3, 0], [1], ["car"], None)
    assert [set(pair) for pair in both.copies] == [{0, 2}] and not both.seen
    apart = queue_of(pool, [1, 2], [3, 0], ["car"], {"car": 1})
    assert not apart.copies and apart.seen == {1: 1}
    assert apart.ranked()[-1].is_copy
