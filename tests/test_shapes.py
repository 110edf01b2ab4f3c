"""The boxes around what is no upright box, against pycocotools, a rotation and a plain loop."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_folders import boxes, codes, put

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.formats.shapes import around_keypoints, around_mask, around_pairs, around_rotated


@given(
    st.integers(1, 9).flatmap(
        lambda height: st.lists(
            st.lists(st.booleans(), min_size=height, max_size=height), min_size=1, max_size=9
        )
    )
)
def test_the_box_around_a_mask_is_that_around_its_pixels(columns: list[list[bool]]) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    pixels = np.asfortranarray(np.array(columns, np.uint8).T)
    coded = mask.encode(pixels)
    compressed = {"size": list(coded["size"]), "counts": coded["counts"].decode()}
    flat = pixels.ravel(order="F")
    counts, value = [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    rows, found = np.nonzero(pixels)
    expected = None
    if len(rows):
        expected = (found.min(), rows.min(), found.max() + 1, rows.max() + 1)
        x, y, width, height = mask.toBbox(coded)
        assert (x, y, x + width, y + height) == expected
    assert around_mask(compressed) == expected
    assert around_mask({"size": list(pixels.shape), "counts": counts}) == expected


@pytest.mark.parametrize(
    "mask",
    [
        None,
        {"size": [2, 2]},
        {"size": [2], "counts": [1, 1]},
        {"size": [2, 2], "counts": [1, 9]},
        {"size": [2, 2], "counts": [1, -1, 4]},
        {"size": [2, 2], "counts": "\x00\x7f"},
        {"size": [2, 2], "counts": "o" * 99},
        {"size": [1 << 40, 2], "counts": [1, 1]},
        {"size": [2, 2], "counts": [0, 0, 0]},
    ],
)
def test_what_is_no_mask_has_no_box(mask: object) -> None:
    assert around_mask(mask) is None


@given(
    st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 40), st.floats(1, 40), st.floats(-720, 720)
)
def test_the_box_around_a_rotated_one_is_that_around_its_corners(
    cx: float, cy: float, width: float, height: float, degrees: float
) -> None:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    corners = [
        (cx + x * cosine - y * sine, cy + x * sine + y * cosine)
        for x in (-width / 2, width / 2)
        for y in (-height / 2, height / 2)
    ]
    expected = (*map(min, zip(*corners)), *map(max, zip(*corners)))
    assert around_rotated(cx, cy, width, height, degrees) == pytest.approx(expected, abs=1e-9)
    assert around_rotated(cx, cy, width, height, -degrees) == pytest.approx(expected, abs=1e-9)


def test_points_on_a_level_line_and_key_points_that_are_not_labelled_span_nothing() -> None:
    assert around_pairs([1, 5, 9, 5]) is None
    assert around_pairs([1, 5, 9]) is None
    assert around_pairs([1, 5, 9, 7]) == (1, 5, 9, 7)
    assert around_keypoints([1, 2, 2, 9, 8, 1, 99, 99, 0]) == (1, 2, 9, 8)
    assert around_keypoints([1, 2, 2, 99, 99, 0]) is None


def coco(root, *annotations):
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": 1, **one}
            for place, one in enumerate(annotations, 1)
        ],
    }
    return open_dataset(put(root, {"a.png": None, "coco.json": json.dumps(content)}))


@pytest.mark.parametrize(
    ("annotation", "box"),
    [
        ({"segmentation": [[4, 2, 20, 2, 20, 12]]}, (4, 2, 20, 12)),
        ({"segmentation": [[4, 2, 9, 2, 9, 5], [15, 8, 20, 12, 16, 9]]}, (4, 2, 20, 12)),
        ({"segmentation": [4, 2, 20, 2, 20, 12]}, (4, 2, 20, 12)),
        ({"segmentation": {"size": [20, 40], "counts": [4 * 20 + 2, 3, 17, 3, 695]}}, (4, 2, 6, 5)),
        ({"keypoints": [4, 2, 2, 20, 12, 1, 0, 0, 0], "bbox": []}, (4, 2, 20, 12)),
        ({"bbox": [12, 7, 10, 16, 90]}, (4, 2, 20, 12)),  # detectron2's rotated box
        ({"bbox": [7, -1, 10, 16], "attributes": {"rotation": 90.0}}, (4, 2, 20, 12)),  # CVAT's
        ({"bbox": [4, 2, 20, 2, 20, 12, 4, 12]}, (4, 2, 20, 12)),
        ({"bbox": [4, 2, 16, 10], "attributes": {"rotation": 0.0}}, (4, 2, 20, 12)),
        ({"bbox": [4, 2, 16, 10], "segmentation": [[0, 0, 40, 0, 40, 20]]}, (4, 2, 20, 12)),
    ],
)
def test_cocos_shapes_are_read_as_the_box_around_them(tmp_path, annotation, box):
    data = coco(tmp_path, annotation)
    ((name, found),) = boxes(data)["a.png"]
    assert (name, found) == ("car", pytest.approx(box))
    assert codes(data, "error") == []


@pytest.mark.parametrize(
    ("annotation", "note"),
    [
        ({"bbox": [12, 7, 10, 16, 90]}, "1 rotated box: read as the bounding box"),
        (
            {"bbox": [4, 2, 16, 10], "keypoints": [5, 5, 2]},
            "1 object with key points: only the box is read",
        ),
        (
            {"bbox": [4, 2, 16, 10], "segmentation": [[1, 1, 2, 2, 3, 4]]},
            "1 object with an outline: only box and area are read",
        ),
    ],
)
def test_of_how_many_only_the_box_is_read_is_said(tmp_path, annotation, note):
    assert note in coco(tmp_path, annotation).notes


@pytest.mark.parametrize(
    "annotation",
    [
        {"segmentation": [[4, 2, 20, 2]]},
        {"segmentation": {"size": [20, 40], "counts": [800]}},
        {"keypoints": [4, 2, 2, 0, 0, 0]},
    ],
)
def test_what_spans_no_area_is_named_with_its_place_and_the_rest_is_read(tmp_path, annotation):
    data = coco(tmp_path, annotation, {"bbox": [4, 2, 16, 10]})
    (found,) = data.findings
    assert (found.code, found.severity) == ("no-extent", "warning")
    assert (found.image_id, found.object_number, found.class_name) == ("a.png", 1, "car")
    assert "annotation 1" in found.message
    assert [one.number for one in data.splits["all"][0].objects] == [2]


def yolo(root, text, more=""):
    files = {
        "images/a.png": None,
        "labels/a.txt": text,
        "data.yaml": f"names: [car]\ntrain: images\n{more}",
    }
    return open_dataset(put(root, files))


@pytest.mark.parametrize("points", [1, 2, 3, 17])
def test_yolos_key_points_are_known_by_their_marks_and_it_is_told(tmp_path, points):
    row = "0 .3 .35 .4 .5" + " .25 .3 2 .4 .4 0"[: 9 * points] + " .3 .3 1" * max(0, points - 2)
    data = yolo(tmp_path, row + "\n")
    assert boxes(data, "train")["images/a.png"] == [("car", pytest.approx((4, 2, 20, 12)))]
    assert "1 row with key points: only the box is read" in data.notes
    assert codes(data) == ["keypoints"]
    assert "kpt_shape" in data.findings[0].message


def test_with_a_kpt_shape_key_points_need_no_telling(tmp_path):
    data = yolo(tmp_path, "0 .3 .35 .4 .5 .2 .3 .4 .4\n", "kpt_shape: [2, 2]\n")
    assert boxes(data, "train")["images/a.png"] == [("car", pytest.approx((4, 2, 20, 12)))]
    assert codes(data) == []


def test_rows_that_may_be_polygons_or_key_points_are_polygons_and_the_doubt_is_told(tmp_path):
    text = "0 .5 .5 .8 .8 .3 .3 .6 .6 .4 .4\n0 .5 .5 .6 .6 .3 .3 .6 .6 .4 .5\n"
    data = yolo(tmp_path, text)
    assert codes(data) == ["polygon"]
    assert "kpt_shape" in data.findings[0].message


@pytest.mark.parametrize(
    "text",
    [
        "0 .1 .1 .5 .1 .5 .6 .1 .6\n",  # corners
        "0 .1 .1 .5 .1 .5 .6\n0 .1 .1 .5 .1 .5 .6 .3 .7 .1 .6\n",  # outlines of two lengths
        "0 .1 .1 .5 .1 .5 .6 .3 .7 .1 .6\n",  # one outside of what would be its box
        "0 .1 .1 .5 .1 .5 .6 1 .7 .1 1\n",  # ones at the image's border
    ],
)
def test_corners_and_outlines_are_polygons_without_a_doubt(tmp_path, text):
    data = yolo(tmp_path, text)
    assert codes(data) == ["polygon"]
    assert "kpt_shape" not in data.findings[0].message
    (_, box) = boxes(data, "train")["images/a.png"][0]
    values = [float(word) for word in text.split("\n")[0].split()[1:]]
    assert box == pytest.approx(
        (
            min(values[0::2]) * 40,
            min(values[1::2]) * 20,
            max(values[0::2]) * 40,
            max(values[1::2]) * 20,
        )
    )


def test_a_polygon_without_area_is_found(tmp_path):
    findings = check(yolo(tmp_path, "0 .1 .1 .5 .1 .7 .1\n"))
    assert [one.code for one in findings if one.severity == "error"] == ["zero-area"]
