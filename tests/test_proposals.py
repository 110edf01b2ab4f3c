"""Tests of the one interface to all proposal methods, and of proposal files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from detkit.config import ProposalConfig
from detkit.errors import DetkitError, UsageError
from detkit.proposals.edge_boxes import edge_boxes
from detkit.proposals.proposer import METHODS, EdgeSearch, Proposer, propose
from detkit.proposals.reader import read_proposals
from detkit.proposals.selective_search import selective_search
from detkit.proposals.writer import ProposalWriter
from detkit.structures import Proposals


def picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image of some rectangles."""
    random = np.random.default_rng(0)
    image = np.full((height, width, 3), 90, np.uint8)
    for _ in range(5):
        y, x = random.integers(0, height), random.integers(0, width)
        image[y : y + height // 3, x : x + width // 3] = random.integers(0, 255, 3)
    return image


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_side", [0, 40])
def test_every_method_gives_ranked_whole_boxes_inside_the_image(method: str, max_side: int) -> None:
    image = picture(60, 90)
    found = propose(method, image, max_boxes=50, max_side=max_side)
    assert found.boxes.dtype == np.float32 and found.scores.dtype == np.float32
    assert found.boxes.shape == (len(found.scores), 4) and 0 < len(found.scores) <= 50
    assert (np.diff(found.scores) <= 0).all()
    assert np.array_equal(found.boxes, np.rint(found.boxes))
    assert (found.boxes >= 0).all() and (found.boxes <= [90, 60, 90, 60]).all()
    assert ((found.boxes[:, 2:] - found.boxes[:, :2]) >= 1).all()
    again = propose(method, image, max_boxes=20, max_side=max_side)
    assert np.array_equal(again.boxes, found.boxes[:20])


def test_unknown_methods_and_numbers_without_sense_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean selective-search?"):
        Proposer("selective-serch")
    with pytest.raises(UsageError, match="--max-boxes 0"):
        Proposer("edge-boxes", max_boxes=0)
    with pytest.raises(UsageError, match="--max-side -1"):
        Proposer("edge-boxes", max_side=-1)
    with pytest.raises(UsageError, match="--seed -1"):
        Proposer("selective-search", seed=-1)
    with pytest.raises(UsageError, match="--min-area: is for edge-boxes"):
        Proposer("selective-search", edges=EdgeSearch(min_area=100))
    with pytest.raises(UsageError, match="--min-side: is for selective search"):
        Proposer("edge-boxes", min_side=20)
    with pytest.raises(UsageError, match="--scaling height: choose from longer, width"):
        Proposer("selective-search", scaling="height")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--scaling width: takes a --max-side"):
        Proposer("selective-search", max_side=0, scaling="width")
    with pytest.raises(UsageError, match="--max-aspect-ratio 0.5: must lie between 1 and 1000"):
        EdgeSearch(max_aspect_ratio=0.5)
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--min-area .*: must be at least 16"):
            EdgeSearch(min_area=wrong)
        with pytest.raises(UsageError, match="--min-side .*: must be at least 0"):
            Proposer("selective-search", min_side=wrong)
    for name, value in (("alpha", 0.0), ("beta", 1.5), ("eta", 0.0), ("min_score", -1.0)):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .*: must "):
            EdgeSearch(**{name: value})
    with pytest.raises(UsageError, match="--edge-model: is for edge-boxes"):
        Proposer("selective-search", edge_model=tmp_path)
    with pytest.raises(DetkitError, match="no such edge model file"):
        Proposer("edge-boxes", edge_model=tmp_path / "none.yml.gz")


def test_an_edge_model_is_read_before_any_image_is(tmp_path: Path) -> None:
    model = tmp_path / "model.yml.gz"
    model.write_bytes(b"words")
    with mock.patch.dict(vars(cv2)):
        vars(cv2).pop("ximgproc", None)
        with pytest.raises(DetkitError, match="opencv-contrib-python-headless"):
            Proposer("edge-boxes", edge_model=model)
    ximgproc = mock.Mock()
    ximgproc.createStructuredEdgeDetection.side_effect = cv2.error("bad file")
    with (
        mock.patch.object(cv2, "ximgproc", ximgproc, create=True),
        pytest.raises(DetkitError, match="no structured edge model"),
    ):
        Proposer("edge-boxes", edge_model=model)


def test_edge_boxes_windows_are_as_large_and_as_long_as_asked_for() -> None:
    image = picture(60, 90)
    small = Proposer("edge-boxes", edges=EdgeSearch(min_area=64))
    assert small.parameters == {**Proposer("edge-boxes").parameters, "min_area": 64.0}
    usual, more = Proposer("edge-boxes")(image), small(image)
    areas = [np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1) for found in (usual, more)]
    assert areas[1].min() < 200 < areas[0].min()  # the refinement makes windows smaller
    square = Proposer("edge-boxes", edges=EdgeSearch(max_aspect_ratio=1))
    assert square.parameters["max_aspect_ratio"] == 1.0
    assert len(square(image).boxes) < len(usual.boxes)


def test_the_parameters_name_all_that_the_boxes_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "ximgproc", mock.Mock(), raising=False)
    of_search = Proposer("selective-search", 300, 0, 7).parameters
    assert of_search == {
        "method": "selective-search",
        "version": of_search["version"],
        "max_boxes": 300,
        "max_side": 0,
        "seed": 7,
        "min_side": 12.0,
        "scaling": "longer",
    }
    assert "seed" not in Proposer("edge-boxes").parameters  # nothing is left to chance
    digests = []
    for content in (b"one", b"other", b"one"):
        model = tmp_path / f"{len(digests)}.yml"
        model.write_bytes(content)
        digests.append(Proposer("edge-boxes", edge_model=model).parameters["edge_model"])
    assert digests[0] == digests[2] != digests[1]


def test_a_config_names_the_method_and_its_numbers() -> None:
    config = ProposalConfig(
        proposals="edge-boxes", max_proposals=9, proposal_side=0, proposal_seed=3
    )
    assert Proposer.of(config) == Proposer("edge-boxes", 9, 0, 3)
    own = ProposalConfig(
        proposal_min_side=20, proposal_scaling="width", edge_alpha=0.7, edge_min_score=0.1
    )
    of_search = Proposer.of(own)
    assert of_search == Proposer("selective-search", min_side=20, scaling="width")
    of_edges = Proposer.of(replace(own, proposals="edge-boxes"))
    assert of_edges == Proposer("edge-boxes", edges=EdgeSearch(alpha=0.7, min_score=0.1))


def test_every_parameter_reaches_its_method() -> None:
    image = picture(60, 90)
    search = Proposer("selective-search", 50, 45, 3, min_side=9, scaling="width")
    expected = selective_search(
        image, seed=3, min_side=9, max_boxes=50, max_side=45, scaling="width"
    )
    assert len(expected.boxes) > 1
    np.testing.assert_allclose(search(image).boxes, expected.boxes, atol=0.5)
    for name, value in (
        ("alpha", 0.8),
        ("beta", 0.4),
        ("eta", 0.9),
        ("min_score", 0.2),
        ("min_area", 900.0),
        ("max_aspect_ratio", 1.2),
    ):
        found = Proposer("edge-boxes", edges=EdgeSearch(**{name: value}))
        boxes = edge_boxes(image, max_boxes=2000, **{name: value}).boxes  # type: ignore[arg-type]
        assert found.parameters[name] == value
        np.testing.assert_allclose(found(image).boxes, boxes, atol=0.5)
        assert len(boxes) != len(Proposer("edge-boxes")(image).boxes), name


corner = st.integers(0, 400).map(lambda n: n / 4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(corner, corner, st.integers(1, 50), st.integers(1, 50)), max_size=20),
    st.text(min_size=1),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    corners: list[tuple[float, float, int, int]],
    name: str,
) -> None:
    path = tmp_path_factory.mktemp("files") / "p.jsonl"
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in corners], np.float32).reshape(-1, 4)
    scores = np.linspace(1, 0.1, len(boxes), dtype=np.float32)
    parameters = Proposer("edge-boxes").parameters
    with ProposalWriter(path, parameters) as writer:
        writer.write(name, (500, 600), Proposals(boxes, scores))
        writer.write_error("broken.jpg", "not an image")
    file = read_proposals(path)
    assert file.images == (name,) and file.sizes == ((500, 600),)
    assert file.parameters == parameters
    np.testing.assert_array_equal(file.found[0].boxes, boxes)
    np.testing.assert_allclose(file.found[0].scores, scores, rtol=1e-5)


def test_a_line_of_image_and_boxes_alone_is_enough_and_scores_rank_it(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines: list[dict[str, Any]] = [
        {"image": "a.jpg", "boxes": [[0, 0, 5, 5], [1, 1, 9.5, 9]]},
        {"image": "b.jpg", "boxes": [[0, 0, 5, 5], [1, 1, 9, 9]], "scores": [0.25, 3]},
        {"image": "c.jpg", "boxes": []},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    file = read_proposals(path)
    assert file.images == ("a.jpg", "b.jpg", "c.jpg") and not file.parameters
    assert file.found[0].boxes.tolist() == [[0, 0, 5, 5], [1, 1, 9.5, 9]]
    assert (np.diff(file.found[0].scores) < 0).all()
    assert file.found[1].boxes.tolist() == [[1, 1, 9, 9], [0, 0, 5, 5]]
    assert file.found[1].scores.tolist() == [3, 0.25]
    assert file.found[2].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"p.jsonl:2: not JSON"),
        ("[1]", r"p.jsonl:2: expected an object"),
        ('{"boxes": []}', r"p.jsonl:2: expected an object"),
        ('{"image": "b", "boxes": [[1, 2, 3]]}', r"p.jsonl:2: boxes: expected a list of \[x1"),
        ('{"image": "b", "boxes": [[1, 2], [3]]}', r"p.jsonl:2: boxes: expected numbers"),
        ('{"image": "b"}', r'p.jsonl:2: expected an object with "image" and "boxes"'),
        ("[" * 100_000, r"p.jsonl:2: not JSON"),
        ('{"image": "b", "boxes": [], "width": true, "height": 5}', r"p.jsonl:2: width and height"),
        ('{"image": "b", "boxes": [], "width": 0, "height": 5}', r"p.jsonl:2: width and height"),
        ('{"image": "b", "boxes": 7}', r"p.jsonl:2: boxes: expected a list of finite numbers"),
        ('{"image": "b", "boxes": [[1, 2, 3, NaN]]}', r"p.jsonl:2: boxes: expected a list of fin"),
        ('{"image": "b", "boxes": [[5, 2, 3, 4]]}', r"box 1 \(5, 2, 3, 4\) encloses nothing"),
        (
            '{"image": "b", "boxes": [[1, 2, 3, 4]], "scores": []}',
            r"expected one for each box, 1",
        ),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"image": "a.jpg", "boxes": [[0, 0, 5, 5]]}}\n{line}\n')
    with pytest.raises(DetkitError, match=message):
        read_proposals(path)


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="no such proposal file"):
        read_proposals(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(DetkitError, match="holds no proposals"):
        read_proposals(tmp_path / "p.jsonl")


def cells(*values: Any) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Return a MATLAB cell array."""
    array = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        array[index, 0] = value
    return array


def test_rcnns_matlab_files_are_y_first_from_one_and_inclusive(tmp_path: Path) -> None:
    # As released: the box of the first two rows and three columns is y 1 to 2, x 1 to 3.
    path = tmp_path / "voc_2007_trainval.mat"
    boxes = cells(
        np.array([[1, 1, 2, 3], [11, 21, 30, 40]], np.uint16), np.array([[2, 1, 5, 9]], float)
    )
    savemat(path, {"images": cells("000005", "000007"), "boxes": boxes})
    file = read_proposals(path)
    assert file.images == ("000005", "000007")
    assert file.found[0].boxes.tolist() == [[0, 0, 3, 2], [20, 10, 40, 30]]
    assert file.found[1].boxes.tolist() == [[0, 1, 9, 5]]
    assert (np.diff(file.found[0].scores) < 0).all()


def test_other_matlab_files_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.mat"
    savemat(path, {"boxes": cells(np.ones((1, 4)))})
    with pytest.raises(DetkitError, match="expected the cell arrays images and boxes"):
        read_proposals(path)
    savemat(path, {"images": cells("a", "b"), "boxes": cells(np.ones((1, 4)))})
    with pytest.raises(DetkitError, match="2 images, but boxes of 1"):
        read_proposals(path)
    savemat(path, {"images": cells("a"), "boxes": cells(np.ones((2, 5)))})
    with pytest.raises(DetkitError, match="a: expected boxes of four numbers"):
        read_proposals(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(DetkitError, match="save it with the option -v7"):
        read_proposals(path)
    for content in (b"", b"no matlab file at all", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(DetkitError, match="p.mat: "):
            read_proposals(path)
