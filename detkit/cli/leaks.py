"""What `detkit eval` knows of the images that its split shares with the training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.cli.judged import Judged
from detkit.errors import DetkitError, UsageError, is_installed

if TYPE_CHECKING:
    from detkit.cli.train_plan import Plan
    from detkit.data.records import Dataset
    from detkit.evaluation.leakage import Leakage, Learnt


def leakage_of(console: Console, judged: Judged, model: str | None, rule: str) -> Leakage | None:
    """Return what of the split is known from training; None where no training image is known.

    Says on stderr when there is nothing. `rule` is that of `--group`.
    """
    from detkit.evaluation.leakage import find_leakage

    learnt = learnt_by(model, judged.dataset, judged.split)
    if learnt is None:
        return None
    with console.counting("looking for training images") as progress:
        leakage = find_leakage(
            judged.detections,
            judged.truths,
            judged.dataset,
            judged.split,
            learnt,
            judged.scores,
            rule,
            progress,
        )
    if not leakage.num_leaked:
        console.note(leakage.in_words())
    if not leakage.num_looked_at:
        console.note("too many images to look at them: copies of training images are not told")
    return leakage


def learnt_by(model: str | None, dataset: Dataset, split: str) -> Learnt | None:
    """Return the images that a model has learnt from, as far as one can tell.

    Those of its run, where `config.json` lies beside the model and its data are as they were; else
    those of the data set's own training split, unless that is what is judged on.
    """
    from detkit.data.splits import training_name, training_splits
    from detkit.evaluation.leakage import Learnt

    found = None if model is None else _run_of(Path(model), dataset)
    if found is not None:
        plan, data = found
        try:
            name = training_name(data)
            records = data.splits[name]
            if plan.recipe_name == "short":  # papers train on all of it
                records = training_splits(data, plan.val, plan.seed)[0]
        except (DetkitError, UsageError):  # its --val is gone
            return None
        if data.root.resolve() == dataset.root.resolve():
            return Learnt(name if name != "all" else "the training", records)
        return Learnt(f"{name} of {data.root}", records, is_own=False)
    try:
        name = training_name(dataset)
    except UsageError:
        return None
    if name in (split, "all") or not dataset.splits[name]:
        return None
    return Learnt(name, dataset.splits[name])


def _run_of(model: Path, dataset: Dataset) -> tuple[Plan, Dataset] | None:
    """Return the plan of the run that a model is of, with its data; None where they are not known.

    Data with other labels than were trained on are those of another data set, unless they are the
    ones that are judged on.
    """
    from detkit.cli.train_plan import read_plan
    from detkit.data import open_dataset
    from detkit.data.summary import data_hash
    from detkit.inference.models import model_of

    folder = model if model.is_dir() else model.parent
    try:
        plan = read_plan(folder / "config.json")
        if plan.data is None:
            return None
        if Path(plan.data).resolve() == dataset.root.resolve():
            return plan, dataset
        if not is_installed("torch"):
            return None
        from detkit.model_file import model_info

        data = open_dataset(Path(plan.data), classes=plan.classes)
        info = model_info(model if model.suffix == ".safetensors" else model_of(folder))
    except (DetkitError, UsageError):
        return None
    known = plan.skip_bad or info["data_hash"] == data_hash(data)
    return (plan, data) if known else None
