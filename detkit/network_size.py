"""How large the network's image of an image is, where that follows the image's own size."""

from __future__ import annotations


def shorter_side(side: int, longest: int, height: int, width: int) -> tuple[int, int]:
    """Return the network's (height, width): the shorter side is `side`, no side above `longest`.

    Fast R-CNN sec. 5.2: 600 and 1000. Rounded down, as in torchvision; at least one pixel.
    """
    scale = min(side / min(height, width), longest / max(height, width))
    return max(1, int(height * scale)), max(1, int(width * scale))


def square(side: int, height: int, width: int) -> tuple[int, int]:
    """Return the network's (height, width) of any image, warped to one square as SSD's, YOLO's."""
    return side, side
