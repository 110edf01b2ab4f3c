"""ONNX files that begin with pixels and end in boxes: the detector's own answers, in one graph."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import running
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detkit.cli import main
from detkit.cli.console import Console
from detkit.cli.export_checks import _judged_split, calibration, labelled, require_parity
from detkit.config import DetectorConfig, Recipe, to_json
from detkit.data import open_dataset
from detkit.data.images import write_image
from detkit.data.sources import ImageSource
from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.errors import DetkitError, ExitCode, UsageError
from detkit.evaluation.agreement import agreement
from detkit.inference.onnx import RUNTIME_SETTINGS, NetworkSize, OnnxDetector
from detkit.inference.onnx_ends import with_ends
from detkit.inference.onnx_export import exported
from detkit.inference.onnx_int8 import quantised
from detkit.inference.predict import predict
from detkit.model_file import save_model
from detkit.structures import Batch, Candidates, Detections

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = ("ball", "grüner Würfel")
SIZES = ((48, 64), (37, 90), (200, 61), (31, 20), (97, 300))


def picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return noise with a dark and a light rectangle."""
    image = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    image[height // 8 : height // 2, width // 8 : width // 2] = 10
    image[height // 2 :, width // 2 : width * 7 // 8] = 240
    return image


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A network size that follows the image: its longer side is 64."""

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        return NetworkSize((64, 64), "fit")(height, width)


class Plain(Detector):
    """One convolution: a box, or one of each class, and its scores at every eighth pixel."""

    name: ClassVar[str] = "plain"
    paper: ClassVar[str] = "none"
    recipe: ClassVar[Recipe] = Recipe()
    short_recipe: ClassVar[Recipe] = Recipe()
    config_class: ClassVar[type[DetectorConfig]] = DetectorConfig
    own_boxes: ClassVar[bool] = False

    def __init__(self, **settings: object) -> None:
        config = DetectorConfig(**{"score_thresh": 0.2, "nms_thresh": 0.3, **settings})
        super().__init__(config, CLASSES)
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 4 + len(CLASSES), 8, stride=8)

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return NetworkSize((48, 64), "stretch")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"none": self.head(batch.images).sum()}

    def candidates(self, batch: Batch) -> list[Candidates]:
        values = self.head(batch.images).flatten(2).transpose(1, 2)
        corners = values[..., :2].sigmoid() * 60 - 8  # some lie outside
        boxes = torch.cat([corners, corners + 10 + values[..., 2:4].abs() * 9], dim=-1)
        if self.own_boxes:
            boxes = torch.stack([boxes, boxes + 3], dim=2)
        return [Candidates(*one) for one in zip(boxes, values[..., 4:].sigmoid())]


class Dense(Plain):
    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        none = torch.zeros(0)
        found = self.candidates(Batch(images, [], [], [none], [none], [none]))
        return found[0].boxes[None], found[0].scores[None]


class OwnBoxes(Plain):
    own_boxes: ClassVar[bool] = True


class FollowsImage(Plain):
    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return Fitted()


@functools.cache
def _network_of(kind: type[Plain]) -> bytes:
    return exported(kind().eval())[0]


def file_of(detector: Plain) -> bytes:
    """Return the detector's file: settings are its metadata alone, so a class is exported once."""
    import onnx

    model = onnx.load_from_string(_network_of(type(detector)))
    settings = to_json(detector.config)
    for entry in model.metadata_props:
        if entry.key in RUNTIME_SETTINGS:
            entry.value = json.dumps(settings[entry.key])
    content: bytes = model.SerializeToString()
    return content


def found_by(detector: Detector, images: list[NDArray[np.uint8]]) -> list[Detections]:
    """Return what a detector finds in images that are fitted, as in its file, into one size."""
    found = []
    for image in images:
        batch = detector.prepare_image(image)
        if isinstance(detector, FollowsImage):
            room = (0, 64 - batch.images.shape[3], 0, 64 - batch.images.shape[2])
            batch = dataclasses.replace(batch, images=nn.functional.pad(batch.images, room))
        found += detector.detect(batch)
    return found


def found_in(file: bytes, images: list[NDArray[np.uint8]]) -> list[Detections]:
    model = OnnxDetector(file)
    return [model.detect(model.prepare_image(image))[0] for image in images]


@pytest.mark.parametrize(
    "detector",
    [
        Plain(),
        Plain(antialias=False),
        Plain(clip_before_nms=False, pre_nms_top_k=5, max_detections=4),
        OwnBoxes(),
        OwnBoxes(pre_nms_top_k=7, clip_before_nms=False),
        FollowsImage(),
        FollowsImage(antialias=False),
    ],
    ids=["plain", "no-antialias", "limits", "own-boxes", "own-boxes-limits", "fit", "fit-float"],
)
def test_the_whole_file_finds_in_pixels_what_the_detector_does(detector: Plain) -> None:
    images = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    content = with_ends(file_of(detector.eval()), raw=True, nms=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for image, wanted in zip(images, found_by(detector, images), strict=True):
        boxes, scores, labels, count = session.run(
            ["boxes", "scores", "labels", "count"], {"pixels": image[None]}
        )
        number = int(count[0])
        assert number == len(wanted.scores) > 0
        np.testing.assert_allclose(scores[0, :number], wanted.scores, atol=1e-4)
        np.testing.assert_array_equal(labels[0, :number], wanted.labels)
        np.testing.assert_allclose(boxes[0, :number], wanted.boxes, atol=0.02)
        assert (labels[0, number:] == -1).all() and not scores[0, number:].any()
        assert not boxes[0, number:].any()


@pytest.mark.parametrize("detector", [Plain(), OwnBoxes(), FollowsImage()])
def test_either_end_alone_finds_what_both_do(detector: Plain) -> None:
    images = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    content = file_of(detector)
    raw = with_ends(content, raw=True, nms=False)
    both = with_ends(content, raw=True, nms=True)
    nms = with_ends(content, raw=False, nms=True)
    for one, other in ((raw, both), (content, nms)):
        for wanted, found in zip(found_in(one, images), found_in(other, images), strict=True):
            np.testing.assert_array_equal(found.labels, wanted.labels)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
            np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)


def test_the_graph_resizes_as_training_does_but_for_a_grey_level_in_thousands() -> None:
    import onnx

    detector = Plain().eval()
    model = onnx.load_from_string(with_ends(file_of(detector), raw=True, nms=False))
    model.graph.output.append(onnx.helper.make_tensor_value_info("images", 1, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for seed, size in enumerate((*SIZES, (480, 640), (5, 700), (1, 1))):
        image = picture(seed, *size)
        (found,) = session.run(["images"], {"pixels": image[None]})
        wanted = detector.prepare_image(image).images.numpy()
        apart = np.abs(found - wanted) * 255 * np.array(detector.config.std).reshape(3, 1, 1)
        assert apart.max() < 1.01 and (apart > 0.5).mean() <= 5e-4, size  # grey levels


@functools.cache
def small(name: str) -> tuple[Detector, bytes]:
    """Return a backend's detector, which has learnt nothing, and its file of candidates."""
    backend = load_backend(name)
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "size": 96, "score_thresh": 0.005}
    if name == "yolov1":
        settings["size"] = 112
    detector = backend(backend.config_class(**settings), CLASSES).eval()
    return detector, exported(detector)[0]


@pytest.mark.parametrize("name", ["ssd", "yolov1"])
def test_backends_of_one_size_export_whole_and_take_any_number_of_images(name: str) -> None:
    detector, content = small(name)
    model = OnnxDetector(with_ends(content, raw=True, nms=True))
    assert model.at_once is None
    images = [ImageSource.of_pixels(str(seed), picture(seed, 80, 80)) for seed in range(3)]
    single = list(predict(model, images, batch_size=1))
    together = list(predict(model, images, batch_size=3))
    wanted = list(predict(detector, images, batch_size=1))
    for one, other, own in zip(single, together, wanted, strict=True):
        assert len(one.labels) > 3
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores[:3], own.scores[:3], atol=1e-3)


def test_thresholds_of_a_call_replace_those_of_the_file() -> None:
    model = OnnxDetector(with_ends(file_of(Plain()), raw=True, nms=True))
    assert model.replaceable == {"score_thresh", "nms_thresh"}
    image = ImageSource.of_pixels("x", picture(0, 90, 120))
    numbers = [
        len(next(iter(predict(model, [image], score_thresh=score, nms_thresh=nms))).labels)
        for score, nms in ((0.2, 0.3), (0.6, 0.3), (0.2, 0.9))
    ]
    assert numbers[1] < numbers[0] < numbers[2]


def test_an_image_in_which_nothing_is_found_has_a_count_of_zero() -> None:
    model = OnnxDetector(with_ends(file_of(Plain(score_thresh=1.0)), raw=True, nms=True))
    (found,) = model.detect(model.prepare_image(picture(0, 40, 50)))
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)


def test_soft_nms_is_refused_with_the_way_out() -> None:
    content = file_of(Plain(nms_method="soft"))
    with pytest.raises(UsageError, match="nms_method is soft, .* --set nms_method=greedy"):
        with_ends(content, raw=False, nms=True)
    assert OnnxDetector(with_ends(content, raw=True, nms=False)).config.nms_method == "soft"


def test_a_network_whose_code_fixes_the_number_of_images_takes_one() -> None:
    assert OnnxDetector(exported(Dense().eval())[0]).at_once == 1


def test_eight_bits_find_nearly_the_same_in_a_smaller_file() -> None:
    _, content = small("ssd")
    images = [picture(seed, 96, 96) for seed in range(4)]
    in_int8 = quantised(content, iter(images))
    assert len(in_int8) < 0.5 * len(content)
    before, after = OnnxDetector(content), OnnxDetector(in_int8)
    assert after.class_names == CLASSES and after.at_once is None
    inputs = before.prepare_image(picture(9, 96, 96)).images
    wanted, found = before.run(inputs)[1], after.run(inputs)[1]
    assert 0 < np.abs(wanted - found).max() < 0.25
    assert found_in(with_ends(in_int8, raw=True, nms=True), images)[0].image_id == ""
    with pytest.raises(DetkitError, match="no image to calibrate on"):
        quantised(content, iter(()))


def test_agreement_counts_same_boxes_of_the_same_label_and_score() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    ours = Detections(boxes.astype(np.float32), np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))
    theirs = Detections(
        (boxes + [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [5, 0, 5, 0]]).astype(np.float32),
        np.array([0.9, 0.75, 0.7, 0.6]),
        np.array([0, 0, 1, 0]),
    )
    found = agreement([ours], [theirs])  # the 2nd's score, the 3rd's label, the 4th's box differ
    assert (found.num_images, found.detections, found.same) == (1, 4, 1)
    assert found.score_apart == pytest.approx(0.05)
    nothing = Detections(boxes[:0].astype(np.float32), np.zeros(0), np.zeros(0, int))
    assert agreement([ours], [nothing]).share == 0 and agreement([nothing], [ours]).share == 1


@pytest.fixture(scope="module")
def model_and_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("whole")
    assert running.detkit("demo", folder / "data", "--num-images", "12").returncode == 0
    backend = load_backend("ssd")
    torch.manual_seed(0)
    detector = backend(backend.config_class(backbone="tiny", size=96), ("balloon", "car", "sheep"))
    save_model(folder / "m.safetensors", detector, data_hash=None, scores=None)
    return folder / "m.safetensors", folder / "data"


def test_the_command_prints_both_maps_and_keeps_to_the_drop(
    model_and_data: tuple[Path, Path], tmp_path: Path
) -> None:
    model, data = model_and_data
    out = tmp_path / "m.onnx"
    words = ("export", model, "-o", out, "--raw", "--nms", "--verify", data, "--int8")
    done = running.detkit(*words, "--calibrate", data, "--max-drop", "1")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["mAP"] * 4
    assert [line[2] for line in lines] == [str(model), str(out), "float32", "int8"]
    assert abs(float(lines[0][1]) - float(lines[1][1])) <= 0.005
    assert lines[1][1] == lines[2][1]  # the same file
    assert "are the same to 0.001 in score" in done.stderr
    assert out.stat().st_size < 0.5 * model.stat().st_size
    photo = tmp_path / "p.png"
    write_image(photo, picture(0, 70, 50))
    found = running.detkit("detect", out, photo, "--score", "0.02")
    assert found.returncode == 0 and json.loads(found.stdout)["detections"], found.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--int8"], ExitCode.USAGE, "--int8 needs --calibrate DATA"),
        (["--calibrate", "x"], ExitCode.USAGE, "--calibrate is for --int8"),
        (["--max-drop", ".1"], ExitCode.USAGE, "--max-drop is for --int8"),
        (["--int8", "--calibrate", "no"], ExitCode.BAD_INPUT, "no"),
        (["--verify", "no"], ExitCode.BAD_INPUT, "no"),
        (["--nms", "--set", "nms_method=soft"], ExitCode.USAGE, "has greedy NMS alone"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(
    words: list[str],
    code: ExitCode,
    told: str,
    model_and_data: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", str(model_and_data[0]), "-o", str(tmp_path / "m.onnx"), *words])
    printed = capsys.readouterr()
    assert end.value.code == code, printed.err
    assert printed.out == "" and told in printed.err
    assert len(printed.err.splitlines()) == 1  # before anything is exported, which is told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--verify", "--calibrate"])
def test_labels_all_with_errors_are_told_as_such_and_not_as_images_alone(
    option: str,
    model_and_data: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    shutil.copytree(model_and_data[1], data)
    for label in (data / "Annotations").iterdir():
        label.write_text(label.read_text(encoding="utf-8")[:90], encoding="utf-8")
    out, more = tmp_path / "m.onnx", [] if option == "--verify" else ["--int8"]
    with pytest.raises(SystemExit) as end:
        main(["export", str(model_and_data[0]), "-o", str(out), option, str(data), *more])
    assert end.value.code == ExitCode.BAD_INPUT and not out.exists()
    warning, error = capsys.readouterr().err.splitlines()
    assert "12 labels could not be read" in warning and "not well-formed XML" in warning
    assert f"error: {option} {data}: " in error and "objects" in error


def test_what_may_have_been_meant_as_labels_is_told_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(quiet=False)
    write_image(tmp_path / "p.png", picture(0, 20, 30))
    assert labelled(console, str(tmp_path), CLASSES) is None
    assert capsys.readouterr().err.endswith(
        f"{tmp_path}: no labelled objects there: its images are compared, no mAP\n"
    )
    (tmp_path / "labels.csv").write_text("filename,class,xmin\np.png,ball,1\n", encoding="utf-8")
    assert labelled(console, str(tmp_path), CLASSES) is None
    told = capsys.readouterr().err
    assert "detkit: warning: " in told and "labels.csv has no column " in told
    (tmp_path / "a.json").write_text('{"images": [', encoding="utf-8")
    with pytest.raises(DetkitError, match=r"--verify .*a\.json: no labelled objects"):
        labelled(console, str(tmp_path / "a.json"), CLASSES)
    assert "not JSON" in capsys.readouterr().err
    assert labelled(console, str(tmp_path / "p.png"), CLASSES) is None


def test_no_map_of_no_object_is_measured(model_and_data: tuple[Path, Path]) -> None:
    console, data = Console(quiet=True), model_and_data[1]
    assert labelled(console, str(data), ["car", "dog"]) is not None
    for names in (["dog"], CLASSES):
        with pytest.raises(DetkitError, match=f"--verify .* has no objects of {names[0]}"):
            labelled(console, str(data), names)
        with pytest.raises(DetkitError, match=f"--calibrate .* has no objects of {names[0]}"):
            calibration(console, data, names)


def test_a_folder_without_test_and_val_is_verified_on_its_training_split(
    model_and_data: tuple[Path, Path],
) -> None:
    dataset = open_dataset(model_and_data[1])
    part = dataset.splits["train"]
    assert _judged_split(dataset.with_splits({"extra": part, "train": part})) == "train"
    assert _judged_split(dataset) == "test"
    with pytest.raises(UsageError) as error:
        _judged_split(dataset.with_splits({"extra": part, "more": part}))
    assert "--split" not in str(error.value)  # export has no such option


def test_another_map_is_an_error_but_of_a_file_that_fits_images_into_another_size(
    model_and_data: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def judged(detector: object, *_: object) -> tuple[list[Detections], SimpleNamespace]:
        return [], SimpleNamespace(mean=0.5 if isinstance(detector, OnnxDetector) else 0.51)

    monkeypatch.setattr("detkit.cli.export_checks._judged", judged)
    console, dataset = Console(quiet=True), open_dataset(model_and_data[1])
    with pytest.raises(DetkitError, match=r"m.onnx: not written: .* differs by 0.0100"):
        require_parity(console, Plain(), file_of(Plain()), dataset, ("m", "m.onnx"))
    assert capsys.readouterr().err == ""
    fitting = FollowsImage()
    require_parity(console, fitting, file_of(fitting), dataset, ("m", "m.onnx"))
    told = capsys.readouterr()
    assert told.out == "mAP 0.5100 m\nmAP 0.5000 m.onnx\n"
    assert "differs by 0.0100: m.onnx fits each image into 64x64" in told.err
