"""Darknet's weights files, written here by hand from the format's description."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from running import detkit
from torch import Tensor
from torch.nn import functional as F

from detkit.detectors.ssd import SSD
from detkit.detectors.yolov1 import VOC_CLASSES, YOLOv1, YOLOv1Config
from detkit.errors import DetkitError
from detkit.inference.models import load_model
from detkit.networks import backbones, darknet, pretrained, yolo_heads
from detkit.networks.darknet import read_weights

# Sec. 2.1 and Fig. 3, read off anew: output channels and kernel side of each convolution.
FIG_3 = """
64x7 192x3 128x1 256x3 256x1 512x3
256x1 512x3 256x1 512x3 256x1 512x3 256x1 512x3 512x1 1024x3
512x1 1024x3 512x1 1024x3 1024x3 1024x3 1024x3 1024x3
"""
LAYERS = [tuple(int(part) for part in word.split("x")) for word in FIG_3.split()]
FAST_LAYERS = [(width, 3) for width in (16, 32, 64, 128, 256, 512, 1024, 1024, 1024)]
NEW, OLD = struct.pack("<iiiq", 0, 2, 0, 7), struct.pack("<iiii", 0, 1, 0, 7)
OLDEST = struct.pack("<fffi", 0.001, 0.9, 0.0005, 7)  # before there were versions


class Writer:
    """Writes layers of random numbers one after the other, and keeps what it wrote."""

    def __init__(self, path: Path, header: bytes, seed: int = 0) -> None:
        self.path, self.content = path, [header]
        self.random = np.random.default_rng(seed)
        self.convs: list[dict[str, Tensor]] = []
        self.fcs: list[dict[str, Tensor]] = []

    def draw(self, *shape: int, scale: float = 1.0, low: float | None = None) -> Tensor:
        values = self.random.standard_normal(shape, dtype=np.float32) * scale
        if low is not None:
            values = low + abs(values)
        return torch.from_numpy(values.astype(np.float32))

    def put(self, *tensors: Tensor) -> None:
        self.content += [tensor.numpy().astype("<f4").tobytes() for tensor in tensors]

    def conv(self, before: int, after: int, side: int, *, norm: bool = False) -> None:
        made = {"bias": self.draw(after, scale=0.1)}
        self.put(made["bias"])
        if norm:
            made["scale"] = self.draw(after, low=0.5)
            made["mean"] = self.draw(after, scale=0.3)
            made["variance"] = self.draw(after, low=0.1)
            self.put(made["scale"], made["mean"], made["variance"])
        made["kernels"] = self.draw(after, before, side, side, scale=(before * side**2) ** -0.5)
        self.put(made["kernels"])
        self.convs.append(made)

    def network(self, layers: list[tuple[int, int]], *, norm: bool = False) -> None:
        before = 3
        for after, side in layers:
            self.conv(before, after, side, norm=norm)
            before = after

    def connected(self, inputs: int, outputs: int, *, transposed: bool = False) -> None:
        weights = self.draw(outputs, inputs, scale=inputs**-0.5)
        self.fcs.append({"bias": self.draw(outputs, scale=0.1), "weights": weights})
        self.put(self.fcs[-1]["bias"], weights.t().contiguous() if transposed else weights)

    def write(self) -> Path:
        self.path.write_bytes(b"".join(self.content))
        return self.path


def run(convs: list[dict[str, Tensor]], image: Tensor, plan: str) -> Tensor:
    """Return what darknet does: `plan` has a letter a convolution, S strided, P a pool after it."""
    x = image
    for made, how in zip(convs, plan.split()):
        side = made["kernels"].shape[-1]
        x = F.conv2d(x, made["kernels"], None, 2 if "S" in how else 1, side // 2)
        if "scale" in made:
            deviation = made["variance"].sqrt() + 0.000001
            x = (x - made["mean"].view(-1, 1, 1)) / deviation.view(-1, 1, 1)
            x = x * made["scale"].view(-1, 1, 1)
        x = x + made["bias"].view(-1, 1, 1)
        x = torch.where(x > 0, x, 0.1 * x)
        x = F.max_pool2d(x, 2) if "P" in how else x
    return x


EXTRACTION_PLAN = "SP P - - - P - - - - - - - - - P - - - -"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Make the paper's network 16 times narrower: its 272 million weights are 1.1 GB."""
    layers = [(width // 16, side) for width, side in LAYERS]
    monkeypatch.setattr(darknet, "EXTRACTION", tuple(layers[:20]))
    monkeypatch.setattr(darknet, "DETECTION", tuple(layers[20:]))
    monkeypatch.setattr(yolo_heads, "DETECTION", tuple(layers[20:]))
    monkeypatch.setattr(darknet, "FC_INPUTS", 64)  # of an image of 64 pixels: one place
    architecture = backbones.ARCHITECTURES["darknet"]
    taps = tuple(dataclasses.replace(t, channels=t.channels // 16) for t in architecture.taps)
    changed = dataclasses.replace(architecture, taps=taps)
    monkeypatch.setattr(backbones, "ARCHITECTURES", {**backbones.ARCHITECTURES, "darknet": changed})
    return layers


def write_narrow(
    path: Path, layers: list[tuple[int, int]], header: bytes = NEW, outputs: int = 1470
) -> Writer:
    writer = Writer(path, header)
    writer.network(layers)
    writer.connected(64, 4096, transposed=header is OLDEST)
    writer.connected(4096, outputs, transposed=header is OLDEST)
    writer.write()
    return writer


def test_the_paper_has_24_convolutions_and_fast_yolo_9() -> None:
    assert [*darknet.EXTRACTION, *darknet.DETECTION] == LAYERS and len(LAYERS) == 24
    assert list(darknet.FAST) == FAST_LAYERS


@pytest.mark.parametrize("header", [NEW, OLD, OLDEST])
def test_the_papers_network_gives_what_darknet_gives(
    tmp_path: Path, narrow: list[tuple[int, int]], header: bytes
) -> None:
    writer = write_narrow(tmp_path / "yölo.weights", narrow, header)
    detector = YOLOv1(YOLOv1Config(backbone="darknet", size=64), VOC_CLASSES).eval()
    state = YOLOv1.convert_foreign(read_weights(writer.path))
    assert state is not None
    detector.load_state_dict(state)
    image = torch.randn(2, 3, 64, 64)
    x = run(writer.convs, image, EXTRACTION_PLAN + " - S - -").flatten(1)
    first, last = writer.fcs
    x = F.leaky_relu(x @ first["weights"].t() + first["bias"], 0.1)
    expected = x @ last["weights"].t() + last["bias"]
    with torch.no_grad():
        found = detector.predict(image)
    # Darknet's order: 49 x 20 probabilities, 49 x 2 confidences, 49 x 2 x 4 coordinates.
    torch.testing.assert_close(found.probs[1, 5, 3], expected[1, 5 * 20 + 3])
    torch.testing.assert_close(found.confidences[0, 48, 1], expected[0, 980 + 97])
    torch.testing.assert_close(found.boxes[1, 3, 1], expected[1, 1078 + 28 : 1078 + 32])
    ours = torch.cat([x.flatten(1) for x in (found.probs, found.confidences, found.boxes)], dim=1)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("classes", [0, 1000])
def test_extraction_gives_the_same_maps_with_its_norms_folded(
    tmp_path: Path, narrow: list[tuple[int, int]], norm: bool, classes: int
) -> None:
    writer = Writer(tmp_path / "extraction.weights", NEW)
    writer.network(narrow[:20], norm=norm)
    if classes:
        writer.connected(64, classes)
    backbone = backbones.build("darknet").eval()
    pretrained.load_weights(backbone, str(writer.write()))
    assert backbone.pretrained and not backbone.folded_norms
    torch.manual_seed(0)  # else the last bits hang on which tests ran before
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = backbone(image)[-1]
    expected = run(writer.convs, image, EXTRACTION_PLAN)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert pretrained.identify(writer.path) == "darknet"


def test_fast_yolo_is_read_at_its_full_width(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "yolo-tiny.weights", OLD)
    writer.network(FAST_LAYERS)
    writer.connected(7 * 7 * 1024, 256)
    writer.connected(256, 4096)
    writer.connected(4096, 1470)
    assert writer.write().stat().st_size == 180_357_512  # as published
    detector = YOLOv1.from_foreign(read_weights(writer.path), "yolo-tiny.weights")
    assert detector is not None and detector.config.backbone == "fast_yolo"
    assert detector.class_names[14] == "person"
    image = torch.randn(1, 3, 448, 448)
    x = run(writer.convs, image, "P P P P P P - - -").flatten(1)
    x = x @ writer.fcs[0]["weights"].t() + writer.fcs[0]["bias"]
    x = F.leaky_relu(x @ writer.fcs[1]["weights"].t() + writer.fcs[1]["bias"], 0.1)
    expected = x @ writer.fcs[2]["weights"].t() + writer.fcs[2]["bias"]
    with torch.no_grad():
        found = detector.predict(image)
    torch.testing.assert_close(found.boxes.flatten(), expected[0, 1078:], atol=1e-4, rtol=1e-3)


def test_pixels_are_normalised_as_the_network_was_trained(
    tmp_path: Path, narrow: list[tuple[int, int]]
) -> None:
    plain = write_narrow(tmp_path / "yolo.weights", narrow)
    config = YOLOv1.config_of(read_weights(plain.path))
    assert config is not None and (config.mean, config.std) == ((0.5,) * 3, (0.5,) * 3)
    normed = Writer(tmp_path / "extraction.weights", NEW)
    normed.network(narrow[:20], norm=True)
    config = SSD.config_of(read_weights(normed.write()))
    assert config is not None and (config.mean, config.std) == ((0.0,) * 3, (1.0,) * 3)
    assert config.backbone == "darknet"
    assert YOLOv1.config_of({"features.0.weight": torch.zeros(1)}) is None


def sparse(path: Path, size: int, header: bytes = NEW) -> Path:
    """Write a file of `size` bytes that takes no room."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
    return path


@pytest.mark.parametrize("size", [789_312_988, 789_312_992])  # as published; by a later darknet
def test_the_circulating_yolov1_weights_are_refused_as_what_they_are(
    tmp_path: Path, size: int
) -> None:
    header = OLD if size % 8 else NEW
    with pytest.raises(DetkitError, match=r"batch norm, a locally connected layer, 3 boxes"):
        read_weights(sparse(tmp_path / "yolov1.weights", size, header))


def test_yolo_small_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match=r"small.weights: .* yolo-small.cfg"):
        read_weights(sparse(tmp_path / "small.weights", 375_881_736, OLD))


def test_the_published_extraction_file_has_the_size_we_expect(tmp_path: Path) -> None:
    state = read_weights(sparse(tmp_path / "extraction.conv.weights", 89_721_616, OLD))
    assert len([key for key in state if key.startswith("convs.")]) == 40
    assert state["convs.19.weight"].shape == (1024, 512, 3, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "only 0 bytes"),
        (NEW, "a header and no weights"),
        (NEW + b"abc", "cut short"),
        (NEW + bytes(400), "100 weights are those of none"),
    ],
)
def test_files_that_hold_no_network_are_refused_in_one_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "bäd.weights"
    path.write_bytes(content)
    with pytest.raises(DetkitError, match=words) as caught:
        read_weights(path)
    assert "bäd.weights" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DetkitError, match="no such weights file"):
        read_weights(tmp_path / "none.weights")


def test_a_damaged_file_is_refused(tmp_path: Path, narrow: list[tuple[int, int]]) -> None:
    writer = Writer(tmp_path / "nan.weights", NEW)
    writer.network(narrow[:20])
    writer.content[3] = writer.content[3][:-4] + struct.pack("<f", float("nan"))
    with pytest.raises(DetkitError, match="nan.weights: damaged: convs.1.bias"):
        read_weights(writer.write())


def test_a_detector_of_unknown_classes_is_refused_but_trained_from(
    tmp_path: Path, narrow: list[tuple[int, int]]
) -> None:
    writer = write_narrow(tmp_path / "mine.weights", narrow, outputs=49 * 13)
    state = read_weights(writer.path)
    with pytest.raises(DetkitError, match="mine.weights: a detector of 3 classes, whose names"):
        YOLOv1.from_foreign(state, str(writer.path))
    detector = YOLOv1(YOLOv1Config(backbone="darknet", size=64), ("cell",))
    start = detector.head.predictor.weight.clone()
    detector.load_weights(str(writer.path))
    assert detector.pretrained
    torch.testing.assert_close(detector.head.get_parameter("fcs.0.bias"), writer.fcs[0]["bias"])
    torch.testing.assert_close(detector.head.predictor.weight, start)


def test_detect_takes_a_weights_file_and_says_what_a_classifiers_is_good_for(
    tmp_path: Path, narrow: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of = YOLOv1.config_of
    small = lambda state: dataclasses.replace(config_of(state), size=64)  # noqa: E731
    monkeypatch.setattr(YOLOv1, "config_of", small)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 50, 3), 90, np.uint8))
    whole = write_narrow(tmp_path / "yolo.weights", narrow)
    done = detkit("detect", whole.path, tmp_path / "a.png", "-f", "jsonl", "--device", "cpu")
    assert done.returncode == 0 and '"detections": [' in done.stdout, done.stderr
    classifier = Writer(tmp_path / "extraction.weights", NEW)
    classifier.network(narrow[:20])
    done = detkit("detect", classifier.write(), tmp_path / "a.png")
    assert done.returncode == 3 and "detkit train --weights" in done.stderr


@pytest.mark.parametrize("backend", ["yolov1", "ssd"])
def test_training_starts_from_the_classifier_in_a_weights_file(
    tmp_path: Path, narrow: list[tuple[int, int]], backend: str
) -> None:
    writer = Writer(tmp_path / "extraction.weights", NEW)
    writer.network(narrow[:20], norm=True)
    data = tmp_path / "data"
    data.mkdir()
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for number in range(4):
        cv2.imwrite(str(data / f"{number}.png"), np.full((80, 80, 3), 40 * number, np.uint8))
        lines.append(f"{number}.png,80,80,a,10,10,30,30")
    (data / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["--set", "size=64", "--set", "batch_size=2", "--max-steps", "1", "--device", "cpu"]
    words += ["--set", "head=convolutional"] if backend == "yolov1" else []
    run_dir = tmp_path / "run"
    done = detkit(
        "train", data, "--model", backend, "--weights", writer.write(), *words, "-o", run_dir
    )
    assert done.returncode == 0, done.stderr
    trained = load_model(run_dir / "last.safetensors")
    assert trained.config.backbone == "darknet" and trained.config.std == (1.0, 1.0, 1.0)
    kernels, _ = darknet.fold_norm(
        *(writer.convs[0][key].numpy() for key in ("kernels", "bias", "scale", "mean", "variance"))
    )
    first = trained.backbone.get_parameter("blocks.conv1.0.weight")
    # One step of warm-up moves none by more than lr; YOLOv1 trains this layer, SSD does not.
    moved = (first.detach() - torch.from_numpy(kernels)).abs().max()
    assert 0 < moved < 1e-3 if backend == "yolov1" else moved < 1e-6
