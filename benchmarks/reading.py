"""How long large label files take to be read, and how much memory, beside what reads them plainly.

    python benchmarks/reading.py [coco] [voc] [yolo] [--images 118000] [--boxes 825000]
                                 [--files absent|empty] [--folder DIR] [--repeats 3]

Three sets are made up: a COCO file with as many images and boxes as COCO's train2017, its outlines
left short; the 9,963 XML files of VOC2007; as many YOLO text files as COCO has images, beside JPEGs
of a few pixels, since their shares need an image's size. `--files` says whether COCO's and VOC's
image files are there, though without content.

Each is opened by `open_dataset` and by the plainest program that reads the same: pycocotools'
`COCO(file)`; a loop of ElementTree's `parse` and `find` over names and boxes; a loop that reads the
bytes of each text file and of each image's beginning, the same files that `open_dataset` reads,
since the rows are shares of the size that only the image states. Every measurement is a process
of its own, the two in turn, without their imports, and the ratio is that of the quickest ones, in
seconds of the processor: each is one thread, and other programs' time is not counted. `--check`
measures `detkit check --no-images` beside the opening. Asked for: COCO 1.0 with no more memory,
VOC 1.2, YOLO 1.5, check 1.5 of the opening.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NUM_CLASSES = 80
VOC_FILES = 9963
WIDTH, HEIGHT = 640, 480

OURS = """
from detkit.data import open_dataset
start()
data = open_dataset(path)
assert sum(len(one.objects) for one in data.splits[next(iter(data.splits))]) > 0
"""
CHECK = """
from detkit.data import open_dataset
from detkit.data.checks.check import check
start()
check(open_dataset(path), read_images=False)
"""
COCO = """
from pycocotools.coco import COCO
start()
COCO(path)
"""
VOC = """
from pathlib import Path
from xml.etree import ElementTree
start()
found = {}
for file in sorted(Path(path, "Annotations").iterdir()):
    objects = []
    for one in ElementTree.parse(file).getroot().findall("object"):
        box = one.find("bndbox")
        sides = [float(box.find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")]
        objects.append((one.find("name").text, sides, one.find("difficult").text == "1"))
    found[file.stem] = objects
"""
YOLO = """
from pathlib import Path
start()
found = {}
for file in sorted(Path(path, "labels").iterdir()):
    with open(path + "/images/" + file.stem + ".jpg", "rb") as image:
        found[file.stem] = file.read_bytes(), len(image.read(1 << 16))
"""
TIMED = """
import resource, sys, time
from pathlib import Path
path, started = sys.argv[1], []
start = lambda: started.append(time.process_time())
{}
seconds = time.process_time() - started[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, of the parent's fork, too, so ...
status = Path("/proc/self/status")
if status.exists():  # ... that of this program alone
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0])
print(seconds, peak / 1024, file=sys.stderr)
"""


def boxes_of(images: int, boxes: int, rng: random.Random) -> list[list[tuple[float, ...]]]:
    """Return made-up boxes [x, y, width, height] for each image, `boxes` in all."""
    counts = [0] * images
    for _ in range(boxes):
        counts[int(rng.betavariate(1, 2) * images)] += 1
    return [
        [
            (
                *(round(rng.uniform(0, side / 2), 2) for side in (WIDTH, HEIGHT)),
                *(round(rng.uniform(2, side / 2), 2) for side in (WIDTH, HEIGHT)),
            )
            for _ in range(count)
        ]
        for count in counts
    ]


def make_coco(root: Path, images: int, boxes: int, *, files: bool) -> Path:
    """Write a COCO file and, if asked for, its images as empty files; return the file."""
    rng = random.Random(0)
    names = [f"{number:012d}.jpg" for number in range(images)]
    annotations = []
    for image, rows in enumerate(boxes_of(images, boxes, rng)):
        for box in rows:
            x, y, width, height = box
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "segmentation": [[round(one, 2) for one in corners]],
                    "area": round(width * height, 4),
                    "iscrowd": 0,
                    "image_id": image,
                    "bbox": list(box),
                    "category_id": rng.randrange(NUM_CLASSES) + 1,
                    "id": len(annotations) + 1,
                }
            )
    rng.shuffle(annotations)  # as COCO's are: not image by image
    content = {
        "images": [
            {
                "license": 1,
                "file_name": name,
                "coco_url": f"http://images.cocodataset.org/train2017/{name}",
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": "2013-11-14 11:18:45",
                "id": number,
            }
            for number, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [
            {"supercategory": "thing", "id": number + 1, "name": f"class {number}"}
            for number in range(NUM_CLASSES)
        ],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    for name in names if files else names[:1]:
        (root / "train2017" / name).touch()
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def make_voc(root: Path, images: int, boxes: int, *, files: bool) -> Path:
    """Write VOC XML files and, if asked for, their images as empty files; return the folder."""
    rng = random.Random(0)
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for number, rows in enumerate(boxes_of(images, boxes, rng)):
        stem = f"{number:06d}"
        objects = "".join(
            "\t<object>\n"
            f"\t\t<name>class {rng.randrange(20)}</name>\n"
            "\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
            f"\t\t<difficult>{int(rng.random() < 0.1)}</difficult>\n"
            f"\t\t<bndbox>\n\t\t\t<xmin>{int(x) + 1}</xmin>\n\t\t\t<ymin>{int(y) + 1}</ymin>\n"
            f"\t\t\t<xmax>{int(x + width) + 1}</xmax>\n\t\t\t<ymax>{int(y + height) + 1}</ymax>\n"
            "\t\t</bndbox>\n\t</object>\n"
            for x, y, width, height in rows
        )
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{stem}.jpg</filename>\n"
            "\t<source>\n\t\t<database>The VOC2007 Database</database>\n"
            "\t\t<annotation>PASCAL VOC2007</annotation>\n\t\t<image>flickr</image>\n"
            f"\t\t<flickrid>{rng.randrange(10**9)}</flickrid>\n\t</source>\n"
            "\t<owner>\n\t\t<flickrid>someone</flickrid>\n\t\t<name>?</name>\n\t</owner>\n"
            f"\t<size>\n\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n"
            f"\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n{objects}</annotation>\n"
        )
        if files or number == 0:
            (root / "JPEGImages" / f"{stem}.jpg").touch()
    return root


def make_yolo(root: Path, images: int, boxes: int, *, files: bool) -> Path:
    """Write YOLO text files beside JPEGs of a few pixels; return the folder."""
    del files  # the shares mean nothing without an image
    import cv2
    import numpy as np

    rng = random.Random(0)
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for number, rows in enumerate(boxes_of(images, boxes, rng)):
        text = "".join(
            f"{rng.randrange(NUM_CLASSES)} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} "
            f"{w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
            for x, y, w, h in rows
        )
        (root / "labels" / f"{number:012d}.txt").write_text(text)
        (root / "images" / f"{number:012d}.jpg").write_bytes(jpeg)
    names = "".join(f"  {number}: class {number}\n" for number in range(NUM_CLASSES))
    (root / "data.yaml").write_text(f"train: images\nnames:\n{names}")
    return root


MAKERS: dict[str, tuple[Callable[..., Path], str]] = {
    "coco": (make_coco, COCO),
    "voc": (make_voc, VOC),
    "yolo": (make_yolo, YOLO),
}


def measured(code: str, path: Path) -> tuple[float, float]:
    """Return the seconds and the peak MiB of a process that runs the code on a path."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(code), str(path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, mebibytes = done.stderr.splitlines()[-1].split()
    return float(seconds), float(mebibytes)


def compare(name: str, path: Path, ours: str, plain: str, repeats: int) -> None:
    """Print the quickest time and the least memory of two programs, and their ratios."""
    pairs = [(measured(ours, path), measured(plain, path)) for _ in range(repeats)]
    mine, other = (
        [min(pair[side][figure] for pair in pairs) for figure in (0, 1)] for side in (0, 1)
    )
    print(
        f"{name:12} {mine[0]:7.2f} s {other[0]:7.2f} s  ratio {mine[0] / other[0]:5.2f}"
        f"  {mine[1]:6.0f} MiB {other[1]:6.0f} MiB  ratio {mine[1] / other[1]:5.2f}",
        flush=True,
    )


def main() -> None:
    """Make the sets that are asked for and measure them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", choices=[*MAKERS, []], help="all, if none is named")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=825_000)
    parser.add_argument("--files", choices=["absent", "empty"], default="empty")
    parser.add_argument("--folder", type=Path, help="keep the sets here, and use them again")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="check --no-images, too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'':12} {'detkit':>9} {'plain':>9}  ({os.cpu_count()} cores, load ", end="")
        print(f"{os.getloadavg()[0]:.1f}; image files {asked.files})")
        for name in asked.sets or MAKERS:
            make, plain = MAKERS[name]
            images, boxes = asked.images, asked.boxes
            if name == "voc":
                images, boxes = (min(images, VOC_FILES), min(images, VOC_FILES) * 5 // 2)
            root = (asked.folder or Path(scratch)) / f"{name}-{images}-{boxes}-{asked.files}"
            path = root / "annotations" / "instances_train2017.json" if name == "coco" else root
            if not path.exists():
                make(root, images, boxes, files=asked.files == "empty")
            compare(name, path, OURS, plain, asked.repeats)
            if asked.check:
                compare(f"{name} check", path, CHECK, OURS, asked.repeats)


if __name__ == "__main__":
    main()
