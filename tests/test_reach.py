"""Objects within a detector's reach: by naive loops and cases worked by hand, for every backend."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import put
from running import detkit
from test_contract import make, sample
from test_schema import faults
from torch import Tensor

from detkit.config import SMALLEST_REGION, ProposalConfig
from detkit.detector import Detector
from detkit.detectors import backend_names, load_backend
from detkit.detectors.faster_rcnn import FasterRCNN
from detkit.detectors.ssd import SSD
from detkit.geometry.matching import best_overlaps, best_overlaps_of_small
from detkit.proposals.proposer import Proposer
from detkit.proposals.selective_search import STRATEGIES
from detkit.structures import Truth
from detkit.training.dataset import TrainingDataset, spread
from detkit.training.reach import _pieces, find_reach, reach_in_words, reach_note

Box = Sequence[float]


def truth(boxes: Any) -> Truth:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Truth(array, np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_))


def built(name: str, **settings: object) -> Detector:
    backend = load_backend(name)
    with torch.device("meta"):
        return backend(backend.config_class(**settings), ("thing",))


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(sizes) - width * height)


def random_boxes(seed: int, number: int, height: int, width: int, low: float = 4.0) -> Tensor:
    random = np.random.default_rng(seed)
    sides = low * (0.6 * min(height, width) / low) ** random.random((number, 2))
    corners = random.random((number, 2)) * ([width, height] - sides)
    return torch.from_numpy(np.concatenate([corners, corners + sides], 1).astype(np.float32))


def small_objects(seed: int = 0) -> list[tuple[Truth, tuple[int, int]]]:
    """Return 300 objects of 14 to 24 px in three images of 3000 x 2000."""
    random = np.random.default_rng(seed)
    labelled = []
    for _ in range(3):
        corners = random.uniform(0, [2970, 1970], (100, 2))
        sides = random.uniform(14, 24, (100, 2))
        labelled.append((truth(np.concatenate([corners, corners + sides], 1)), (2000, 3000)))
    return labelled


def naive_reach(boxes: Tensor, references: Tensor, thresh: float, smallest: float) -> list[bool]:
    """Return by loops which boxes are `smallest` px and reached, or no smaller than all others."""
    rows = references.tolist()
    least = min((b[2] - b[0]) * (b[3] - b[1]) for b in rows)
    reached = []
    for box in boxes.tolist():
        area = (box[2] - box[0]) * (box[3] - box[1])
        good = area >= least or max(iou(box, row) for row in rows) > thresh
        reached.append(good and math.sqrt(area) >= smallest)
    return reached


@pytest.mark.parametrize("size", [64, 96])
def test_ssd_reaches_what_a_default_box_of_its_own_network_overlaps(size: int) -> None:
    detector = make(SSD, size=size).eval()
    boxes = random_boxes(0, 60, size, size)
    with torch.no_grad():
        _, _, default = detector.predict(torch.zeros(1, 3, size, size))
    wanted = naive_reach(boxes, default, 0.5, 8.0)
    assert detector.reachable(boxes, (size, size), (500, 300)).tolist() == wanted
    assert 5 < sum(wanted) < 55
    assert torch.equal(detector.reference_boxes((size, size)), default)


@pytest.mark.parametrize("neck", ["fpn", "single"])
def test_faster_rcnn_reaches_what_an_anchor_of_its_own_network_overlaps(neck: str) -> None:
    detector = make(FasterRCNN, neck=neck).eval()
    size = (80, 120)
    boxes = random_boxes(1, 40, *size)
    batch = detector.prepare([sample(0, size=size)])
    with torch.no_grad():
        maps = detector.maps(batch.images)
        anchors = torch.cat(detector.rpn.score(maps, batch.images).anchors)
    network = batch.sizes[0]
    wanted = naive_reach(boxes, anchors, 0.3, 16.0 if neck == "single" else 8.0)
    assert detector.reachable(boxes, network, size).tolist() == wanted
    assert 3 < sum(wanted) < 39


@pytest.mark.parametrize("name", backend_names())
def test_what_is_within_reach_does_not_depend_on_weights(name: str) -> None:
    detector = make(load_backend(name))
    boxes = random_boxes(2, 30, 96, 96)
    found = detector.reachable(boxes, (96, 96), (96, 96))
    assert found.dtype == torch.bool and found.shape == (30,)
    assert torch.equal(detector.weightless().reachable(boxes, (96, 96), (96, 96)), found)
    assert detector.reachable(boxes[:0], (96, 96), (96, 96)).shape == (0,)
    assert 0 < int(found.sum()) < 30


@pytest.mark.parametrize("name", ["rcnn", "fast-rcnn"])
@pytest.mark.parametrize(
    ("method", "own_side", "within"),
    [
        # Searched at 500 of 2000 px. Boxes have sides of 12 px and more: an IoU of .5 takes 72,
        # which is 8.49 px a side, and 33.9 of the image's own.
        ("selective-search", 33.5, False),
        ("selective-search", 34.5, True),
        # Windows have 400 px and more: it takes 200, which is 14.1 a side, and 56.6.
        ("edge-boxes", 56.0, False),
        ("edge-boxes", 57.0, True),
        ("file", 19.0, True),  # whatever they are
    ],
)
def test_an_object_much_smaller_than_any_proposal_is_out_of_reach(
    name: str, method: str, own_side: float, within: bool
) -> None:
    detector = built(name, proposals=method)
    own = torch.tensor([[100.0, 100.0, 100 + own_side, 100 + own_side]])
    # As if the network saw the image itself: of its own limit of 8 px nothing is seen then.
    assert detector.reachable(own, (2000, 2000), (2000, 2000)).tolist() == [within]


def test_the_smallest_proposals_are_those_of_the_methods() -> None:
    for strategy in STRATEGIES.values():
        assert min(strategy.scales) == SMALLEST_REGION
    config = ProposalConfig(proposal_side=0, proposal_min_side=9)
    sides = Proposer.of(config)(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8))
    widths, heights = (sides.boxes[:, 2:] - sides.boxes[:, :2]).T
    assert config.least_proposal(70, 90) == (9, 9, 50)
    assert 9 <= min(widths.min(), heights.min()) < 12


@pytest.mark.parametrize(
    ("settings", "size", "sides", "within"),
    [
        # In 500 of 1000 px a box is 20 px wide: one of 18 px, 9 there, fills .45 of it.
        ({"proposal_min_side": 20.0}, (1000, 1000), (18, 400), False),
        ({"proposal_min_side": 20.0}, (1000, 1000), (21, 400), True),
        # Both sides too short: (14 / 20) ** 2 is .49, (15 / 20) ** 2 is .56.
        ({"proposal_min_side": 20.0}, (500, 500), (14, 14), False),
        ({"proposal_min_side": 20.0}, (500, 500), (15, 15), True),
        # No box is asked to be wider than the image: 8 px are all of it.
        ({"proposal_min_side": 20.0}, (300, 8), (8, 40), True),
        # What is enlarged to a width: 10 px of 250 are 20 of 500.
        ({"proposal_min_side": 20.0, "proposal_scaling": "width"}, (250, 250), (8, 8), True),
        ({"proposal_min_side": 20.0}, (250, 250), (8, 8), False),
        # Without a least side regions of 50 px are what counts: 5 x 5 fill half of one.
        ({"proposal_min_side": 0.0}, (500, 500), (4.9, 4.9), False),
        ({"proposal_min_side": 0.0}, (500, 500), (5.1, 5.1), True),
        # Windows of 100 px.
        ({"proposals": "edge-boxes", "edge_min_area": 100.0}, (500, 500), (7, 7), False),
        ({"proposals": "edge-boxes", "edge_min_area": 100.0}, (500, 500), (7.2, 7.2), True),
    ],
)
def test_what_settings_propose_decides_what_is_within_reach(
    settings: dict[str, Any], size: tuple[int, int], sides: tuple[float, float], within: bool
) -> None:
    detector = built("rcnn", **settings)
    network = (20 * size[0], 20 * size[1])  # of the network's own limit of 8 px nothing is seen
    box = torch.tensor([[0.0, 0.0, *sides]]) * 20
    assert detector.reachable(box, network, size).tolist() == [within]


def test_a_least_side_above_the_usual_one_is_what_is_lowered_first() -> None:
    assert list(built("fast-rcnn", proposal_min_side=20.0).finer_settings())[:5] == [
        {"proposal_min_side": 12.0},
        {"proposal_min_side": 7.0},
        {"proposal_side": 1000},
        {"proposal_side": 1000, "proposal_min_side": 12.0},
        {"proposal_side": 1000, "proposal_min_side": 7.0},
    ]


@pytest.mark.parametrize(
    ("settings", "least"),
    [({}, 8), ({"backbone": "vgg16"}, 16), ({"backbone": "resnet18"}, 8), ({"neck": "single"}, 16)],
)
def test_fast_rcnn_needs_a_place_of_its_finest_map_for_an_object(
    settings: dict[str, str], least: int
) -> None:
    detector = built("fast-rcnn", proposals="file", **settings)
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in (least - 0.5, float(least))])
    assert detector.reachable(boxes, (320, 320), (320, 320)).tolist() == [False, True]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), thresh=st.sampled_from([0.2, 0.3, 0.5, 0.7]))
def test_looking_at_near_sizes_alone_finds_the_same_objects(seed: int, thresh: float) -> None:
    boxes, others = random_boxes(seed, 12, 90, 120, 3.0), random_boxes(seed + 1, 40, 90, 120, 12.0)
    quick, whole = best_overlaps_of_small(boxes, others, thresh), best_overlaps(boxes, others)
    areas = [float((b[2:] - b[:2]).prod()) for b in others]
    for box, one, other in zip(boxes, quick.tolist(), whole.tolist(), strict=True):
        if float((box[2:] - box[:2]).prod()) >= min(areas):
            assert one == 1.0
        elif other >= thresh:
            assert one == other
        else:
            assert one < thresh


# --- of a whole folder ----------------------------------------------------------------------


@pytest.mark.parametrize("name", backend_names())
def test_small_objects_in_large_pictures_are_out_of_reach_of_every_default(name: str) -> None:
    detector = built(name)
    reach = find_reach(detector, small_objects())
    assert (reach.num_objects, reach.num_unreached, reach.share) == (300, 300, 1.0)
    height, width = detector.network_size()(2000, 3000)
    # Sides of 14 to 24 px, the middle 19, at the geometric mean of both scales.
    scale = math.sqrt(height / 2000 * width / 3000)
    assert reach.median_side == pytest.approx(18.9 * scale, rel=0.05)
    assert "300 of 300 objects (100.0%)" in reach_in_words(reach)
    assert reach_note(reach).startswith("warning: most objects will hardly be found")
    assert any(one.tile for one in reach.advice), "cut to pieces they are large enough"
    assert "--tile" in reach_in_words(reach)


@pytest.mark.parametrize("name", backend_names())
def test_what_is_advised_leaves_as_many_out_of_reach_as_is_said(name: str) -> None:
    labelled = small_objects()
    if name == "ssd":  # 44 px of 3000 x 2000 are 18 of 1024 x 1024
        labelled = [(truth(one.boxes + [0, 0, 25, 25]), size) for one, size in labelled]
    reach = find_reach(built(name), labelled)
    for advice in (one for one in reach.advice if one.tile is None):
        detector = built(name)
        values = {**dict(advice.settings)}
        if values.get("anchors") == "auto":
            suited = type(detector).suited_config(built(name, **values).config, labelled)
            detector = type(detector)(suited, ("thing",))
        else:
            detector = built(name, **values)
        missed = total = 0
        for one, (height, width) in labelled:
            size = detector.network_size()(height, width)
            scale = torch.tensor([size[1] / width, size[0] / height] * 2)
            found = detector.reachable(torch.from_numpy(one.boxes) * scale, size, (height, width))
            missed, total = missed + int((~found).sum()), total + len(found)
        assert advice.left == pytest.approx(missed / total)
        assert advice.left <= max(0.1, reach.share / 2)
    # Of 100 objects in an image a grid loses too many, and 1024 px are 6.5 of 19 in the middle.
    if name not in ("yolov1", "one-map"):
        assert reach.advice[0].tile is None


def test_the_smallest_usual_size_that_reaches_most_is_proposed() -> None:
    # 7 px are below 8; on an image of 320 they are 22, on all larger ones more.
    boxes = [[x, y, x + 7.0, y + 7.0] for x in range(0, 90, 11) for y in range(0, 90, 11)]
    reach = find_reach(built("fast-rcnn", size=100, proposals="file"), [(truth(boxes), (100, 100))])
    assert reach.num_unreached == reach.num_objects == 81
    assert [dict(one.settings) for one in reach.advice] == [{"size": 320}]
    assert reach_in_words(reach).endswith("; --set size=320 leaves 0.0%")


def test_where_all_is_within_reach_nothing_is_said() -> None:
    reach = find_reach(built("ssd"), [(truth([[10, 10, 200, 200]]), (300, 300))])
    assert (reach.num_unreached, reach.median_side, reach.advice) == (0, None, ())
    assert reach_in_words(reach) == reach_note(reach) == ""
    empty = find_reach(built("ssd"), [(truth([]), (300, 300))])
    assert (empty.num_objects, empty.share, reach_note(empty)) == (0, 0.0, "")


def test_boxes_that_are_none_do_not_count() -> None:
    bad = [[math.nan, 0, 5, 5], [5, 5, 5, 50], [9, 9, 2, 2], [0, 0, math.inf, 9], [9, 9, 90, 90]]
    assert find_reach(built("ssd"), [(truth(bad), (300, 300))]).num_objects == 1


def test_pieces_hold_each_object_once_whole_and_of_its_own_size() -> None:
    boxes = random_boxes(3, 50, 700, 900, 8.0).numpy()
    inside = boxes[(boxes[:, 2:] - boxes[:, :2]).max(axis=1) <= 256]
    pieces = list(_pieces([(truth(inside), (700, 900)), (truth([[1, 2, 3, 4]]), (200, 256))], 256))
    *cut, (whole, size) = pieces
    assert size == (200, 256) and whole.boxes.tolist() == [[1, 2, 3, 4]]
    moved = np.concatenate([one.boxes for one, size in cut])
    assert all(size == (256, 256) for _, size in cut)
    assert (moved >= 0).all() and (moved <= 256).all()
    sides = [sorted((one[:, 2:] - one[:, :2]).round(3).tolist()) for one in (moved, inside)]
    assert np.allclose(*sides, atol=2e-3)
    for one, _ in cut:  # what shares a piece has its centres in one square of the image
        originals = [
            box
            for box in inside
            if any(np.allclose(box[2:] - box[:2], b[2:] - b[:2], atol=1e-3) for b in one.boxes)
        ]
        squares = {tuple(((box[:2] + box[2:]) / 2 // 256).tolist()) for box in originals}
        assert len(squares) == 1


@pytest.mark.parametrize(
    ("counts", "most", "chosen"),
    [
        ([2, 0, 3], 5, [0, 2]),
        ([1] * 10, 5, [0, 2, 4, 6, 8]),
        ([0, 1, 0, 1, 1, 1], 2, [1, 4]),
        ([9], 4, [0]),
        ([0, 0], 4, []),
        ([], 4, []),
    ],
)
def test_of_many_objects_a_spread_sample_of_images_is_looked_at(
    counts: list[int], most: int, chosen: list[int]
) -> None:
    assert spread(counts, most) == chosen


def test_the_sample_reads_no_other_files(tmp_path: Path) -> None:
    from toy import CLASSES, write_images

    records = write_images(tmp_path / "images")  # 0, 1, 2, 0, 1, 2, ... objects: 9 in 10 images
    for index in (0, 2, 5, 8):  # without objects, or not of the sample: every second of six
        records[index].path.unlink()
    seen = list(TrainingDataset(records, CLASSES).labelled(most=5))
    assert [len(one.boxes) for one, _ in seen] == [1, 1, 1]
    assert all(size == (40, 48) for _, size in seen)


@pytest.mark.parametrize("name", backend_names())
def test_finer_settings_make_a_network(name: str) -> None:
    detector = built(name)
    found = list(detector.finer_settings())
    assert found and all(found)
    for values in found:
        built(name, **values).config.validate()
    if isinstance(detector.config, ProposalConfig):
        assert found[:2] == [{"proposal_min_side": 7.0}, {"proposal_side": 1000}]


# --- in the shell ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four images of 600 x 400 with nine objects of 12 px each, and one of 200."""
    root = tmp_path_factory.mktemp("small")
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (400, 600, 3), np.uint8)
        cv2.imencode(".png", pixels)[1].tofile(root / f"{number}.png")
        for place in range(9):
            x, y = 30 + 60 * place, 20 + 15 * place
            lines.append(f"{number}.png,600,400,a,{x},{y},{x + 11},{y + 11}")  # the last pixels
        lines.append(f"{number}.png,600,400,a,300,180,500,380")
    return put(root, {"labels.csv": "\n".join(lines) + "\n"})


def test_check_says_how_many_objects_a_backend_does_not_reach(folder: Path) -> None:
    done = detkit("check", folder, "--model", "ssd")
    assert done.returncode == 0, done.stderr
    assert "warning: data set: 36 of 40 objects (90.0%) are hardly within reach" in done.stdout
    assert done.stdout.rstrip().endswith("0 errors, 1 warning")
    done = detkit("check", folder, "--model", "ssd", "--json")
    report = json.loads(done.stdout)
    assert faults("check", report) == []
    assert (report["reach"]["objects"], report["reach"]["unreached"]) == (40, 36)
    # 12 px of 600 x 400 on 300 x 300 are 6 wide and 9 high.
    assert report["reach"]["median_side"] == pytest.approx(math.sqrt(6 * 9), abs=0.01)
    assert [one["code"] for one in report["findings"]] == ["out-of-reach"]
    assert report["warnings"] == 1


def test_check_takes_settings_of_the_backend_and_reads_no_image_if_told(folder: Path) -> None:
    words = ["--model", "fast-rcnn", "--set", "proposals=file", "--set", "size=640"]
    done = detkit("check", folder, *words, "--no-images")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("0 errors, 0 warnings")
    assert "all of 40 objects are within reach of fast-rcnn" in done.stderr


def test_check_without_a_model_says_nothing_of_reach(folder: Path) -> None:
    done = detkit("check", folder, "--json")
    assert "reach" not in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "size=512"], "--set size=512: is a setting of a backend; name it with --model"),
        (["--model", "sdd"], "--model sdd: unknown; did you mean"),
        (["--model", "ssd", "--set", "sise=5"], "--set sise=5: no such setting"),
        (["--model", "ssd", "--set", "size=5"], "--set size=5: must be at least 16"),
    ],
)
def test_what_check_cannot_hold_the_objects_against_is_one_line(
    folder: Path, words: list[str], said: str
) -> None:
    done = detkit("check", folder, *words)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_train_warns_before_it_learns_what_it_cannot_find(folder: Path, tmp_path: Path) -> None:
    words = ["--set", "batch_size=1", "--max-steps", "1", "--device", "cpu", "--val", ".25"]
    done = detkit("train", folder, "--model", "ssd", *words, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "most objects will hardly" in line]
    assert len(said) == 1 and "27 of 30 objects (90.0%)" in said[0]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "most objects will hardly be found" in log
