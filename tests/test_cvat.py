"""CVAT's XML: shapes of images, tracks of videos, jobs and tasks, and unsafe files."""

import math

import pytest
from labelled_folders import boxes, codes, ids, put

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.convert import convert
from detkit.data.formats.voc_xml import root_tag
from detkit.errors import DetkitError

BOX = '<box label="car" source="manual" occluded="0" xtl="1.50" ytl="2.00" xbr="9.00" ybr="8.25"/>'
LABELS = ("car", "bus")


def image(name, *shapes, size=(40, 20), more=""):
    head = f'<image id="0" name="{name}" {more} width="{size[0]}" height="{size[1]}">'
    return "\n".join([head, *shapes, "</image>"])


def cvat(*parts, labels=LABELS, task="<start_frame>0</start_frame><stop_frame>99</stop_frame>"):
    listed = "".join(f"<label><name>{one}</name><attributes/></label>" for one in labels)
    meta = f"<meta><task><id>1</id>{task}<labels>{listed}</labels></task>"
    meta += "<original_size><width>40</width><height>20</height></original_size></meta>"
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    return "\n".join([head, meta, *parts, "</annotations>"])


def at(frame, x=0, *, outside=0, key=1, tag="box", more=""):
    place = f'frame="{frame}" outside="{outside}" occluded="0" keyframe="{key}" {more}'
    if tag != "box":
        return f'<{tag} {place} points="{x},1;{x + 4},1;{x},5"/>'
    return f'<box {place} xtl="{x}" ytl="1" xbr="{x + 4}" ybr="5"/>'


def track(*shapes, label="car", more=""):
    return "\n".join([f'<track id="0" label="{label}" {more}>', *shapes, "</track>"])


def frames(*numbers, folder="images", suffix="png"):
    return {f"{folder}/frame_{number:06d}.{suffix}": None for number in numbers}


def test_shapes_of_images_are_read_as_the_boxes_around_them_with_their_lines(tmp_path):
    shapes = [
        BOX,
        '<box label="bus" xtl="10" ytl="8" xbr="20" ybr="12" rotation="90"/>',
        '<polygon label="bus" points="1.00,2.00;7.00,2.50;3.00,9.00"/>',
        '<ellipse label="bus" cx="10" cy="10" rx="6" ry="2"/>',
        '<ellipse label="bus" cx="10" cy="10" rx="6" ry="2" rotation="90"/>',
        '<mask label="bus" rle="1, 2, 3" left="3" top="4" width="5" height="6"/>',
        '<cuboid label="bus" xtl1="1" ytl1="2" xbl1="1" ybl1="8" xtr1="6" ytr1="2" xbr1="6" '
        'ybr1="8" xtl2="3" ytl2="1" xbl2="3" ybl2="7" xtr2="9" ytr2="1" xbr2="9" ybr2="7"/>',
    ]
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": cvat(image("a.jpg", *shapes))}))
    assert data.format == "cvat"
    assert boxes(data)["a.jpg"] == [
        ("car", (1.5, 2, 9, 8.25)),
        ("bus", (13, 5, 17, 15)),  # a 10 x 4 box about (15, 10), upright
        ("bus", (1, 2, 7, 9)),
        ("bus", (4, 8, 16, 12)),
        ("bus", (8, 4, 12, 16)),
        ("bus", (3, 4, 8, 10)),
        ("bus", (1, 1, 9, 8)),
    ]
    lines = [one.line for one in data.splits["all"][0].objects]
    assert lines == list(range(5, 12))
    assert (
        "1 cuboid, 2 ellipses, 1 mask, 1 polygon and 1 rotated box are read as the boxes around "
        "them" in data.notes
    )
    assert data.class_names == LABELS  # in the order of the task


def test_a_turned_box_is_held_by_the_box_around_its_corners(tmp_path):
    turned = '<box label="car" xtl="10" ytl="5" xbr="20" ybr="9" rotation="30.00"/>'
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": cvat(image("a.jpg", turned))}))
    corners = []
    for x, y in ((-5, -2), (5, -2), (5, 2), (-5, 2)):
        cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
        corners.append((15 + x * cos - y * sin, 7 + x * sin + y * cos))
    xs, ys = zip(*corners)
    ((_, found),) = boxes(data)["a.jpg"]
    assert found == pytest.approx((min(xs), min(ys), max(xs), max(ys)))


def test_points_lines_skeletons_and_tags_are_named_and_their_labels_are_no_classes(tmp_path):
    shapes = [
        '<points label="eye" points="3.00,4.00"/>',
        '<polyline label="eye" points="3.00,4.00;5.00,6.00"/>',
        '<skeleton label="man" z_order="0"><points label="1" outside="0" points="1,1"/>'
        '<points label="2" outside="0" points="9,9"/></skeleton>',
        '<tag label="night" source="manual"/>',
        BOX,
    ]
    labels = ("eye", "man", "night", "car")
    text = cvat(image("a.jpg", *shapes), labels=labels)
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": text}))
    assert codes(data) == ["no-extent"] * 4
    assert [(one.line, one.object_number) for one in data.findings] == [
        (5, 1),
        (6, 2),
        (7, 3),
        (8, 4),
    ]
    assert data.class_names == ("car",)
    assert "no class, as it has points or lines and no box: eye, man, night" in data.notes
    assert boxes(data)["a.jpg"] == [("car", (1.5, 2, 9, 8.25))]


def test_a_track_is_on_its_frames_unless_it_is_outside(tmp_path):
    text = cvat(track(at(0, 0), at(1, 2, key=0), at(2, 4, outside=1), at(3, 9)))
    data = open_dataset(put(tmp_path, {**frames(0, 1, 2, 3, 4), "x.xml": text}))
    assert boxes(data) == {
        "images/frame_000000.png": [("car", (0, 1, 4, 5))],
        "images/frame_000001.png": [("car", (2, 1, 6, 5))],
        "images/frame_000002.png": [],
        "images/frame_000003.png": [("car", (9, 1, 13, 5))],
        "images/frame_000004.png": [],
    }
    assert data.splits["all"][0].width == 40
    assert codes(data) == []


def test_between_keyframes_alone_boxes_are_interpolated_where_there_are_images(tmp_path):
    text = cvat(track(at(0, 0), at(4, 8), at(8, 0, outside=1)))
    data = open_dataset(put(tmp_path, {**frames(0, 1, 3, 4, 5, 8), "x.xml": text}))
    found = {image[-5:-4]: [box[0] for _, box in one] for image, one in boxes(data).items()}
    # it moves by 2 a frame, then stays where it was until it leaves; frame 2 is not here
    assert found == {"0": [0], "1": [2], "3": [6], "4": [8], "5": [8], "8": []}
    assert "3 boxes interpolated between keyframes" in data.notes


def test_frames_that_cvat_left_out_between_its_own_are_not_made_up(tmp_path):
    text = cvat(track(at(0, 0), at(1, 1, key=0), at(4, 4)))
    data = open_dataset(put(tmp_path, {**frames(0, 1, 2, 4), "x.xml": text}))
    assert boxes(data)["images/frame_000002.png"] == []


def test_a_turned_track_is_interpolated_the_shorter_way_round(tmp_path):
    first = at(0, 10, more='rotation="350"')
    text = cvat(track(first, at(2, 10, more='rotation="10"')))
    data = open_dataset(put(tmp_path, {**frames(0, 1, 2), "x.xml": text}))
    assert boxes(data)["images/frame_000001.png"] == [("car", (10, 1, 14, 5))]  # at 0 degrees


def test_frames_are_found_by_their_number_and_missing_ones_are_named(tmp_path):
    text = cvat(track(at(3), at(4, outside=1)))
    data = open_dataset(put(tmp_path / "a", {"clip_003.jpg": None, "x.xml": text}))
    assert ids(data, "all") == ["clip_003.jpg"]
    put(tmp_path / "b", {"x.xml": text, "clip.mp4": "x"})
    found = check(open_dataset(tmp_path / "b"))
    assert {"missing-image", "missing-frames"} <= {one.code for one in found}
    (said,) = (one for one in found if one.code == "missing-frames")
    assert "ffmpeg -i clip.mp4" in said.message


@pytest.mark.parametrize(
    ("names", "stop", "found"),
    [
        (["v_0.jpg", "v_1.jpg", "v_2.jpg"], 2, {"v_0.jpg": [0], "v_1.jpg": [4], "v_2.jpg": []}),
        # counted from 1: their numbers are no frames, so their order counts
        (["v_1.jpg", "v_2.jpg", "v_3.jpg"], 2, {"v_1.jpg": [0], "v_2.jpg": [4], "v_3.jpg": []}),
        (["a.jpg", "b.jpg", "c.jpg"], 2, {"a.jpg": [0], "b.jpg": [4], "c.jpg": []}),
    ],
)
def test_frames_of_other_names_are_found_by_number_or_order_and_it_is_said(
    tmp_path, names, stop, found
):
    task = f"<start_frame>0</start_frame><stop_frame>{stop}</stop_frame>"
    text = cvat(track(at(0, 0), at(1, 4), at(2, 4, outside=1)), task=task)
    data = open_dataset(put(tmp_path, {**dict.fromkeys(names), "x.xml": text}))
    places = {image: [box[0] for _, box in one] for image, one in boxes(data).items()}
    assert places == found
    assert any("frames are " in note for note in data.notes)


def test_shapes_of_tracks_without_area_are_named_frame_by_frame(tmp_path):
    text = cvat(track(at(0, tag="points"), at(1, tag="points", outside=1), label="bus"))
    data = open_dataset(put(tmp_path, {**frames(0, 1), "x.xml": text}))
    assert [(one.code, one.image_id) for one in data.findings] == [
        ("no-extent", "images/frame_000000.png")
    ]


def test_subsets_of_a_project_are_splits_and_jobs_are_read_together(tmp_path):
    first = cvat(image("a.jpg", BOX, more='subset="Train" task_id="3"'))
    second = cvat(image("a.jpg", more='subset="Validation" task_id="4"'))
    files = {"images/Train/a.jpg": None, "images/Validation/a.jpg": None}
    data = open_dataset(put(tmp_path, {**files, "job1.xml": first, "job2.xml": second}))
    assert boxes(data, "train") == {"images/Train/a.jpg": [("car", (1.5, 2, 9, 8.25))]}
    assert boxes(data, "val") == {"images/Validation/a.jpg": []}
    assert codes(data) == []


def test_two_jobs_that_label_one_image_otherwise_are_an_error(tmp_path):
    put(
        tmp_path, {"a.jpg": None, "1.xml": cvat(image("a.jpg", BOX)), "2.xml": cvat(image("a.jpg"))}
    )
    assert codes(open_dataset(tmp_path), "error") == ["image-twice"]


def test_a_label_that_the_task_does_not_list_is_a_warning(tmp_path):
    odd = BOX.replace("car", "Car")
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": cvat(image("a.jpg", odd))}))
    assert codes(data) == ["unknown-class"]
    assert boxes(data)["a.jpg"][0][0] == "Car"


BOMB = """<?xml version="1.0"?><!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>
<annotations><image name="&b;" width="1" height="1"/></annotations>"""


@pytest.mark.parametrize(
    ("text", "code"),
    [(BOMB, "unsafe-xml"), (cvat(image("a.jpg", BOX))[:-30], "bad-xml")],
)
def test_unsafe_and_broken_files_are_errors_and_hold_nothing(tmp_path, text, code):
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": text}))
    assert data.format == "cvat"
    assert (codes(data, "error"), ids(data, "all") if "all" in data.splits else []) == ([code], [])


def test_xml_of_other_programs_is_none_of_cvats(tmp_path):
    for text in ("<annotations/>", "<annotations><thing/></annotations>", "<View></View>"):
        with pytest.raises(DetkitError, match="looked for .*CVAT XML"):
            open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": text}))


def test_attributes_called_difficult_mark_objects(tmp_path):
    marked = BOX.replace("/>", '><attribute name="difficult">true</attribute></box>')
    plain = BOX.replace("/>", '><attribute name="difficult">false</attribute></box>')
    text = cvat(image("a.jpg", marked, plain))
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.xml": text}))
    assert [one.difficult for one in data.splits["all"][0].objects] == [True, False]


def test_what_is_written_is_the_form_that_cvat_imports(tmp_path):
    from defusedxml.ElementTree import parse

    data = open_dataset(put(tmp_path / "old", {"a.jpg": None, "x.xml": cvat(image("a.jpg", BOX))}))
    convert(data, tmp_path / "new", "cvat")
    root = parse(tmp_path / "new" / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [one.text for one in root.findall("meta/task/labels/label/name")] == list(LABELS)
    (one,) = root.findall("image")
    assert one.attrib == {"id": "0", "name": "a.jpg", "width": "40", "height": "20"}
    (box,) = one
    corners = {key: box.get(key) for key in ("label", "xtl", "ytl", "xbr", "ybr")}
    assert corners == {"label": "car", "xtl": "1.5", "ytl": "2", "xbr": "9", "ybr": "8.25"}


@pytest.mark.parametrize(
    ("start", "tag"),
    [
        (b"<annotations>", "annotations"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- <no> --><annotation a="1">', "annotation"),
        (b'<!DOCTYPE a SYSTEM "x"><View/>', "View"),
        (b'<!DOCTYPE a [<!ENTITY b "c">\n]  ><a:b.c-d>', "a:b.c-d"),
        (b"<!--" * 500, ""),
        (b"<!-- -->" * 500, ""),
        (b"", ""),
        (b"text", ""),
    ],
)
def test_the_outermost_tag_is_found_behind_comments_and_declarations(start, tag):
    assert root_tag(start) == tag
