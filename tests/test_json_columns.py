"""JSON of detections read as columns: what the careful reader says, in a fraction of its memory."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.errors import DetkitError
from detkit.predictions import json_columns, readers
from detkit.predictions.image import ImagePredictions
from detkit.predictions.json_columns import plain_json
from detkit.predictions.json_reader import JsonReader
from detkit.predictions.layout import parse_layout
from detkit.predictions.readers import read_predictions
from detkit.predictions.reference import Reference
from detkit.predictions.writers import open_writer

NAMES = ("cat", "dog", "7")
COCO = Reference(NAMES, is_data_set=True, is_coco=True, ids={3: "cat", 5: "dog", 9: "7"})
YOLO = Reference(NAMES, is_data_set=True, ids=dict(enumerate(NAMES)))
REFERENCES = (COCO, YOLO, Reference(NAMES))

NUMBER = st.one_of(
    st.integers(0, 50),
    st.floats(0, 50),
    st.sampled_from([-1, 1e300, float("nan"), 10**400, "3", None, True, [1]]),
)
USUAL = st.floats(0, 1, width=32)


def rows(odd: bool) -> st.SearchStrategy[list[Any]]:
    """Return rows of COCO's results, some odd ones among them if asked for."""
    usual = {
        "image_id": st.integers(1, 4),
        "category_id": st.sampled_from([3, 5, 9, 1, 0] if odd else [3, 5]),
        "bbox": st.lists(st.integers(0, 40), min_size=4, max_size=4),
        "score": USUAL,
    }
    names = {"file_name": st.sampled_from(["a.jpg", 'b "{c', "é/\u2028.jpg"])}
    classes = {"category_name": st.sampled_from(NAMES)}
    shapes = [
        st.fixed_dictionaries({**usual, **more}) for more in ({}, names, {**names, **classes})
    ]
    same = st.one_of(*(st.lists(shape, min_size=1, max_size=9) for shape in shapes))
    if not odd:
        return same
    strange = st.fixed_dictionaries(
        {},
        optional={
            "image_id": st.sampled_from([1, "1", "a.jpg", 2.0, 2.5, True, None, []]),
            "category_id": st.sampled_from([3, "3", 3.0, 77, True, None, [3]]),
            "bbox": st.one_of(st.lists(NUMBER, min_size=3, max_size=5), NUMBER),
            "score": NUMBER,
            "file_name": st.sampled_from(["a.jpg", 'b}, {"image_id": 3', 7, None]),
            "category_name": st.sampled_from(["cat", "lion", 5, None]),
            "segmentation": st.just({"size": [3, 4], "counts": "},\n{ x"}),
        },
    )
    return st.lists(st.one_of(*shapes, strange, st.just("x")), min_size=1, max_size=5)


def images(odd: bool) -> st.SearchStrategy[list[Any]]:
    """Return objects by image, some odd ones among them if asked for."""
    box = st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(9, 40)] * 2).map(list)
    one: dict[str, Any] = {"label": st.sampled_from(NAMES[:2]), "score": USUAL, "box": box}
    if odd:
        one["label"] = st.sampled_from([*NAMES, "lion", "1", 3, None, 5.0])
        one["score"] = st.one_of(USUAL, NUMBER)
        one["box"] = st.one_of(box, st.lists(NUMBER, min_size=4, max_size=4), NUMBER)
    found = {
        "image": st.sampled_from(["a.jpg", "b, {.jpg", "clip.mp4#00003"]),
        "detections": st.lists(st.fixed_dictionaries(one), max_size=4),
    }
    more: dict[str, Any] = {"width": st.integers(1, 99), "image_id": st.integers(0, 9)}
    shapes = [st.fixed_dictionaries(found, optional=more)]
    shapes.append(st.fixed_dictionaries({"image": st.just("gone.jpg"), "error": st.just("gone")}))
    if odd:
        strange = {
            **found,
            "image": st.sampled_from([3, None]),
            "error": st.sampled_from([None, 1]),
        }
        shapes.append(st.fixed_dictionaries({}, optional=strange))
    return st.lists(st.one_of(*shapes), min_size=1, max_size=6)


def shown(one: ImagePredictions) -> tuple[Any, ...]:
    """Return all that is known of an image's detections as plain values."""
    return (
        *(one.image, one.width, one.height, one.labels, one.error, one.normalised, one.box_words),
        *(one.image_id, one.scores.tolist(), one.boxes.tolist(), one.boxes.shape, one.boxes.dtype),
    )


def outcome(path: Path, **options: Any) -> Any:
    """Return what reading a file gives, or the error, and the lines that it logs."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("detkit")
    logger.addHandler(handler)
    try:
        with mock.patch.object(logger, "level", logging.INFO):
            return [shown(one) for one in read_predictions(path, **options)], said
    except DetkitError as error:
        return str(error), said
    finally:
        logger.removeHandler(handler)


def text_of(values: list[Any], form: str) -> str:
    """Return values as one of the ways in which programs write them."""
    if form == "lines":
        return "".join(f"{json.dumps(one)}\n" for one in values)
    if form == "rows on lines":
        return "[\n" + ",\n".join(map(json.dumps, values)) + "\n]\n"
    return json.dumps(values, ensure_ascii=False, indent=2 if form == "indented" else None)


def odd_or_not(odd: bool) -> st.SearchStrategy[list[Any]]:
    return st.one_of(rows(odd), images(odd))


@settings(max_examples=120)
@given(
    values=st.one_of(odd_or_not(False), odd_or_not(True)),
    form=st.sampled_from(["lines", "rows on lines", "indented", "plain"]),
    reference=st.sampled_from(REFERENCES),
    layout=st.sampled_from([None, "class1", "x1 y1 x2 y2", "shares", "class score x y w h"]),
    at_once=st.sampled_from([1, 40, 200, 1 << 22]),
    mark=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_columns_are_what_the_careful_reader_reads_and_errors_are_its_errors(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[Any],
    form: str,
    reference: Reference,
    layout: str | None,
    at_once: int,
    mark: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "found.json"
    path.write_text(text_of(values, form), encoding=mark)
    options: dict[str, Any] = {"reference": reference, "scores": "raw"}
    if layout is not None:
        options["layout"] = parse_layout(layout)

    def read() -> Any:
        try:
            return outcome(path, **options)
        except Exception as error:  # of wrong usage: the same for both
            return type(error), str(error)

    with mock.patch.object(json_columns, "_AT_ONCE", at_once):
        columns = read()
    with mock.patch.object(readers, "plain_json", return_value=None):
        assert columns == read()


@settings(max_examples=30)
@given(values=odd_or_not(False), at_once=st.sampled_from([40, 1 << 22]))
def test_usual_files_take_the_short_way(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], at_once: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "usual.json"
    for form in ("rows on lines", "plain", "indented"):
        path.write_text(text_of(values, form), encoding="utf-8")
        reader = JsonReader(path, COCO, None)
        with mock.patch.object(json_columns, "_AT_ONCE", at_once):
            found = plain_json(path, reader)
        assert found is not None
        number = sum(len(one.get("detections", [one])) for one in values if "error" not in one)
        assert sum(len(one.labels) for one in found) == number


@pytest.mark.parametrize("form", ["jsonl", "json", "coco"])
def test_what_detect_writes_takes_the_short_way_and_comes_back(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    written = []
    with open_writer(form, tmp_path / f"p.{form}", class_names=NAMES[:2]) as writer:
        for number in range(5):
            corner = rng.uniform(0, 40, (number, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (number, 2))], axis=1)
            labels = tuple(NAMES[one] for one in rng.integers(0, 2, number))
            scores = rng.random(number).astype(np.float32)
            one = ImagePredictions(
                f"{number}.jpg", 90, 90, labels, scores, boxes.astype(np.float32)
            )
            writer.write(one)
            written += [one] if number or form != "coco" else []
    (path,) = (one for one in tmp_path.iterdir() if "images" not in one.name)
    found = plain_json(path, JsonReader(path, YOLO, None))
    assert found is not None and [one.image for one in found] == [one.image for one in written]
    for back, one in zip(found, written, strict=True):
        assert back.labels == one.labels and back.scores.tolist() == one.scores.tolist()
        np.testing.assert_allclose(back.boxes, one.boxes, atol=1e-5)


@pytest.mark.parametrize("form", ["results", "images"])
def test_memory_is_that_of_the_columns_and_not_of_objects(tmp_path: Path, form: str) -> None:
    number = 4_000
    path = tmp_path / "many.json"
    values: list[Any] = [
        {"image_id": at // 100, "category_id": 3, "bbox": [1.5, 2, 3, 4.25], "score": 0.5}
        for at in range(number)
    ]
    if form == "images":
        one = {"label": "cat", "score": 0.25, "box": [1.5, 2, 4.5, 6.25]}
        values = [{"image": f"{at}.jpg", "detections": [one] * 100} for at in range(number // 100)]
    path.write_text(text_of(values, "lines" if form == "images" else "plain"), encoding="utf-8")
    with mock.patch.object(json_columns, "_AT_ONCE", 1 << 14):
        tracemalloc.start()
        try:
            found = read_predictions(path, reference=COCO)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sum(len(one.labels) for one in found) == number
    # As objects of Python's a detection takes some 800 bytes; its numbers alone take 36.
    assert peak < 200 * number
