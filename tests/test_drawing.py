"""Drawn boxes: where they lie, in which colour, and that text stays readable and inside."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detkit.drawing import (
    BLACK,
    MAX_LABELS,
    PALETTE,
    WHITE,
    _score_text,
    colour_of,
    crossed_out,
    draw,
)

NAMES = ["car", "dog", "cat"]


def grey(height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def of_colour(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((image == np.array(colour)).all(-1))


def test_the_outline_lies_on_the_boxs_outermost_pixels() -> None:
    drawn = draw(grey(), ["car"], [[100, 200, 300, 400]], [0.9], class_names=NAMES)
    mask = of_colour(drawn, PALETTE[0])
    assert mask[200:400, 100].all() and mask[200:400, 299].all()
    assert mask[200, 100:300].all() and mask[399, 100:300].all()
    assert not mask[401:].any() and not mask[:, :99].any() and not mask[:, 300:].any()
    assert (drawn[220:380, 120:280] == 90).all()


def test_a_crossed_out_box_has_an_outline_and_both_diagonals() -> None:
    image = grey(40, 60)
    crossed = crossed_out(image, [[10, 5, 31, 26]])  # 21 x 21 pixels
    white = of_colour(crossed, WHITE)
    side = np.arange(21)
    assert white[5 + side, 10 + side].all() and white[5 + side, 30 - side].all()
    assert white[5, 10:31].all() and white[25, 10:31].all()
    assert white[5:26, 10].all() and white[5:26, 30].all()
    assert not white[15, 12:19].any()  # between the left side and the middle
    assert of_colour(crossed, BLACK).any()
    touched = (crossed != image).any(-1)
    touched[4:27, 9:32] = False  # a rim of a pixel
    assert not touched.any() and (image == 90).all()
    assert np.array_equal(crossed_out(image, np.zeros((0, 4))), image)


def test_letters_that_no_font_here_has_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = "car \U0010fffd"  # private use: in no font
    for score in (0.25, 0.75):
        draw(grey(), [nowhere], [[100, 200, 300, 400]], [score], class_names=[nowhere])
    (message,) = caplog.messages
    assert message.startswith("no font on this machine has the letters \U0010fffd: ")


def test_the_image_given_is_not_drawn_on() -> None:
    image = grey()
    draw(image, ["car"], [[100, 200, 300, 400]], [0.9], class_names=NAMES)
    assert (image == 90).all()


def test_an_image_without_boxes_comes_back_as_it_is() -> None:
    drawn = draw(grey(), [], np.zeros((0, 4)), np.zeros(0), class_names=NAMES)
    assert np.array_equal(drawn, grey())


def test_colour_follows_the_place_of_the_class_in_the_list_of_names() -> None:
    assert [colour_of(name, NAMES) for name in NAMES] == list(PALETTE[:3])
    many = [f"class {index}" for index in range(21)]
    assert len({colour_of(name, many) for name in many}) == 21
    assert colour_of("stranger", NAMES) == colour_of("stranger", NAMES)


def test_labels_without_scores_are_drawn_too() -> None:
    drawn = draw(grey(), ["car"], [[100, 200, 300, 400]], None, class_names=NAMES)
    assert of_colour(drawn, PALETTE[0])[185:199, 100:120].any()


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.93, ".93"), (1.0, "1.00"), (0.999, "1.00"), (0.995, ".99"), (0.0, ".00"),
     (-0.25, "-.25"), (1.37, "1.37"), (12.5, "12.50")],
)  # fmt: skip
def test_scores_are_written_short(score: float, text: str) -> None:
    assert _score_text(score) == text


@pytest.mark.parametrize("box", [[0, 0, 50, 40], [600, 0, 640, 30], [0, 460, 20, 480]])
def test_a_label_at_the_border_stays_inside(box: list[float]) -> None:
    """The whole ground of the label is seen: as many pixels as for a box in the middle."""
    middle = draw(grey(), ["car"], [[300, 200, 302, 202]], [0.5], class_names=NAMES)
    cornered = draw(grey(), ["car"], [box], [0.5], class_names=NAMES)
    rows = of_colour(middle, PALETTE[0]).any(1).sum() - 2
    assert cornered.shape == middle.shape
    assert of_colour(cornered, PALETTE[0]).sum() > 0.8 * of_colour(middle, PALETTE[0]).sum()
    assert rows > 12


def test_a_label_without_room_above_a_small_box_does_not_hide_the_object() -> None:
    drawn = draw(grey(), ["car"], [[100, 0, 130, 18]], [0.9], class_names=NAMES)
    assert (drawn[4:14, 104:126] == 90).all()
    assert of_colour(drawn, PALETTE[0])[18:30, 100:120].any()


def test_many_boxes_get_a_legend_below_instead_of_labels() -> None:
    count = MAX_LABELS + 1
    boxes = [[10 + 30 * index, 100, 30 + 30 * index, 160] for index in range(count)]
    labels = ["car"] * 10 + ["dog"] * 6
    drawn = draw(grey(), labels, boxes, None, class_names=NAMES)
    assert drawn.shape[1] == 640 and 480 < drawn.shape[0] < 540
    strip = drawn[482:]
    assert of_colour(strip, PALETTE[0]).any() and of_colour(strip, PALETTE[1]).any()
    assert not of_colour(strip, PALETTE[2]).any()
    assert (drawn[60:99] == 90).all()  # no labels above the boxes


def test_labels_that_find_no_place_become_a_legend() -> None:
    stacked = draw(grey(), ["car"] * 14, [[300, 200, 320, 220]] * 14, None, class_names=NAMES)
    assert stacked.shape[0] > 480
    assert (stacked[-1] == WHITE).all()


def test_a_wide_legend_takes_several_rows_and_stays_inside() -> None:
    names = [f"rather long class name {index}" for index in range(20)]
    boxes = [[10 + 30 * index, 100, 30 + 30 * index, 160] for index in range(20)]
    drawn = draw(grey(), names, boxes, None, class_names=names)
    assert drawn.shape[0] > 480 + 6 * 20
    assert (drawn[482:, -2:] == 255).all()


def test_tiny_images_are_enlarged_by_a_whole_number() -> None:
    drawn = draw(grey(40, 30), ["car"], [[10, 10, 30, 40]], [0.5], class_names=NAMES)
    assert drawn.shape == (7 * 40, 7 * 30, 3)
    assert of_colour(drawn, PALETTE[0])[70:280, 70].all()


def test_letters_and_lines_grow_with_the_image() -> None:
    small = draw(grey(), ["car"], [[300, 200, 400, 300]], None, class_names=NAMES)
    large = draw(grey(1920, 2560), ["car"], [[1200, 800, 1600, 1200]], None, class_names=NAMES)
    ratio = of_colour(large, PALETTE[0]).sum() / of_colour(small, PALETTE[0]).sum()
    assert 12 < ratio < 20  # 16 times the area


def test_names_beyond_ascii_are_drawn_with_their_letters() -> None:
    pictures = [
        draw(grey(), [name], [[100, 200, 300, 400]], None, class_names=[name])
        for name in ("Füße", "Fuße", "кот", "пёс")
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_the_best_box_is_drawn_on_top() -> None:
    box = [100, 200, 300, 400]
    for scores, winner in (([0.9, 0.1], 0), ([0.1, 0.9], 1)):
        drawn = draw(grey(), ["car", "dog"], [box, box], scores, class_names=NAMES)
        assert of_colour(drawn, PALETTE[winner])[250, 100]


def test_as_many_labels_as_boxes_are_demanded() -> None:
    with pytest.raises(ValueError, match="2 labels, 1 box:"):
        draw(grey(), ["car", "dog"], [[0, 0, 9, 9]], None, class_names=NAMES)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_box_no_size_and_no_name_stops_drawing(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    number = st.floats(-200, 300) | st.sampled_from([float("nan"), float("inf")])
    boxes = data.draw(st.lists(st.tuples(number, number, number, number), max_size=20))
    labels = [data.draw(st.text(max_size=60)) for _ in boxes]
    drawn = draw(grey(height, width), labels, np.array(boxes).reshape(-1, 4), None, class_names=[])
    assert drawn.dtype == np.uint8 and drawn.shape[0] >= height and drawn.shape[1] >= width


def test_drawing_needs_no_torch() -> None:
    code = "import detkit.drawing, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
