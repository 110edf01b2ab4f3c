"""What a GPU finds and learns, beside the CPU: `make test-gpu` on a machine that has one.

`DETKIT_TEST_DEVICE=mps` tries the same on Apple's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from running import process
from runs import metrics, run, stop_after
from test_contract import make, sample
from torch import Tensor
from toy import CLASSES, RECIPE, Toy, write_images

from detkit.config import DetectorConfig, Recipe
from detkit.data.demo.pictures import write_demo
from detkit.data.records import ImageRecord
from detkit.detector import Detector
from detkit.detectors import backend_names, load_backend
from detkit.errors import DetkitError, ExitCode
from detkit.geometry import nms
from detkit.inference.models import load_model
from detkit.model_file import save_model
from detkit.networks.precision import choose_precision, has_bf16_cores
from detkit.networks.roi_pooling import RoIPooling
from detkit.structures import Batch
from detkit.training.dataset import TrainingDataset
from detkit.training.learner import Learner, make_fabric
from detkit.training.loader import BatchStream, SampleStream, batches, open_loader
from detkit.transforms.augmentation import Compose
from detkit.transforms.transfer import copy_stream

DEVICE = os.environ.get("DETKIT_TEST_DEVICE", "cuda")
IS_CUDA = DEVICE.startswith("cuda")
NUM_GPUS = torch.cuda.device_count() if IS_CUDA else 1
IS_HERE = torch.cuda.is_available() if IS_CUDA else True
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not IS_HERE, reason="no GPU here"),
]
only_cuda = pytest.mark.skipif(not IS_CUDA, reason="of CUDA alone")
several = pytest.mark.skipif(NUM_GPUS < 2, reason="one GPU here")


@pytest.fixture(params=backend_names())
def backend(request: pytest.FixtureRequest) -> type[Detector]:
    return load_backend(request.param)


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Let the GPU convolve and multiply in float32, not in TF32, which has three digits."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a labelled folder and the run of an SSD that the GPU trained on it."""
    folder = tmp_path_factory.mktemp("gpü")
    write_demo(folder / "demo", num_images=60)
    done = process(
        *("train", folder / "demo", "--model", "ssd", "--set", "size=128", "--batch-size", "8"),
        *("--max-steps", "150", "--device", DEVICE, "-o", folder / "run"),
    )
    assert done.returncode == 0, done.stderr
    return folder


# Detection


def test_a_gpu_finds_what_the_cpu_finds(backend: type[Detector], full_float32: None) -> None:
    detector = make(backend, score_thresh=0.0, nms_thresh=0.5).eval()
    batch = detector.prepare([sample(1), sample(2)])
    wanted = detector.detect(batch)
    detector.to(DEVICE)
    for one, other in zip(detector.detect(batch.to(DEVICE)), wanted, strict=True):
        # Equal scores may change places, and so may one at the threshold of NMS.
        number = min(len(one.scores), len(other.scores))
        assert number and abs(len(one.scores) - len(other.scores)) <= 2
        np.testing.assert_allclose(one.scores[:number], other.scores[:number], atol=1e-3)
        for label in np.unique(other.labels):
            best, theirs = (found.boxes[found.labels == label][0] for found in (one, other))
            np.testing.assert_allclose(best, theirs, atol=0.05)


def test_the_command_finds_on_a_gpu_what_it_finds_on_the_cpu(place: Path) -> None:
    found = {}
    for device in ("cpu", DEVICE):
        done = process(
            *("detect", place / "run", place / "demo/JPEGImages", "--score", ".3"),
            *("--device", device, "--precision", "32-true"),
        )
        assert done.returncode == 0, done.stderr
        found[device] = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(len(one["detections"]) for one in found["cpu"]) > 30
    for one, other in zip(found["cpu"], found[DEVICE], strict=True):
        assert one["image"] == other["image"]
        mine, theirs = ({d["label"]: d for d in reversed(x["detections"])} for x in (one, other))
        for label in mine.keys() & theirs.keys():
            assert mine[label]["score"] == pytest.approx(theirs[label]["score"], abs=0.02)
            assert mine[label]["box"] == pytest.approx(theirs[label]["box"], abs=1.0)
        assert len(mine.keys() ^ theirs.keys()) <= 1  # TF32: one beside the threshold


@several
def test_two_gpus_find_what_one_does_in_its_order(place: Path, tmp_path: Path) -> None:
    words = ("detect", place / "run", place / "demo/JPEGImages", "--device", "cuda")
    assert process(*words, "-o", tmp_path / "1.jsonl").returncode == 0
    done = process(*words, "--devices", "2", "-o", tmp_path / "2.jsonl")
    assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name).read_text().splitlines() for name in ("1.jsonl", "2.jsonl"))
    for mine, theirs in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert mine["image"] == theirs["image"]
        assert len(mine["detections"]) == pytest.approx(len(theirs["detections"]), abs=2)


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("method", ["greedy", "soft"])
def test_nms_on_a_gpu_keeps_what_it_keeps_on_the_cpu(class_specific: bool, method: str) -> None:
    random = torch.Generator().manual_seed(1)
    shape = (500, 6, 2) if class_specific else (500, 2)
    corners = torch.rand(shape, generator=random) * 200
    boxes = torch.cat([corners, corners + 5 + torch.rand(shape, generator=random) * 80], dim=-1)
    scores = torch.rand((500, 6), generator=random)
    settings = {"score_thresh": 0.1, "nms_thresh": 0.45, "top_k": 200, "max_detections": 100}
    wanted = nms.select(boxes, scores, method=method, **settings)  # type: ignore[arg-type]
    found = nms.select(boxes.to(DEVICE), scores.to(DEVICE), method=method, **settings)  # type: ignore[arg-type]
    for one, other in zip(found, wanted, strict=True):
        assert one.device.type == torch.device(DEVICE).type
        torch.testing.assert_close(one.cpu(), other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("method", ["pool", "align", "spp"])
def test_rois_are_pooled_on_a_gpu_as_on_the_cpu_and_pass_gradients(method: str) -> None:
    random = torch.Generator().manual_seed(2)
    maps = [torch.randn(2, 8, 40 // 2**k, 60 // 2**k, generator=random) for k in range(2)]
    corners = torch.rand((2, 30, 2), generator=random) * 120
    rois = torch.cat([corners, corners + 8 + torch.rand((2, 30, 2), generator=random) * 100], -1)
    pooling = RoIPooling(method, 5, (4, 8))  # type: ignore[arg-type]
    results = []
    for device in ("cpu", DEVICE):
        inputs = [x.to(device).detach().requires_grad_() for x in maps]
        pooled = pooling(inputs, [one.to(device) for one in rois])
        pooled.square().sum().backward()
        grads = [x.grad for x in inputs if x.grad is not None]
        results.append([pooled.detach().cpu(), *(one.cpu() for one in grads)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_model_that_a_gpu_trained_is_exported_and_finds_the_same(
    place: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = process("export", place / "run", "-o", tmp_path / "m.onnx")
    assert done.returncode == 0 and "scores differ by at most" in done.stderr, done.stderr
    means = []
    for model in (place / "run", tmp_path / "m.onnx"):
        done = process("eval", model, place / "demo", "--split", "train", "--json")
        assert done.returncode == 0, done.stderr
        means.append(json.loads(done.stdout)["mAP"])
    assert means[0] == pytest.approx(means[1], abs=0.02)


# Training


def test_the_loss_falls_and_objects_are_found(place: Path, tmp_path: Path) -> None:
    losses = [line["loss"] for line in metrics(place / "run") if "loss" in line]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    done = process(
        *("eval", place / "run", place / "demo", "--split", "train", "--device", DEVICE),
        *("--fail-under", "mAP=.3"),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_backend_learns_two_images_in_every_precision(
    backend: type[Detector], precision: str
) -> None:
    device = torch.device(DEVICE)
    if precision == "bf16-mixed" and IS_CUDA and not has_bf16_cores(device):
        pytest.skip("this GPU has no bf16")
    if precision == "16-mixed" and not IS_CUDA:
        pytest.skip("trained in on GPUs alone")
    recipe = Recipe(batch_size=2, max_steps=60, lr=0.002, optimizer="adamw", clip_norm=10.0)
    detector = make(backend)
    fabric = make_fabric(device, 1, 1, precision)
    learner = Learner(fabric, detector, recipe, precision)
    assert detector.device.type == device.type
    batch = detector.prepare([sample(1), sample(2)])
    sums = []
    for _ in range(60):
        sums.append(sum(learner.gradients(batch).values()))
        learner.update(1.0)
    assert np.isfinite(sums).all()
    assert np.mean(sums[-5:]) < 0.6 * np.mean(sums[:5])
    assert {one.dtype for one in detector.parameters()} == {torch.float32}


def test_a_run_that_goes_on_makes_the_steps_it_would_have_made(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    recipe = replace(RECIPE, max_steps=12)  # with dropout, whose chance is the GPU's own
    options = {"device": DEVICE, "recipe": recipe, "num_workers": 1}
    whole = list(run(records, tmp_path / "whole", **options))
    stop_after(run(records, tmp_path / "parts", **options), 5)
    torch.manual_seed(999)  # what another process has drawn in between
    rest = list(run(records, tmp_path / "parts", resume=True, **options))
    assert [one.step for one in rest] == list(range(6, 13))
    for one, other in zip(rest, whole[5:], strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)


@several
def test_two_gpus_learn(place: Path, tmp_path: Path) -> None:
    done = process(
        *("train", place / "demo", "--model", "ssd", "--set", "size=128", "--batch-size", "8"),
        *("--max-steps", "60", "--device", "cuda", "--devices", "2", "-o", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in metrics(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]


@only_cuda
def test_batches_arrive_whole_however_busy_the_gpu_is(records: list[ImageRecord]) -> None:
    device = torch.device("cuda", 0)
    assert copy_stream(device) is not None
    preparation = make(load_backend("ssd")).preparation
    samples = SampleStream(
        TrainingDataset(records, CLASSES), Compose([]), 0.0, preparation.network_size, 1
    )
    stream = BatchStream(samples, preparation, 4)
    loader = open_loader(stream, 0, num_workers=2, pin_memory=True)
    busy, sums = torch.randn(2048, 2048, device=device), []
    for batch in islice(batches(loader, device), 40):
        for _ in range(20):  # the network's stream is behind the host, and behind the copies
            busy = (busy @ busy).clamp(-1, 1)
        sums.append(torch.stack([batch.images.sum(), *(one.sum() for one in batch.boxes)]))
        del batch  # whose memory the next copies would like to have
    for number, found in enumerate(sums):
        here = stream[number].unpack()  # type: ignore[union-attr]
        wanted = torch.stack([here.images.sum(), *(one.sum() for one in here.boxes)])
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-1)


@only_cuda
def test_auto_asks_the_kind_of_gpu() -> None:
    device = torch.device("cuda", 0)
    wanted = "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "32-true"
    assert choose_precision("auto", device)[0] == wanted
    assert choose_precision("auto", device, measure=False)[0] == wanted


class Greedy(Toy):
    """Asks for more memory than there is."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"box": torch.empty(2**46, device=batch.images.device).mean()}


def test_too_little_memory_is_one_line_with_what_to_do(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    toy = Greedy(DetectorConfig(), CLASSES)
    with pytest.raises(DetkitError, match=r"^out of memory on \w+.*--batch-size 2$") as error:
        list(run(records, tmp_path / "run", toy=toy, device=DEVICE))
    assert error.value.exit_code is ExitCode.BAD_INPUT


def test_the_weights_of_a_gpu_are_read_on_the_cpu(backend: type[Detector], tmp_path: Path) -> None:
    detector = make(backend)
    before = {name: one.clone() for name, one in detector.state_dict().items()}
    save_model(tmp_path / "m.safetensors", detector.to(DEVICE))
    read = load_model(tmp_path / "m.safetensors").state_dict()
    assert read.keys() == before.keys()
    for name, one in read.items():
        assert one.device.type == "cpu" and torch.equal(one, before[name]), name
