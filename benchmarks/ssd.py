"""SSD300-VGG16 against torchvision's `ssd300_vgg16`: the same weights, the same images, one run.

    python benchmarks/ssd.py                  # both
    python benchmarks/ssd.py inference [--image FILE] [--repeats 5] [--precision fp32|bf16]
    python benchmarks/ssd.py training [--repeats 5] [--batch 2] [--precision fp32|bf16]

Inference goes from the uint8 image to final boxes on both sides, resizing, decoding and NMS
included; torchvision in its default form. Runs alternate, and the medians are compared.
Training is one step, forward, backward and SGD update, on the same batch of made boxes.
torchvision computes in fp32; detkit in that, and then in bf16 where `--precision auto` does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from detkit.detectors.ssd import SSD
from detkit.networks.precision import DTYPES, choose_precision, for_inference, for_training
from detkit.structures import Sample

NUM_CLASSES = 20
CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def both() -> tuple[nn.Module, SSD]:
    """Return torchvision's model and ours with the same random weights.

    The class heads are scaled so that some boxes pass the score threshold, as in a trained
    network, and not all of them, as in an untrained one.
    """
    torch.manual_seed(0)
    peer = torchvision.models.detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1
    )
    for module in peer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for conv in peer.head.classification_head.module_list:
        conv.weight.data.mul_(0.02)
        conv.bias.data.zero_()
        conv.bias.data.view(-1, NUM_CLASSES + 1)[:, 0] = 4.0
    for conv in peer.head.regression_head.module_list:
        conv.weight.data.mul_(0.02)
    config = SSD.published["ssd300-coco"].config
    ours = SSD(config, [str(i) for i in range(NUM_CLASSES)])
    state = SSD.convert_foreign(peer.state_dict())
    assert state is not None
    ours.load_state_dict(state)
    return peer, ours


def compare(name: str, peer: Callable[[], None], ours: Callable[[], None], repeats: int) -> None:
    """Time both in turn and print the medians and their ratio."""
    peer()
    ours()
    times: dict[str, list[float]] = {"torchvision": [], "detkit": []}
    for _ in range(repeats):
        for label, run in (("torchvision", peer), ("detkit", ours)):
            start = time.perf_counter()
            run()
            times[label].append(time.perf_counter() - start)
    theirs, mine = (statistics.median(times[label]) for label in ("torchvision", "detkit"))
    print(
        f"{name}: torchvision {theirs:.3f} s, detkit {mine:.3f} s, ratio {mine / theirs:.2f} "
        f"(median of {repeats}, {torch.get_num_threads()} threads)"
    )


def inference(image_file: Path | None, repeats: int, precision: str) -> None:
    """Compare one image from uint8 pixels to final boxes."""
    peer, ours = both()
    peer.eval()
    ours = for_inference(ours, CPU)
    ours.detect_in(PRECISIONS[precision])
    if image_file is None:
        image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8)
    else:
        from detkit.data.images import read_image

        image = torch.from_numpy(read_image(image_file)).permute(2, 0, 1).contiguous()
    sample = Sample(image, torch.empty(0, 4), torch.empty(0).long(), torch.empty(0).bool())

    def run_peer() -> None:
        with torch.inference_mode():
            peer([image.float() / 255])

    def run_ours() -> None:
        ours.detect(ours.prepare([sample]))

    with torch.inference_mode():
        number = len(peer([image.float() / 255])[0]["scores"])
    found = len(ours.detect(ours.prepare([sample]))[0].scores)
    print(f"boxes: torchvision {number}, detkit {found}")
    compare(f"inference {precision}", run_peer, run_ours, repeats)


def training(batch_size: int, repeats: int, precision: str) -> None:
    """Compare one optimiser step."""
    peer, ours = both()
    peer.train()
    layout = for_training(ours.train(), CPU, PRECISIONS[precision])
    images = [torch.randint(0, 256, (3, 300, 300), dtype=torch.uint8) for _ in range(batch_size)]
    corners = torch.rand(8, 2) * 150
    boxes = torch.cat([corners, corners + 30 + torch.rand(8, 2) * 100], dim=1)
    labels = torch.arange(8) % NUM_CLASSES
    samples = [Sample(one, boxes, labels, torch.zeros(8, dtype=torch.bool)) for one in images]
    targets = [{"boxes": boxes, "labels": labels + 1} for _ in images]

    def step(losses: Callable[[], dict[str, Tensor]], optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        torch.stack(list(losses().values())).sum().backward()
        optimiser.step()

    sgd = torch.optim.SGD
    peer_optimiser = sgd(peer.parameters(), 1e-6, momentum=0.9, weight_decay=5e-4)
    our_optimiser = sgd(ours.parameters(), 1e-6, momentum=0.9, weight_decay=5e-4, fused=True)

    def our_losses() -> dict[str, Tensor]:
        reduced = precision != "fp32"
        with torch.autocast("cpu", PRECISIONS[precision], enabled=reduced):  # as Fabric does
            batch = ours.prepare(samples)
            return ours(replace(batch, images=batch.images.to(memory_format=layout)))

    compare(
        f"training step {precision}, batch {batch_size}",
        lambda: step(lambda: peer([one.float() / 255 for one in images], targets), peer_optimiser),
        lambda: step(our_losses, our_optimiser),
        repeats,
    )


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["inference", "training"])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", choices=sorted(PRECISIONS))
    arguments = parser.parse_args()
    chosen, reason = choose_precision("auto", CPU)
    print(reason)
    names = [name for name, dtype in PRECISIONS.items() if dtype in (torch.float32, DTYPES[chosen])]
    for precision in [arguments.precision] if arguments.precision else names:
        if arguments.what != "training":
            inference(arguments.image, arguments.repeats, precision)
        if arguments.what != "inference":
            training(arguments.batch, arguments.repeats, precision)


if __name__ == "__main__":
    main()
