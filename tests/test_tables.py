import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import SHARED, boxes, codes, ids, put, sizes

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.errors import DetkitError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
PICTURES = {f"images/{name}.jpg": None for name in "ab"}


def table(root, text, name="labels.csv"):
    return put(root, {**PICTURES, name: text})


def test_the_common_form_is_one_based_and_inclusive_like_the_xml_it_is_made_from(tmp_path):
    text = (
        HEADER + "a.jpg,40,20,car,1,2,40,20\nb.jpg,40,20,cat,3,4,5,6.5\na.jpg,40,20,cat,1,1,1,1\n"
    )
    data = open_dataset(table(tmp_path, text))
    assert boxes(data) == {
        "images/a.jpg": [("car", (0, 1, 40, 20)), ("cat", (0, 0, 1, 1))],
        "images/b.jpg": [("cat", (2, 3, 5, 6.5))],
    }
    car, cat = data.splits["all"][0].objects
    assert (car.line, car.number, cat.line, cat.number) == (2, 1, 4, 2)
    assert car.stated == "xmin=1 ymin=2 xmax=40 ymax=20"
    assert (data.splits["all"][0].width, data.splits["all"][0].height) == (40, 20)
    assert data.notes[0] == "csv: 2 images, 3 boxes, 2 classes; no splits"
    assert data.findings == ()


def test_x1_and_a_file_without_header_are_zero_based(tmp_path):
    named = table(tmp_path / "1", "image,x1,y1,x2,y2,label\na.jpg,0,0,5,6,car\nb.jpg,,,,,\n")
    bare = table(tmp_path / "2", "images/a.jpg,0,0,5,6,car\nimages/b.jpg,,,,,\n")
    for root in (named, bare):
        data = open_dataset(root)
        assert boxes(data) == {"images/a.jpg": [("car", (0, 0, 5, 6))], "images/b.jpg": []}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=9),
            *[st.floats(-100, 5000)] * 4,
        ),
        max_size=5,
    ),
    st.sampled_from(",;\t"),
)
def test_whatever_a_csv_writer_quotes_is_read_back(tmp_path_factory, rows, delimiter):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(HEADER.strip().split(","))
    writer.writerow(["b.jpg", 40, 20, "", "", "", "", ""])
    writer.writerows(["a.jpg", 40, 20, *map(str, row)] for row in rows)
    root = tmp_path_factory.mktemp("t")
    put(root, {**PICTURES, "labels.csv": buffer.getvalue().encode()})
    data = open_dataset(root)
    expected = [(name, (x1 - 1, y1 - 1, x2, y2)) for name, x1, y1, x2, y2 in rows]
    assert boxes(data).get("images/a.jpg", []) == expected
    assert boxes(data)["images/b.jpg"] == []


def test_columns_may_be_in_any_order_and_letter_case_with_others_between(tmp_path):
    text = "\ufeffClass;YMIN;XMIN;notes;XMax;ymax;Image_Path;difficult\n"
    text += "car;2;1;;40;20;./images/a.jpg;1\ncat;2;1;;40;20;a.jpg;0\n"
    data = open_dataset(table(tmp_path, text))
    assert boxes(data)["images/a.jpg"] == [("car", (0, 1, 40, 20)), ("cat", (0, 1, 40, 20))]
    assert [one.difficult for one in data.splits["all"][0].objects] == [True, False]


def test_decimal_commas_are_read_where_semicolons_part_the_columns(tmp_path):
    text = "filename;class;xmin;ymin;xmax;ymax\na.jpg;car, red;1,5;2;40;20,25\n"
    data = open_dataset(table(tmp_path / "1", text))
    assert boxes(data) == {"images/a.jpg": [("car, red", (0.5, 1, 40, 20.25))]}
    text = 'filename,class,xmin,ymin,xmax,ymax\na.jpg,car,"1,5",2,40,20\n'
    assert "bad-number" in codes(open_dataset(table(tmp_path / "2", text)), "error")


def test_a_column_of_image_ids_names_images_without_their_suffix(tmp_path):
    text = "image_id,class_name,class_id,x_min,y_min,x_max,y_max\na,car,7,1,2,40,20\n"
    data = open_dataset(table(tmp_path, text))
    assert boxes(data) == {"images/a.jpg": [("car", (0, 1, 40, 20))]}


def test_a_table_of_shares_is_read_as_far_as_to_say_so(tmp_path):
    text = "image,label,XMin,XMax,YMin,YMax\na,car,.1,.4,.2,.6\nb,car,.1,.5,.1,.5\n"
    errors = [one for one in check(open_dataset(table(tmp_path, text))) if one.severity == "error"]
    assert "normalised-boxes" in [one.code for one in errors]


def test_a_table_in_a_windows_code_page_is_to_be_saved_as_utf_8(tmp_path):
    put(tmp_path, {"Größe.jpg": None})
    text = HEADER + "Größe.jpg,40,20,car,1,1,2,2\nGröße.jpg,40,20,car,3,3,4,4\n"
    put(tmp_path, {"labels.csv": text.encode("cp1252")})
    found = [one for one in check(open_dataset(tmp_path)) if one.severity == "error"]
    assert [(one.line, one.message[-23:]) for one in found] == [(2, "save the table as UTF-8")]


def test_splits_come_from_the_files_names_and_the_union_is_not_a_third(tmp_path):
    rows = {"a": "a.jpg,40,20,car,1,1,2,2\n", "b": "b.jpg,40,20,car,1,1,2,2\n"}
    put(tmp_path, {**PICTURES, "data/train_labels.csv": HEADER + rows["a"]})
    put(tmp_path, {"data/test_labels.csv": HEADER + rows["b"]})
    put(tmp_path, {"data/all_labels.csv": HEADER + rows["a"] + rows["b"]})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1, "test": 1}
    assert data.findings == ()


def test_splits_come_from_folders_and_from_a_column(tmp_path):
    for split in ("train", "valid"):
        put(tmp_path / "1", {f"{split}/a.jpg": None})
        put(tmp_path / "1", {f"{split}/_annotations.csv": HEADER + "a.jpg,40,20,car,1,1,2,2\n"})
    data = open_dataset(tmp_path / "1")
    assert {name: ids(data, name) for name in data.splits} == {
        "train": ["train/a.jpg"],
        "val": ["valid/a.jpg"],
    }
    text = "filename,class,xmin,ymin,xmax,ymax,split\na.jpg,car,1,1,2,2,Training\n"
    text += "b.jpg,car,1,1,2,2,validation\n"
    assert sizes(open_dataset(table(tmp_path / "2", text))) == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("a.jpg,40,20,car,1,2,3,four", "bad-number"),
        ("a.jpg,40,20,car,1,2,3,", "bad-number"),
        ("a.jpg,40,20,car,1,2,3,inf", "bad-number"),
        ("a.jpg,40,20,,1,2,3,4", "no-class"),
        ("a.jpg,40,20,car", "bad-row"),
        (",40,20,car,1,2,3,4", "bad-row"),
        ("../../etc/passwd,40,20,car,1,2,3,4", "path-outside"),
        ("/etc/passwd,40,20,car,1,2,3,4", "path-outside"),
        ("D:\\x\\secret.jpg,40,20,car,1,2,3,4", "path-outside"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line_and_the_others_stay(tmp_path, row, code):
    good = "a.jpg,40,20,car,1,1,2,2\n"
    data = open_dataset(table(tmp_path, f"{HEADER}{good}{row}\n{good}b.jpg,40,20,,,,,\n"))
    assert [(one.code, one.line, one.severity) for one in data.findings] == [(code, 3, "error")]
    assert len(boxes(data)["images/a.jpg"]) == 2


def test_an_image_without_a_file_is_kept_and_one_in_no_row_is_said(tmp_path):
    data = open_dataset(table(tmp_path, HEADER + "a.jpg,1,1,c,1,1,2,2\nghost.jpg,1,1,c,1,1,2,2\n"))
    assert ids(data, "all") == ["ghost.jpg", "images/a.jpg"] or ids(data, "all") == [
        "images/a.jpg",
        "images/ghost.jpg",
    ]
    assert codes(data) == ["unlisted-image"]


def test_a_name_that_two_folders_hold_is_an_error(tmp_path):
    put(tmp_path, {"x/a.jpg": None, "y/a.jpg": None})
    put(tmp_path, {"labels.csv": HEADER + "a.jpg,1,1,c,1,1,2,2\nx/a.jpg,1,1,c,1,1,2,2\n"})
    data = open_dataset(tmp_path)
    assert codes(data, "error") == ["ambiguous-image"]
    assert ids(data, "all") == ["x/a.jpg"]


MATLAB = (
    'imageFilename,stopSign,car_2\n"{folder}a.jpg","[1 2 3 4; 5,6,7,8]",[]\n'
    "{folder}b.jpg,,[9 1 2 2]\n"
)


@pytest.mark.parametrize("place", ["", "images/", "C:\\data\\images\\", "/home/me/images/"])
def test_matlabs_table_is_one_based_x_y_width_height(tmp_path, place):
    data = open_dataset(table(tmp_path, MATLAB.format(folder=place)))
    assert data.format == "matlab"
    assert boxes(data) == {
        "images/a.jpg": [("stopSign", (0, 1, 3, 5)), ("stopSign", (4, 5, 11, 13))],
        "images/b.jpg": [("car_2", (8, 0, 10, 2))],
    }
    assert data.class_names == ("stopSign", "car_2")
    first = data.splits["all"][0].objects[0]
    assert (first.line, first.number, first.stated) == (2, 1, "[1 2 3 4]")
    assert data.findings == ()


def test_matlabs_columns_that_writetable_split_in_four_are_one_class(tmp_path):
    text = "imageFilename,vehicle_1,vehicle_2,vehicle_3,vehicle_4\n"
    text += "a.jpg,1,2,3,4\nb.jpg,NaN,NaN,NaN,NaN\n"
    data = open_dataset(table(tmp_path, text))
    assert boxes(data) == {"images/a.jpg": [("vehicle", (0, 1, 3, 5))], "images/b.jpg": []}


def test_a_bad_matrix_row_is_an_error_with_its_line(tmp_path):
    text = 'imageFilename,car\na.jpg,"[1 2 3; 1 2 3 4]"\nb.jpg,[]\n'
    data = open_dataset(table(tmp_path, text))
    assert [(one.code, one.line, one.object_number) for one in data.findings] == [
        ("bad-number", 2, 1)
    ]
    assert len(boxes(data)["images/a.jpg"]) == 1


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "filename,weight\na.jpg,5\n", "image,caption\na.jpg,a dog\n", "\0"]
)
def test_other_tables_are_not_taken_for_labels(tmp_path, text):
    with pytest.raises(DetkitError, match="no labelled folder"):
        open_dataset(table(tmp_path, text))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_the_csv_of_real_xml_labels_has_the_same_boxes():
    expected = {
        name: sorted(things) for name, things in boxes(open_dataset(SHARED / "raccoon")).items()
    }
    data = open_dataset(SHARED / "raccoon" / "data" / "raccoon_labels.csv")
    assert {name: sorted(things) for name, things in boxes(data).items()} == expected
    assert data.findings == ()
    assert sizes(open_dataset(SHARED / "raccoon" / "data")) == {"train": 160, "test": 40}


def test_a_row_that_csv_cannot_hold_is_an_error_with_its_line_and_the_others_are_read(tmp_path):
    long = "x" * 200_000
    root = table(tmp_path, HEADER + f"a.jpg,40,20,{long},1,2,40,20\nb.jpg,40,20,cat,3,4,5,6\n")
    data = open_dataset(root)
    assert [(one.code, one.line) for one in data.findings if one.severity == "error"] == [
        ("bad-row", 2)
    ]
    assert boxes(data) == {"images/b.jpg": [("cat", (2, 3, 5, 6))]}
    alone = open_dataset(table(tmp_path / "alone", HEADER + f"a.jpg,40,20,{long},1,2,40,20\n"))
    assert codes(alone, "error") == ["bad-row"]


def test_a_table_of_something_else_is_no_finding_however_broken(tmp_path):
    put(tmp_path, {"results.csv": "epoch,note\n1," + "x" * 200_000 + "\n"})
    assert codes(open_dataset(table(tmp_path, HEADER + "a.jpg,40,20,car,1,2,40,20\nb.jpg\n"))) == []


def test_optional_columns_may_be_missing_at_the_end_of_a_row(tmp_path):
    header = "filename,class,xmin,ymin,xmax,ymax,difficult,split\n"
    rows = "a.jpg,car,1,2,40,20\na.jpg,cat,3,4,5,6,1\nb.jpg\n"
    data = open_dataset(table(tmp_path, header + rows))
    assert data.findings == ()
    assert [one.difficult for one in data.splits["all"][0].objects] == [False, True]


def test_a_class_without_a_name_is_an_error(tmp_path):
    data = open_dataset(table(tmp_path, 'imageFilename,car,\na.jpg,,"[1 1 5 5]"\nb.jpg,,\n'))
    assert codes(data) == ["bad-class-name"]
    assert data.class_names == ("car",)


def test_an_image_name_longer_than_any_file_has_is_an_error(tmp_path):
    data = open_dataset(
        table(tmp_path, HEADER + f"{'9' * 5000},40,20,car,1,2,40,20\na.jpg\nb.jpg\n")
    )
    assert [(one.code, one.line) for one in data.findings] == [("path-outside", 2)]
    assert "path-outside" in {one.code for one in check(data)}


LABEL_STUDIO = (
    "image,id,label,annotator,annotation_id,created_at,updated_at,lead_time\n"
    '/data/upload/1/ab-a.jpg,1,"[{""x"": 10, ""y"": 10, ""width"": 5, ""height"": 4, '
    '""rectanglelabels"": [""car""]}]",1,1,2024-01-01,2024-01-01,5.5\n'
)
OLD_LABEL_STUDIO = "annotator,id,image,lead_time,tags\n1,1,a.jpg,3.5,[]\n"
GOOGLE = "TRAIN,gs://bucket/a.jpg,car,0.1,0.2,,,0.5,0.6,,\n"


@pytest.mark.parametrize(
    ("text", "tool", "instead"),
    [
        (LABEL_STUDIO, "Label Studio's CSV", "export JSON"),
        (OLD_LABEL_STUDIO, "Label Studio's CSV", "export JSON"),
        (GOOGLE, "Google's AutoML or Vertex AI", "filename,class,xmin,ymin,xmax,ymax"),
        (GOOGLE.replace("TRAIN,", ""), "Google's AutoML", "pixels"),
        ("UNASSIGNED,gs://b/a,car,0,0,1,0,1,1,0,1\n", "Google's AutoML", "COCO JSON"),
        ("validation,a.jpg,car,.1,.2,,,.5,.6,,\n", "Google's AutoML", "pixels"),
        ("TEST,gs://b/a.jpg,,,,,,,,,\n", "Google's AutoML", "pixels"),
    ],
)
def test_a_table_that_is_known_and_not_read_is_named_with_what_to_export(
    tmp_path: Path, text: str, tool: str, instead: str
) -> None:
    put(tmp_path, {"a.jpg": (20, 30), "labels.csv": text})
    for place in (tmp_path, tmp_path / "labels.csv"):
        with pytest.raises(DetkitError) as told:
            open_dataset(place)
        assert "labels.csv is " in str(told.value)
        assert tool in str(told.value) and instead in str(told.value)
        assert "Pascal VOC" not in str(told.value)


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,car,1,2,3,4,5,6,7,8\n",  # no shares
        "id,image,created_at,price\n1,a.jpg,2024,3\n",  # a shop's
        "TRAIN,notes,car,.1,.2,,,.5,.6,,\n",  # no image
        "TRAIN,a.jpg,car,.1,x,,,.5,.6,,\n",
    ],
)
def test_another_table_is_not_taken_for_theirs(tmp_path: Path, text: str) -> None:
    put(tmp_path, {"a.jpg": (20, 30), "labels.csv": text})
    with pytest.raises(DetkitError, match="looked for"):
        open_dataset(tmp_path)


def test_the_whole_image_is_one_to_width_by_the_one_header_and_zero_to_width_by_the_others(
    tmp_path: Path,
) -> None:
    tables = {
        "voc": "filename,class,xmin,ymin,xmax,ymax\na.jpg,car,1,1,30,20\n",
        "other": "filename,class,x1,y1,x2,y2\na.jpg,car,0,0,30,20\n",
        "bare": "a.jpg,0,0,30,20,car\n",
        "vott": '"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",0,0,30,20,"car"\n',
    }
    for name, text in tables.items():
        put(tmp_path / name, {"a.jpg": (20, 30), "labels.csv": text})
        (record,) = open_dataset(tmp_path / name).splits["all"]
        assert record.objects[0].box == (0, 0, 30, 20), name
