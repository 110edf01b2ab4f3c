"""Label files with values of the wrong kinds anywhere: findings, and never a traceback."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tool_mistakes
from labelled_folders import put
from test_via import VERSION_3

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.errors import DetkitError

ODD: list[Any] = [None, True, -1, 0, 1e400, 10**400, "", "x", "\ud800", [], {}, [None], {"x": []}]
ODD += [[[1]], float("nan"), "1e999", [1, 2, 3], {"points": None}, "../../x.png", "data:image/png,"]
BOX = tool_mistakes.BOX


def parsed(text: str) -> Any:
    return json.loads(text)


def mask(kind: str) -> dict[str, Any]:
    return {"label": "m", "points": [[1, 1], [5, 5]], "shape_type": kind, "mask": "AAAA"}


def documents() -> dict[str, tuple[str, Any]]:
    """Return by format the name of a file, and its content with many kinds of shape."""
    labelme = parsed(tool_mistakes.labelme(BOX, group_id=1, flags={"difficult": True}))
    labelme["shapes"] += [mask("mask"), mask("circle"), mask("polygon"), mask("point")]
    studio = parsed(tool_mistakes.label_studio(BOX, BOX))
    values = [region["value"] for region in studio[0]["annotations"][0]["result"]]
    values[0] |= {"rotation": 30, "labels": ["a"]}
    results = studio[0]["annotations"][0]["result"]
    for value in (
        {"points": [[1, 1], [50, 50], [9, 9]], "polygonlabels": ["a"]},
        {"x": 5, "y": 5, "radiusX": 3, "radiusY": 2, "ellipselabels": ["a"]},
        {"rle": [0, 0, 0, 1], "brushlabels": ["a"]},
    ):
        results.append({"id": f"r{len(results)}", "value": value, "meta": {"text": ["difficult"]}})
    via = parsed(tool_mistakes.via(BOX, BOX))
    via["1"]["regions"][0]["shape_attributes"] = {"name": "circle", "cx": 5, "cy": 5, "r": 2}
    ann = parsed(tool_mistakes.supervisely(BOX, BOX))
    bitmap = {"bitmap": {"data": "AAAA", "origin": [1, 1]}, "geometryType": "bitmap"}
    ann["objects"].append({**bitmap, "classTitle": "car", "tags": [{"name": "difficult"}]})
    region = {"x1": 1, "y1": 1, "x2": 5, "y2": 5, "width": 40, "height": 20, "tags": ["car"]}
    old = {"frames": {"a.png": [region]}, "inputTags": "car", "visitedFrames": ["a.png", "b.png"]}
    return {
        "labelme": ("images/a.json", labelme),
        "label-studio": ("tasks.json", studio),
        "createml": ("labels.json", parsed(tool_mistakes.createml(BOX, BOX))),
        "via": ("via.json", via),
        "via 3": ("via.json", VERSION_3),
        "supervisely": ("ann/a.png.json", ann),
        "vott": ("p-export.json", parsed(tool_mistakes.vott(BOX, BOX))),
        "vott 1": ("photos.json", old),
    }


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to each value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, one in inner:
        found.append((*above, key))
        if isinstance(one, dict | list):
            found += places(one, (*above, key))
    return found


def with_odd(document: Any, chance: random.Random) -> Any:
    """Return a copy of a document with one value replaced, or its key lost."""
    odd = copy.deepcopy(document)
    *way, last = chance.choice(places(odd))
    inside = odd
    for key in way:
        inside = inside[key]
    if isinstance(inside, dict) and chance.random() < 0.2:
        del inside[last]
    else:
        inside[last] = chance.choice(ODD)
    return odd


@pytest.mark.parametrize("kind", documents())
def test_a_value_of_a_wrong_kind_anywhere_is_no_traceback(tmp_path: Path, kind: str) -> None:
    name, document = documents()[kind]
    put(tmp_path, {"images/a.png": None, "images/b.png": None})
    chance = random.Random(kind)
    read = 0
    for _ in range(150):
        text = json.dumps(with_odd(document, chance)).encode("utf-8", "surrogatepass")
        put(tmp_path, {name: text})
        try:
            data = open_dataset(tmp_path)
        except DetkitError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        for finding in check(data, read_images=False):
            assert finding.message
        for members in data.splits.values():
            for record in members:
                assert record.path.resolve().is_relative_to(tmp_path.resolve())
                assert all(
                    isinstance(value, float | int) for one in record.objects for value in one.box
                )
    assert read > 50


@pytest.mark.parametrize("kind", documents())
def test_an_empty_or_hollow_document_is_one_line_or_a_set_without_objects(
    tmp_path: Path, kind: str
) -> None:
    name, document = documents()[kind]
    put(tmp_path, {"images/a.png": None})
    for text in ("", "[]", "{}", "null", "1", "[" * 99_999, json.dumps(document)[:40]):
        put(tmp_path, {name: text})
        try:
            data = open_dataset(tmp_path)
        except DetkitError as error:
            assert "\n" not in str(error)
        else:
            assert not any(one.objects for part in data.splits.values() for one in part)


@pytest.mark.parametrize("attribute", ["label", "xtl", "points", "rotation", "frame", "outside"])
@pytest.mark.parametrize("value", ["", "x", "nan", "1e999", "1,2;3", "-1", "&#xe9;" * 99])
def test_an_odd_attribute_of_cvats_is_no_traceback(
    tmp_path: Path, attribute: str, value: str
) -> None:
    texts = {"label": "car", "xtl": "1", "ytl": "1", "xbr": "5", "ybr": "5", "rotation": "1"}
    texts |= {"points": "1,1;5,5;2,3", "frame": "0", "outside": "0", "keyframe": "1"}
    shape = " ".join(f'{name}="{text}"' for name, text in {**texts, attribute: value}.items())
    shapes = f"<box {shape}/><polygon {shape}/><ellipse {shape}/><mask {shape}/><cuboid {shape}/>"
    image = f'<image name="a.png" width="x" height="">{shapes}</image>'
    text = f"<annotations>{image}<track label='car'>{shapes}</track></annotations>"
    put(tmp_path, {"images/a.png": None, "images/frame_000000.png": None, "x.xml": text})
    data = open_dataset(tmp_path)
    assert data.format == "cvat"
    assert check(data, read_images=False)
