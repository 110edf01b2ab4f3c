"""Exported files in OpenVINO and in a browser: what onnxruntime finds, in programs of others.

`make test-openvino` and `make test-web` fetch what these tests need; without it they skip.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Page
from numpy.typing import NDArray
from PIL import Image
from test_onnx_ends import Plain, picture

from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.inference.onnx_export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = ((120, 80), (90, 170), (96, 96), (33, 20))
BACKENDS = ("plain", "ssd", "faster-rcnn")
OUTPUTS = ("boxes", "scores", "labels")
IN_OPENVINO = """
import sys, time
import numpy as np
import openvino
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
model = openvino.Core().compile_model(sys.argv[1], "CPU", options)
found = {}
for name, image in np.load(sys.argv[2]).items():
    model({"pixels": image[None]})  # the first one of a size also compiles
    start = time.process_time()
    outputs = model({"pixels": image[None]})
    found[f"{name} seconds"] = np.array(time.process_time() - start)
    found |= {f"{name} {key}": outputs[key][0] for key in ("boxes", "scores", "labels")}
np.savez(sys.argv[3], **found)
"""


def detector_of(name: str) -> Detector:
    torch.manual_seed(0)
    if name == "plain":
        return Plain(score_thresh=0.4).eval()
    backend = load_backend(name)
    config = backend.config_class(backbone="tiny", size=96, score_thresh=0.005)
    return backend(config, ("ball", "box")).eval()


@pytest.fixture(scope="module", params=BACKENDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / f"{request.param}.onnx"
    export_onnx(detector_of(request.param), path, raw=True, nms=True)
    return path


def in_onnxruntime(path: Path, image: NDArray[np.uint8]) -> tuple[list[NDArray], float]:
    """Return boxes, scores and labels, as many as there are, and the seconds of a second run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    session.run(None, {"pixels": image[None]})
    start = time.process_time()
    *outputs, count = session.run([*OUTPUTS, "count"], {"pixels": image[None]})
    return [one[0, : count[0]] for one in outputs], time.process_time() - start


def require_same(wanted: list[NDArray], found: list[NDArray], tolerance: float) -> None:
    """Hold scores rank by rank, and nine of ten boxes: all but equal scores may change places."""
    boxes, scores, labels = wanted
    number = min(50, len(scores))
    assert number > 3
    np.testing.assert_allclose(found[1][:number], scores[:number], atol=tolerance)
    there = [
        bool(
            (
                (np.abs(found[0] - boxes[rank]).max(axis=1) < 0.2)
                & (np.abs(found[1] - scores[rank]) < tolerance)
                & (found[2] == labels[rank])
            ).any()
        )
        for rank in range(number)
    ]
    assert np.mean(there) >= 0.9


@pytest.mark.openvino
@pytest.mark.skipif(
    "DETKIT_OPENVINO" not in os.environ,
    reason="`make test-openvino` runs this ($DETKIT_OPENVINO names a Python that has it)",
)
def test_openvino_finds_what_onnxruntime_does(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = os.environ["DETKIT_OPENVINO"]
    images = {str(seed): picture(seed, *size) for seed, size in enumerate(SIZES)}
    given, found_there = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, **images)
    words = [python, "-c", IN_OPENVINO, exported, given, found_there]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(words, check=True, timeout=300, env=environment)
    found = np.load(found_there)
    seconds = [0.0, 0.0]
    for name, image in images.items():
        wanted, ours = in_onnxruntime(exported, image)
        require_same(wanted, [found[f"{name} {key}"] for key in OUTPUTS], 2e-4)
        seconds[0], seconds[1] = seconds[0] + ours, seconds[1] + float(found[f"{name} seconds"])
    with capsys.disabled():
        ratio = seconds[1] / seconds[0]
        print(f"\n{exported.stem}: OpenVINO takes {ratio:.2f} of onnxruntime's CPU time")


@pytest.fixture(scope="module")
def folder(exported: Path) -> Iterator[tuple[Path, str]]:
    """Yield a folder with the page, the model and onnxruntime-web, and its address."""
    package = os.environ["DETKIT_ORT_WEB"]
    folder = exported.parent / exported.stem
    folder.mkdir()
    shutil.copy(EXAMPLES / "detect_in_browser.html", folder / "index.html")
    shutil.copy(exported, folder / "model.onnx")
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "onnxruntime-web").symlink_to(Path(package).resolve())
    Image.fromarray(picture(1, 90, 170)).save(folder / "photo.png")
    Image.fromarray(picture(1, 90, 170)).save(folder / "photo.jpg", quality=98)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.browser
@pytest.mark.skipif(
    "DETKIT_ORT_WEB" not in os.environ,
    reason="`make test-web` runs this ($DETKIT_ORT_WEB names the package's folder)",
)
def test_the_page_finds_in_chromium_what_onnxruntime_does(
    folder: tuple[Path, str], browser: Page
) -> None:
    path, address = folder
    browser.open(address)
    text = browser.wait_for("found.textContent != '...' && found.textContent", 120)
    assert "error" not in text
    browser.run(
        "detect('model.onnx', 'photo.png', 0).then(all => { window.all = JSON.stringify(all) })"
    )
    all_found = json.loads(browser.wait_for("window.all", 120))
    found = [np.array([one[key] for one in all_found]) for key in ("box", "score", "label")]
    wanted, _ = in_onnxruntime(path / "model.onnx", picture(1, 90, 170))
    require_same(wanted, found, 1e-4)
    # The lines on the page are those of the other example, but for the decoding of JPEG.
    words = [sys.executable, EXAMPLES / "detect_onnx.py", path / "model.onnx", path / "photo.jpg"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120, check=True)
    ours, theirs = (
        sorted(float(line.split()[-5]) for line in one.splitlines() if line[-1:].isdigit())[::-1]
        for one in (done.stdout, text)
    )
    number = sum(score > 0.35 for score in ours)  # the page shows what is above .3
    np.testing.assert_allclose(theirs[:number], ours[:number], atol=0.02)
