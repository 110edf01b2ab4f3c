"""R-CNN's crops, cut and judged in batches on the device, beside the plain loop over proposals.

    python benchmarks/rcnn.py [--backbone mobilenet_v2] [--size N] [--proposals 500] [--repeats 3]

The plain loop crops each proposal with its context by OpenCV, resizes it, normalises it and
calls the same network on batches of 128, in torch's default layout. Both sides have the same
weights, image and proposals, and give each proposal's probabilities. How far the network's two
forms differ on equal crops is printed, and how far the whole answers do: the loop rounds crops to
whole pixels, as R-CNN's released code does, and does not smooth where it shrinks. Runs alternate,
and the medians are compared. A row more where `--precision auto` chooses bf16; and two that say
where the floor is: the network alone on ready crops, in our form and in the loop's. `--weights
FILE` takes a torchvision classifier's.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detkit.detectors.rcnn import CHUNK, CHUNK_GPU, RCNN, RCNNConfig, without_norms
from detkit.networks import pretrained
from detkit.networks.crops import with_context
from detkit.networks.precision import DTYPES, choose_precision, for_inference
from detkit.structures import Sample
from detkit.transforms.geometric import mean_colour

LOOP_BATCH = 128
CLASSES = tuple(str(number) for number in range(20))


def street(height: int, width: int) -> NDArray[np.uint8]:
    """Return a smooth random picture."""
    random = np.random.default_rng(0)
    small = random.integers(0, 255, (height // 12, width // 12, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def given(number: int, height: int, width: int) -> Tensor:
    """Return proposals as selective search gives them: mostly small, some large."""
    random = np.random.default_rng(1)
    sides = np.exp(random.uniform(np.log(20), np.log([width, height]), (number, 2)))
    corners = random.uniform(0, 1, (number, 2)) * ([width, height] - sides)
    return torch.tensor(np.concatenate([corners, corners + sides], axis=1), dtype=torch.float32)


def plain_crop(image: NDArray[np.uint8], region: list[float], config: RCNNConfig) -> Tensor:
    """Return one normalised crop, cut and resized by OpenCV; 0 beyond the image."""
    size, (height, width) = config.crop_size, image.shape[:2]
    x1, y1, x2, y2 = (round(value) for value in region)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    frame = cv2.copyMakeBorder(
        image[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)],
        max(-y1, 0),
        max(y2 - height, 0),
        max(-x1, 0),
        max(x2 - width, 0),
        cv2.BORDER_CONSTANT,
        value=mean_colour(config.mean),
    )
    levels = cv2.resize(frame, (size, size)).astype(np.float32) / 255
    values = (levels - np.float32(config.mean)) / np.float32(config.std)
    return torch.from_numpy(values.transpose(2, 0, 1))


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, help="the crop's side; default: the backend's")
    parser.add_argument("--proposals", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    config = RCNNConfig(backbone=arguments.backbone, size=arguments.size, head="softmax")
    config = dataclasses.replace(config, box_regression=False)
    peer = RCNN(config, CLASSES).eval().to(device)
    pretrained.load_weights(peer.backbone, arguments.weights)
    torch.nn.init.normal_(peer.class_logits.weight)  # so that classes differ, as in a trained one
    ours = RCNN(config, CLASSES).eval().to(device)
    ours.load_state_dict(peer.state_dict())
    ours = for_inference(ours, device)
    chosen, reason = choose_precision("auto", device)
    reduced = copy.deepcopy(ours)
    reduced.detect_in(DTYPES[chosen])
    print(reason)
    pixels = street(375, 500)
    proposals = given(arguments.proposals, 375, 500)
    nothing = torch.zeros(0)
    sample = Sample(
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.zeros(0, 4),
        nothing.long(),
        nothing.bool(),
        proposals=proposals,
    )
    results: dict[str, Tensor] = {}

    def batched(detector: RCNN = ours, name: str = "detkit") -> None:
        batch = detector.prepare([sample]).to(device)
        with torch.autocast(device.type, DTYPES[chosen], enabled=detector is reduced):
            (found,) = detector.candidates(batch)
        results[name] = found.scores.cpu()

    def loop() -> None:
        regions = with_context(proposals, config.crop_size, config.crop_context).tolist()
        scores = []
        for first in range(0, len(regions), LOOP_BATCH):
            part = regions[first : first + LOOP_BATCH]
            crops = torch.stack([plain_crop(pixels, one, config) for one in part])
            scores.append(peer.scores(peer.features(crops.to(device))[1]))
        results["loop"] = torch.cat(scores).cpu()

    side = config.crop_size
    chunk = CHUNK_GPU if device.type == "cuda" else CHUNK
    ready = torch.randn(chunk, 3, side, side, device=device)
    ready_ours = ready.to(memory_format=torch.channels_last)
    folded = without_norms(ours.backbone)
    rounds = max(1, arguments.proposals // chunk)

    def network() -> None:
        for _ in range(rounds):
            ours.features(ready_ours, folded)

    def plain_network() -> None:
        for _ in range(rounds):
            peer.features(ready)

    runs: dict[str, Callable[[], None]] = {
        "loop": loop,
        "detkit": batched,
        **({"detkit in bf16": partial(batched, reduced, "bf16")} if chosen != "32-true" else {}),
        "network in the loop's form": plain_network,
        "network in ours": network,
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for number in range(arguments.repeats + 1):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if number:  # the first warms up
                    times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    with torch.inference_mode():
        own, plain = ours.features(ready_ours, folded)[1], peer.features(ready)[1]
    forms = float((own - plain).abs().max() / plain.abs().max())
    apart = float((results["detkit"] - results["loop"]).abs().mean())
    print(
        f"{arguments.backbone}, {side} px, {arguments.proposals} proposals, {device}, "
        f"{torch.get_num_threads()} threads, median of {arguments.repeats}"
    )
    print(f"  the network's two forms differ by {forms:.1g} of the largest feature on equal crops,")
    print(f"  the probabilities by {apart:.2g} in the mean: crops are smoothed here, rounded there")
    for name, value in medians.items():
        print(f"  {name}: {value:.2f} s, {value / medians['loop']:.2f} of the loop")


if __name__ == "__main__":
    main()
