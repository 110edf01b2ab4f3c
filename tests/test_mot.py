"""MOTChallenge's sequences, as the benchmark and other tools write them."""

from __future__ import annotations

import pytest
from labelled_folders import boxes, codes, put, sizes

from detkit.data import open_dataset
from detkit.data.convert import convert

INFO = "[Sequence]\nname=x\nimDir=img1\nseqLength=2\nimWidth=40\nimHeight=20\nimExt=.png\n"
FRAMES = {"img1/000001.png": None, "img1/000002.png": None}


def sequence(root, rows, **files):
    named = {name.replace("__", "/").replace("_dot_", "."): text for name, text in files.items()}
    return put(root, {**FRAMES, "seqinfo.ini": INFO, "gt/gt.txt": rows, **named})


def test_frames_and_pixels_count_from_one_and_a_frame_without_a_row_has_no_objects(tmp_path):
    data = open_dataset(sequence(tmp_path, "2,7,5,3,16,10,1,1,0.9\n"))
    assert data.format == "mot"
    assert boxes(data) == {
        "img1/000001.png": [],
        "img1/000002.png": [("Pedestrian", (4, 2, 20, 12))],
    }
    assert {(one.width, one.height) for one in data.splits["all"]} == {(40, 20)}
    assert codes(data) == []


def test_without_a_class_every_row_is_a_pedestrian(tmp_path):
    data = open_dataset(sequence(tmp_path, "1,1,5,3,16,10,1,-1,-1,-1\n1,2,5,3,6,7,1\n"))
    assert data.class_names == ("pedestrian",)
    assert len(data.splits["all"][0].objects) == 2


def test_what_is_not_considered_is_left_out_for_every_class(tmp_path):
    rows = "1,1,5,3,16,10,1,1,1\n1,2,1,1,4,4,0,8,1\n1,3,1,1,6,6,0,1,.2\n"
    data = open_dataset(sequence(tmp_path, rows))
    assert data.class_names == ("Pedestrian",)
    assert [one.region for one in data.splits["all"][0].objects] == [False, True, True]


def test_cvats_names_of_classes_come_with_pixels_from_zero(tmp_path):
    root = sequence(tmp_path, "1,-1,0,4,4,8,1,2,1.0\n", gt__labels_dot_txt="van\nbus\n")
    data = open_dataset(root)
    assert data.class_names == ("van", "bus")
    assert boxes(data)["img1/000001.png"] == [("bus", (0, 4, 4, 12))]
    assert any("pixels are counted from 0" in note for note in data.notes)


def test_the_origin_that_seqinfo_states_counts_most(tmp_path):
    root = sequence(tmp_path, "1,1,5,3,16,10,1,1,1\n", gt__labels_dot_txt="van\n")
    put(root, {"seqinfo.ini": INFO + "boxOrigin=1\n"})
    assert boxes(open_dataset(root))["img1/000001.png"] == [("van", (4, 2, 20, 12))]


def test_many_sequences_in_the_folders_of_splits_are_one_set(tmp_path):
    for name in ("train/MOT17-02-DPM", "train/MOT17-04-DPM", "test/MOT17-01-DPM"):
        sequence(tmp_path / name, "1,1,5,3,16,10,1,1,1\n")
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 4, "test": 2}
    assert codes(data) == []


def test_detections_are_read_only_where_there_is_no_truth_and_that_is_told(tmp_path):
    root = sequence(tmp_path / "a", "1,1,5,3,16,10,1,1,1\n", det__det_dot_txt="1,-1,1,1,5,5,.9\n")
    assert len(open_dataset(root).splits["all"][0].objects) == 1
    put(tmp_path / "b", {**FRAMES, "seqinfo.ini": INFO, "det/det.txt": "1,-1,1,1,5,5,0\n"})
    data = open_dataset(tmp_path / "b")
    assert codes(data) == ["detections"]
    assert boxes(data)["img1/000001.png"] == [("pedestrian", (0, 0, 5, 5))]
    assert not data.splits["all"][0].objects[0].region  # a score of 0 is none of truth's marks


@pytest.mark.parametrize("folder", ["img1", "images", "frames"])
def test_frames_are_found_where_seqinfo_or_custom_says_by_their_number(tmp_path, folder):
    info = INFO.replace("imDir=img1", f"imDir={folder}") if folder == "frames" else "[Sequence]\n"
    files = {f"{folder}/frame_{place:06d}.jpg": None for place in (1, 2)}
    put(tmp_path, {**files, "seqinfo.ini": info, "gt/gt.txt": "2,1,5,3,16,10,1,1,1\n"})
    assert [len(one) for one in boxes(open_dataset(tmp_path)).values()] == [0, 1]


def test_no_seqinfo_leads_out_of_the_folder(tmp_path):
    put(tmp_path, {"out/000001.png": None})
    root = sequence(tmp_path / "in", "1,1,5,3,16,10,1,1,1\n")
    put(root, {"seqinfo.ini": INFO.replace("imDir=img1", "imDir=../out")})
    data = open_dataset(root)
    assert all(one.path.is_relative_to(root) for one in data.splits["all"])


def test_a_broken_seqinfo_is_told_and_the_rows_are_read(tmp_path):
    root = put(sequence(tmp_path, "1,1,5,3,16,10,1,1,1\n"), {"seqinfo.ini": "name=x\n"})
    data = open_dataset(root)
    assert codes(data) == ["bad-ini"]
    assert len(boxes(data)["img1/000001.png"]) == 1


def test_what_is_written_counts_from_one_and_names_its_classes(tmp_path):
    data = open_dataset(sequence(tmp_path / "old", "1,7,5,3,16,10,1,3,1\n2,7,1,1,4,4.5,0,8,1\n"))
    convert(data, tmp_path / "new", "mot")
    assert (tmp_path / "new/gt/gt.txt").read_text() == "1,1,5,3,16,10,1,1,1\n2,2,1,1,4,4.5,0,1,1\n"
    assert (tmp_path / "new/gt/labels.txt").read_text() == "Car\n"
    info = (tmp_path / "new/seqinfo.ini").read_text()
    assert "seqLength=2\nimWidth=40\nimHeight=20\nimExt=.png\nboxOrigin=1\n" in info


def test_frames_from_one_are_the_images_from_zero_where_only_that_fits(tmp_path):
    files = {"img1/000000.png": None, "img1/000001.png": None}
    put(tmp_path, {**files, "gt/gt.txt": "1,1,5,3,16,10,1,1,1\n2,1,5,3,9,9,1,1,1\n"})
    data = open_dataset(tmp_path)
    assert [len(one) for one in boxes(data).values()] == [1, 1]
    assert boxes(data)["img1/000000.png"] == [("Pedestrian", (4, 2, 20, 12))]
    assert "gt/gt.txt: frame 1 is the image called 0" in data.notes


def test_a_header_is_no_row(tmp_path):
    rows = (
        "frame,id,bb_left,bb_top,bb_width,bb_height,conf,x,y,z\n1, 1, 5, 3, 16, 10, 1, -1, -1, -1\n"
    )
    data = open_dataset(sequence(tmp_path, rows))
    assert codes(data) == []
    assert boxes(data)["img1/000001.png"] == [("pedestrian", (4, 2, 20, 12))]
