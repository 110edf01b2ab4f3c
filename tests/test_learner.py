"""Tests of frozen norms, precision, layouts and the averaged weights."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import (
    run,
)
from torch import nn
from toy import make_toy, scores_of, write_images

from detkit.data.records import ImageRecord
from detkit.errors import UsageError
from detkit.networks.precision import (
    choose_precision,
    find_device,
    memory_format,
    require_trainable,
)
from detkit.training.ema import EMA
from detkit.training.learner import freeze_norms, frozen_norms


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


def test_norms_are_frozen_for_pretrained_weights_and_small_batches_and_that_is_said(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    toy = make_toy()
    toy.backbone.pretrained = True
    norm = toy.backbone[1]
    steps = list(run(records, tmp_path / "run", toy=toy, validation=lambda toy: scores_of(0.1)))
    assert norm.running_mean.abs().sum() == 0
    assert norm.num_batches_tracked == 0
    assert norm.weight.detach().std() > 0  # scale and shift do train
    assert any("1 batch norm of the backbone is frozen" in note for note in steps[0].notes)


@pytest.mark.parametrize(
    ("wish", "pretrained", "folded", "share", "frozen"),
    [
        ("auto", True, False, 15, True),
        ("auto", True, False, 16, False),
        ("auto", False, False, 2, False),
        ("yes", False, False, 64, True),
        ("no", True, False, 2, False),
        ("no", True, True, 64, True),
    ],
)
def test_when_norms_are_frozen(
    wish: str, pretrained: bool, folded: bool, share: int, frozen: bool
) -> None:
    toy = make_toy()
    toy.config = replace(toy.config, freeze_norm=wish)  # type: ignore[arg-type]
    toy.backbone.pretrained, toy.backbone.folded_norms = pretrained, folded
    assert frozen_norms(toy, share)[0] is frozen


def test_freezing_counts_the_norms_and_leaves_the_rest_training() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout())
    assert freeze_norms(network.train()) == 1
    assert [layer.training for layer in network] == [True, False, True]


def test_mixed_precision_trains_and_saves_float32(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    toy = make_toy()
    steps = list(run(records, tmp_path / "run", toy=toy, precision="bf16-mixed", max_steps=3))
    assert all(math.isfinite(loss) for loss in steps[-1].losses.values())
    assert {parameter.dtype for parameter in toy.parameters()} == {torch.float32}


def test_precision_is_chosen_by_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for gain, chosen in ((3.0, "bf16-mixed"), (1.05, "32-true"), (0.1, "32-true")):
        monkeypatch.setattr("detkit.networks.precision.bf16_gain", lambda device, gain=gain: gain)
        assert choose_precision("auto", cpu)[0] == chosen
    assert choose_precision("16-mixed", cpu)[0] == "16-mixed"
    with pytest.raises(UsageError, match="--precision half: choose from auto"):
        choose_precision("half", cpu)


def test_a_device_that_is_not_here_is_refused() -> None:
    assert find_device("cpu") == find_device("cpu:0") == torch.device("cpu")
    for device in ("cuda:99", "abacus", "mps:1", "meta", "gpu", "0", ""):
        with pytest.raises(UsageError, match=f"--device {device}"):
            find_device(device)


def test_a_gpu_that_is_not_here_is_told_with_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn("CUDA initialization: the driver is too old. Update it.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    with pytest.raises(UsageError, match=r"cuda: .* no GPU here \(.*driver is too old\); try"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match=r"cuda:2: this machine has 2 GPUs, the first cuda:0"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UsageError, match=r"is built without GPUs; try --device auto"):
        find_device("cuda")


def test_the_precision_of_a_gpu_goes_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detkit.networks.precision.bf16_gain", lambda device: 1.0)
    gpu = torch.device("cuda", 1)
    for major, chosen in ((9, "bf16-mixed"), (8, "bf16-mixed"), (7, "32-true")):
        asked: list[torch.device] = []
        kinds = {"get_device_capability": lambda at, a=asked, m=major: (a.append(at), (m, 0))[1]}
        for name, value in kinds.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for measure in (True, False):
            assert choose_precision("auto", gpu, measure=measure)[0] == chosen
        assert asked == [gpu, gpu]


def test_fp16_trains_on_gpus_alone(tmp_path: Path, records: list[ImageRecord]) -> None:
    require_trainable("16-mixed", torch.device("cuda"))
    with pytest.raises(UsageError, match="--precision 16-mixed: only a GPU trains in it; choose"):
        next(run(records, tmp_path / "run", precision="16-mixed"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("capability", "others"),
    [("AVX2", torch.contiguous_format), ("AVX512", torch.channels_last)],
)
def test_a_cpu_trains_depthwise_convolutions_in_channels_last_and_others_with_avx512(
    monkeypatch: pytest.MonkeyPatch, capability: str, others: torch.memory_format
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cpu = torch.device("cpu")
    assert memory_format(nn.Conv2d(8, 8, 3, groups=8), cpu) is torch.channels_last
    assert memory_format(nn.Conv2d(8, 8, 3), cpu) is others


def test_the_average_follows_its_formula() -> None:
    layer = nn.BatchNorm1d(1)
    average = EMA(layer, 0.5)
    expected, statistics = 1.0, 0.0
    for update, value in enumerate((3.0, -2.0, 7.0, 1.0, 4.0, 2.0, 9.0, 5.0, 8.0), start=1):
        layer.weight.data.fill_(value)
        layer.running_mean.fill_(-value)
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
        statistics = decay * statistics - (1 - decay) * value
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected)
        assert layer.running_mean.item() == pytest.approx(statistics)
    assert layer.weight.item() == 8.0
