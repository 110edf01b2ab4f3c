"""Detection in tiles against SAHI's sliced prediction: time, recall and mAP, in one run.

    python benchmarks/tiles_vs_sahi.py [--place DIR] [--images 6] [--turns 3] [--threads 1]
                                       [--tile 640] [--overlap .2] [--score .1] [--steps 130]
                                       [--spare] [--precision 32-true|bf16-mixed]

The images are drawn, 3000 x 2000 with objects of 14 to 24 px, and an SSD of 640 px is trained on
small ones with such objects, in minutes. detkit looks at them by `predict(..., tile=640)`. SAHI's
`get_sliced_prediction` has the same weights in torchvision's `SSD`: its resizing, default boxes,
heads, decoding and NMS, on the maps of the same backbone. Both look at the whole image and at the
same number of tiles, from the file to final boxes, on so many cores and threads; SAHI with its
defaults (one slice a step, GREEDYNMM, all that gradients need is kept; `--spare` spares it that).
They take turns on all images, and the medians are compared; where other programs keep the cores
busy, the seconds of work on them say more than the clock.

SAHI lives in a virtual environment in DIR, which pip fills the first time with what this one
lacks; `--place` keeps it, the images and the model for the next run.

Asked for: at most .7 of SAHI's time, recall and mAP no lower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TorchvisionSSD  # noqa: N811
from torchvision.models.detection.ssd import SSDHead

import detkit
from detkit.data.demo.pictures import write_demo
from detkit.data.images import read_image
from detkit.data.records import ImageRecord
from detkit.detectors.ssd import SSD
from detkit.evaluation.gain import Looked, gain_of
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import errors_of, score
from detkit.inference.models import load_model
from detkit.predictions.image import ImagePredictions
from detkit.structures import Truth

SAHI = "sahi==0.12.8"
OBJECTS, LARGE, SMALL = (14, 24), (2000, 3000), (640, 640)
NETWORK = 640
MOST_TIME = 0.7
# For objects of that size; no antialiasing, as in torchvision.
SETTINGS = (f"size={NETWORK}", "scales=.025,.05,.1,.2,.4,.7,1.05", "antialias=false")
SAME = 0.99  # of a tile's boxes: it is one network on both sides


def run_with_sahi(place: Path) -> int:
    """Run this script in the environment that has SAHI, made unless it is there.

    It sees the packages of this one, torch above all, behind its own.
    """
    python = place / "sahi" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"making {place / 'sahi'} for {SAHI}", file=sys.stderr)
        venv.create(place / "sahi", with_pip=True)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        behind = [Path(torch.__file__).parents[1], Path(detkit.__file__).parents[1]]
        listed = Path(own.stdout.strip(), "packages_of_detkit.pth")
        listed.write_text("".join(f"{folder}\n" for folder in behind), encoding="utf-8")
    if subprocess.run([python, "-c", "import sahi"], capture_output=True).returncode:
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", SAHI]
        if subprocess.run(install).returncode:
            print(f"left out: {SAHI} cannot be installed", file=sys.stderr)
            return 0
    return subprocess.run([python, __file__, *sys.argv[1:], f"--place={place}"]).returncode


def draw_and_train(place: Path, num_images: int, steps: int) -> Path:
    """Draw the images to detect in and those to train on, unless they are there; train on these.

    Returns the model file.
    """
    model = place / f"run-{steps}" / "best.safetensors"
    if not (place / f"large-{num_images}").exists():
        write_demo(
            place / f"large-{num_images}",
            num_images=max(6, num_images),
            seed=1,
            image_size=LARGE,
            object_size=OBJECTS,
        )
    if not model.exists():
        data = place / "small"
        write_demo(data, num_images=240, image_size=SMALL, object_size=OBJECTS, force=True)
        settings = [word for one in SETTINGS for word in ("--set", one)]
        words = ["--model", "ssd", *settings, "--max-steps", str(steps), "-o", str(model.parent)]
        train = [sys.executable, "-m", "detkit", "train", str(data), *words, "--force"]
        subprocess.run([*train, "--num-workers", "0"], check=True)
    return model


class Maps(nn.Module):
    """The feature maps of detkit's SSD, as torchvision's takes them from a backbone."""

    def __init__(self, detector: SSD) -> None:
        """Use the detector's own layers."""
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the L maps (B, C_l, H_l, W_l) of (B, 3, H, W) images."""
        maps = self.detector.feature_maps(images)
        return OrderedDict((str(level), x) for level, x in enumerate(maps))


def as_torchvision(detector: SSD) -> nn.Module:
    """Return torchvision's SSD with the detector's weights and settings, in eval mode."""
    config = detector.config
    steps = None if detector.steps is None else [round(step) for step in detector.steps]
    boxes = DefaultBoxGenerator(
        [[int(ratio) for ratio in ratios] for ratios in detector.ratios],
        scales=list(detector.scales),
        steps=steps,
        clip=config.clip_sides,
    )
    widths = [conv.in_channels for conv in detector.box_head.convs]
    num_classes = len(detector.class_names) + 1
    head = SSDHead(widths, boxes.num_anchors_per_location(), num_classes)
    for theirs, ours in (
        (head.classification_head, detector.class_head),
        (head.regression_head, detector.box_head),
    ):
        theirs.module_list.load_state_dict(ours.convs.state_dict())
    return TorchvisionSSD(
        Maps(detector),
        boxes,
        (config.size, config.size),
        num_classes,
        image_mean=list(config.mean),
        image_std=list(config.std),
        head=head,
        score_thresh=config.score_thresh,
        nms_thresh=config.nms_thresh,
        detections_per_img=config.max_detections,
        topk_candidates=config.pre_nms_top_k,
    ).eval()


def tile_with_an_object(
    records: Sequence[ImageRecord], truths: Sequence[Truth]
) -> NDArray[np.uint8]:
    """Return what the network sees of an image around the first object there is."""
    record, truth = next(one for one in zip(records, truths) if len(one[1].boxes))
    x, y = (int(at) for at in truth.boxes[0][:2])
    height, width = LARGE
    left, top = (
        max(0, min(at - NETWORK // 2, end - NETWORK)) for at, end in ((x, width), (y, height))
    )
    shown = read_image(record.path)[top : top + NETWORK, left : left + NETWORK]
    return np.ascontiguousarray(shown)


def share_of_same(
    peer: nn.Module, detector: Any, tile: np.ndarray[Any, Any], least: float
) -> float:
    """Return the share of torchvision's boxes in a tile that detkit finds with the same score."""
    with torch.inference_mode():
        (theirs,) = peer([torch.from_numpy(tile).permute(2, 0, 1).float() / 255])
    with detector.detecting():
        (ours,) = detector.detect(detector.prepare_image(tile))
    sure = theirs["scores"] > least
    boxes = theirs["boxes"][sure].numpy()
    if not len(boxes):
        raise SystemExit("nothing is found in a tile; train for more --steps")
    apart = np.abs(boxes[:, None] - ours.boxes).max(axis=2)
    apart = np.maximum(apart, 100 * np.abs(theirs["scores"][sure].numpy()[:, None] - ours.scores))
    apart[theirs["labels"][sure].numpy()[:, None] != ours.labels + 1] = np.inf
    return float((apart.min(axis=1) < 0.5).mean())


def sahi_side(peer: nn.Module, names: Sequence[str], options: argparse.Namespace) -> Any:
    """Return a function that finds objects in image files by SAHI."""
    from sahi.models.torchvision import TorchVisionDetectionModel
    from sahi.predict import get_sliced_prediction

    model = TorchVisionDetectionModel(
        model=peer,
        device="cpu",
        confidence_threshold=options.score,
        category_mapping={str(number): name for number, name in enumerate(names, start=1)},
    )

    def found(record: ImageRecord) -> ImagePredictions:
        with torch.inference_mode(options.spare):
            answer = get_sliced_prediction(
                str(record.path),
                model,
                slice_height=options.tile,
                slice_width=options.tile,
                overlap_height_ratio=options.overlap,
                overlap_width_ratio=options.overlap,
                verbose=0,
            )
        objects = answer.object_prediction_list
        boxes = np.array([one.bbox.to_xyxy() for one in objects], np.float32).reshape(-1, 4)
        scores = np.array([one.score.value for one in objects], np.float32)
        labels = tuple(one.category.name for one in objects)
        width, height = answer.image_width, answer.image_height
        return ImagePredictions(record.image_id, width, height, labels, scores, boxes)

    return lambda records: [found(record) for record in records]


def detkit_side(detector: Any, options: argparse.Namespace) -> Any:
    """Return a function that finds objects in image files by detkit."""

    def found(records: Sequence[ImageRecord]) -> list[ImagePredictions]:
        return list(
            detkit.predict(
                detector,
                [record.path for record in records],
                tile=options.tile,
                tile_overlap=options.overlap,
                score_thresh=options.score,
            )
        )

    return found


def in_turns(
    sides: dict[str, Callable[[Sequence[ImageRecord]], list[ImagePredictions]]],
    records: Sequence[ImageRecord],
    turns: int,
) -> tuple[dict[str, tuple[float, float]], dict[str, list[ImagePredictions]]]:
    """Return each side's median seconds an image, by the clock and of all cores; what it found."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    found = {}
    for side in sides.values():
        side(records[:1])  # both are warm, and the file is in memory
    for turn in range(turns):
        for name, side in sides.items():
            start, worked = time.perf_counter(), time.process_time()
            found[name] = side(records)
            spent = time.perf_counter() - start, time.process_time() - worked
            times[name].append((spent[0] / len(records), spent[1] / len(records)))
        told = ", ".join(f"{name} {times[name][-1][0]:.2f}" for name in sides)
        print(f"turn {turn + 1}: seconds an image: {told}", flush=True)
    medians = {
        name: (statistics.median(clock), statistics.median(cores))
        for name, (clock, cores) in ((name, zip(*spent)) for name, spent in times.items())
    }
    return medians, found


def tell_quality(
    found: dict[str, list[ImagePredictions]],
    seconds: dict[str, tuple[float, float]],
    records: Sequence[ImageRecord],
    truths: Sequence[Truth],
    names: Sequence[str],
) -> None:
    """Print recall and mAP of both, as `detkit eval` scores them, and what one found alone."""
    looked = []
    for name, predictions in found.items():
        detections = pair(predictions, records, names).detections
        scores = score(detections, truths, names, "voc07", 0.5)
        is_found = np.concatenate(errors_of(detections, truths, names, scores).found)
        difficult = np.concatenate([truth.difficult for truth in truths])
        recall = is_found[~difficult].mean()
        number = sum(len(one.scores) for one in detections)
        print(
            f"{name}: recall {recall:.3f}, mAP {scores.mean:.3f} ({scores.protocol}), "
            f"{number} boxes for {np.count_nonzero(~difficult)} objects"
        )
        looked.append(Looked(name, detections, scores, seconds[name][0]))
    gain = gain_of(*looked, truths, names)
    print(f"found by detkit alone: {len(gain.only_after)}, by SAHI alone: {len(gain.only_before)}")


def main() -> None:
    """Parse the command line, see that SAHI is there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", type=Path, help="keeps the environment, images and model")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--score", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=130)
    parser.add_argument("--spare", action="store_true", help="spare SAHI the gradients it keeps")
    parser.add_argument("--precision", default="32-true", help="what detkit computes in")
    options = parser.parse_args()
    if options.place is None:
        with tempfile.TemporaryDirectory() as made:
            raise SystemExit(run_with_sahi(Path(made)))
    try:
        import sahi
    except ModuleNotFoundError:
        raise SystemExit(run_with_sahi(options.place)) from None
    model = draw_and_train(options.place, options.images, options.steps)
    if hasattr(os, "sched_setaffinity"):  # threads that read and resize want cores, too
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        os.sched_setaffinity(0, cores)
    detector = detkit.open_model(model, "cpu", threads=options.threads)
    peer = as_torchvision(load_model(model))
    names = detector.class_names
    dataset = detkit.open_dataset(options.place / f"large-{options.images}")
    records = [one for part in dataset.splits.values() for one in part][: options.images]
    truths = [truth for split in dataset.splits for truth in dataset.truths(split)][: len(records)]
    tile = tile_with_an_object(records, truths)
    same = share_of_same(peer, detector, tile, options.score)
    print(f"torchvision {torchvision.__version__} and detkit: {same:.1%} of a tile's boxes agree")
    if same < SAME:
        raise SystemExit("the two networks are not the same")
    if options.precision != "32-true":
        detector = detkit.open_model(
            model, "cpu", precision=options.precision, threads=options.threads
        )
    sides = {
        f"SAHI {sahi.__version__}": sahi_side(peer, names, options),
        f"detkit {detkit.__version__}": detkit_side(detector, options),
    }
    seconds, found = in_turns(sides, records, options.turns)
    tell_quality(found, seconds, records, truths, names)
    theirs, ours = seconds.values()
    height, width = LARGE
    print(
        f"{width} x {height} in tiles of {options.tile}, overlap {options.overlap:g}: SAHI "
        f"{theirs[0]:.2f} s, detkit {ours[0]:.2f} s an image, ratio {ours[0] / theirs[0]:.2f} "
        f"(median of {options.turns} turns on {len(records)} images, --threads {options.threads}; "
        f"asked: at most {MOST_TIME}); of time on cores {ours[1] / theirs[1]:.2f}"
    )


if __name__ == "__main__":
    main()
