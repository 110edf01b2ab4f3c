"""Tiles and test-time augmentation: windows, merging, views, and detection through them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms
from toy import photo_like

from detkit.config import DetectorConfig
from detkit.data.images import read_image, write_image
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.data.sources import ImageSource
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.evaluation.gain import Looked, gain_of
from detkit.evaluation.misses import find_misses
from detkit.evaluation.scores import score
from detkit.geometry.tiles import cut_by, merge, num_tiles, tile_windows
from detkit.inference import reader, strips, views
from detkit.inference.predict import detect_images, predict
from detkit.inference.strips import Strips, in_strips
from detkit.inference.views import View, proposals_of, views_of
from detkit.predictions.image import ImagePredictions
from detkit.structures import Batch, Candidates, Detections, Proposals, Truth
from detkit.transforms.preparation import square

# --- windows ------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 120), st.floats(0, 0.8))
def test_windows_cover_every_pixel_and_neighbours_share_their_part(
    height: int, width: int, side: int, overlap: float
) -> None:
    windows = tile_windows(height, width, side, overlap)
    seen = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in windows.tolist():
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        seen[y1:y2, x1:x2] = True
    assert seen.all()
    for low, high in ((0, 2), (1, 3)):
        starts, ends = np.unique(windows[:, low]), np.unique(windows[:, high])
        assert (ends[:-1] - starts[1:] >= overlap * side - 1).all()
    shows_all = height <= side and width <= side
    assert num_tiles(height, width, side, overlap) == (0 if shows_all else len(windows))


def test_an_object_no_longer_than_the_overlap_is_whole_in_some_window() -> None:
    windows = tile_windows(100, 1000, 100, 0.2)
    for left in range(1000 - 20):
        assert ((windows[:, 0] <= left) & (left + 20 <= windows[:, 2])).any()


def test_the_windows_of_a_known_image() -> None:
    # (1000 - 400) / (400 * .8) = 1.9: three a row, 300 apart.
    assert tile_windows(300, 1000, 400, 0.2).tolist() == [
        [0, 0, 400, 300],
        [300, 0, 700, 300],
        [600, 0, 1000, 300],
    ]


def test_boxes_at_a_border_inside_the_image_are_cut_those_at_its_own_are_not() -> None:
    window = np.array([100, 0, 200, 100])
    boxes = np.array(
        [
            [100.5, 20, 130, 60],  # left: it goes on in the window before
            [120, 0, 140, 30],  # top: the image's own border
            [150, 50, 199.5, 80],  # right, inside the image
            [150, 50, 198, 80],  # ends two pixels before
            [120, 70, 140, 100],  # bottom: the image's own border
        ],
        np.float32,
    )
    assert cut_by(boxes, window, 100, 300).tolist() == [True, False, True, False, False]
    assert cut_by(boxes, window, 150, 200).tolist() == [True, False, False, False, True]


# --- merging: hand-worked -----------------------------------------------------------------------


def together(
    *rows: tuple[tuple[float, float, float, float], float, int, int, bool],
) -> list[tuple[list[float], float, int]]:
    """Merge rows of (box, score, label, tile, cut); NMS at .5."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    columns = [np.array([row[at] for row in rows]) for at in range(1, 5)]
    scores, labels, tiles, cut = (
        column.astype(kind)
        for column, kind in zip(columns, (np.float32, np.int64, np.int64, np.bool_), strict=True)
    )
    found = merge(boxes, scores, labels, tiles, cut, nms_thresh=0.5)
    return [
        (box, round(value, 3), label)
        for box, value, label in zip(*(one.tolist() for one in found), strict=True)
    ]


def test_an_object_that_two_tiles_show_whole_is_one() -> None:
    assert together(
        ((10, 10, 30, 30), 0.8, 0, 1, False),
        ((11, 10, 31, 30), 0.9, 0, 2, False),
        ((60, 10, 80, 30), 0.7, 0, 2, False),
    ) == [([11, 10, 31, 30], 0.9, 0), ([60, 10, 80, 30], 0.7, 0)]


def test_a_part_goes_where_another_tile_shows_the_whole_though_the_part_scores_more() -> None:
    # IoU of part and whole is .4: NMS alone would keep both.
    assert together(
        ((0, 0, 100, 50), 0.6, 0, 1, False),
        ((60, 0, 100, 50), 0.9, 0, 2, True),
    ) == [([0, 0, 100, 50], 0.6, 0)]


def test_a_part_that_a_whole_box_covers_by_less_than_half_stays() -> None:
    found = together(
        ((0, 0, 50, 50), 0.6, 0, 1, False),
        ((30, 0, 100, 50), 0.9, 0, 2, True),  # 20 of 50 and 70 shared: .4 of the smaller
    )
    assert found == [([30, 0, 100, 50], 0.9, 0), ([0, 0, 50, 50], 0.6, 0)]


def test_a_cut_box_is_not_explained_by_one_with_a_fraction_of_its_score() -> None:
    part, noise = ((60, 0, 100, 50), 0.9, 0, 2, True), ((0, 0, 100, 50), 0.44, 0, 1, False)
    assert together(part, noise) == [([60, 0, 100, 50], 0.9, 0), ([0, 0, 100, 50], 0.44, 0)]
    far = ((80, 11, 115, 31), 0.2, 0, 2, True)
    assert len(together(((50, 10, 100, 30), 0.7, 0, 1, True), far)) == 2


def test_a_cut_box_of_an_object_that_ends_at_the_border_meets_its_like_by_nms() -> None:
    # Of nearly the same extent (IoU .9): the object does not go on beyond the border.
    assert together(
        ((0, 0, 90, 50), 0.6, 0, 1, False),
        ((0, 0, 100, 50), 0.9, 0, 2, True),
    ) == [([0, 0, 100, 50], 0.9, 0)]


def test_parts_of_two_tiles_become_the_box_around_them_with_the_better_score() -> None:
    # The tiles share 20 pixels, all of them in both parts: 20 of the smaller 35.
    assert together(
        ((50, 10, 100, 30), 0.7, 0, 1, True),
        ((80, 11, 115, 31), 0.8, 0, 2, True),
    ) == [([50, 10, 115, 31], 0.8, 0)]


def test_parts_in_three_tiles_in_a_row_become_one() -> None:
    assert together(
        ((0, 0, 40, 20), 0.9, 0, 1, True),
        ((60, 0, 100, 20), 0.8, 0, 3, True),
        ((20, 0, 80, 20), 0.7, 0, 2, True),
    ) == [([0, 0, 100, 20], 0.9, 0)]


def test_two_objects_of_one_tile_are_not_joined() -> None:
    found = together(((0, 0, 40, 20), 0.9, 0, 1, True), ((15, 0, 55, 20), 0.8, 0, 1, True))
    assert len(found) == 2


def test_a_part_alone_stays_and_classes_do_not_meet() -> None:
    assert together(
        ((0, 0, 40, 20), 0.5, 1, 1, True),
        ((0, 0, 40, 20), 0.9, 0, 1, False),
    ) == [([0, 0, 40, 20], 0.9, 0), ([0, 0, 40, 20], 0.5, 1)]
    assert together() == []


@given(st.integers(0, 10_000), st.integers(0, 40))
def test_whole_boxes_merge_as_torchvisions_nms_by_class_does(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 100, (count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    scores = random.permutation(count).astype(np.float32) / max(count, 1)
    labels = random.integers(0, 3, count)
    tiles, cut = random.integers(0, 4, count), np.zeros(count, np.bool_)
    found = merge(boxes, scores, labels, tiles, cut, nms_thresh=0.5)
    kept = batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels), 0.5
    ).numpy()
    for one, expected in zip(found, (boxes[kept], scores[kept], labels[kept]), strict=True):
        np.testing.assert_array_equal(one, expected)


# --- views --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("window", [(0, 0, 9, 6), (2, 1, 7, 5), (-3, -2, 12, 8), (5, -1, 11, 4)])
def test_a_view_shows_each_pixel_of_its_window_and_the_fill_beyond(
    window: tuple[int, int, int, int], flipped: bool
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    view = View(window, flipped)
    shown = view.pixels_of(image, (1, 2, 3))
    x1, y1, x2, y2 = window
    assert shown.shape == (y2 - y1, x2 - x1, 3)
    for row in range(shown.shape[0]):
        for column in range(shown.shape[1]):
            y, x = y1 + row, x2 - 1 - column if flipped else x1 + column
            inside = 0 <= y < 6 and 0 <= x < 9
            assert shown[row, column].tolist() == (image[y, x].tolist() if inside else [1, 2, 3])
    boxes = np.array([[3, 2, 6, 4]], np.float32)
    np.testing.assert_array_equal(view.boxes_in_image(view.boxes_of(boxes)), boxes)


def test_the_views_of_an_image_are_the_whole_then_tiles_then_variants() -> None:
    config = DetectorConfig(tile=50, tile_overlap=0.0)
    plain = views_of(100, 80, DetectorConfig())
    assert plain == [View((0, 0, 80, 100))]
    tiled = views_of(100, 80, config)
    assert tiled[0] == plain[0] and len(tiled) == 1 + 4
    assert views_of(50, 40, config) == [View((0, 0, 40, 50))]  # one tile would show the same
    flipped = views_of(100, 80, config, ("flip",))
    assert flipped[:5] == tiled and [one.window for one in flipped[5:]] == [
        one.window for one in tiled
    ]
    assert all(one.flipped for one in flipped[5:])
    scaled = views_of(100, 80, DetectorConfig(), ("scale",))
    assert [one.window for one in scaled[1:]] == [
        (0, 0, 60, 75),
        (20, 0, 80, 75),
        (0, 25, 60, 100),
        (20, 25, 80, 100),
        (-13, -16, 94, 117),
    ]


def test_proposals_of_a_file_are_those_of_which_half_is_shown_others_are_made_anew() -> None:
    from detkit.proposals.source import FileProposals

    class OfFile(FileProposals):
        def __init__(self) -> None:
            pass

        def find(self, name: str, image_size: tuple[int, int]) -> Proposals:
            assert image_size == (100, 100)
            boxes = [[10, 10, 30, 30], [35, 10, 55, 30], [45, 10, 65, 30], [70, 0, 90, 90]]
            return Proposals(np.array(boxes, np.float32), np.ones(4, np.float32))

    image = np.zeros((100, 100, 3), np.uint8)
    view = View((0, 0, 50, 50))
    shown = view.pixels_of(image, (0, 0, 0))
    boxes = proposals_of(OfFile(), "a", image, view, shown)
    assert boxes.tolist() == [[10, 10, 30, 30], [35, 10, 50, 30]]
    mirrored = proposals_of(OfFile(), "a", image, View((0, 0, 50, 50), True), shown)
    assert mirrored.tolist() == [[20, 10, 40, 30], [0, 10, 15, 30]]


# --- detection ----------------------------------------------------------------------------------


class Blobs(Detector):
    """Finds bright blobs as a network of 64 x 64 pixels sees them: small ones are too dim."""

    name = "blobs"
    config_class = DetectorConfig

    def __init__(self, **settings: object) -> None:
        config = DetectorConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        super().__init__(dataclasses.replace(config, **settings), ["blob"])  # type: ignore[arg-type]
        self.batches: list[int] = []

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return functools.partial(square, 64)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def candidates(self, batch: Batch) -> list[Candidates]:
        self.batches.append(len(batch))
        found = []
        for image in batch.images:
            mask = (image[0] > 0.6).numpy().astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:].tolist()]
            areas = [area for *_, area in stats[1:].tolist()]
            scores = torch.tensor([[0.5 + min(area, 400) / 1000] for area in areas])
            found.append(
                Candidates(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), scores.view(-1, 1))
            )
        return found


def scene(
    *boxes: tuple[int, int, int, int], size: tuple[int, int] = (640, 640)
) -> NDArray[np.uint8]:
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


SMALL = ((100, 100, 108, 108), (300, 52, 308, 60), (612, 612, 620, 620))
ACROSS = ((200, 300, 330, 320), (124, 400, 140, 408))  # a bar over tiles, a thing on a border


def found_in(
    image: NDArray[np.uint8], batch_size: int = 8, **asked: object
) -> list[tuple[float, ...]]:
    source = ImageSource.of_pixels("x", image)
    (one,) = predict(Blobs(), [source], batch_size=batch_size, **asked)  # type: ignore[arg-type]
    assert one.error is None
    return sorted(tuple(map(float, box)) for box in one.boxes)


def assert_boxes(
    found: list[tuple[float, ...]], wanted: tuple[tuple[int, ...], ...], within: float
) -> None:
    assert len(found) == len(wanted), found
    np.testing.assert_allclose(found, sorted(wanted), atol=within)


def test_tiles_find_what_is_too_small_for_the_whole_image() -> None:
    image = scene(*SMALL)
    assert found_in(image) == []  # under a pixel of the network's
    assert_boxes(found_in(image, tile=128), SMALL, 2.0)


def test_an_object_on_borders_of_tiles_is_one_box_of_its_extent() -> None:
    image = scene(*ACROSS)
    assert_boxes(found_in(image, tile=128, tile_overlap=0.25), ACROSS, 2.0)


def test_an_object_larger_than_a_tile_is_found_once() -> None:
    image = scene((100, 120, 480, 500))
    assert_boxes(found_in(image, tile=128), ((100, 120, 480, 500),), 10.0)


@pytest.mark.parametrize("variants", [("flip",), ("scale",), ("flip", "scale")])
def test_variants_find_each_object_once(variants: tuple[str, ...]) -> None:
    boxes = ((40, 60, 140, 160), (400, 300, 560, 420))
    assert_boxes(found_in(scene(*boxes), tta=variants), boxes, 10.0)


def test_a_large_object_at_the_border_is_found_by_the_shrunk_variant_within_the_image() -> None:
    found = found_in(scene((0, 0, 320, 640)), tta=("scale",))
    assert_boxes(found, ((0, 0, 320, 640),), 10.0)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_views_are_batched_over_images_and_found_alike(batch_size: int) -> None:
    images = [
        ImageSource.of_pixels(str(number), one)
        for number, one in enumerate(
            [scene(*SMALL), scene(size=(100, 90)), scene(*ACROSS), scene(size=(128, 640))]
        )
    ]
    detector = Blobs(tile=128)
    found = list(predict(detector, images, batch_size=batch_size))
    assert [one.image for one in found] == ["0", "1", "2", "3"]
    assert [len(one.boxes) for one in found] == [3, 0, 2, 0]
    assert max(detector.batches) <= batch_size
    rows = len(tile_windows(640, 640, 128, 0.2))
    assert sum(detector.batches) == 2 * (1 + rows) + 1 + 1 + len(tile_windows(128, 640, 128, 0.2))
    if batch_size == 100:  # of all images together
        assert detector.batches == [sum(detector.batches[:1])] or max(detector.batches) > 37
    for one, image in zip(found, images, strict=True):
        alone = next(iter(predict(Blobs(tile=128), [image], batch_size=8)))
        np.testing.assert_array_equal(one.boxes, alone.boxes)


def test_the_models_own_tiles_are_used_unless_others_are_asked_for() -> None:
    image = ImageSource.of_pixels("x", scene(*SMALL))
    detector = Blobs(tile=128)
    assert len(next(iter(predict(detector, [image]))).boxes) == 3
    assert len(next(iter(predict(detector, [image], tile=0))).boxes) == 0
    assert detector.config.tile == 128
    with pytest.raises(UsageError, match="--overlap 0.9: must lie between 0 and 0.8"):
        list(predict(detector, [image], tile_overlap=0.9))
    with pytest.raises(UsageError, match="--tta turn: no such variant"):
        list(predict(detector, [image], tta=("turn",)))


def test_a_picture_on_a_canvas_is_found_in_its_tile_as_it_is_alone() -> None:
    picture = scene((10, 20, 40, 60), (70, 70, 100, 90), size=(128, 128))
    canvas = np.zeros((512, 512, 3), np.uint8)
    canvas[384:, 128:256] = picture
    alone = np.array(found_in(picture))
    placed = np.array(found_in(canvas, tile=128, tile_overlap=0.0))
    np.testing.assert_allclose(placed - [128, 384, 128, 384], alone, atol=1e-4)


def test_seconds_of_tiles_are_told_by_stage() -> None:
    seconds: dict[str, float] = {}
    list(predict(Blobs(), [ImageSource.of_pixels("x", scene())], tile=128, timing=seconds))
    assert {"decode", "prepare", "network", "merge"} <= set(seconds)
    assert all(value > 0 for name, value in seconds.items() if name != "decode")


def test_large_images_take_the_place_of_several_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PIXELS_A_SLOT", 100)
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        write_image(path, scene(size=(30, 20) if number % 2 else (5, 5)))
    sources = [ImageSource.of_file(path) for path in paths]
    assert [one.num_pixels() for one in sources[:2]] == [25, 600]
    assert ImageSource.of_file(tmp_path / "none.png").num_pixels() == 0
    alive = most = 0

    def counted(source: ImageSource) -> ImageSource:
        def read() -> NDArray[np.uint8]:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return source.read()

        return dataclasses.replace(source, read=read)

    # 8 slots; one of 600 pixels takes 4 of them: small, large, small are the most at once.
    for one in detect_images(Blobs(), map(counted, sources), batch_size=4):
        assert one.predictions.error is None
        alive -= 1
    assert most <= 3


# --- very large images --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_strips_are_the_images_pixels_whatever_is_asked_for_first(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"large{suffix}"
    write_image(path, photo_like(3, 900, 500))
    whole = read_image(path)
    strips = Strips.of(path)
    assert strips is not None and strips.shape == whole.shape
    for y1, y2, x1, x2 in [(0, 100, 0, 50), (80, 420, 10, 500), (60, 90, 0, 9), (700, 900, 3, 4)]:
        shown = strips[y1:y2, x1:x2]
        # Another decoder of JPEG may round another way.
        np.testing.assert_allclose(shown, whole[y1:y2, x1:x2], atol=3 if suffix == ".jpg" else 0)
    np.testing.assert_allclose(np.asarray(strips), whole, atol=3 if suffix == ".jpg" else 0)
    assert strips.shrunk(90).shape == (90, 50, 3)


def test_strips_are_for_large_images_whose_pixels_come_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(strips, "MANY_PIXELS", 5000)
    small, large, other = (tmp_path / name for name in ("small.png", "large.png", "large.bmp"))
    write_image(small, scene(size=(50, 50)))
    for path in (large, other):
        write_image(path, scene(size=(100, 100)))
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(size=(100, 120))).save(turned, exif=exif)
    with caplog.at_level("INFO", logger="detkit"):
        assert in_strips(small) is None and in_strips(large) is not None
        assert not caplog.records
        assert in_strips(other) is None and in_strips(turned) is None
        monkeypatch.setattr(strips, "is_installed", lambda package: False)
        assert in_strips(large) is None
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "its 0 megapixels are decoded at once: its kind, or its turned pixels, cannot be read in "
        "strips"
    ] * 2 + [
        "its 0 megapixels are decoded at once; reading it in strips needs pyvips: "
        'pip install "detkit[large]"'
    ]


def test_tiles_of_a_very_large_image_are_found_with_few_of_its_rows_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "MANY_PIXELS", 100_000)
    monkeypatch.setattr(views, "MANY_PIXELS", 100_000)
    monkeypatch.setattr(views, "WHOLE_SIDE", 320)
    monkeypatch.setattr(strips, "ROWS", 32)
    boxes = (*SMALL, *ACROSS, (420, 360, 560, 560))
    path = tmp_path / "large.png"
    write_image(path, scene(*boxes))
    most = 0

    class Counted(Strips):
        def _read(self, first: int, last: int) -> None:
            nonlocal most
            super()._read(first, last)
            most = max(most, len(self._rows))

    monkeypatch.setattr(strips, "Strips", Counted)
    (found,) = predict(Blobs(), [path], tile=128)
    assert_boxes(sorted(tuple(map(float, box)) for box in found.boxes), boxes, 10.0)
    assert 0 < most <= 128 + 128 + 2 * 32
    (whole,) = predict(Blobs(), [ImageSource.of_pixels("x", scene(*boxes))], tile=128)
    np.testing.assert_allclose(found.boxes, whole.boxes, atol=0.5)


def test_a_large_image_that_is_cut_off_is_one_error_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "MANY_PIXELS", 100_000)
    path = tmp_path / "cut.png"
    write_image(path, np.asarray(photo_like(1, 640, 640)))
    content = path.read_bytes()
    middle = len(content) * 2 // 3
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    found = list(predict(Blobs(), [path, ImageSource.of_pixels("x", scene(*SMALL))], tile=128))
    assert found[0].error is not None and "damaged" in found[0].error
    assert len(found[1].boxes) == 3


# --- what it brings, and what is still missed ---------------------------------------------------


def truth_of(*boxes: tuple[int, int, int, int]) -> Truth:
    count = len(boxes)
    return Truth(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.zeros(count, np.int64),
        np.zeros(count, np.bool_),
        "x.png",
    )


def detections(found: ImagePredictions) -> Detections:
    return Detections(found.boxes, found.scores, np.zeros(len(found.scores), np.int64), "x.png")


def test_the_gain_names_the_objects_that_only_one_way_found() -> None:
    boxes = (*SMALL, (200, 300, 330, 420))
    truths = [truth_of(*boxes)]
    source = ImageSource.of_pixels("x", scene(*boxes))
    looked = []
    for name, tile in (("plain", 0), ("tiles", 128)):
        (found,) = predict(Blobs(), [source], tile=tile)
        scores = score([detections(found)], truths, ("blob",), "voc07", 0.5)
        looked.append(Looked(name, [detections(found)], scores, 1.0 + tile))
    gain = gain_of(looked[0], looked[1], truths, ("blob",))
    assert [one.box for one in gain.only_after] == [tuple(map(float, box)) for box in SMALL]
    assert list(gain.only_before) == [] and gain.time_ratio == 129.0
    assert [one.num_truths for one in gain.sizes_after] == [3, 0, 1]
    assert gain.sizes_before[0].ap50 == 0.0 and gain.sizes_after[0].ap50 == 1.0


def test_a_missed_object_is_lost_where_its_best_tile_lost_it(tmp_path: Path) -> None:
    # Found whole in a tile; a dim one in no view; two touching parts merge into one box.
    image = scene(SMALL[0], (300, 300, 303, 303))
    write_image(tmp_path / "x.png", image)
    objects = (
        ObjectRecord("blob", (300.0, 300.0, 303.0, 303.0)),
        ObjectRecord("blob", tuple(map(float, SMALL[0]))),  # type: ignore[arg-type]
    )
    record = ImageRecord("x.png", tmp_path / "x.png", objects)
    dataset = Dataset(tmp_path, "voc", ("blob",), {"test": (record,)})
    nothing = [np.zeros(2, np.bool_)]
    plain = list(find_misses(Blobs(), dataset, "test", nothing))
    assert [miss.stage for miss in plain] == ["candidates", "candidates"]
    tiled = list(find_misses(Blobs(), dataset, "test", nothing, tile=128))
    # The larger is found: only what it counts for could have lost it.
    assert [miss.stage for miss in tiled] == ["candidates", "matching"]


def test_an_object_whose_parts_are_taken_for_parts_of_another_is_lost_in_merging(
    tmp_path: Path,
) -> None:
    # The corner's box, found in the whole image, has the thing's two halves within.
    thing = (124, 300, 132, 308)
    image = scene((100, 100, 500, 140), (100, 100, 120, 500), thing)
    write_image(tmp_path / "x.png", image)
    objects = (ObjectRecord("blob", tuple(map(float, thing))),)  # type: ignore[arg-type]
    record = ImageRecord("x.png", tmp_path / "x.png", objects)
    dataset = Dataset(tmp_path, "voc", ("blob",), {"test": (record,)})
    found = find_misses(
        Blobs(), dataset, "test", [np.zeros(1, np.bool_)], tile=128, tile_overlap=0.0
    )
    (miss,) = found
    assert (miss.stage, miss.reason) == (
        "merging",
        "its boxes are lost where those of tiles and variants are merged",
    )
