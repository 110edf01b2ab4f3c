"""Fast R-CNN on VGG16 before and after truncated SVD of fc6 and fc7 (Girshick 2015, sec. 4.4).

    python benchmarks/truncated_svd.py [--ranks 1024 256] [--proposals 2000] [--repeats 3]

The network has random weights: its time does not depend on them. An image goes from uint8 pixels
to final boxes, shorter side 600, with given proposals. The paper reports .32 s before and .22 s
after on its GPU, and .3 points of mAP lost; accuracy on your data: `detkit eval` of a model, and
of what `detkit compress` makes of it.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from detkit.detectors.fast_rcnn import FastRCNN, FastRCNNConfig
from detkit.networks.precision import for_inference
from detkit.structures import Sample

HEIGHT, WIDTH = 375, 500


def sample_with(number: int) -> Sample:
    """Return a random image with `number` proposals, mostly small, some large."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.tensor([WIDTH, HEIGHT])
    sides = 20 * (whole / 20) ** torch.rand(number, 2, generator=generator)
    corners = torch.rand(number, 2, generator=generator) * (whole - sides)
    return Sample(
        torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
        proposals=torch.cat([corners, corners + sides], dim=1),
    )


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs=2, default=(1024, 256), metavar="RANK")
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    whole = FastRCNN(FastRCNNConfig(backbone="vgg16"), [str(number) for number in range(20)])
    detectors = {
        "whole": for_inference(whole, cpu),
        "shortened": for_inference(whole.compressed(tuple(arguments.ranks)), cpu),
    }
    sample = sample_with(arguments.proposals)
    maps_only = "without the head"
    times: dict[str, list[float]] = {name: [] for name in (*detectors, maps_only)}
    with torch.inference_mode():
        for number in range(arguments.repeats + 1):
            for name in times:
                began = time.perf_counter()
                if name == maps_only:
                    whole.maps(whole.prepare([sample]).images)
                else:
                    detectors[name].detect(detectors[name].prepare([sample]))
                if number:  # the first warms up
                    times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"vgg16, {arguments.proposals} proposals, ranks {arguments.ranks[0]} and "
        f"{arguments.ranks[1]}, {torch.get_num_threads()} threads, median of {arguments.repeats}"
    )
    for name, value in medians.items():
        print(f"  {name}: {value:.2f} s, {value / medians['whole']:.2f} of the whole network")


if __name__ == "__main__":
    main()
