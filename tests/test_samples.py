"""The pictures in `samples/`: they show what the network is to find, and what it is to ignore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from toy import make_toy

from detkit.data.images import read_image
from detkit.structures import Sample
from detkit.training.samples import write_samples


def test_ignored_objects_are_crossed_out_and_others_are_not(tmp_path: Path) -> None:
    # The toy network sees 32 x 32 pixels; its picture is enlarged to 256 x 256.
    sample = Sample(
        torch.full((3, 32, 32), 90, dtype=torch.uint8),
        torch.tensor([[1.0, 4, 12, 27], [16, 8, 31, 23]]),
        torch.tensor([0, 1]),
        torch.zeros(2, dtype=torch.bool),
        image_id="a.jpg",
        ignored=torch.tensor([False, True]),
    )
    detector = make_toy()
    write_samples(tmp_path / "samples", detector.prepare([sample]), detector)
    picture = np.asarray(read_image(tmp_path / "samples" / "1-a.jpg"), np.int64)
    on_diagonal = [(16 + side, 8 + side) for side in range(15)]
    for x, y in on_diagonal:
        assert picture[8 * y + 4, 8 * x + 4].min() > 200, (x, y)
    assert abs(picture[8 * 15 + 4, 8 * 6 + 4] - 90).max() < 30  # the middle of the other
    colour = picture[8 * 15 : 8 * 16, 8 : 8 * 2].reshape(-1, 3)  # its left side, class "car"
    assert np.ptp(colour, axis=1).max() > 100
