"""A trainer for the tests of `compare --command`: it finds the upper left quarter of each image.

    fake_trainer.py DATA OUT SEED MODE [WORDS...]

It reads COCO files alone, refuses a test split that gives its labels away, and adds a line to
`calls.txt` beside OUT. MODE says what goes wrong.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def read(data: Path, split: str) -> dict[str, Any]:
    """Return a COCO file."""
    text = (data / f"annotations/instances_{split}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def main(data: Path, out: Path, seed: int, mode: str) -> int:
    """Detect in the test images; return the exit code."""
    train, val, test = (read(data, split) for split in ("train", "val", "test"))
    names = [{one["file_name"] for one in part["images"]} for part in (train, val, test)]
    if test["annotations"] or names[2] & (names[0] | names[1]) or names[0] & names[1]:
        print("labels of test images are there")
        return 9
    if not (train["annotations"] and val["annotations"]) or any(out.iterdir()):
        print("nothing to learn, or an earlier run's files")
        return 8
    with (out.parent / "calls.txt").open("a", encoding="utf-8") as calls:
        calls.write(f"{out.name} {seed} {len(names[0])}+{len(names[1])}+{len(names[2])}\n")
    print(f"training on {data}")
    if mode == "fail":
        print("loss is nan\n\n", file=sys.stderr)
        return 4
    if mode == "fail-once" and not (out.parent / "failed").exists():
        (out.parent / "failed").touch()
        (out / "detections.csv").touch()  # in the way of a second run
        return 1
    if mode == "kill":
        signal.raise_signal(signal.SIGKILL)
    if mode == "sleep":  # so does a process that it began
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (out.parent / "child").write_text(str(child.pid))
        time.sleep(60)
    if mode == "beside":  # another of the same comparison, or not at all
        (out.parent / f"{out.name}.begun").touch()
        until = time.monotonic() + 30
        while len(list(out.parent.glob("*.begun"))) < 2:
            if time.monotonic() > until:
                return 7
            time.sleep(0.05)
        own = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "DETKIT_PROCESSES")}
        (out.parent / f"{out.name}.place").write_text(json.dumps(own))
    if mode == "none":
        return 0
    rows = []
    for image in test["images"]:
        wrong = int(Path(image["file_name"]).stem.rpartition("-")[2]) % 2 == 1
        if mode == "half" and wrong:
            continue
        width, height = image["width"] // 2, image["height"] // 2
        box = [width, height, 2 * width, 2 * height] if wrong else [0, 0, width, height]
        rows.append((image, box, 0.3 if wrong else 0.9))
    categories = {one["id"]: one["name"] for one in test["categories"]}
    label, number = categories[2], 2
    if mode in ("jsonl", "half"):
        lines = [
            {
                "image": image["file_name"],
                "width": image["width"],
                "height": image["height"],
                "detections": [{"label": label, "score": score, "box": box}],
            }
            for image, box, score in rows
        ]
        text = "\n".join(map(json.dumps, lines)) + "\n"
        (out / "detections.jsonl").write_text(text, encoding="utf-8")
        return 0
    found = [
        {
            "image_id": image["id"],
            "category_id": number,
            "score": score,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        }
        for image, box, score in rows
    ]
    (out / "detections.json").write_text(json.dumps([] if mode == "empty" else found))
    if mode == "two":
        (out / "detections.csv").write_text("")
    return 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(Path(words[0]), Path(words[1]), int(words[2]), words[3]))
