"""Places that are left out for every class, on their way through formats, scores and training."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import put
from running import detkit

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.formats import reading
from detkit.data.records import Dataset, ImageRecord, ObjectRecord, truth_of
from detkit.data.splits import select_classes
from detkit.data.summary import data_hash, summarize
from detkit.evaluation.coco_map import coco_map
from detkit.evaluation.voc_map import voc_map
from detkit.structures import Detections

KEEPING = [form.name for form in reading.FORMATS if form.write and form.keeps_regions]
NO_3D = "-1 -1 -1 -1000 -1000 -1000 -10"
CARS = f"Car 0 0 0 1 1 9 9 {NO_3D}\nVan 0 0 0 20 1 30 9 {NO_3D}\n"
ROWS = f"{CARS}DontCare -1 -1 -10 10 10 39 19 {NO_3D}\n"


@pytest.fixture
def road(tmp_path: Path) -> Path:
    """A car, a van and a region on one image."""
    return put(tmp_path / "road", {"image_2/a.png": None, "label_2/a.txt": ROWS})


@st.composite
def drawn(draw: st.DrawFn) -> list[tuple[tuple[float, ...], bool]]:
    """Draw boxes to a hundredth of a pixel in a 40 x 20 image, and whether each is a region."""
    corner = st.tuples(st.integers(0, 3000), st.integers(0, 1500))
    side = st.tuples(st.integers(50, 1000), st.integers(50, 500))
    found = []
    for (x, y), (width, height), region in draw(
        st.lists(st.tuples(corner, side, st.booleans()), max_size=4)
    ):
        found.append(((x / 100, y / 100, (x + width) / 100, (y + height) / 100), region))
    return found


@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("to", KEEPING)
@given(images=st.lists(drawn(), min_size=1, max_size=3))
def test_drawn_faces_and_regions_survive_the_formats_that_keep_them(
    to: str, images: list[list[tuple[tuple[float, ...], bool]]]
) -> None:
    with TemporaryDirectory() as folder:
        root = put(Path(folder) / "old", {f"{place}.png": None for place in range(len(images))})
        records = tuple(
            ImageRecord(
                f"{place}.png",
                root / f"{place}.png",
                tuple(
                    ObjectRecord("face", box, crowd=region, region=region) for box, region in image
                ),
                label_file=root / "x",
            )
            for place, image in enumerate(images)
        )
        full = (*records, *put_face(root))
        convert(Dataset(root, "coco", ("face",), {"all": full}), Path(folder) / "new", to)
        found = open_dataset(Path(folder) / "new").splits["all"][: len(images)]
        for image, record in zip(images, found):
            assert len(record.objects) == len(image)
            for one, (box, region) in zip(record.objects, image):
                assert one.box == pytest.approx(box, abs=1e-6)
                assert one.region is region


def put_face(root: Path) -> list[ImageRecord]:
    """Return a last image with a face, so that no folder is without one."""
    put(root, {"z.png": None})
    face = ObjectRecord("face", (1, 1, 5, 5))
    return [ImageRecord("z.png", root / "z.png", (face,), label_file=root / "x")]


def test_a_region_is_no_object_and_of_no_class(road: Path) -> None:
    data = open_dataset(road)
    assert data.class_names == ("Car", "Van")
    (summary,) = summarize(data)
    assert (summary.num_objects, summary.num_crowds, summary.num_regions) == (2, 0, 1)
    assert summary.class_counts == {"Car": 1, "Van": 1}
    done = detkit("check", road)
    assert done.returncode == 0
    assert "regions left out" in done.stdout
    assert "DontCare" not in done.stdout


def test_a_region_stays_when_classes_are_chosen_and_counts_in_the_hash(road: Path) -> None:
    data = open_dataset(road)
    chosen = select_classes(data, ["Van"])
    assert [one.name for one in chosen.splits["all"][0].objects] == ["Van", "DontCare"]
    (record,) = data.splits["all"]
    bare = ImageRecord(record.image_id, record.path, record.counted, label_file=record.label_file)
    assert data_hash(data) != data_hash(data.with_splits({"all": (bare,)}))


@pytest.mark.parametrize("label", [0, 1])
def test_what_is_found_in_a_region_is_no_mistake_whatever_its_class(road: Path, label: int) -> None:
    data = open_dataset(road)
    truth = truth_of(data.splits["all"][0], {"Car": 0, "Van": 1})
    boxes = np.array([[1, 1, 9, 9], [20, 1, 30, 9], [12, 11, 20, 18]], np.float32)
    scores = np.array([0.9, 0.8, 0.95], np.float32)  # the best of all lies in the region
    found = [Detections(boxes, scores, np.array([0, 1, label], np.int64))]
    assert coco_map(found, [truth], data.class_names).mean == pytest.approx(1)
    bare = [truth.rows(~truth.difficult)]
    assert coco_map(found, bare, data.class_names).mean < 0.8
    whole = Detections(np.array([[10, 10, 39, 19]], np.float32), scores[2:], np.array([label]))
    scored = voc_map([whole], [truth], data.class_names)
    assert all(len(one.precision) == 0 for one in scored.classes)


def test_training_says_how_many_regions_it_ignores_and_that_regions_alone_teach_nothing(
    road: Path,
) -> None:
    from detkit.training.difficult import difficult_note

    (record,) = open_dataset(road).splits["all"]
    assert difficult_note([record], ["Car", "Van"], "yes") == "1 region is ignored"
