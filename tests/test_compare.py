"""Comparing models: what is trained and kept, what a failure does, what the table says."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from report_samples import write_folder, write_found
from running import detkit, process
from toy import make_toy

from detkit.comparison import runs
from detkit.comparison.measure import Measured
from detkit.comparison.runs import Cell, Conditions, Outcome, compare
from detkit.comparison.table import comparison_to_json, summarise
from detkit.data import open_dataset
from detkit.errors import DetkitError, ExitCode, Interrupted, UsageError
from detkit.evaluation.bootstrap import bootstrap_map
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import score
from detkit.inference.models import model_of
from detkit.model_file import save_model
from detkit.predictions.readers import read_predictions
from detkit.training.run_log import training_cost

TOY = Path(__file__).parent / "toy.py"
MEASURED = Measured("toy", 3, 0.6, {"network": 0.3}, 200.0, 1000, 60.0, 300.0, 5, "hash")
CONDITIONS = Conditions(Path("data"), "hash", "test")


def cells(out: Path, *names: str) -> list[Cell]:
    return [
        Cell(name, out / f"{name}-0", out / f"{name}-0.json", 0, ("data", "--model", name))
        for name in names
    ]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained and measured; a model called "bad" fails, one called "stop" is stopped."""
    done: list[str] = []

    def train(cell: Cell, training: Sequence[str], force: bool, say: object, place: object) -> None:
        done.append(f"train {cell.name}")
        if cell.name == "bad":
            raise DetkitError("the loss is not finite")
        if cell.name == "stop" and len(done) < 4:
            raise Interrupted("interrupted")

    def measure(cell: Cell, conditions: Conditions) -> Measured:
        done.append(f"measure {cell.name}")
        cell.found.write_text("")
        return MEASURED

    monkeypatch.setattr(runs, "_train", train)
    monkeypatch.setattr(runs, "_measure", measure)
    return done


def test_a_model_that_fails_is_an_outcome_and_the_others_go_on(
    tmp_path: Path, work: list[str]
) -> None:
    outcomes = list(compare(cells(tmp_path, "bad", "ssd"), CONDITIONS))
    assert [one.error for one in outcomes] == ["the loss is not finite", None]
    assert outcomes[1].measured == MEASURED
    assert work == ["train bad", "train ssd", "measure ssd"]


def test_finished_cells_are_kept_and_an_interrupted_comparison_goes_on(
    tmp_path: Path, work: list[str]
) -> None:
    wanted = cells(tmp_path, "ssd", "stop", "yolov1")
    with pytest.raises(Interrupted):
        list(compare(wanted, CONDITIONS))
    assert work == ["train ssd", "measure ssd", "train stop"]
    work.clear()
    work += ["", "", ""]
    outcomes = list(compare(wanted, CONDITIONS, resume=True))
    assert [one.kept for one in outcomes] == [True, False, False]
    assert outcomes[0].measured == MEASURED
    assert work[3:] == ["train stop", "measure stop", "train yolov1", "measure yolov1"]
    assert all(one.kept for one in compare(wanted, CONDITIONS, resume=True))
    assert not any(one.kept for one in compare(wanted, CONDITIONS, force=True))


def test_a_model_may_be_added_to_a_comparison(tmp_path: Path, work: list[str]) -> None:
    list(compare(cells(tmp_path, "ssd"), CONDITIONS))
    outcomes = list(compare(cells(tmp_path, "ssd", "yolov1"), CONDITIONS, resume=True))
    assert [one.kept for one in outcomes] == [True, False]


def test_results_are_neither_overwritten_nor_mixed_with_others(
    tmp_path: Path, work: list[str]
) -> None:
    wanted = cells(tmp_path, "ssd")
    list(compare(wanted, CONDITIONS))
    with pytest.raises(UsageError, match="--resume"):
        list(compare(wanted, CONDITIONS))
    other = dataclasses.replace(CONDITIONS, data_hash="another")
    with pytest.raises(UsageError, match="data_hash hash, not another"):
        list(compare(wanted, other, resume=True))
    longer = [dataclasses.replace(one, training=("data", "--max-steps", "9")) for one in wanted]
    with pytest.raises(UsageError, match="--max-steps 9"):
        list(compare(longer, CONDITIONS, resume=True))
    some = [dataclasses.replace(one, images=("a.jpg",)) for one in wanted]
    with pytest.raises(UsageError, match="images None, not 1 image"):
        list(compare(some, CONDITIONS, resume=True))
    wanted[0].result.write_text("{}")
    with pytest.raises(DetkitError, match="not a result of this detkit"):
        list(compare(wanted, CONDITIONS, resume=True))


def test_models_by_folds_are_trained_on_the_rest_and_measured_on_the_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    asked: list[tuple[str, Cell]] = []

    def train(cell: Cell, training: Sequence[str], force: bool, say: object, place: object) -> None:
        assert open_dataset(Path(training[0])).splits.keys() == {"train", "val", "test"}
        asked.append(("train", cell))
        if cell.fold == 2 and cell.name.endswith("3") and len(asked) < 14:
            raise DetkitError("the loss is not finite")

    def measure(cell: Cell, conditions: Conditions) -> Measured:
        asked.append(("measure", cell))
        write_found(cell.found)
        lines = cell.found.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["image"] in (cell.images or ())]
        cell.found.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return MEASURED

    monkeypatch.setattr(runs, "_train", train)
    monkeypatch.setattr(runs, "_measure", measure)
    words = ("--models", "ssd", "--set", "lr=.001,.003", "--set", "size=64", "--set", "mean=0,0,0")
    fixed = ("--folds", "3", "--max-steps", "5", "--group", "none", "-o", out, "--json")
    done = detkit("compare", data, *words, *fixed)
    assert done.returncode == 3
    assert "ssd-lr=.003-0-fold-2: the loss is not finite" in done.stderr.splitlines()[-1]
    first, second = json.loads(done.stdout)["models"]
    dataset = open_dataset(data)
    found = read_predictions(write_found(tmp_path / "f.jsonl"), class_names=dataset.class_names)
    paired = pair(found, dataset.splits["test"], dataset.class_names).detections
    assert first["name"] == "ssd lr=.001"
    whole = score(paired, dataset.truths("test"), dataset.class_names).mean
    assert first["mAP"] == pytest.approx(whole)
    assert (second["name"], second["mAP"], len(second["folds"])) == ("ssd lr=.003", None, 2)
    assert (out / "ssd-lr=.001-0.jsonl").exists()
    assert not (out / "ssd-lr=.003-0.jsonl").exists()
    trained = [cell for what, cell in asked if what == "train"]
    assert [(one.name, one.fold) for one in trained] == [
        (f"ssd lr={lr}", fold) for fold in (1, 2, 3) for lr in (".001", ".003")
    ]
    for cell in trained:
        assert cell.training is not None
        assert Path(cell.training[0]) == out / "data" / f"fold-{cell.fold}"
        given = open_dataset(Path(cell.training[0]))
        held = {Path(name).name for name in cell.images or ()}
        assert {one.path.name for one in given.splits["test"]} == held
        text = " ".join(cell.training)
        assert "--val val" in text
        assert f"--set lr={cell.name[-4:]} --set size=64 --set mean=0,0,0" in text
    asked += [("", trained[0])] * 4
    again = detkit("compare", data, *words, *fixed, "--resume")
    assert again.returncode == 0, again.stderr
    assert [one.name for what, one in asked[15:] if what] == ["ssd lr=.003"] * 2
    assert json.loads(again.stdout)["models"][1]["mAP"] == pytest.approx(whole)


class FakeProcess:
    """Stands for `detkit train`: what it was called with, what it says, how it ends."""

    calls: list[list[str]] = []
    lines: list[str] = []
    code = 0

    def __init__(self, words: list[str], **options: Any) -> None:
        self.calls.append(words)
        self.stderr = iter(self.lines)

    def wait(self) -> int:
        return self.code


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    fake = type("Fake", (FakeProcess,), {"calls": [], "lines": [], "code": 0})
    monkeypatch.setattr(subprocess, "Popen", fake)
    return fake


def test_training_begins_goes_on_or_begins_anew_by_what_is_there(
    tmp_path: Path, trainer: type[FakeProcess]
) -> None:
    [cell] = cells(tmp_path, "ssd")
    assert cell.training is not None
    said: list[str] = []
    trainer.lines = ["train: epoch 1\n"]
    runs._train(cell, cell.training, False, said.append)
    cell.run.mkdir()
    runs._train(cell, cell.training, False, said.append)
    (cell.run / "resume.ckpt").touch()
    runs._train(cell, cell.training, False, said.append)
    runs._train(cell, cell.training, True, said.append)
    run = str(cell.run)
    assert [words[3:] for words in trainer.calls] == [
        ["train", "data", "--model", "ssd", "-o", run],
        ["train", "data", "--model", "ssd", "-o", run, "--force"],
        ["train", "--resume", "-o", run],
        ["train", "data", "--model", "ssd", "-o", run, "--force"],
    ]
    assert said == ["ssd-0: train: epoch 1"] * 4


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (3, DetkitError, "^no images$"),
        (-9, DetkitError, "signal 9"),
        (130, Interrupted, "--resume"),
    ],
)
def test_why_a_training_ended_is_told(
    tmp_path: Path, trainer: type[FakeProcess], code: int, kind: type[DetkitError], words: str
) -> None:
    [cell] = cells(tmp_path, "ssd")
    trainer.code = code
    trainer.lines = ["reading\n", "detkit: error: no images\n", "\n"]
    with pytest.raises(kind, match=words):
        runs._train(cell, (), False, lambda line: None)


def test_a_model_that_cannot_be_measured_is_told_by_its_error(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"no model")
    cell = Cell("broken", tmp_path, tmp_path / "broken.json")
    data = write_folder(tmp_path / "data")
    [outcome] = compare([cell], Conditions(data, "hash", "test", device="cpu"))
    assert outcome.error is not None
    assert "not a detkit model" in outcome.error
    [outcome] = compare([cell], Conditions(data, "hash", "gone", device="cpu"), force=True)
    assert outcome.error is not None


def outcomes_of(folder: Path, out: Path) -> list[Outcome]:
    """Two seeds of a model that finds what `FOUND` says, one that finds less, one that failed."""
    out.mkdir()
    made = []
    for name, seed, without in (("a", 0, None), ("a", 1, "two"), ("b", 0, "one")):
        cell = Cell(name, out / "run", out / f"{name}-{seed}.json", seed)
        write_found(cell.found)
        if without is not None:
            lines = cell.found.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if f"/{without}." not in line]
            cell.found.write_text("\n".join(kept) + "\n", encoding="utf-8")
        made.append(Outcome(cell, MEASURED))
    return [*made, Outcome(Cell("c", out, out / "c-0.json", 0), error="out of memory")]


def test_the_table_has_means_spread_and_the_paired_interval_to_the_best(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path / "data"))
    outcomes = outcomes_of(tmp_path / "data", tmp_path / "out")
    truths, names = dataset.truths("test"), dataset.class_names

    def detections(one: Outcome) -> Any:
        found = read_predictions(one.cell.found, class_names=names)
        return pair(found, dataset.splits["test"], names).detections

    found = [detections(one) for one in outcomes[:3]]
    maps = [score(one, truths, names).mean or 0.0 for one in found]
    table = summarise(outcomes, dataset, "test", samples=200)
    first, second, failed = table.rows
    assert (first.name, second.name, failed.name) == ("a", "b", "c")
    assert first.maps == tuple(maps[:2])
    assert first.mean == pytest.approx(statistics.mean(maps[:2]))
    assert first.spread == pytest.approx(statistics.stdev(maps[:2]))
    assert (first.difference, second.spread) == (None, None)
    assert second.difference is not None
    assert second.difference.value == pytest.approx(maps[2] - statistics.mean(maps[:2]))
    assert first.seconds == pytest.approx(0.2)
    assert first.stages == {"network": pytest.approx(0.1)}
    assert (failed.mean, failed.errors) == (None, ("c-0: out of memory",))
    single = summarise([outcomes[0], outcomes[2]], dataset, "test", samples=200)
    drawn = bootstrap_map(found[2], truths, names, samples=200, others=found[0])
    assert single.rows[1].difference == pytest.approx(drawn.difference)
    report = json.loads(json.dumps(comparison_to_json(table), allow_nan=False))
    assert report["models"][0]["mAP"] == first.mean
    assert report["models"][1]["difference"]["value"] == second.difference.value


def test_a_killed_runs_cut_last_line_does_not_hide_what_it_took(tmp_path: Path) -> None:
    lines = ['{"step": 1, "memory_mib": 3.0}', '{"step": 2, "memory_mib": 3.5}', '{"st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert training_cost(tmp_path) == (None, 3.5, None)


def test_the_model_of_a_run_is_its_best(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="no model there"):
        model_of(tmp_path)
    (tmp_path / "last.safetensors").touch()
    assert model_of(tmp_path).name == "last.safetensors"
    (tmp_path / "best.safetensors").touch()
    assert model_of(tmp_path).name == "best.safetensors"
    assert model_of(tmp_path / "last.safetensors").name == "last.safetensors"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "-o DIR is missing"),
        (["-o", "out"], "nothing to compare"),
        (["-o", "out", "--models", "ssd"], "--max-minutes"),
        (["-o", "out", "--models", "sdd", "--max-steps", "1"], "did you mean ssd?"),
        (["--models", "sdd"], "did you mean ssd?"),
        (["-o", "out", "--models", "ssd", "--max-steps", "1"], "which they are trained on"),
        (["-o", "dätä/out", "--run", "run"], "lies in the source folder"),
        (["-o", "out", "--run", "run", "--report", "no/c.html"], "there is no folder"),
        (["-o", "out", "--run", "run", "--report", "there.html"], "--force"),
        (["-o", "out", "--run", "run", "--metric", "foo"], "--metric foo"),
        (["-o", "out", "--run", "run", "--iou", "7"], "--iou 7"),
    ],
)
def test_a_wrong_comparison_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_folder(tmp_path / "dätä")
    (tmp_path / "run").mkdir()
    (tmp_path / "there.html").touch()
    here = detkit("compare", data, *words)
    assert here.returncode == 2
    assert message in here.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "nosuch=3"], "ssd: --set nosuch=3: no such setting"),
        (["--set", "nms_thresh=7"], "must lie between 0 and 1"),
        (["--weights", "nosuch.pth"], "nosuch.pth"),
        (["--backbone", "nosuch"], "nosuch"),
        (["--val", "nosuch"], "nosuch"),
        (["--max-minutes", "0"], "above 0"),
    ],
)
def test_an_option_no_training_can_work_with_is_refused_before_the_first(
    tmp_path: Path, words: list[str], message: str
) -> None:
    detkit("demo", tmp_path / "data", "--num-images", "12")
    fixed = ("-o", tmp_path / "out", "--models", "ssd,yolov1", "--max-steps", "1")
    here = detkit("compare", tmp_path / "data", *fixed, *words, "-q")
    assert here.returncode in (2, 3)
    assert message in here.stderr
    assert not (tmp_path / "out").exists()
    assert len(here.stderr.splitlines()) == 1


def test_a_comparison_whose_training_never_began_takes_other_options(
    tmp_path: Path, work: list[str]
) -> None:
    wanted = cells(tmp_path, "bad")
    list(compare(wanted, CONDITIONS))
    longer = [dataclasses.replace(one, training=("data", "--max-steps", "9")) for one in wanted]
    assert [one.error for one in compare(longer, CONDITIONS, resume=True)] != [None]
    wanted[0].run.mkdir()
    (wanted[0].run / "resume.ckpt").touch()
    with pytest.raises(UsageError, match="--max-steps 9"):
        list(compare(wanted, CONDITIONS, resume=True))
    assert work == ["train bad"] * 2


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("to_all", [True, False], ids=["ctrl-c", "sigterm"])
def test_a_measurement_that_is_interrupted_ends_at_once_in_one_line(
    tmp_path: Path, to_all: bool
) -> None:
    model, marker, plugin = (tmp_path / name for name in ("m.safetensors", "there", "slow.py"))
    data = write_folder(tmp_path / "data")
    save_model(model, make_toy())
    plugin.write_text(
        f"{TOY.read_text()}\n\nimport multiprocessing, time\n\n"
        "if multiprocessing.parent_process() is not None:\n"
        f"    open({str(marker)!r}, 'w').close()\n    time.sleep(100)\n"
    )
    words = ["compare", data, "--run", f"m={model}", "-o", tmp_path / "out", "--plugin", plugin]
    running = subprocess.Popen(
        [sys.executable, "-m", "detkit", *map(str, words)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert running.stderr is not None
    assert any("measuring" in line for line in iter(running.stderr.readline, ""))
    if to_all:  # as a terminal does, here while the process for it imports torch
        time.sleep(0.5)
        os.killpg(running.pid, signal.SIGINT)
    else:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not marker.exists():
            time.sleep(0.05)
        running.terminate()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == ExitCode.INTERRUPTED, errors
    assert errors == "detkit: error: interrupted; go on with the same command and --resume\n"


@pytest.mark.slow
def test_models_are_trained_measured_and_put_into_one_table(tmp_path: Path) -> None:
    data, out = tmp_path / "dätä", tmp_path / "öut"
    detkit("demo", data, "--num-images", "12")
    words: list[str | Path] = ["compare", data, "-o", out, "--plugin", TOY, "--json"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "best.safetensors").write_bytes(b"no model")
    save_model(tmp_path / "toy.safetensors", make_toy())
    given = ("--run", f"toy={tmp_path / 'toy.safetensors'}", "--run", tmp_path / "bad")
    words += ["--models", "ssd", "--max-steps", "2", "--num-workers", "0", "--device", "cpu"]
    done = process(*words, *given, "--set", "size=64", "--report", out / "c.html")
    report = json.loads(done.stdout)
    by_name = {row["name"]: row for row in report["models"]}
    assert done.returncode == 3, done.stderr
    assert "bad.run-0: " in done.stderr.splitlines()[-1]
    assert by_name["bad"]["mAP"] is None
    assert by_name["bad"]["errors"]
    assert by_name["toy"]["mAP"] == 0
    ssd = by_name["ssd"]
    assert ssd["mAP"] is not None
    assert set(ssd["stages"]) >= {"decode", "network"}
    assert ssd["seconds"] > 0
    assert ssd["model_bytes"] == (out / "ssd-0" / "best.safetensors").stat().st_size
    assert ssd["training_seconds"] > 0
    assert "ssd" in (out / "c.html").read_text(encoding="utf-8")
    again = process(*words[:4], "--run", f"ssd={out / 'ssd-0'}", "--json", "--resume")
    assert again.returncode == 0, again.stderr
    [row] = json.loads(again.stdout)["models"]
    assert row["mAP"] == ssd["mAP"]
