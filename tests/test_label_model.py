"""What a model, a proposer and a training beside `detkit label` do for its page."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import Client, save, until

from detkit.errors import DetkitError
from detkit.labelling import retraining, suggestions
from detkit.labelling.claim import HIDDEN
from detkit.labelling.desk import Desk
from detkit.labelling.ordering import LabelOrder
from detkit.labelling.photos import open_photos
from detkit.labelling.retraining import Retraining, latest_model
from detkit.labelling.server import LabelServer, serving
from detkit.labelling.session import Session
from detkit.labelling.suggestions import Drafts, Suggestions, proposals_by


@pytest.fixture
def session(tmp_path: Path) -> Any:
    for number in range(12):
        save(tmp_path / "photos" / f"{number:02d}.png", seed=number)
    session = Session(open_photos(tmp_path / "photos"), tmp_path / "out", classes=["car"])
    yield session
    session.close()


def paths_of(session: Session) -> dict[int, Path]:
    return {number: one.photo.path for number, one in session.known.items()}


def put(session: Session, number: int) -> None:
    rows = [{"label": "car", "box": [0, 0, 5, 5]}]
    revision = session.known[number].labels.revision
    session.put(number, {"editor": "me", "revision": revision, "state": "done", "objects": rows})


def test_the_open_image_comes_first_and_those_after_it_follow(session: Session) -> None:
    asked: list[str] = []

    def find(path: Path) -> list[str]:
        asked.append(path.stem)
        time.sleep(0.02)
        return [path.stem]

    found = Suggestions(paths_of(session), lambda: find, session.note_change)
    found.want(5, [6, 7])
    assert until(lambda: found.result(7)[0] == "ready")
    assert asked == ["04", "05", "06"]
    assert found.result(5) == ("ready", ["04"], "")
    assert found.result(9)[0] == "waiting"
    found.want(9, [])
    assert until(lambda: found.result(9)[0] == "ready")
    found.close()


def test_an_image_that_fails_is_told_and_the_next_one_is_looked_at(session: Session) -> None:
    def find(path: Path) -> list[str]:
        if path.stem == "00":
            raise DetkitError("00.png: broken")
        return []

    found = Suggestions(paths_of(session), lambda: find, session.note_change)
    found.want(1, [2])
    assert until(lambda: found.result(2)[0] == "ready")
    assert found.result(1) == ("failed", None, "00.png: broken")
    found.close()


def test_pre_labels_come_with_the_models_classes_and_a_new_model_is_a_generation(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(model: str) -> Any:
        if model == "broken":
            raise DetkitError("broken: no model")
        row = {"label": "dog", "score": 0.5, "box": [0, 0, 5, 5], "by": model}
        return (lambda path: [row]), ["dog", "car"], 0.25

    monkeypatch.setattr(suggestions, "open_detector", opened)
    order = LabelOrder(session)
    drafts = Drafts("first", paths_of(session), session.note_change, session.offer_classes, order)
    desk = Desk(session, order, drafts=drafts)
    answer = until(lambda: one if (one := desk.drafts(1))["status"] == "ready" else None)
    assert answer["generation"] == 1 and answer["detections"][0]["by"] == "first"
    state = desk.state()
    assert state["classes"] == ["car", "dog"]
    assert state["model"] == {"name": "first", "generation": 1, "map": 0.25}
    drafts.take(Path("second"))
    until(lambda: drafts.generation == 2)
    answer = until(lambda: one if (one := desk.drafts(1))["status"] == "ready" else None)
    assert answer["detections"][0]["by"] == "second"
    drafts.take(Path("broken"))
    answer = until(lambda: one if (one := desk.drafts(1))["status"] == "failed" else None)
    assert answer["error"] == "broken: no model" and answer["detections"] == []
    drafts.close()


def test_without_a_model_the_page_is_told_that_there_are_no_pre_labels(session: Session) -> None:
    desk = Desk(session)
    assert desk.drafts(1) == {"status": "none", "generation": 0, "detections": []}
    assert desk.proposals(1) == {"status": "none", "boxes": []}


def test_proposals_are_edge_boxes_of_the_image_best_first(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    import cv2

    from detkit.proposals.proposer import propose

    pixels = np.full((120, 160, 3), 40, np.uint8)
    pixels[30:90, 50:120] = (200, 180, 40)
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes())
    boxes = proposals_by("edge-boxes")()(path)
    assert boxes == propose("edge-boxes", pixels, max_boxes=300).boxes.tolist()
    assert 0 < len(boxes) <= 300


FAKE = """
import sys, pathlib, time
words = sys.argv[1:]
run = pathlib.Path(words[words.index("-o") + 1])
data = pathlib.Path(words[-1])
images = sorted(one.stem for one in (data / "JPEGImages").iterdir())
labels = sorted(one.stem for one in (data / "Annotations").iterdir())
assert images == labels
if BEHAVE == "fail":
    sys.exit("detkit: error: no objects to train on")
if BEHAVE == "hang":
    (data.parent / "begun").write_text("")
    time.sleep(60)
run.mkdir(parents=True)
(run / "best.safetensors").write_text(f"{len(images)} {words}")
"""


def training(
    session: Session, monkeypatch: pytest.MonkeyPatch, behave: str, taken: list[Path]
) -> Retraining:
    """Return a training every four images whose process is a stand-in for `detkit train`."""

    def started(words: list[str], output: int, *, aside: bool) -> Any:
        assert words[0] == "train" and aside
        code = FAKE.replace("BEHAVE", repr(behave))
        return subprocess.Popen(
            [sys.executable, "-c", code, *words[1:]],
            stdout=output,
            stderr=output,
            start_new_session=os.name != "nt",
        )

    monkeypatch.setattr(retraining, "start_tethered", started)
    monkeypatch.setattr(retraining, "LEAST_IMAGES", 2)
    return Retraining(session, 4, "ssd", "none", taken.append)


def status_of(beside: Retraining) -> str:
    return str((beside.told() or {}).get("status"))


def test_after_each_so_many_new_images_a_training_gives_another_model(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    beside = training(session, monkeypatch, "train", taken)
    for number in range(1, 4):
        put(session, number)
    put(session, 3)  # changed again, which is no new image
    assert beside.told() is None
    put(session, 4)
    until(lambda: status_of(beside) == "done")
    assert (beside.told() or {})["at"] == 4
    assert taken[0].read_text().startswith("4 ")
    assert "'--weights', 'none'" in taken[0].read_text()
    for number in range(5, 9):
        put(session, number)
    until(lambda: len(taken) == 2 and status_of(beside) == "done")
    assert taken[1].read_text().startswith("8 ")
    assert str(taken[0]) in taken[1].read_text()  # it goes on from the last model
    assert latest_model(session.hidden) == taken[1]
    until(lambda: not taken[0].exists())
    beside.close()


def test_a_training_that_fails_says_why_and_labelling_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    beside = training(session, monkeypatch, "fail", taken)
    for number in range(1, 5):
        put(session, number)
    until(lambda: status_of(beside) == "failed")
    assert (beside.told() or {})["message"] == "no objects to train on"
    put(session, 5)
    assert session.num_labelled == 5 and taken == []
    beside.close()


def test_the_end_of_labelling_ends_the_training(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[Path] = []
    beside = training(session, monkeypatch, "hang", taken)
    for number in range(1, 9):
        put(session, number)
    until((tmp_path / "out" / HIDDEN / "begun").exists)
    process = beside._process
    assert process is not None and process.poll() is None
    began = time.monotonic()
    beside.close()
    assert process.poll() is not None
    assert time.monotonic() - began < 10
    assert taken == []


def test_the_server_answers_while_a_model_is_slow(session: Session) -> None:
    def find(path: Path) -> list[Any]:
        time.sleep(1.0)
        return []

    found = Suggestions(paths_of(session), lambda: find, session.note_change)
    server = LabelServer(Desk(session, proposals=found))
    serving(server)
    client = Client(server.address)
    began = time.perf_counter()
    assert client.get("images/1/proposals")["status"] == "waiting"
    assert client.put(1, ("car", [0, 0, 5, 5]))[0] == 200
    assert time.perf_counter() - began < 0.9
    server.shutdown()
    server.server_close()
    found.close()
