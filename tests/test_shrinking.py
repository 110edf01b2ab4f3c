"""How small an image becomes where its longer side is cut, on numbers one can check."""

from __future__ import annotations

import numpy as np
import pytest

from detkit.data.images import scaled_down


@pytest.mark.parametrize(
    ("size", "limits", "wanted"),
    [
        ((600, 1000), {}, (300, 500)),
        ((1000, 600), {}, (500, 300)),
        ((300, 500), {}, (300, 500)),  # small enough
        ((10, 2000), {}, (2, 500)),  # 2.5, rounded to even
        ((1, 2000), {}, (1, 500)),  # never to nothing
        ((128, 5000), {"narrowest": 64}, (64, 2500)),  # else 12.8 across
        ((40, 5000), {"narrowest": 64}, (40, 5000)),  # narrower from the beginning
        ((128, 5000), {"narrowest": 64, "most": 1000}, (26, 1000)),  # 25.6
    ],
)
def test_the_longer_side_is_cut_unless_the_image_became_too_narrow(
    size: tuple[int, int], limits: dict[str, int], wanted: tuple[int, int]
) -> None:
    for shape in (size, (*size, 3)):
        image = np.zeros(shape, np.uint8)
        assert scaled_down(image, 500, **limits).shape == (*wanted, *shape[2:])


def test_an_image_that_is_small_enough_is_returned_itself() -> None:
    image = np.zeros((40, 500), np.uint8)
    assert scaled_down(image, 500, narrowest=64) is image
