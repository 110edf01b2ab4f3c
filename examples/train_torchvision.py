"""Train one of torchvision's detectors for `detkit compare --command`, without detkit.

    python train_torchvision.py DATA OUT MINUTES [SEED]

DATA has COCO files of train and test, as `compare` writes them; OUT gets detections.json. The loop
is that of torchvision's reference scripts (references/detection/engine.py): SGD, a linear warm-up,
a tenth of the rate at the end; there by epochs, here by minutes. It needs torch and torchvision
alone, so it runs in any environment that has them.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torchvision.io import ImageReadMode, read_image
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

LR, WARMUP, BATCH = 0.01, 50, 4


def read(data: Path, split: str) -> tuple[list[Any], int]:
    """Return [(file, image id, targets)] and the highest category id of a split."""
    coco = json.loads((data / f"annotations/instances_{split}.json").read_text(encoding="utf-8"))
    rows = {image["id"]: [] for image in coco["images"]}
    for one in coco["annotations"]:
        if not one["iscrowd"]:
            rows[one["image_id"]].append((*one["bbox"], one["category_id"]))
    samples = []
    for image in coco["images"]:
        table = torch.tensor(rows[image["id"]], dtype=torch.float32).reshape(-1, 5)
        table = table[(table[:, 2:4] > 0).all(1)]
        boxes = torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
        file = data / "images" / split / image["file_name"]
        samples.append((file, image["id"], {"boxes": boxes, "labels": table[:, 4].long()}))
    return samples, max(one["id"] for one in coco["categories"])


def load(file: Path, device: torch.device) -> torch.Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return read_image(str(file), ImageReadMode.RGB, apply_exif_orientation=True).to(device) / 255


def main(data: Path, out: Path, minutes: float, seed: int) -> None:
    """Train for so many minutes, then detect in the images of test."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples, highest = read(data, "train")
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=highest + 1, box_score_thresh=0.01
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    model.train()
    began, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP) * (0.1 if done > 0.8 else 1.0)
        batch = draw.sample(samples, min(BATCH, len(samples)))
        images = [load(file, device) for file, _, _ in batch]
        targets = [{key: value.to(device) for key, value in one.items()} for *_, one in batch]
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, done = step + 1, (time.monotonic() - began) / (60 * minutes)
        print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()
    found = []
    with torch.inference_mode():
        for file, image_id, _ in read(data, "test")[0]:
            [one] = model([load(file, device)])
            for (x1, y1, x2, y2), label, score in zip(
                one["boxes"].tolist(), one["labels"].tolist(), one["scores"].tolist()
            ):
                box = [x1, y1, x2 - x1, y2 - y1]
                found.append(
                    {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                )
    (out / "detections.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int((sys.argv[4:] or [0])[0]))
