"""Faster R-CNN against torchvision's, in one run.

    python benchmarks/faster_rcnn.py                  # both
    python benchmarks/faster_rcnn.py inference [--image FILE] [--repeats 5] [--profile]
    python benchmarks/faster_rcnn.py training [--repeats 3] [--batch 4] [--profile]

Inference: `fasterrcnn_resnet50_fpn` in its default form, the same random weights and the same
image, from uint8 pixels to final boxes. Training: one optimiser step on images of 640 x 480 at
a shorter side of 320, where torchvision's is that of its fine-tuning tutorial,
`FasterRCNN(mobilenet_v2.features, ...)`, and ours the default on mobilenet_v2: another head, so
the ratio says what a user gets and not what the same work costs. Runs alternate; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.profiler import profile
from torchvision.models.detection.anchor_utils import AnchorGenerator

from detkit.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from detkit.networks.precision import for_inference, for_training
from detkit.structures import Sample

NUM_CLASSES = 20
CPU = torch.device("cpu")


def both() -> tuple[nn.Module, FasterRCNN]:
    """Return torchvision's model and ours with the same random weights, their scores spread."""
    torch.manual_seed(0)
    peer = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1
    ).eval()
    for name, module in peer.named_modules():
        if isinstance(module, nn.Conv2d) and "rpn.head" not in name:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", mode="fan_out")
        if isinstance(module, nn.BatchNorm2d) and name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.3)
    box = peer.roi_heads.box_predictor
    for layer, std in (
        (peer.rpn.head.cls_logits, 0.1),
        (peer.rpn.head.bbox_pred, 0.02),
        (box.cls_score, 0.1),
        (box.bbox_pred, 0.1),
    ):
        nn.init.normal_(layer.weight, std=std)
    with torch.no_grad():
        for level, x in enumerate(list(peer.backbone(torch.randn(1, 3, 256, 256)).values())[:4]):
            peer.backbone.fpn.layer_blocks[level][0].weight.div_(x.std())
    config = FasterRCNN.published["fasterrcnn-resnet50-fpn-coco"].config
    assert isinstance(config, FasterRCNNConfig)
    ours = FasterRCNN(config, [str(i) for i in range(NUM_CLASSES)])
    state = FasterRCNN.convert_foreign(peer.state_dict())
    assert state is not None
    ours.load_state_dict(state)
    return peer, for_inference(ours, CPU)


def compare(
    name: str, peer: Callable[[], object], ours: Callable[[], object], repeats: int, profiled: bool
) -> None:
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
        f"{name}: torchvision {theirs:.2f} s, detkit {mine:.2f} s, ratio {mine / theirs:.2f} "
        f"(median of {repeats}, {torch.get_num_threads()} threads)"
    )
    if profiled:
        for label, run in (("torchvision", peer), ("detkit", ours)):
            with profile() as seen:
                run()
            print(label)
            print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=10))


def inference(image_file: Path | None, repeats: int, profiled: bool) -> None:
    """Compare one image from uint8 pixels to final boxes."""
    peer, ours = both()
    if image_file is None:
        torch.manual_seed(1)
        image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8)
    else:
        from detkit.data.images import read_image

        image = torch.from_numpy(read_image(image_file)).permute(2, 0, 1).contiguous()
    sample = Sample(image, torch.empty(0, 4), torch.empty(0).long(), torch.empty(0).bool())

    def run_peer() -> dict[str, Tensor]:
        with torch.inference_mode():
            found: dict[str, Tensor] = peer([image.float() / 255])[0]
            return found

    found = ours.detect(ours.prepare([sample]))[0]
    print(f"boxes: torchvision {len(run_peer()['scores'])}, detkit {len(found.scores)}")
    compare("inference", run_peer, lambda: ours.detect(ours.prepare([sample])), repeats, profiled)


def tutorials() -> nn.Module:
    """Return the model of torchvision's fine-tuning tutorial, for shorter sides of 320."""
    backbone = torchvision.models.mobilenet_v2(weights=None).features
    backbone.out_channels = 1280
    return torchvision.models.detection.FasterRCNN(
        backbone,
        num_classes=NUM_CLASSES + 1,
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2),
        min_size=320,
    )


def training(batch_size: int, repeats: int, profiled: bool) -> None:
    """Compare one optimiser step."""
    torch.manual_seed(0)
    peer = tutorials().train()
    ours = FasterRCNN(
        FasterRCNNConfig(backbone="mobilenet_v2"), [str(i) for i in range(NUM_CLASSES)]
    ).train()
    for_training(ours, CPU)
    images = [torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8) for _ in range(batch_size)]
    corners = torch.rand(12, 2) * torch.tensor([500.0, 350.0])
    boxes = torch.cat([corners, corners + 30 + torch.rand(12, 2) * 100], dim=1)
    labels = torch.arange(12) % NUM_CLASSES
    samples = [Sample(one, boxes, labels, torch.zeros(12, dtype=torch.bool)) for one in images]
    targets = [{"boxes": boxes, "labels": labels + 1} for _ in images]

    def step(losses: Callable[[], dict[str, Tensor]], optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        torch.stack(list(losses().values())).sum().backward()
        optimiser.step()

    peers, own = (
        torch.optim.SGD(one.parameters(), 1e-6, momentum=0.9, weight_decay=5e-4)
        for one in (peer, ours)
    )
    compare(
        f"training step, batch {batch_size}",
        lambda: step(lambda: peer([one.float() / 255 for one in images], targets), peers),
        lambda: step(lambda: ours(ours.prepare(samples)), own),
        repeats,
        profiled,
    )


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["inference", "training"])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if arguments.what != "training":
        inference(arguments.image, arguments.repeats, arguments.profile)
    if arguments.what != "inference":
        training(arguments.batch, min(arguments.repeats, 3), arguments.profile)


if __name__ == "__main__":
    main()
