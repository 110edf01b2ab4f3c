"""What trainings on up to half of the images foretell of all of them, against what comes out.

    python benchmarks/enough.py [--data DIR] [--place DIR] [--minutes 20] [WORDS of detkit enough]

`detkit enough` trains on an eighth, a quarter, half and all of the training images. Its forecast
is made from the parts alone, and the mean of the trainings on all images is set beside it, in and
out of its 95 % interval as it comes. Without DIR the images are those that `detkit demo` draws.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = ".125,.25,.5,1"
DETKIT = (sys.executable, "-m", "detkit")
SMALL = ("--set", "size=160")  # for what is drawn


def main() -> None:
    """Print each training's mAP, the forecast and what came out."""
    parser = argparse.ArgumentParser(usage="%(prog)s [options] [WORDS of detkit enough]")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder, "demo")
            words = [*words, *SMALL]
            subprocess.run([*DETKIT, "demo", data, "--num-images", "200", "-q"], check=True)
        out = options.place or Path(folder, "enough")
        command = [*DETKIT, "enough", str(data), "-o", str(out), "--parts", PARTS, "--json"]
        command += ["--model", "ssd", "--max-minutes", str(options.minutes)]
        command += [*words, *(["--resume"] if out.exists() else [])]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    amounts: dict[tuple[int, float], list[float]] = {}
    for run in report["runs"]:
        key = run["images"], round(run["minutes"], 2)
        amounts.setdefault(key, []).append(run["mAP"])
    for (images, minutes), values in sorted(amounts.items()):
        shown = ", ".join(f"{value:.3f}" for value in values)
        print(f"{images} images, {minutes:g} minutes: mAP {shown}")
    for one in report["more"]:
        gain = one["gain"]
        what = f"{round(one['more'], 2):g} more {one['class'] or one['of']}"
        if gain is not None:
            print(f"{what}: {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})")
    forecast = report["forecast"]
    told = forecast["predicted"]
    print(
        f"from up to {forecast['num_images']} images: {told['value']:.3f} ({told['low']:.3f} to "
        f"{told['high']:.3f}) for all; {forecast['came_out']:.3f} came out, "
        f"{'inside' if forecast['holds'] else 'outside'}"
    )


if __name__ == "__main__":
    main()
