"""ONNX files: the same answers as the detector, from the file alone, or no file at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import running
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import detkit
from detkit.cli import main
from detkit.config import DetectorConfig, Recipe
from detkit.data.images import read_image, write_image
from detkit.data.sources import ImageSource
from detkit.detector import Detector
from detkit.detectors import add_plugin, load_backend
from detkit.errors import DetkitError, ExitCode, UsageError
from detkit.inference.onnx import NetworkSize, OnnxDetector, run_onnx
from detkit.inference.onnx_export import (
    LARGEST_DIFFERENCE,
    Parity,
    TracedOnnx,
    _in_order,
    _within,
    export_onnx,
)
from detkit.inference.predict import predict
from detkit.model_file import save_model
from detkit.structures import Batch, Candidates, Sample

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom_backend.py"
CLASSES = ("ball", "grüner Würfel")


def picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return noise with a dark and a light rectangle."""
    image = np.random.default_rng(seed).integers(90, 160, (height, width, 3), dtype=np.uint8)
    image[height // 8 : height // 2, width // 8 : width // 2] = 10
    image[height // 2 :, width // 2 : width * 7 // 8] = 240
    return image


def sample(image: NDArray[np.uint8]) -> Sample:
    none = torch.zeros(0)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return Sample(pixels, none.view(0, 4), none.long(), none.bool())


@dataclass(frozen=True)
class Halved:
    """A network size that follows the image."""

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        return height // 2, width // 2


class Plain(Detector):
    """One convolution: a box and its scores at every eighth pixel; quick to export."""

    name: ClassVar[str] = "plain"
    paper: ClassVar[str] = "none"
    recipe: ClassVar[Recipe] = Recipe()
    short_recipe: ClassVar[Recipe] = Recipe()
    config_class: ClassVar[type[DetectorConfig]] = DetectorConfig

    def __init__(self) -> None:
        super().__init__(DetectorConfig(score_thresh=0.2, max_detections=7), CLASSES)
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 4 + len(CLASSES), 8, stride=8)

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return NetworkSize((48, 64), "stretch")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"none": self.head(batch.images).sum()}

    def candidates(self, batch: Batch) -> list[Candidates]:
        values = self.head(batch.images).flatten(2).transpose(1, 2)
        corners = values[..., :2].sigmoid() * 20
        boxes = torch.cat([corners, corners + 10 + values[..., 2:4].abs()], dim=-1)
        return [Candidates(*one) for one in zip(boxes, values[..., 4:].sigmoid())]


class FollowsImage(Plain):
    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return Halved()


class ExportedWrongly(Plain):
    """Gives other scores inside the exporter, as a wrongly translated layer would."""

    offset = 0.01

    def candidates(self, batch: Batch) -> list[Candidates]:
        found = super().candidates(batch)
        if not torch.compiler.is_exporting():
            return found
        return [dataclasses.replace(one, scores=one.scores + self.offset) for one in found]


class ExportedAsNan(ExportedWrongly):
    offset = float("nan")


class LooksAtValues(Plain):
    """Decides in Python by a pixel's value, which no graph can hold."""

    def candidates(self, batch: Batch) -> list[Candidates]:
        found = super().candidates(batch)
        return found[::-1] if batch.images.sum() > 0 else found


class NeedsProposals(Plain):
    proposal_method: ClassVar[str | None] = "selective-search"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    export_onnx(Plain(), path)
    return path


@pytest.fixture(scope="module", params=["ssd", "one-map"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Detector, Path, Parity]:
    add_plugin(str(EXAMPLE))
    backend = load_backend(request.param)
    settings = {"backbone": "tiny", "size": 96, "score_thresh": 0.005, "max_detections": 30}
    torch.manual_seed(0)
    detector = backend(backend.config_class(**settings), CLASSES).eval()
    detector.detect(detector.prepare([sample(picture(0, 50, 60))]))  # fills caches, as users do
    path = tmp_path_factory.mktemp("ö") / f"{request.param}.onnx"
    return detector, path, export_onnx(detector, path, images=[picture(9, 33, 90)])


def test_the_file_alone_detects_what_the_detector_does(
    exported: tuple[Detector, Path, Parity],
) -> None:
    detector, path, _ = exported
    for seed, (height, width) in enumerate([(80, 120), (200, 60), (96, 96)]):
        image = picture(seed, height, width)
        (wanted,) = detector.detect(detector.prepare([sample(image)]))
        found = run_onnx(path, image)
        assert len(wanted.boxes) > 5
        assert found.labels.tolist() == wanted.labels.tolist()
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
        assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64


def test_another_program_gets_the_candidates_by_the_metadata(
    exported: tuple[Detector, Path, Parity],
) -> None:
    detector, path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    values = {key: json.loads(value) for key, value in metadata.items()}
    height, width = values["size"]
    image = picture(5, height, width)  # of the network's size: nothing to resize
    normalised = (image / 255.0 - values["mean"]) / values["std"]
    pixels = normalised.transpose(2, 0, 1)[None].astype(np.float32)
    boxes, scores = session.run(["boxes", "scores"], {"images": pixels})
    with torch.no_grad():
        (wanted,) = detector.candidates(detector.prepare([sample(image)]))
    np.testing.assert_allclose(boxes[0], wanted.boxes, atol=1e-2)
    np.testing.assert_allclose(scores[0], wanted.scores, atol=1e-5)
    assert scores.shape == (1, len(wanted.boxes), len(CLASSES))


def test_the_metadata_say_everything_but_where_the_file_was_made(
    exported: tuple[Detector, Path, Parity],
) -> None:
    detector, path, _ = exported
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model)
    values = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert values == {
        "detkit": detkit.__version__,
        "backend": detector.name,
        "class_names": list(CLASSES),
        "size": [96, 96],
        "resize": "stretch",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "antialias": True,
        "score_thresh": 0.005,
        "nms_thresh": detector.config.nms_thresh,
        "nms_method": "greedy",
        "nms_sigma": 0.5,
        "nms_min_score": 0.001,
        "clip_before_nms": detector.config.clip_before_nms,
        "pre_nms_top_k": detector.config.pre_nms_top_k,
        "max_detections": 30,
        "tile": 0,
        "tile_overlap": 0.2,
    }
    content = path.read_bytes()
    for folder in (Path(detkit.__file__).parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in content


def test_parity_is_measured_on_drawn_and_given_images(
    exported: tuple[Detector, Path, Parity],
) -> None:
    parity = exported[2]
    assert parity.num_images == 3 + 1
    assert 0 < parity.scores < 1e-4 and 0 < parity.boxes < 1e-2
    assert parity.side == 96 and parity.holds


def test_the_detector_can_be_trained_on_after_an_export(
    exported: tuple[Detector, Path, Parity],
) -> None:
    detector = exported[0]
    assert all(parameter.requires_grad for parameter in detector.parameters())
    one = dataclasses.replace(
        sample(picture(0, 80, 90)),
        boxes=torch.tensor([[10.0, 10, 45, 40]]),
        labels=torch.tensor([1]),
        difficult=torch.tensor([False]),
    )
    loss = torch.stack(list(detector(detector.prepare([one])).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)


def test_differences_hold_up_to_a_thousandth_of_scores_and_of_the_side() -> None:
    assert Parity(1, LARGEST_DIFFERENCE, 0.3, 300).holds
    assert not Parity(1, 1.1 * LARGEST_DIFFERENCE, 0.0, 300).holds
    assert not Parity(1, 0.0, 0.31, 300).holds
    assert not Parity(1, float("nan"), 0.0, 300).holds


@pytest.mark.parametrize("detector", [ExportedWrongly(), ExportedAsNan()])
def test_a_network_that_was_translated_wrongly_is_not_written(
    detector: Detector, tmp_path: Path
) -> None:
    with pytest.raises(DetkitError, match="not written: .* differs from plain, scores by up to"):
        export_onnx(detector, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="plain: its network cannot be translated") as error:
        export_onnx(LooksAtValues(), tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_detector_with_a_second_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="needs proposals"):
        export_onnx(NeedsProposals(), tmp_path / "m.onnx")


def test_a_missing_extra_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DetkitError, match=r'needs onnxscript: pip install "detkit\[onnx\]"$'):
        export_onnx(Plain(), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DetkitError, match=r'needs onnxruntime: pip install "detkit\[onnx\]"$'):
        run_onnx(tmp_path / "m.onnx", picture(0, 8, 8))


def test_an_existing_file_is_replaced_only_by_force(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(UsageError, match="--force"):
        export_onnx(Plain(), path)
    assert path.read_text(encoding="utf-8") == "precious"
    export_onnx(Plain(), path, force=True)
    assert path.read_bytes() == plain.read_bytes()  # equal exports are equal files
    with pytest.raises(UsageError, match="is a folder"):
        export_onnx(Plain(), tmp_path, force=True)
    with pytest.raises(UsageError, match="there is no folder"):
        export_onnx(Plain(), tmp_path / "no" / "m.onnx")
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_that_cannot_be_read_leaves_the_old_file(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    path = tmp_path / "m.onnx"
    path.write_bytes(plain.read_bytes())
    images = (read_image(tmp_path / name) for name in ("cut.png",))
    with pytest.raises(DetkitError, match="cut.png"):
        export_onnx(Plain(), path, images=images, batch_size=2, force=True)
    assert path.read_bytes() == plain.read_bytes()


def test_an_onnx_file_is_not_trained(plain: Path) -> None:
    exported = TracedOnnx(OnnxDetector(plain))
    with pytest.raises(DetkitError, match="cannot be trained"):
        exported(exported.prepare([sample(picture(0, 9, 9))]))


def test_a_file_of_two_images_a_run_takes_any_number(tmp_path: Path) -> None:
    detector = Plain().eval()
    parity = export_onnx(detector, tmp_path / "m.onnx", batch_size=2)
    assert parity.holds
    exported = OnnxDetector(tmp_path / "m.onnx")
    assert exported.input_shape == (2, 3, 48, 64)
    images = [ImageSource.of_pixels(str(seed), picture(seed, 50, 70)) for seed in range(3)]
    for batch_size in (1, 3):
        wanted = list(predict(detector, images, batch_size=batch_size))
        found = list(predict(exported, images, batch_size=batch_size))
        assert len(found) == 3
        for one, other in zip(wanted, found):
            assert one.boxes.size and one.labels == other.labels
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_a_file_tiles_as_its_model_does_and_one_of_before_has_no_tiles(tmp_path: Path) -> None:
    import onnx

    detector = Plain().eval()
    detector.config = dataclasses.replace(detector.config, tile=64, tile_overlap=0.25)
    export_onnx(detector, tmp_path / "m.onnx")
    exported = OnnxDetector(tmp_path / "m.onnx")
    assert (exported.config.tile, exported.config.tile_overlap) == (64, 0.25)
    image = ImageSource.of_pixels("x", picture(1, 112, 160))
    (wanted,), (found,) = predict(detector, [image]), predict(exported, [image])
    (plain,) = predict(exported, [image], tile=0)
    assert len(wanted.labels) > len(plain.labels) > 0
    assert sorted(wanted.labels) == sorted(found.labels)
    model = onnx.load(tmp_path / "m.onnx")
    later = ("tile", "nms_sigma", "nms_min", "clip")
    rest = [entry for entry in model.metadata_props if not entry.key.startswith(later)]
    del model.metadata_props[:]
    model.metadata_props.extend(rest)
    onnx.save(model, tmp_path / "old.onnx")
    old = OnnxDetector(tmp_path / "old.onnx").config
    assert (old.tile, old.clip_before_nms) == (0, True)


def test_images_are_fitted_into_a_network_whose_size_follows_them(tmp_path: Path) -> None:
    detector = FollowsImage().eval()
    export_onnx(detector, tmp_path / "m.onnx")
    exported = OnnxDetector(tmp_path / "m.onnx")
    assert exported.rule == NetworkSize((256, 256), "fit")  # half of the probed 512 x 512
    square = picture(1, 512, 512)
    (wanted,) = detector.detect(detector.prepare([sample(square)]))
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", square).boxes, wanted.boxes, atol=1e-2)
    wide = run_onnx(tmp_path / "m.onnx", picture(1, 100, 400)).boxes
    assert len(wide) and (wide[:, 3] <= 100).all() and (wide[:, 2] <= 400).all()


def test_fitting_keeps_the_shape_and_stretching_does_not() -> None:
    assert NetworkSize((600, 600), "fit")(480, 640) == (450, 600)
    assert NetworkSize((600, 600), "fit")(2000, 1) == (600, 1)
    assert NetworkSize((300, 400), "stretch")(7, 9) == (300, 400)


def test_files_of_others_are_refused_by_name(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [other])
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for name, reason in (
        ("foreign", "not an ONNX file of detkit"),
        ("broken", "onnxruntime cannot open it"),
        ("missing", "there is no such ONNX file"),
    ):
        with pytest.raises(DetkitError, match=f"{name}.onnx: {reason}"):
            OnnxDetector(tmp_path / f"{name}.onnx")


def test_the_command_writes_the_file_and_says_the_differences_on_stderr(tmp_path: Path) -> None:
    backend = load_backend("ssd")
    detector = backend(backend.config_class(backbone="tiny", size=96), CLASSES)
    names = ("m.safetensors", "m.onnx", "photos/photo.png")
    model, out, photo = (tmp_path / name for name in names)
    photo.parent.mkdir()
    save_model(model, detector, data_hash=None, scores=None)
    write_image(photo, picture(0, 70, 50))
    words = [sys.executable, "-m", "detkit", "export", model, "-o", out, "--verify", photo.parent]
    done = subprocess.run(
        words,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (ExitCode.DONE, ""), done.stderr
    no_labels, first, second = done.stderr.splitlines()
    assert (
        no_labels == f"{photo.parent}: no labelled objects there: its images are compared, no mAP"
    )
    assert "on 4 images: scores differ by at most" in first and "network pixels" in first
    assert second.startswith(f"{out}: ")
    assert OnnxDetector(out).backend == "ssd"
    # The other commands take it like any model.
    found = [running.detkit("detect", one, photo, "--score", "0.3") for one in (model, out)]
    boxes = [json.loads(one.stdout)["detections"] for one in found]
    assert [one.returncode for one in found] == [0, 0] and boxes[0]
    for one, other in zip(*boxes, strict=True):
        assert one["label"] == other["label"]
        np.testing.assert_allclose(one["box"], other["box"], atol=0.05)


def test_the_command_keeps_an_old_file_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path / "m.safetensors"), "-o", str(out)])
    assert end.value.code == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == "" and "--force" in printed.err
    assert out.read_text(encoding="utf-8") == "precious"


def test_only_the_order_of_proposals_may_differ_in_the_comparison() -> None:
    torch.manual_seed(0)
    boxes, scores = torch.rand(1, 50, 3, 4) * 100, torch.rand(1, 50, 3)
    swapped = torch.arange(50)
    swapped[[7, 8]] = swapped[[8, 7]]
    moved = boxes[:, swapped] + 1e-5
    found = _in_order((boxes, scores), (moved, scores[:, swapped]), side=100)
    torch.testing.assert_close(found[0], boxes, atol=1e-4, rtol=0)
    assert torch.equal(found[1], scores)
    two = torch.cat([boxes, boxes + 1]), torch.cat([scores, scores])  # each image has its order
    found = _in_order(
        two, (torch.cat([moved, two[0][1:]]), torch.cat([scores[:, swapped], scores])), side=100
    )
    torch.testing.assert_close(found[0], two[0], atol=1e-4, rtol=0)
    assert torch.equal(found[1], two[1])
    wrong = moved.clone()
    wrong[0, 20] = moved[0, 21]  # one box twice, and another is missing
    found = _in_order((boxes, scores), (wrong, scores[:, swapped]), side=100)
    assert float((found[0] - boxes).abs().max()) > 1
    none = moved.clone()
    none[0, 3] = torch.nan
    assert _in_order((boxes, scores), (none, scores), side=100)[0] is none


def test_a_proposal_in_a_hundred_may_be_another_if_it_scores_nothing() -> None:
    torch.manual_seed(0)
    boxes, scores = torch.rand(1, 100, 3, 4) * 100, torch.rand(1, 100, 3)
    for number, score, holds in ((1, 1e-4, True), (2, 1e-4, False), (1, 0.5, False)):
        scores[0, :number] = score
        others = boxes.clone()
        others[0, :number] = torch.rand(number, 3, 4) * 100
        found = _in_order((boxes, scores), (others.flip(1), scores.flip(1)), side=100)
        assert (float((found[0] - boxes).abs().max()) < 0.1) is holds
        torch.testing.assert_close(found[1], scores)


def test_candidates_in_the_room_beside_a_fitted_image_are_left_out_of_the_comparison() -> None:
    boxes = torch.tensor([[[10.0, 10, 30, 50], [45, 8, 60, 20], [30, 0, 60, 9]]])
    scores = torch.tensor([[[0.5, 0.4], [0.3, 0.2], [0.1, 0.9]]])
    found = _within(boxes, scores, (40, 40), is_fitted=True)  # of 40 x 64 network pixels
    assert found[0].tolist() == [[[10, 10, 30, 40], [0, 0, 0, 0], [30, 0, 40, 9]]]
    torch.testing.assert_close(found[1][0, 1], torch.zeros(2))
    assert torch.equal(found[1][0, ::2], scores[0, ::2])
    by_class = _within(boxes[:, :, None].expand(-1, -1, 2, -1), scores, (40, 40), is_fitted=True)
    assert torch.equal(by_class[0][:, :, 1], found[0]) and torch.equal(by_class[1], found[1])
    whole = _within(boxes, scores, (40, 64), is_fitted=False)
    assert whole[0][0, 1].tolist() == [45, 8, 60, 20] and torch.equal(whole[1], scores)
