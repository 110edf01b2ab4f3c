"""Install a wheel where nothing else is installed, and use what needs no network: no torch.

    python .ci/try_wheel.py WHEEL [PIP OPTION...]

The light core has to be complete by itself, and smaller than `MAX_SIZE`.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from xml.etree import ElementTree

MAX_SIZE = 500e6  # bytes on the disk, of detkit and all that it brings
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def main(wheel: Path, pip_options: list[str]) -> None:
    """Make an environment, install, use; end with 1 and a line where something is wrong."""
    with tempfile.TemporaryDirectory(prefix="detkit-wheel-", ignore_cleanup_errors=True) as folder:
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        scripts = environment / ("Scripts" if os.name == "nt" else "bin")
        before = size(environment)
        run(folder, scripts / "python", "-m", "pip", "install", "-q", *pip_options, wheel)
        use(Path(folder), scripts)
        added = size(environment) - before
    print(f"{wheel.name}: works by itself; {added / 1e6:.0f} MB with all that it needs")
    if added > MAX_SIZE:
        sys.exit(f"{wheel.name}: more than {MAX_SIZE / 1e6:.0f} MB: which dependency grew?")


def use(folder: Path, scripts: Path) -> None:
    """Run the commands of the light core on drawn data, and on predictions that are the truth."""
    detkit = scripts / "detkit"
    version = run(folder, detkit, "--version").strip()
    run(folder, detkit, "demo", "data")
    run(folder, detkit, "check", "data")
    names = (folder / "data" / "ImageSets" / "Main" / "test.txt").read_text("utf-8").split()
    truths = [truth(folder / "data" / "Annotations" / f"{name}.xml") for name in names]
    (folder / "all.jsonl").write_text("".join(truths), encoding="utf-8")
    (folder / "few.jsonl").write_text("".join(truths[::2]), encoding="utf-8")
    gate = ("data", "--split", "test", "--fail-under", "mAP=.99")
    run(folder, detkit, "eval", "--predictions", "all.jsonl", *gate)
    run(folder, detkit, "eval", "--predictions", "few.jsonl", *gate, code=1)
    parts = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    run(folder, scripts / "python", "-c", parts)
    stated = run(folder, scripts / "python", "-c", "import detkit; print(detkit.__version__)")
    if stated.strip() not in version:
        sys.exit(f"detkit --version says {version}, the package {stated.strip()}")


def truth(path: Path) -> str:
    """Return the objects of a VOC file as a line of predictions, 0-based and half-open."""
    root = ElementTree.parse(path).getroot()
    found = []
    for one in root.iter("object"):
        x1, y1, x2, y2 = (float(one.findtext(f"bndbox/{corner}", "")) for corner in CORNERS)
        found.append({"label": one.findtext("name"), "score": 1, "box": [x1 - 1, y1 - 1, x2, y2]})
    return json.dumps({"image": root.findtext("filename"), "detections": found}) + "\n"


def run(folder: Path | str, *command: Path | str, code: int = 0) -> str:
    """Return a command's output; ends with 1 and what it said where it ends in another way."""
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, encoding="utf-8"
    )
    if done.returncode != code:
        words = " ".join(str(part) for part in command)
        sys.exit(f"{words}: ended with {done.returncode}, not {code}\n{done.stdout}{done.stderr}")
    return done.stdout


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
