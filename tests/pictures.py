"""Scenes that differ as photos do, for the tests that tell images apart by what they show."""

from pathlib import Path

import cv2
import numpy as np
from labelled_folders import xml

from detkit.data.images import write_image


def picture(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Return a scene of its own: light and shade, shapes, and the grain of a camera."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (4, 5, 3)).astype(np.float32)
    scene = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    for _ in range(25):
        centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        colour = tuple(float(one) for one in rng.integers(0, 255, 3))
        cv2.circle(scene, centre, int(rng.integers(3, 14)), colour, -1)
    return np.clip(scene + rng.normal(0, 2, scene.shape), 0, 255).astype(np.uint8)


def folder(root: Path, pictures: dict[str, np.ndarray], thing: str = "car") -> Path:
    for name, image in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, image)
        height, width = image.shape[:2]
        label = (root / name).with_suffix(".xml")
        label.write_text(xml((thing, 1, 1, 9, 9), size=(width, height)))
    return root


def save(path: Path, image: np.ndarray, options: list[int]) -> Path:
    path.write_bytes(cv2.imencode(".jpg", image[:, :, ::-1], options)[1].tobytes())
    return path
