"""Label Studio's exports: percentages, turned boxes, several annotations, and images by address."""

import base64
import json
import math

import cv2
import numpy as np
import pytest
from labelled_folders import boxes, codes, ids, put

from detkit.data import open_dataset
from detkit.data.convert import convert

SIZE = {"original_width": 40, "original_height": 20, "image_rotation": 0}


def region(kind, label, key="r1", **value):
    labels = {kind: [label] if isinstance(label, str) else label}
    return {"id": key, "type": kind, "from_name": "label", "value": {**value, **labels}, **SIZE}


def rectangle(label="car", x=10, y=20, width=50, height=30, **more):
    """10, 20, 50, 30 percent of 40 x 20 pixels: (4, 4, 24, 10)."""
    return region("rectanglelabels", label, x=x, y=y, width=width, height=height, **more)


def annotation(*results, **more):
    return {"id": 1, "result": list(results), "was_cancelled": False, **more}


def task(*annotations, image="a.jpg", **more):
    content = {"annotations": list(annotations), "data": {"image": image}, "predictions": []}
    return {"id": 7, **content, **more}


def read(folder, *tasks, images=("a.jpg",), **files):
    put(folder, {**dict.fromkeys(images), "tasks.json": json.dumps(tasks), **files})
    return open_dataset(folder)


def test_percentages_become_pixels_and_shapes_the_boxes_around_them(tmp_path):
    results = [
        rectangle(),
        region("polygonlabels", "hill", "r2", points=[[0, 0], [50, 10], [25, 50]], closed=True),
        region("ellipselabels", "pond", "r3", x=50, y=50, radiusX=25, radiusY=10),
    ]
    data = read(tmp_path, task(annotation(*results)))
    assert data.format == "label-studio"
    assert boxes(data)["a.jpg"] == [
        ("car", (4, 4, 24, 10)),
        ("hill", (0, 0, 20, 10)),
        ("pond", (10, 8, 30, 12)),
    ]
    assert data.splits["all"][0].width == 40
    assert "1 ellipse and 1 polygon are read as the boxes around them" in data.notes
    assert codes(data) == []


def test_a_turned_box_turns_clockwise_in_pixels_about_its_top_left_corner(tmp_path):
    data = read(tmp_path, task(annotation(rectangle(x=50, y=20, rotation=90))))
    # from (20, 4), 20 wide and 6 high, upright: to the left and down
    assert boxes(data)["a.jpg"] == [("car", (14, 4, 20, 24))]
    data = read(tmp_path, task(annotation(rectangle(x=50, y=20, rotation=330))))
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    ((_, box),) = boxes(data)["a.jpg"]
    assert box == pytest.approx((20, 4 - 20 * sin, 20 + 20 * cos + 6 * sin, 4 + 6 * cos))
    assert "1 rotated box is read as the box around it" in data.notes


def test_results_of_one_id_are_one_region_whose_labels_stand_apart(tmp_path):
    place = {"x": 10, "y": 20, "width": 50, "height": 30}
    results = [
        {"id": "k", "type": "rectangle", "value": place, **SIZE},
        {"id": "k", "type": "labels", "value": {**place, "labels": ["Total"]}, **SIZE},
        {"id": "k", "type": "textarea", "value": {**place, "text": ["12.50"]}, **SIZE},
        {"type": "relation", "from_id": "k", "to_id": "l", "direction": "right"},
        {"id": "c", "type": "choices", "value": {"choices": ["invoice"]}},
    ]
    data = read(tmp_path, task(annotation(*results)))
    assert boxes(data)["a.jpg"] == [("Total", (4, 4, 24, 10))]
    assert "1 result about a whole image (choices, texts) not read" in data.notes


def test_results_of_one_id_and_one_tag_are_regions_of_their_own(tmp_path):
    other = rectangle("bus", x=50)
    data = read(tmp_path, task(annotation(rectangle(), rectangle(), other)))
    box = boxes(data)["a.jpg"][0]
    assert [name for name, _ in boxes(data)["a.jpg"]] == ["car", "car", "bus"]
    assert boxes(data)["a.jpg"][1] == box
    assert boxes(data)["a.jpg"][2][1] != box[1]


def test_a_region_without_labels_has_the_choice_made_for_it_or_is_an_error(tmp_path):
    place = {"x": 10, "y": 20, "width": 50, "height": 30}
    bare = {"id": "k", "type": "rectangle", "value": place, **SIZE}
    choice = {"id": "k", "type": "choices", "value": {**place, "choices": ["cat"]}, **SIZE}
    assert boxes(read(tmp_path, task(annotation(bare, choice))))["a.jpg"][0][0] == "cat"
    data = read(tmp_path, task(annotation(bare)))
    assert (codes(data, "error"), boxes(data)) == (["no-class"], {"a.jpg": []})


def test_a_region_of_several_labels_is_an_object_of_each(tmp_path):
    data = read(tmp_path, task(annotation(rectangle(["car", "taxi"]))))
    assert boxes(data)["a.jpg"] == [("car", (4, 4, 24, 10)), ("taxi", (4, 4, 24, 10))]


def test_key_points_and_open_outlines_are_named(tmp_path):
    results = [
        region("keypointlabels", "eye", "r3", x=5, y=5, width=0.5),
        region("polygonlabels", "wire", "r2", points=[[0, 0], [9, 9], [5, 5]], closed=False),
        rectangle(),
    ]
    data = read(tmp_path, task(annotation(*results)))
    assert [(one.code, one.class_name, one.object_number) for one in data.findings] == [
        ("no-extent", "eye", 1),
        ("no-extent", "wire", 2),
    ]
    assert boxes(data)["a.jpg"] == [("car", (4, 4, 24, 10))]


def test_of_several_annotations_the_ground_truth_is_read_else_the_first_not_cancelled(tmp_path):
    first, second = annotation(rectangle("first")), annotation(rectangle("second"))
    cancelled = annotation(rectangle("no"), was_cancelled=True)
    data = read(tmp_path, task(cancelled, first, second))
    assert boxes(data)["a.jpg"][0][0] == "first"
    assert any("1 task with several annotations (first: a.jpg)" in one for one in data.notes)
    data = read(tmp_path, task(first, {**second, "ground_truth": True}))
    assert boxes(data)["a.jpg"][0][0] == "second"
    data = read(tmp_path, task(cancelled, first))
    assert not any("several" in one for one in data.notes)


def test_tasks_without_annotations_are_no_empty_images_and_are_said(tmp_path):
    images = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    guess = {"result": [rectangle()], "score": 0.9}
    tasks = [
        task(annotation(rectangle())),
        task(image="b.jpg"),
        task(image="c.jpg", predictions=[guess]),
        task(annotation(was_cancelled=True), image="d.jpg"),
        task(annotation(), image="e.jpg"),  # looked at, and nothing is there
    ]
    data = read(tmp_path, *tasks, images=images)
    assert boxes(data) == {"a.jpg": [("car", (4, 4, 24, 10))], "e.jpg": []}
    (said,) = data.findings
    assert (said.code, said.severity) == ("unlabelled-task", "warning")
    assert "3 tasks without annotations (first: b.jpg) are left out" in said.message
    for reason in ("1 not labelled yet", "1 with predictions alone", "1 skipped by the annotator"):
        assert reason in said.message


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/3/1a2b3c4d-a%20b.jpg", "a b.jpg"),
        ("/data/upload/3/1a2b3c4d-a.jpg", "1a2b3c4d-a.jpg"),
        ("/data/local-files/?d=photos/day%201/a.jpg", "day 1/a.jpg"),
        ("/data/local-files/?d=photos\\a.jpg", "photos/a.jpg"),
        ("s3://bucket/some/a.jpg", "a.jpg"),
        ("gs://bucket/a+b.jpg", "a+b.jpg"),
        ("https://host.org/x/gr%C3%B6%C3%9Fe.jpg?token=1&d=", "größe.jpg"),
        ("https://host.org/x/a.jpg#top", "a.jpg"),
        ("http://localhost:8080/data/upload/1/0a0b0c0d-100%25.jpg", "100%.jpg"),
        ("/image1", "image1.jpg"),
        ("/tasks/5/resolve/?fileuri=" + base64.b64encode(b"s3://b/k/a.jpg").decode(), "k/a.jpg"),
    ],
)
def test_an_image_is_found_by_the_address_that_the_server_gave_it(tmp_path, address, file):
    data = read(tmp_path, task(annotation(rectangle()), image=address), images=(file,))
    assert ids(data, "all") == [file]
    assert codes(data) == []


def test_an_upload_is_found_under_the_name_that_it_had_before(tmp_path):
    address = "/data/upload/3/1a2b3c4d-IMG_grün_1.jpg"
    files = ("b/IMG grün (1).jpg", "b/other.jpg")
    data = read(tmp_path, task(annotation(rectangle()), image=address), images=files)
    assert ids(data, "all") == ["b/IMG grün (1).jpg"]
    assert codes(data) == ["unlisted-image"]


def test_an_upload_that_two_images_may_be_is_neither_of_them(tmp_path):
    address = "/data/upload/3/1a2b3c4d-a_1.jpg"
    files = ("a (1).jpg", "(a) 1.jpg")
    data = read(tmp_path, task(annotation(rectangle()), image=address), images=files)
    assert ids(data, "all") == ["1a2b3c4d-a_1.jpg"]


def test_an_image_that_is_not_here_is_expected_under_its_plain_name(tmp_path):
    address = "s3://bucket/some/a%20b.jpg"
    data = read(tmp_path, task(annotation(rectangle()), image=address), images=())
    assert ids(data, "all") == ["a b.jpg"]


def test_an_image_of_another_key_of_the_data_is_found_by_its_suffix(tmp_path):
    odd = task(annotation(rectangle()))
    odd["data"] = {"title": "a sunny day", "scan": "a.jpg"}
    assert ids(read(tmp_path, odd), "all") == ["a.jpg"]
    odd["data"] = {"title": "a sunny day"}
    assert codes(read(tmp_path, odd), "error") == ["bad-image"]


def test_json_min_is_read_with_its_labels_under_any_name(tmp_path):
    flat = {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 0, **SIZE}
    record = {
        "image": "/data/upload/1/1a2b3c4d-a.jpg",
        "id": 1,
        "box": [{**flat, "rectanglelabels": ["car"]}],
        "outline": [{"points": [[0, 0], [50, 10], [25, 50]], "polygonlabels": ["hill"], **SIZE}],
        "weather": "sunny",
        "annotator": 1,
        "annotation_id": 3,
    }
    other = {**record, "annotation_id": 4, "box": [{**flat, "rectanglelabels": ["bus"]}]}
    data = read(tmp_path, record, other)
    assert boxes(data) == {"a.jpg": [("car", (4, 4, 24, 10)), ("hill", (0, 0, 20, 10))]}
    assert any("1 task with several annotations" in one for one in data.notes)


def test_one_annotation_a_file_as_in_target_storage_and_old_completions_are_read(tmp_path):
    alone = {**annotation(rectangle()), "task": {"id": 7, "data": {"image": "a.jpg"}}}
    put(tmp_path / "a", {"a.jpg": None, "1.json": json.dumps(alone)})
    assert boxes(open_dataset(tmp_path / "a")) == {"a.jpg": [("car", (4, 4, 24, 10))]}
    old = {"id": 1, "completions": [annotation(rectangle())], "data": {"image": "a.jpg"}}
    assert boxes(read(tmp_path / "b", old)) == {"a.jpg": [("car", (4, 4, 24, 10))]}


def test_a_size_that_is_not_stated_is_taken_from_the_image(tmp_path):
    bare = {key: value for key, value in rectangle().items() if key not in SIZE}
    assert boxes(read(tmp_path, task(annotation(bare)))) == {"a.jpg": [("car", (4, 4, 24, 10))]}
    data = read(tmp_path / "new", task(annotation(bare)), images=())
    assert codes(data, "error") == ["bad-number"]


def test_labels_of_an_image_that_was_turned_while_labelling_are_an_error(tmp_path):
    turned = {**rectangle(), "image_rotation": 90}
    data = read(tmp_path, task(annotation(turned)))
    assert codes(data, "error") == ["turned-image"]


def packed(mask):
    """The bytes of a mask (H, W) of 0 and 255 as RGBA: stretches of 16 values, runs of 8 bits."""
    values = np.repeat(mask.reshape(-1, 1), 4, axis=1).reshape(-1).tolist()
    bits = (
        f"{len(values):032b}" + f"{8 - 1:05b}" + "".join(f"{one - 1:04b}" for one in (3, 4, 8, 16))
    )
    place = 0
    while place < len(values):
        run = 1
        while place + run < len(values) and values[place + run] == values[place] and run < 256:
            run += 1
        if run > 4:
            bits += "1" + "10" + f"{run - 1:08b}" + f"{values[place]:08b}"
        else:
            run = min(3, len(values) - place)
            bits += "0" + "00" + f"{run - 1:03b}"
            bits += "".join(f"{one:08b}" for one in values[place : place + run])
        place += run
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def test_the_mask_of_a_brush_is_unpacked_and_read_as_the_box_around_it(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[3:9, 5:17] = 255
    mask[4, 30] = 255
    brush = region("brushlabels", "blob", format="rle", rle=packed(mask))
    data = read(tmp_path, task(annotation(brush)))
    assert boxes(data)["a.jpg"] == [("blob", (5, 3, 31, 9))]
    for broken in ([1, 2, 3], packed(mask)[:30], packed(mask[:10]), "x", [[1]], [300]):
        brush["value"]["rle"] = broken
        assert codes(read(tmp_path, task(annotation(brush))), "error") == ["bad-number"]


def test_a_bitmask_is_a_png_in_the_file(tmp_path):
    mask = np.zeros((20, 40, 4), np.uint8)
    mask[3:9, 5:17, 3] = 255
    text = base64.b64encode(bytes(cv2.imencode(".png", mask)[1])).decode()
    one = region("bitmasklabels", "blob", imageDataURL=f"data:image/png;base64,{text}")
    assert boxes(read(tmp_path, task(annotation(one))))["a.jpg"] == [("blob", (5, 3, 17, 9))]


def test_classes_are_in_the_order_of_the_labelling_interface(tmp_path):
    config = '<View><RectangleLabels name="label"><Label value="zoo"/><Label value="car"/>'
    config += "</RectangleLabels></View>"
    data = read(tmp_path, task(annotation(rectangle())), **{"config.xml": config})
    assert data.class_names == ("zoo", "car")


def test_what_is_written_is_a_list_of_tasks_with_percentages(tmp_path):
    data = read(tmp_path / "old", task(annotation(rectangle())))
    convert(data, tmp_path / "new", "label-studio")
    (written,) = json.loads((tmp_path / "new" / "tasks.json").read_text("utf-8"))
    assert written["data"] == {"image": "/data/local-files/?d=images/a.jpg"}
    (one,) = written["annotations"][0]["result"]
    assert one["value"] == {
        "x": 10,
        "y": 20,
        "width": 50,
        "height": 30,
        "rotation": 0,
        "rectanglelabels": ["car"],
    }
    assert (one["type"], one["original_width"], one["original_height"]) == (
        "rectanglelabels",
        40,
        20,
    )
    config = (tmp_path / "new" / "label_config.xml").read_text("utf-8")
    assert 'name="label" toName="image"' in config
    assert (one["from_name"], one["to_name"]) == ("label", "image")
