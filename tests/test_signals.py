"""Tests of stopping a run, of going on with it, and of several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    ADAMW,
    assert_same,
    assert_same_run,
    metrics,
    run,
    steady_toy,
    stop_after,
    two_stages,
)
from toy import RECIPE, make_toy, scores_of, write_images

from detkit.config import Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector
from detkit.errors import DetkitError, ExitCode, Interrupted, UsageError
from detkit.model_file import model_info
from detkit.structures import Scores
from detkit.training import dataset
from detkit.training.resume import load_resume


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("recipe", [RECIPE, ADAMW], ids=["sgd", "adamw"])
def test_stopping_and_going_on_gives_the_same_bits(
    tmp_path: Path, records: list[ImageRecord], recipe: Recipe, workers: int
) -> None:
    options = {"recipe": recipe, "seed": 7, "num_validations": 2}
    list(run(records, tmp_path / "whole", validation=lambda toy: scores_of(0.1), **options))
    parts = tmp_path / "parts"
    made = stop_after(run(records, parts, num_workers=workers, **options), 1)
    torch.rand(3)
    made += stop_after(run(records, parts, toy=make_toy(9), resume=True, **options), 5)
    made += list(
        run(
            records,
            parts,
            toy=make_toy(8),
            resume=True,
            validation=lambda toy: scores_of(0.1),
            num_workers=workers,
            **options,
        )
    )
    assert [step.step for step in made] == list(range(1, RECIPE.max_steps + 1))
    whole = load_resume(tmp_path / "whole" / "resume.ckpt")
    again = load_resume(parts / "resume.ckpt")
    for key in ("model", "learner", "random"):
        assert_same(whole[key], again[key])
    last = [(folder / "last.safetensors").read_bytes() for folder in (tmp_path / "whole", parts)]
    assert last[0] == last[1]


def test_stopping_says_how_to_go_on_and_has_exit_code_130(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    steps = run(records, tmp_path / "run")
    next(steps)
    before = signal.getsignal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # the second stops at once
    assert before is not signal.default_int_handler
    with pytest.raises(
        Interrupted, match=r"stopped at step 1; go on with: RunOptions\(resume=True\)"
    ) as caught:
        next(steps)
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert (tmp_path / "run" / "last.safetensors").exists()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_on_the_way_costs_nothing_that_was_learnt(
    tmp_path: Path, records: list[ImageRecord], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "CACHE_SHARE", -1.0)  # none stays in memory
    list(run(records, tmp_path / "whole"))
    before = {record.path: record.path.read_bytes() for record in records}
    steps = run(records, tmp_path / "run", num_workers=workers)
    made = [next(steps), next(steps)]
    for path in before:
        path.unlink()
    with pytest.raises(
        DetkitError, match=r"bïld-.*no such image.*RunOptions\(resume=True\)"
    ) as caught:
        made += steps
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    for path, content in before.items():
        path.write_bytes(content)
    made += run(records, tmp_path / "run", resume=True)
    assert [step.step for step in made] == list(range(1, RECIPE.max_steps + 1))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_signal_at_the_last_step_does_not_cost_the_last_validation(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    toy = make_toy()

    def stop_in_the_last_step(*_: object) -> None:
        if steps_begun.pop():
            signal.raise_signal(signal.SIGTERM)

    steps_begun = [index == RECIPE.max_steps - 1 for index in reversed(range(RECIPE.max_steps))]
    toy.head.register_forward_hook(stop_in_the_last_step)
    made = list(run(records, tmp_path / "run", toy=toy, validation=lambda toy: scores_of(0.4)))
    assert steps_begun == []
    assert made[-1].step == RECIPE.max_steps
    assert made[-1].scores is not None


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, ema_decay=0.0)], ids=["ema", "plain"])
def test_a_stop_at_the_step_of_a_validation_only_puts_the_validation_off(
    tmp_path: Path, records: list[ImageRecord], recipe: Recipe
) -> None:
    def validate(toy: Detector) -> Scores:
        return scores_of(float(next(toy.parameters()).detach().abs().mean()) % 1)

    options: dict[str, Any] = {"recipe": recipe, "num_validations": 2, "validation": validate}
    list(run(records, tmp_path / "whole", **options))
    toy = make_toy()
    forwards = iter(range(1, 9))

    def stop_in_step_4(*_: object) -> None:
        if next(forwards) == 4:
            signal.raise_signal(signal.SIGTERM)

    toy.head.register_forward_hook(stop_in_step_4)
    with pytest.raises(Interrupted, match="stopped at step 4"):
        list(run(records, tmp_path / "parts", toy=toy, **options))
    steps = list(run(records, tmp_path / "parts", toy=make_toy(9), resume=True, **options))
    assert [step.step for step in steps] == [4, 5, 6, 7, 8]
    assert [step.step for step in steps if step.scores is not None] == [4, 8]
    whole, parts = (
        [line for line in metrics(tmp_path / name) if "validation" in line]
        for name in ("whole", "parts")
    )
    assert [line["step"] for line in whole] == [4, 8]
    assert parts == whole
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows")
def test_a_closed_terminal_stops_a_run_as_ctrl_c_does_unless_nohup_was_asked_for(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    steps = run(records, tmp_path / "run")
    next(steps)
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(Interrupted, match="stopped at step 1"):
        next(steps)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        rest = run(records, tmp_path / "run", resume=True)
        next(rest)
        signal.raise_signal(signal.SIGHUP)
        assert [step.step for step in rest] == list(range(3, RECIPE.max_steps + 1))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_consumer_may_leave_at_any_step(tmp_path: Path, records: list[ImageRecord]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    steps = run(records, tmp_path / "run")
    assert len(list(islice(steps, 3))) == 3
    steps.close()  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGTERM) is before
    list(run(records, tmp_path / "run", force=True))


def test_a_finished_run_has_no_steps_left_and_takes_more_with_a_larger_budget(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    list(run(records, tmp_path / "run", max_steps=4))
    assert list(run(records, tmp_path / "run", max_steps=4, resume=True)) == []
    more = [step.step for step in run(records, tmp_path / "run", max_steps=6, resume=True)]
    assert more == [5, 6]


def test_metrics_of_steps_that_are_made_again_are_dropped(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    stop_after(run(records, tmp_path / "run"), 2)
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "loss": 1}\n7\n[]\n{"step": "2"}\n\xff\xfe\n{"step": 4, "lo')
    list(run(records, tmp_path / "run", resume=True))
    steps = [line["step"] for line in metrics(tmp_path / "run")]
    assert steps == sorted(set(steps))
    assert steps[-1] == RECIPE.max_steps


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": replace(RECIPE, batch_size=2)}, "batch_size 4, not 2"),
        ({"few": True}, "num_images 10, not 5"),
        ({"recipe": replace(RECIPE, optimizer="adamw")}, "optimizer sgd, not adamw"),
        ({"precision": "bf16-mixed"}, "precision 32-true, not bf16-mixed"),
    ],
)
def test_going_on_with_another_run_is_refused(
    tmp_path: Path, records: list[ImageRecord], change: dict[str, Any], named: str
) -> None:
    stop_after(run(records, tmp_path / "run"), 2)
    images = records[:5] if change.pop("few", False) else records
    with pytest.raises(UsageError, match=f"started with {named}"):
        list(run(images, tmp_path / "run", resume=True, **change))


def test_an_average_of_the_weights_may_begin_and_end_when_a_run_goes_on(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    for count, decay in ((2, 0.0), (4, 0.9), (6, 0.0)):
        recipe = replace(RECIPE, ema_decay=decay)
        options = {"recipe": recipe, "max_steps": count, "resume": count > 2}
        toy = make_toy()
        list(run(records, tmp_path / "run", toy=toy, **options))
        state = load_resume(tmp_path / "run" / "resume.ckpt")
        averages = not torch.equal(toy.head.weight, state["model"]["head.weight"])
        assert averages == bool(decay)
    assert state["position"]["step"] == 6


def test_there_must_be_something_to_go_on_with(tmp_path: Path, records: list[ImageRecord]) -> None:
    with pytest.raises(DetkitError, match="there is nothing to resume"):
        list(run(records, tmp_path / "run", resume=True))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from dataclasses import replace
from runs import steady_toy
from toy import RECIPE, write_images
from detkit.training import saver
from detkit.training.options import RunOptions
from detkit.training.train import train

if __name__ == "__main__":
    saver.SAVE_SECONDS = {save_seconds}
    records = write_images(Path({images!r}))
    for step in train(
        steady_toy(), records, replace(RECIPE, ema_decay=0.0, mosaic=0.0), Path({run_dir!r}),
        RunOptions(
            device="cpu", precision="32-true", num_workers=0, max_steps={steps}, devices={devices},
        ),
    ):
        print(step.step, flush=True)
"""


def script(tmp_path: Path, run_dir: Path, **values: Any) -> list[str]:
    """Return the command of a script that trains the toy detector."""
    values = {"save_seconds": 300.0, "steps": 8, "devices": 1, **values}
    path = tmp_path / f"{run_dir.name}.py"
    text = SCRIPT.format(
        tests=str(Path(__file__).parent),
        images=str(tmp_path / "images"),
        run_dir=str(run_dir),
        **values,
    )
    path.write_text(text, encoding="utf-8")
    return [sys.executable, str(path)]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_run_that_goes_on(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    run_dir = tmp_path / "run"
    command = script(tmp_path, run_dir, save_seconds=0.0, steps=10**6)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20:
        pass
    process.kill()
    process.wait()
    state = load_resume(run_dir / "resume.ckpt")
    step = state["position"]["step"]
    assert step >= 18
    recipe = replace(RECIPE, ema_decay=0.0, mosaic=0.0)
    steps = run(records, run_dir, toy=steady_toy(), recipe=recipe, max_steps=10**6, resume=True)
    assert next(steps).step == step + 1
    steps.close()  # type: ignore[attr-defined]
    assert model_info(run_dir / "last.safetensors")["backend"] == "toy"


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, records: list[ImageRecord]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, devices in (("one", 1), ("two", 2)):
        command = script(tmp_path, tmp_path / name, steps=3, devices=devices)
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=600,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["1", "2", "3"]
        assert done.stderr == ""
    one, two = (load_resume(tmp_path / name / "resume.ckpt") for name in ("one", "two"))
    assert one["position"]["images"] == two["position"]["images"]
    start = make_toy().state_dict()
    for name, weights in one["model"].items():
        assert torch.allclose(weights, two["model"][name], atol=1e-6)
    assert not torch.equal(one["model"]["head.weight"], start["head.weight"])


@pytest.mark.parametrize("count", [3, 6, 7])
def test_a_run_of_stages_goes_on_in_the_middle_of_any(
    tmp_path: Path, records: list[ImageRecord], count: int
) -> None:
    list(run(records, tmp_path / "whole", toy=two_stages()))
    stop_after(run(records, tmp_path / "parts", toy=two_stages()), count)
    list(run(records, tmp_path / "parts", toy=two_stages(), resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
