"""The light core: what works without torch and the other packages of the extras, and what says so.

Commands run in a process that cannot import those packages, as if they were not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.errors import EXTRAS, ExitCode
from detkit.geometry import nms
from detkit.geometry.nms_numpy import select
from detkit.inference.onnx import resized
from detkit.transforms.preparation import Preparation

TRAIN = [package for package, extra in EXTRAS.items() if extra == "train"]
ONNX = [package for package, extra in EXTRAS.items() if extra == "onnx"]
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
COMMAND = "from detkit.cli import main\nmain(sys.argv[1:])"


def python(
    code: str, *words: object, absent: list[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Return what became of Python code in which some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", f"ABSENT = {absent}{WITHOUT}{code}", *map(str, words)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )


def light(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return python(COMMAND, *words, absent=[*TRAIN, *ONNX], folder=folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    done = light(folder, "demo", "photos", "--num-images", 12)
    assert done.returncode == ExitCode.DONE, done.stderr
    return folder


@pytest.fixture(scope="module")
def exported(demo: Path) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from detkit.data import open_dataset
    from detkit.detectors import load_backend
    from detkit.inference.onnx_export import export_onnx

    backend = load_backend("ssd")
    torch.manual_seed(0)
    names = open_dataset(demo / "photos").class_names
    detector = backend(backend.config_class(backbone="tiny", size=96), names)
    export_onnx(detector, demo / "m.onnx")
    return demo / "m.onnx"


def detections_of_truth(folder: Path, out: Path) -> None:
    """Write the labelled boxes of the test split as detections, each with a score of 1."""
    from detkit.data import open_dataset

    dataset = open_dataset(folder)
    lines = []
    for record, truth in zip(dataset.splits["test"], dataset.truths("test")):
        found = [
            {"label": dataset.class_names[label], "score": 1.0, "box": box}
            for label, box in zip(truth.labels.tolist(), truth.boxes.tolist())
        ]
        size = {"width": record.width or 1, "height": record.height or 1}
        lines.append(json.dumps({"image": record.image_id, **size, "detections": found}))
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_labels_are_checked_converted_and_split(demo: Path) -> None:
    assert light(demo, "check", "photos").returncode == ExitCode.DONE
    assert light(demo, "convert", "photos", "yolo", "--to", "yolo").returncode == ExitCode.DONE
    assert list((demo / "yolo").rglob("*.txt"))
    done = light(demo, "split", "photos", "parts", "--test", ".2")
    assert done.returncode == ExitCode.DONE, done.stderr


def test_a_pool_is_ordered_by_novelty_alone(demo: Path) -> None:
    done = light(demo, "next", "photos/JPEGImages", "-n", 3, "--paths")
    assert (done.returncode, len(done.stdout.splitlines())) == (ExitCode.DONE, 3), done.stderr
    done = light(demo, "next", "photos/JPEGImages", "--model", "photos")
    assert done.returncode == ExitCode.BAD_INPUT and done.stdout == ""


def test_detections_of_the_truth_score_one_and_fill_a_page(demo: Path) -> None:
    detections_of_truth(demo / "photos", demo / "found.jsonl")
    words = ("eval", "--predictions", "found.jsonl", "photos", "--json", "--report", "page.html")
    done = light(demo, *words)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert json.loads(done.stdout)["mAP"] == pytest.approx(1.0)
    assert "<html" in (demo / "page.html").read_text(encoding="utf-8")


def test_the_plain_list_of_models_names_the_five_backends(demo: Path) -> None:
    done = light(demo, "models")
    assert done.returncode == ExitCode.DONE, done.stderr
    for name in ("rcnn", "fast-rcnn", "faster-rcnn", "ssd", "yolov1"):
        assert name in done.stdout.split()
    assert "SSD: Single Shot MultiBox Detector." in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("train", "none", "--model", "ssd", "-o", "run"),
            'train needs PyTorch: pip install "detkit[train]"',
        ),
        (("eval", "run.safetensors", "photos"), 'eval needs PyTorch: pip install "detkit[train]"'),
        (("models", "ssd"), 'models needs PyTorch: pip install "detkit[train]"'),
        (("anchors", "photos"), 'anchors needs PyTorch: pip install "detkit[train]"'),
        (
            ("propose", "photos", "-o", "p.jsonl"),
            'propose needs numba: pip install "detkit[train]"',
        ),
        (
            ("detect", "empty.onnx", "photos"),
            'detect needs onnxruntime: pip install "detkit[onnx]"',
        ),
    ],
)
def test_a_command_that_needs_more_says_so_in_one_line(
    demo: Path, words: tuple[str, ...], line: str
) -> None:
    for name in ("run.safetensors", "empty.onnx"):
        (demo / name).write_bytes(b"")
    done = light(demo, *words)
    assert (done.returncode, done.stdout) == (ExitCode.BAD_INPUT, "")
    assert done.stderr == f"detkit: error: detkit {line}\n"


def test_python_is_told_the_same_and_a_missing_package_of_no_extra_stays_a_defect(
    demo: Path,
) -> None:
    code = (
        "import detkit\nfrom detkit.errors import DetkitError\n"
        "try:\n    detkit.train\nexcept DetkitError as error:\n    print(error)"
    )
    done = python(code, absent=[*TRAIN, *ONNX], folder=demo)
    assert done.stdout == 'detkit.train needs PyTorch: pip install "detkit[train]"\n', done.stderr
    done = python(COMMAND, "check", "photos", absent=["defusedxml"], folder=demo)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "unexpected ModuleNotFoundError" in done.stderr and "defect" in done.stderr


def test_an_onnx_model_detects_and_is_scored_without_the_packages_of_training(
    demo: Path, exported: Path
) -> None:
    absent = [*TRAIN, "onnx", "onnxscript"]
    done = python(COMMAND, "detect", exported, "photos/JPEGImages", absent=absent, folder=demo)
    assert (done.returncode, len(done.stdout.splitlines())) == (ExitCode.DONE, 12), done.stderr
    words = ("eval", exported, "photos", "--json", "--errors")
    done = python(COMMAND, *words, absent=absent, folder=demo)
    assert done.returncode == ExitCode.DONE, done.stderr
    report = json.loads(done.stdout)
    assert report["num_images"] > 0 and "misses" not in report
    assert 'needs PyTorch: pip install "detkit[train]"' in done.stderr


def test_where_torch_is_installed_an_onnx_model_does_not_import_it(
    demo: Path, exported: Path
) -> None:
    code = (
        "from detkit.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    for words in (("detect", exported, "photos/JPEGImages"), ("eval", exported, "photos")):
        done = python(code, *words, absent=[], folder=demo)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


boxes = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(0, 8)] * 2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(boxes, boxes, st.tuples(*[st.integers(0, 5)] * 2)), max_size=25),
    st.booleans(),
    st.sampled_from(["greedy", "soft", "soft-linear"]),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.integers(1, 12),
)
def test_selection_is_that_of_torch_with_ties_and_boxes_of_each_class(
    rows: list[tuple[tuple[int, ...], ...]],
    by_class: bool,
    method: str,
    nms_thresh: float,
    top_k: int,
) -> None:
    corners = np.array([row[:2] for row in rows], np.float32).reshape(-1, 2, 4)
    corners[..., 2:] += corners[..., :2]
    given_boxes = corners if by_class else corners[:, 0]
    scores = np.array([row[2] for row in rows], np.float32).reshape(-1, 2) / 5
    options = {
        "score_thresh": 0.1,
        "nms_thresh": nms_thresh,
        "top_k": top_k,
        "max_detections": 9,
        "method": method,
    }
    found = select(given_boxes, scores, **options)
    wanted = nms.select(torch.from_numpy(given_boxes), torch.from_numpy(scores), **options)
    np.testing.assert_array_equal(found[2], wanted[2].numpy())
    np.testing.assert_array_equal(found[0], wanted[0].numpy())
    np.testing.assert_allclose(found[1], wanted[1].numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("own", "size"),
    [
        ((240, 320), (300, 300)),
        ((240, 320), (61, 47)),
        ((240, 320), (480, 700)),
        ((240, 320), (240, 320)),
        ((240, 320), (240, 200)),
        ((5, 700), (30, 40)),
        ((1, 1), (8, 3)),
    ],
)
def test_images_are_resized_to_the_grey_levels_of_training(
    own: tuple[int, int], size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*own, 3), np.uint8)
    picture = cv2.GaussianBlur(noise, (5, 5), 1)
    picture[own[0] // 4 : own[0] // 2, own[1] // 4 : own[1] // 2] = (250, 20, 90)
    for antialias, most in ((True, 0), (False, 1)):
        prepare = Preparation(lambda height, width: size, (0, 0, 0), (1, 1, 1), antialias)
        wanted = prepare._resized(torch.from_numpy(picture).permute(2, 0, 1), size)
        found = resized(picture, size, antialias=antialias).astype(np.float32)
        assert found.shape == (*size, 3)
        assert np.abs(found - wanted.permute(1, 2, 0).numpy().astype(np.float32)).max() <= most
