"""YOLOv1's own network beside the bare stack of its convolutions and matrix products.

    python benchmarks/yolov1.py                  # both
    python benchmarks/yolov1.py forward [--backbone darknet|fast_yolo] [--batch 1] [--repeats 5]
    python benchmarks/yolov1.py decode [--batch 16] [--repeats 50]

Forward: normalised pixels to the S x S x 30 numbers, activations and pools included, against
the same convolutions and products with the same weights, each on a tensor that lies ready, and
nothing between them. Decode: those numbers to final boxes, decoding and NMS of 98 boxes an
image, of a whole batch and image by image. Runs alternate, and the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from detkit.detectors.yolov1 import VOC_CLASSES, Grid, YOLOv1, YOLOv1Config, decode_grid
from detkit.geometry.nms import select
from detkit.networks.precision import memory_format


def compare(
    name: str, runs: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> None:
    """Time both in turn and print the medians and the ratio of the second to the first."""
    times: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(repeats + 1):
        for label, run in runs.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first warms up
                times[label].append(time.perf_counter() - start)
    first, second = (statistics.median(values) for values in times.values())
    labels = list(times)
    print(
        f"{name}: {labels[0]} {1e3 * first:.2f} ms, {labels[1]} {1e3 * second:.2f} ms, ratio "
        f"{second / first:.2f} (median of {repeats}, {device}, {torch.get_num_threads()} threads)"
    )


def layers_with_inputs(detector: YOLOv1, images: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return each convolution and fully connected layer with a tensor like the one it sees."""
    found: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append((layer, inputs[0].clone()))  # a clone: activations work in place

    hooks = [
        layer.register_forward_pre_hook(keep)
        for layer in detector.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    detector.predict(images)
    for hook in hooks:
        hook.remove()
    return found


@torch.inference_mode()
def forward(backbone: str, batch: int, repeats: int, device: torch.device) -> None:
    """Compare the forward pass with its convolutions and products alone."""
    torch.manual_seed(0)
    detector = YOLOv1(YOLOv1Config(backbone=backbone), VOC_CLASSES).eval().to(device)
    layout = memory_format(detector, device, training=False)
    detector = detector.to(memory_format=layout)
    size = detector.config.size
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
    layers = layers_with_inputs(detector, images)
    convs = sum(isinstance(layer, nn.Conv2d) for layer, _ in layers)
    print(f"{backbone}: {convs} convolutions, {len(layers) - convs} connected layers")

    def bare() -> None:
        for layer, x in layers:
            layer(x)

    runs = {"bare": bare, "detkit": lambda: detector.predict(images)}
    compare(f"forward, batch {batch}", runs, repeats, device)


@torch.inference_mode()
def decode(batch: int, repeats: int, device: torch.device) -> None:
    """Compare decoding and NMS of a batch with the same image by image."""
    torch.manual_seed(0)
    config = YOLOv1Config()
    cells, number = config.grid**2, config.boxes_a_cell
    whole = Grid(
        torch.rand(batch, cells, len(VOC_CLASSES), device=device),
        torch.rand(batch, cells, number, device=device) ** 8,
        torch.rand(batch, cells, number, 4, device=device),
    )
    single = [
        Grid(whole.probs[n : n + 1], whole.confidences[n : n + 1], whole.boxes[n : n + 1])
        for n in range(batch)
    ]
    size = (config.size, config.size)

    def suppress(boxes: Tensor, scores: Tensor) -> None:
        for one_boxes, one_scores in zip(boxes, scores):
            select(
                one_boxes,
                one_scores,
                score_thresh=config.score_thresh,
                nms_thresh=config.nms_thresh,
                top_k=config.pre_nms_top_k,
                max_detections=config.max_detections,
            )

    def image_by_image() -> None:
        for one in single:
            decode_grid(one, size)

    boxes, scores = decode_grid(whole, size)
    runs = {"image by image": image_by_image, "at once": lambda: decode_grid(whole, size)}
    compare(f"decoding of {batch} images", runs, repeats, device)
    runs = {
        "NMS alone": lambda: suppress(boxes, scores),
        "decoding and NMS": lambda: suppress(*decode_grid(whole, size)),
    }
    compare(f"{batch} images of {cells * number} boxes", runs, repeats, device)


def main() -> None:
    """Parse the command line and run one benchmark or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["forward", "decode"])
    parser.add_argument("--backbone", choices=["darknet", "fast_yolo"], default="darknet")
    parser.add_argument("--batch", type=int, help="1 in forward, 16 in decode")
    parser.add_argument("--repeats", type=int, help="5 in forward, 50 in decode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.what != "decode":
        forward(arguments.backbone, arguments.batch or 1, arguments.repeats or 5, device)
    if arguments.what != "forward":
        decode(arguments.batch or 16, arguments.repeats or 50, device)


if __name__ == "__main__":
    main()
