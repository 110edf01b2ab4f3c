"""What every backend promises, over all files in `detectors/` and the custom example.

Shapes are small (the `tiny` backbone, 96 px, few crops), so the whole file takes seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import multiprocessing
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import ALL_JUDGED, judged, share_inside
from one_process import OneProcess

from detkit.config import from_json, to_json
from detkit.detector import Detector
from detkit.detectors import add_plugin, backend_names, load_backend
from detkit.inference.models import load_model
from detkit.model_file import save_model
from detkit.networks.precision import bf16_gain
from detkit.structures import Batch, Sample

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom_backend.py"
NAMES = [*backend_names(), add_plugin(str(EXAMPLE))]
CLASSES = ("dark", "light")
LEARNT = 130  # steps until two images are learnt by heart; 100 are too few for some draws


@pytest.fixture(params=sorted(set(NAMES)))
def backend(request: pytest.FixtureRequest) -> type[Detector]:
    return load_backend(request.param)


def make(backend: type[Detector], **settings: object) -> Detector:
    torch.manual_seed(0)
    defaults = {"backbone": "tiny", "size": 96, "crops_per_batch": 32}
    fields = {field.name for field in dataclasses.fields(backend.config_class)}
    values = {key: value for key, value in (defaults | settings).items() if key in fields}
    return backend(backend.config_class(**values), CLASSES)


def sample(seed: int, objects: int = 2, size: tuple[int, int] = (80, 120)) -> Sample:
    """Return a grey noisy image with dark and light rectangles."""
    generator = np.random.default_rng(seed)
    height, width = size
    image = generator.integers(110, 140, (3, height, width), dtype=np.uint8)
    boxes, labels = [], []
    for index in range(objects):
        w, h = generator.integers(24, 48, 2)
        x = int(generator.integers(0, width // 2 - 30) + index * width // 2) if objects > 1 else 20
        x, y = min(x, width - int(w)), int(generator.integers(0, height - h))
        label = int(generator.integers(0, 2))
        image[:, y : y + h, x : x + w] = 245 if label else 10
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
    # What a proposal method may give: boxes near the objects, and any others.
    near = np.repeat(np.array(boxes, np.float64).reshape(-1, 4), 20, axis=0)
    near += generator.normal(0, 3, near.shape)
    corners = generator.uniform(0, 1, (40, 2, 2)) * (width, height)
    anywhere = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    proposals = np.concatenate([near, anywhere]).clip(0, [width, height, width, height])
    return Sample(
        torch.from_numpy(image),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(objects, dtype=torch.bool),
        proposals=torch.tensor(proposals, dtype=torch.float32),
        image_id=f"{seed}.jpg",
    )


def total(detector: Detector, batch: Batch) -> torch.Tensor:
    parts = detector(batch)
    assert parts and all(part.ndim == 0 for part in parts.values())
    return torch.stack(list(parts.values())).sum()


def test_a_backend_says_who_it_is(backend: type[Detector]) -> None:
    assert backend.name and backend.paper
    backend.recipe.validate()
    backend.short_recipe.validate()
    backend.config_class().validate()


def test_configs_survive_json(backend: type[Detector]) -> None:
    config = make(backend).config
    assert from_json(backend.config_class, to_json(config)) == config


@pytest.mark.parametrize("size", [(80, 120), (37, 41), (1, 1), (300, 20)])
def test_detections_lie_in_the_image_best_first(
    backend: type[Detector], size: tuple[int, int]
) -> None:
    detector = make(backend, score_thresh=0.0).eval()
    image = sample(1, objects=0, size=(max(size[0], 60), max(size[1], 60))).image
    image = image[:, : size[0], : size[1]].contiguous()
    empty = dataclasses.replace(sample(1, objects=0), image=image)
    (found,) = detector.detect(detector.prepare([empty]))
    assert found.boxes.dtype == np.float32 and found.boxes.shape == (len(found.scores), 4)
    assert found.labels.dtype == np.int64
    assert len(found.scores) <= detector.config.max_detections
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= size[1]).all() and (found.boxes[:, [1, 3]] <= size[0]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.labels >= 0) & (found.labels < len(CLASSES))).all()
    assert found.image_id == empty.image_id


@pytest.mark.parametrize("objects", [(2, 2), (0, 2), (0, 0)])
def test_losses_are_finite_and_reach_every_parameter(
    backend: type[Detector], objects: tuple[int, int]
) -> None:
    detector = make(backend).train()
    batch = detector.prepare([sample(i, objects=n) for i, n in enumerate(objects)])
    loss = total(detector, batch)
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} is cut off from the loss"
        assert torch.isfinite(parameter.grad).all(), name


def with_ignored(kept: int) -> Sample:
    """Return an image whose right object is ignored; the left one is there if `kept` is 1."""
    both = sample(0, size=(96, 96))
    boxes = torch.tensor([[6.0, 30, 38, 64], [50, 20, 90, 70]])
    around = boxes.repeat(20, 1) + torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    assert both.proposals is not None
    rows = slice(1 - kept, 2)
    return dataclasses.replace(
        both,
        boxes=boxes[rows],
        labels=both.labels[rows],
        difficult=both.difficult[rows],
        proposals=torch.cat([around.clamp(0, 96), both.proposals]),
        ignored=torch.tensor([False, True])[rows],
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_an_ignored_object_is_no_background_and_all_around_it_is(
    backend: type[Detector], kept: int
) -> None:
    detector = make(backend, **ALL_JUDGED).train()
    batch = detector.prepare([with_ignored(kept)])
    assert len(batch.ignored[0]) == 1 and len(batch.boxes[0]) == kept
    if backend.name == "one-map":  # a plugin that knows nothing of ignored objects
        assert torch.isfinite(total(detector, batch))
        return
    for boxes, learns in judged(detector, batch):
        objects, ignored = batch.boxes[0].tolist(), batch.ignored[0].tolist()
        elsewhere = [
            (share_inside(box, ignored), learnt)
            for box, learnt in zip(boxes.tolist(), learns.tolist())
            if share_inside(box, objects) == 0
        ]
        if backend.name == "ssd" and not kept:  # no positive, no negative: sec. 2.2
            assert not any(learnt for _, learnt in elsewhere)
            continue
        assert [learnt for _, learnt in elsewhere] == [share < 0.5 for share, _ in elsewhere]
        assert {learnt for _, learnt in elsewhere} == {False, True}
    for boxes, learns in judged(detector, dataclasses.replace(batch, ignored=[])):
        inside = [share_inside(box, batch.ignored[0].tolist()) >= 0.5 for box in boxes.tolist()]
        assert learns[torch.tensor(inside)].any() == (backend.name != "ssd" or kept == 1)


def test_images_without_ignored_objects_cost_the_same_to_the_bit_beside_others(
    backend: type[Detector],
) -> None:
    detector = make(backend).train()
    batch = detector.prepare([sample(0), sample(1, objects=0)])
    assert batch.ignored == []
    found = []
    for ignored in ([], [torch.zeros(0, 4)] * 2):
        torch.manual_seed(3)
        losses = detector(dataclasses.replace(batch, ignored=ignored))
        found.append(({name: float(one.detach()) for name, one in losses.items()}, torch.rand(3)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kept", [0, 1])
def test_losses_beside_an_ignored_object_reach_every_parameter(
    backend: type[Detector], kept: int
) -> None:
    detector = make(backend).train()
    loss = total(detector, detector.prepare([with_ignored(kept)]))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_box_loss_of_images_without_objects_is_exactly_zero(backend: type[Detector]) -> None:
    detector = make(backend).train()
    parts = detector(detector.prepare([sample(1, objects=0)] * 2))
    boxes = {name: part for name, part in parts.items() if name.endswith("box")}
    fits = any(stage.fit is not None for stage in detector.stages(backend.recipe))
    assert boxes or fits  # what has no loss of its boxes fits them in a pass of their own
    assert all(float(part.detach()) == 0.0 for part in boxes.values())


def test_forward_gives_the_losses_in_eval_mode_too(backend: type[Detector]) -> None:
    detector = make(backend).eval()
    with torch.no_grad():
        assert torch.isfinite(total(detector, detector.prepare([sample(0), sample(1)])))


def test_a_batch_of_two_gives_what_single_images_give(backend: type[Detector]) -> None:
    detector = make(backend, score_thresh=0.0).eval()
    samples = [sample(0), sample(1)]
    together = detector.detect(detector.prepare(samples))
    for one, both in zip(samples, together):
        (alone,) = detector.detect(detector.prepare([one]))
        np.testing.assert_allclose(alone.scores, both.scores, atol=1e-5)
        assert len(alone.boxes) == len(both.boxes)


def test_a_saved_model_detects_the_same_after_loading(
    backend: type[Detector], tmp_path: Path
) -> None:
    detector = make(backend, score_thresh=0.0, nms_thresh=0.3).eval()
    save_model(tmp_path / "m.safetensors", detector, data_hash=None, scores=None)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.config == detector.config and loaded.class_names == CLASSES
    batch = detector.prepare([sample(0)])
    before, after = detector.detect(batch)[0], loaded.detect(loaded.prepare([sample(0)]))[0]
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_an_exported_model_detects_the_same(backend: type[Detector], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from detkit.inference.onnx import run_onnx
    from detkit.inference.onnx_export import export_onnx

    if backend.proposal_method is not None:
        pytest.skip("takes proposals beside the image, which an ONNX file does not")
    detector = make(backend, score_thresh=0.005, max_detections=20).eval()
    assert export_onnx(detector, tmp_path / "m.onnx").holds
    image = sample(0, size=(96, 96))  # a square, which every export sees as the detector does
    (wanted,) = detector.detect(detector.prepare([image]))
    found = run_onnx(tmp_path / "m.onnx", image.image.permute(1, 2, 0).numpy())
    assert len(wanted.boxes) and found.labels.tolist() == wanted.labels.tolist()
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.05)


def test_class_weights_are_taken_over_only_for_the_same_classes(
    backend: type[Detector], tmp_path: Path
) -> None:
    trained = make(backend)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.125)
    file = str(tmp_path / "m.safetensors")
    save_model(Path(file), trained)
    of_classes = trained.class_tensors()
    assert of_classes and not any(name.startswith("backbone.") for name in of_classes)
    for names, same in ((CLASSES, True), (("cat", "dog"), False), (None, False)):
        fresh = make(backend)
        fresh.load_weights(file, names)
        for name, tensor in fresh.named_parameters():
            expected = same or name not in of_classes
            assert torch.equal(tensor, trained.get_parameter(name)) == expected, name
        assert fresh.pretrained


def test_preparation_is_small_enough_to_send_to_a_worker(backend: type[Detector]) -> None:
    buffer = io.BytesIO()
    torch.save(make(backend).preparation, buffer)  # pickles, as a spawned worker would
    assert buffer.tell() < 10_000


def test_augmentation_keeps_boxes_inside_the_image(backend: type[Detector]) -> None:
    augment = make(backend).augmentation()
    for seed in range(10):
        torch.manual_seed(seed)
        result = augment(sample(seed))
        height, width = result.image.shape[1:]
        assert result.image.dtype == torch.uint8
        assert len(result.boxes) == len(result.labels) == len(result.difficult)
        assert (result.boxes >= 0).all()
        assert (result.boxes[:, [0, 2]] <= width).all()
        assert (result.boxes[:, [1, 3]] <= height).all()


def test_every_trainable_parameter_is_in_exactly_one_group(backend: type[Detector]) -> None:
    detector = make(backend)
    grouped = [id(p) for g in detector.parameter_groups(backend.recipe) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in detector.parameters() if p.requires_grad)


def test_a_pretrained_backbone_alone_learns_at_its_own_rate(backend: type[Detector]) -> None:
    detector = make(backend)
    recipe = dataclasses.replace(backend.short_recipe, lr=0.1, backbone_lr_factor=0.5)
    assert {group["lr"] for group in detector.parameter_groups(recipe)} == {0.1}
    detector.backbone.pretrained = True
    rates = {id(p): g["lr"] for g in detector.parameter_groups(recipe) for p in g["params"]}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (0.05 if name.startswith("backbone.") else 0.1)


@functools.cache
def computes_bf16() -> bool:
    """Return whether the processor does; one without is some ten times slower in it."""
    return bf16_gain(torch.device("cpu")) > 0.5


def require_found(detector: Detector, batch: Batch, samples: list[Sample]) -> None:
    for one, found in zip(samples, detector.detect(batch)):
        assert found.boxes.dtype == found.scores.dtype == np.float32
        for box, label in zip(one.boxes.numpy(), one.labels.tolist()):
            of_class = found.boxes[(found.labels == label) & (found.scores > 0.5)]
            left_top = np.maximum(of_class[:, :2], box[:2])
            sides = np.clip(np.minimum(of_class[:, 2:], box[2:]) - left_top, 0, None)
            both = sides.prod(axis=1)
            areas = (of_class[:, 2:] - of_class[:, :2]).prod(axis=1)
            overlap = both / (areas + (box[2:] - box[:2]).prod() - both)
            assert overlap.max(initial=0.0) > 0.7


def test_two_drawn_images_are_learnt_by_heart_and_found_in_16_bits_too(
    backend: type[Detector],
) -> None:
    # Penalties are there to keep a fit from learning by heart; a narrow head takes half the time.
    narrow = {"head_width": 128, "rois_per_image": 32}
    detector = make(backend, svm_c=1.0, ridge_penalty=0.1, **narrow).train()
    samples = [sample(i) for i in range(2)]
    batch = detector.prepare(samples)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    # Down to nothing: at a constant rate the last steps decide, and processors round them apart.
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=LEARNT)
    for _ in range(LEARNT):
        optimiser.zero_grad()
        total(detector, batch).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    detector.eval()
    for stage in detector.stages(backend.recipe):
        if stage.fit is not None:
            assert list(stage.fit(OneProcess([batch])))
    require_found(detector, batch, samples)
    if not computes_bf16() and backend.name != "ssd":  # one small one where it is emulated
        return
    traces = [[stage.name for stage in stages] for stages in detector.trace(batch)]
    detector.detect_in(torch.bfloat16)
    require_found(detector, batch, samples)
    assert [[stage.name for stage in stages] for stages in detector.trace(batch)] == traces


def test_a_backend_from_a_file_is_known_to_processes_that_are_spawned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As data workers on macOS and Windows are: they import what they are sent by name.
    monkeypatch.setattr("sys.path", [*sys.path])
    file = tmp_path / "backend_elsewhere.py"
    shutil.copyfile(EXAMPLE, file)
    backend = load_backend(add_plugin(str(file)))
    process = multiprocessing.get_context("spawn").Process(
        target=bool, args=(backend.config_class(),)
    )
    process.start()
    process.join()
    add_plugin(str(EXAMPLE))
    assert process.exitcode == 0
