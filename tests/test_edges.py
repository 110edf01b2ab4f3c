"""The edge detector on images whose edges are known, and the structured one it stands in for."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from detkit.errors import DetkitError
from detkit.proposals.edges import gradient_edges, structured_edges


def disc(inside: int, outside: int, size: int = 121, radius: int = 40) -> np.ndarray:
    """Return a grey disc in the middle of a square RGB image."""
    image = np.full((size, size, 3), outside, np.uint8)
    return cv2.circle(image, (size // 2, size // 2), radius, (inside,) * 3, -1)


def between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the angles between orientations, which wrap at pi."""
    difference = np.abs(one - other) % math.pi
    return np.minimum(difference, math.pi - difference)


def test_the_edges_of_a_disc_lie_on_its_rim_and_nowhere_else() -> None:
    edges, _ = gradient_edges(disc(200, 60))
    y, x = np.nonzero(edges > 0.1)
    distance = np.hypot(x - 60, y - 60)
    assert np.abs(distance - 40).max() < 2
    directions = np.unique(np.round(np.arctan2(y - 60, x - 60), 1))
    assert len(directions) > 60  # all the way round


def test_orientation_is_that_of_the_gradient_modulo_pi() -> None:
    edges, orientation = gradient_edges(disc(200, 60))
    y, x = np.nonzero(edges > 0.1)
    assert between(orientation[y, x], np.arctan2(y - 60, x - 60)).max() < 0.2
    assert orientation.min() >= 0
    assert orientation.max() < math.pi


def test_edges_are_thin() -> None:
    edges, _ = gradient_edges(np.repeat(np.arange(2, dtype=np.uint8) * 200, 40)[None].repeat(50, 0))
    assert ((edges > 0.1).sum(axis=1) <= 2).all()  # two where both neighbours are as strong
    assert (edges > 0.1).any(axis=1).all()


def test_a_faint_image_has_the_edges_of_a_strong_one() -> None:
    strong, _ = gradient_edges(disc(230, 30))
    faint, _ = gradient_edges(disc(138, 118))
    assert (faint > 0.1).sum() == pytest.approx((strong > 0.1).sum(), rel=0.1)
    assert faint.max() > 0.7 * strong.max()


def test_colours_of_equal_lightness_have_an_edge() -> None:
    red, green = (220, 100, 100), (80, 156, 80)
    image = np.empty((60, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = red, green
    edges, _ = gradient_edges(image)
    assert (edges[:, 28:32].max(axis=1) > 0.2).all()


def test_a_turned_image_has_turned_edges() -> None:
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), (0, 0), 3
    )
    edges, orientation = gradient_edges(image)
    turned, turned_orientation = gradient_edges(np.ascontiguousarray(image.transpose(1, 0, 2)))
    both = (edges.T > 0.1) & (turned > 0.1)
    assert both.sum() > 0.95 * (turned > 0.1).sum()
    mirrored = (math.pi / 2 - turned_orientation) % math.pi
    assert between(orientation.T[both], mirrored[both]).max() < 0.05


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1), (5, 5, 1), (40, 60)])
@pytest.mark.parametrize("value", [0, 255])
def test_one_colour_has_no_edges_whatever_its_size(shape: tuple[int, ...], value: int) -> None:
    edges, orientation = gradient_edges(np.full(shape, value, np.uint8))
    assert edges.shape == orientation.shape == shape[:2]
    assert edges.dtype == orientation.dtype == np.float32
    assert not edges.any()


def test_grey_is_the_same_as_grey_in_three_channels() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    for one, other in zip(gradient_edges(grey), gradient_edges(np.dstack([grey] * 3))):
        np.testing.assert_array_equal(one, other)


def test_an_opencv_without_ximgproc_is_told_how_to_get_it(tmp_path: Path) -> None:
    model = tmp_path / "model.yml.gz"
    model.write_bytes(b"")
    with mock.patch.dict(vars(cv2)):
        vars(cv2).pop("ximgproc", None)
        with pytest.raises(DetkitError, match="opencv-contrib-python-headless"):
            structured_edges(disc(200, 60), model)


def test_a_missing_edge_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match=r"gone\.yml\.gz: there is no such edge model"):
        structured_edges(disc(200, 60), tmp_path / "gone.yml.gz")


class Detector:
    """What OpenCV's detector answers, worked by hand: an upright line with its normal at pi."""

    def detectEdges(self, image: np.ndarray) -> np.ndarray:  # noqa: N802
        assert image.dtype == np.float32
        assert image.shape[2] == 3
        assert 0 <= image.min() <= image.max() <= 1
        return np.tile(np.float32([0.2, 0.8, 0.2]), (len(image), 1))

    def computeOrientation(self, edges: np.ndarray) -> np.ndarray:  # noqa: N802
        return np.full_like(edges, np.float32(np.pi))

    def edgesNms(self, edges: np.ndarray, orientation: np.ndarray) -> np.ndarray:  # noqa: N802
        return np.where(edges > 0.5, edges, np.float32(0))


def test_structured_edges_are_opencvs_thinned_with_orientations_below_pi(tmp_path: Path) -> None:
    model = tmp_path / "model.yml.gz"
    model.write_bytes(b"")
    ximgproc = mock.Mock(**{"createStructuredEdgeDetection.return_value": Detector()})
    with mock.patch.object(cv2, "ximgproc", ximgproc, create=True):
        edges, orientation = structured_edges(np.full((4, 3), 255, np.uint8), model)
    assert edges.tolist() == [[0, np.float32(0.8), 0]] * 4
    assert orientation.tolist() == [[0, 0, 0]] * 4


def test_an_edge_model_is_read_once_a_thread_and_again_when_it_was_replaced(
    tmp_path: Path,
) -> None:
    model, image = tmp_path / "model.yml.gz", np.full((4, 3), 255, np.uint8)
    model.write_bytes(b"")
    ximgproc = mock.Mock(**{"createStructuredEdgeDetection.return_value": Detector()})
    reads = ximgproc.createStructuredEdgeDetection
    with mock.patch.object(cv2, "ximgproc", ximgproc, create=True):
        for _ in range(3):
            structured_edges(image, model)
        assert reads.call_count == 1
        other = threading.Thread(target=structured_edges, args=(image, model))
        other.start()
        other.join()
        assert reads.call_count == 2
        os.utime(model, ns=(1, 1))
        structured_edges(image, model)
        assert reads.call_count == 3


def test_a_file_that_is_no_edge_model_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model.yml.gz"
    model.write_bytes(b"words")
    ximgproc = mock.Mock()
    ximgproc.createStructuredEdgeDetection.side_effect = cv2.error("bad\nfile")
    with (
        mock.patch.object(cv2, "ximgproc", ximgproc, create=True),
        pytest.raises(DetkitError, match=r"no structured edge model .*\(bad file\)"),
    ):
        structured_edges(disc(200, 60), model)
