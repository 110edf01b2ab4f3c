"""`detkit enough`: the budget, the parts, what is trained and kept, and what the figures say."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from running import detkit
from runs import hold
from test_compare import MEASURED
from test_schema import faults

from detkit.cli.enough import enough
from detkit.comparison import part_runs, power_law, runs
from detkit.comparison.gains import draw_groups, gains_of, widening_of
from detkit.comparison.measure import Measured
from detkit.comparison.part_runs import (
    IMAGES,
    JUDGED,
    Budget,
    PartRuns,
    cells_of,
    divide_minutes,
    plan_runs,
    write_parts,
)
from detkit.comparison.runs import Cell, Conditions, Outcome
from detkit.data import open_dataset
from detkit.data.demo.pictures import write_demo
from detkit.data.groups import Groups
from detkit.data.nested_parts import hold_out
from detkit.data.records import Dataset
from detkit.errors import DetkitError, Interrupted, UsageError
from detkit.evaluation.bootstrap import Interval, bootstrap_map
from detkit.evaluation.pairing import pair
from detkit.files import holding
from detkit.predictions.readers import read_predictions

SHARES = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, val and test."""
    folder = tmp_path_factory.mktemp("enough") / "data"
    write_demo(folder, num_images=60)
    return folder


def planned(dataset: Dataset, budget: Budget, seed: int = 0, group: str = "none") -> PartRuns:
    held = hold_out(dataset, None, group, seed)
    pool = held.groups_of(held.pool)
    return plan_runs(dataset, held.pool, held.judged, held.val, pool, budget, seed)


# The budget


def test_a_budget_is_divided_over_equal_trainings_and_shorter_ones() -> None:
    budget = divide_minutes(20, SHARES)
    # Two draws of: three of the whole time, one of a half and one of a quarter: 3.75 each. Ten
    # trainings leave 20 seconds each: 20 - 10 / 3 minutes for 7.5 whole ones.
    assert (budget.draws, budget.num_trainings) == (2, 10)
    assert budget.whole == pytest.approx((20 - 10 / 3) / 7.5)
    assert budget.training_minutes == pytest.approx(20 - 10 / 3)


def test_starts_take_no_more_than_a_part_of_a_small_budget() -> None:
    assert divide_minutes(4, SHARES).training_minutes == pytest.approx(0.7 * 4)


@pytest.mark.parametrize(("minutes", "draws"), [(20, 2), (60, 2), (62, 3), (83, 4), (600, 5)])
def test_time_beyond_good_trainings_goes_into_draws(minutes: float, draws: int) -> None:
    # K draws need K x (3.75 whole trainings of 5 minutes and five starts of a third of one).
    least = draws * (3.75 * 5 + 5 / 3)
    assert divide_minutes(minutes, SHARES).draws == draws
    assert draws == 2 or least <= minutes


def test_draws_may_be_asked_for() -> None:
    assert divide_minutes(60, SHARES, draws=4).num_trainings == 20


@pytest.mark.parametrize(
    ("minutes", "shares", "says"),
    [
        (1, SHARES, "the shortest of 10 trainings would have 1.4 seconds; give at least 3.6 min"),
        (0, SHARES, "--max-minutes 0: must be above 0"),
        (float("nan"), SHARES, "must be above 0"),
        (9, (0.5, 0.25, 1), "--parts 0.5,0.25,1: expected two shares or more that rise to 1"),
        (9, (0.5, 0.7), "expected two shares"),
        (9, (1.0,), "expected two shares"),
        (9, (0.0, 1.0), "expected two shares"),
    ],
)
def test_a_budget_that_no_training_can_work_with_is_refused(
    minutes: float, shares: Sequence[float], says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        divide_minutes(minutes, shares)


def test_the_minutes_that_are_said_to_be_enough_are() -> None:
    with pytest.raises(UsageError) as told:
        divide_minutes(1, SHARES)
    least = float(re.findall(r"at least ([\d.]+)", str(told.value))[0])
    assert divide_minutes(least, SHARES).draws == 2


# What is judged


def test_what_is_judged_is_test_else_val_else_cut_off(data: Path) -> None:
    dataset = open_dataset(data)
    splits = dataset.splits

    def held(*names: str) -> list[int]:
        part = dataset.with_splits({name: splits[name] for name in names})
        found = hold_out(part, None, "none", 0)
        return [len(found.pool), len(found.judged), len(found.val)]

    train, val, test = (len(splits[name]) for name in ("train", "val", "test"))
    assert held("train", "val", "test") == [train, test, val]
    assert held("train", "val") == [train, val, 0]
    assert held("train", "test") == [train, test, 0]
    assert held("train") == [train - round(0.2 * train), round(0.2 * train), 0]
    chosen = hold_out(dataset, "val", "none", 0)
    assert [len(chosen.pool), len(chosen.judged), len(chosen.val)] == [train, val, 0]


def test_images_of_two_splits_are_not_trained_on(data: Path) -> None:
    dataset = open_dataset(data)
    train, val, test = (dataset.splits[name] for name in ("train", "val", "test"))
    both = dataset.with_splits({"train": train + val[:3] + test[:2], "val": val, "test": test})
    held = hold_out(both, None, "none", 0)
    assert (held.pool, held.val, held.judged) == (train, val, test)


def test_a_group_is_never_both_trained_on_and_judged(data: Path) -> None:
    dataset = open_dataset(data)
    single = dataset.with_splits({"all": sum(dataset.splits.values(), ())})
    held = hold_out(single, None, r"(\d)\.jpg$", 3)  # by the last figure: ten groups
    numbers = held.together.number_of
    assert held.together.num_groups == 10
    assert len(held.judged) >= 6
    pool, judged = ({numbers[one.path] for one in part} for part in (held.pool, held.judged))
    assert not pool & judged


@pytest.mark.parametrize(
    ("split", "group", "error", "says"),
    [
        ("train", "none", UsageError, "which they are trained on"),
        ("valid", "none", UsageError, "--split valid: .* has train"),
        (None, "jpg", DetkitError, "in 1 group .*, too few to cut one off"),
        ("test", "jpg", DetkitError, "11 images of test belong to one group"),
    ],
)
def test_a_part_that_cannot_be_judged_on_is_told(
    data: Path, split: str | None, group: str, error: type[DetkitError], says: str
) -> None:
    dataset = open_dataset(data)
    names = ("train",) if split != "test" else ("train", "test")
    only = dataset.with_splits({name: dataset.splits[name] for name in names})
    with pytest.raises(error, match=says):
        hold_out(only, split, group, 0)


# The trainings


def test_every_draw_has_less_of_both_kinds_and_other_images_and_seeds(data: Path) -> None:
    dataset = open_dataset(data)
    plan = planned(dataset, Budget(20, 2, SHARES, 2.0))
    kinds = [(run.share, run.time_share) for run in plan.runs]
    assert kinds == [(1, 1), (0.5, 1), (0.25, 1), (1, 0.5), (1, 0.25)] * 2
    assert {run.minutes for run in plan.runs if run.time_share == 0.25} == {0.5}
    assert len({run.name for run in plan.runs}) == 10
    first, other = (plan.files[f"images-25-{draw}.json"] for draw in (0, 1))
    assert set(first) != set(other)
    assert set(first) < set(plan.files["images-50-0.json"]) < set(plan.files["whole.json"])
    judged = {one.path for one in plan.files[JUDGED]}
    for name, part in plan.files.items():
        assert name == JUDGED or judged.isdisjoint(one.path for one in part)
    small = plan.runs[2]
    assert sum(small.objects.values()) == sum(len(one.objects) for one in first)
    words = cells_of(plan, Path("out"), 7, ["--model", "ssd"])[-1].training
    assert words is not None
    assert words[-4:] == ("--max-minutes", "0.5000", "--seed", "8")


def test_without_a_split_for_it_nothing_judged_chooses_the_weights(data: Path) -> None:
    dataset = open_dataset(data)
    two = dataset.with_splits({name: dataset.splits[name] for name in ("train", "test")})
    for run in planned(two, Budget(20, 2, SHARES, 2.0)).runs:
        plan = planned(two, Budget(20, 2, SHARES, 2.0))
        assert set(plan.files[run.watched]) <= set(plan.files[run.part])
    with_val = planned(dataset, Budget(20, 2, SHARES, 2.0))
    assert {run.watched for run in with_val.runs} == {"watched.json"}
    assert with_val.files["watched.json"] == dataset.splits["val"]


def test_results_depend_on_the_images_of_the_parts(data: Path) -> None:
    dataset, budget = open_dataset(data), Budget(20, 2, SHARES, 2.0)
    digest = planned(dataset, budget).digest
    assert digest == planned(dataset, budget).digest
    assert digest != planned(dataset, budget, seed=1).digest
    assert digest != planned(dataset, budget, group=r"(\d)\.jpg$").digest


@pytest.mark.parametrize("has_links", [True, False])
def test_the_parts_are_read_back_as_they_were(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_links(*places: object) -> None:
        raise OSError("another disk")

    if not has_links:
        monkeypatch.setattr(part_runs.os, "link", no_links)
    before = hold(data)
    dataset = open_dataset(data)
    plan = planned(dataset, Budget(20, 2, SHARES, 2.0))
    write_parts(plan, tmp_path)
    write_parts(plan, tmp_path)  # as a resumed command does
    for name, part in plan.files.items():
        read = open_dataset(tmp_path / "data" / name)
        assert read.class_names == dataset.class_names
        own = read.splits["all"]
        assert [one.path.name.partition("-")[2] for one in own] == [one.path.name for one in part]
        assert [one.path.read_bytes() for one in own] == [one.path.read_bytes() for one in part]
        for mine, theirs in zip(own, part, strict=True):
            assert [(one.name, one.box, one.difficult) for one in mine.objects] == [
                (one.name, one.box, one.difficult) for one in theirs.objects
            ]
    assert hold(data) == before
    images = {one.path for part in plan.files.values() for one in part}
    assert len(list((tmp_path / "data" / IMAGES).iterdir())) == len(images)


# What the figures say


def test_images_of_a_group_are_drawn_together() -> None:
    draws = draw_groups([4, 4, 7, 1, 7], 500)
    assert draws.shape == (501, 5)
    assert (draws[0] == 1).all()
    assert (draws[:, 0] == draws[:, 1]).all()
    assert (draws[:, 2] == draws[:, 4]).all()
    assert (draws[1:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert (draws[1:, 0] != draws[1:, 3]).any()


def test_a_few_groups_vary_more_than_their_draws_by_students_t() -> None:
    # Of means of G normal figures, draws of the groups have the deviation s sqrt((G - 1) / G) /
    # sqrt(G), where the interval of textbooks is t of G - 1 degrees times s / sqrt(G).
    for groups, student in ((5, 2.776), (20, 2.093)):
        drawn = np.random.default_rng(0).normal(0, np.sqrt((groups - 1) / groups), 200_000)
        wide = drawn * widening_of(groups, len(drawn))
        assert np.percentile(wide, 97.5) == pytest.approx(student, rel=0.02)


def find(judged: Dataset, path: Path, count: int) -> None:
    """Write detections that are right for the objects of the first `count` images."""
    lines = []
    for place, one in enumerate(judged.splits["all"]):
        found = [
            {"label": thing.name, "score": 0.9 - thing.box[0] / 10_000, "box": thing.box}
            for thing in one.objects
            if place < count
        ]
        size = {"width": 900, "height": 900}
        lines.append(json.dumps({"image": one.image_id, **size, "detections": found}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def judged_of(plan: PartRuns, out: Path) -> tuple[Dataset, Groups]:
    write_parts(plan, out)
    judged = open_dataset(out / "data" / JUDGED)
    paths = [one.path for one in judged.splits["all"]]
    return judged, Groups({path: place for place, path in enumerate(paths)}, ())


def outcomes_of(
    plan: PartRuns, judged: Dataset, out: Path, found: dict[tuple[float, float], list[int]]
) -> list[Outcome]:
    """Return trainings that find so many images' objects, by shares of images and of time."""
    made = []
    for cell, run in zip(cells_of(plan, out, 0, ()), plan.runs, strict=True):
        find(judged, cell.found, found[run.share, run.time_share][run.draw])
        made.append(Outcome(cell, MEASURED))
    return made


@pytest.fixture(scope="module")
def one_class(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set of one class, with 40 images to judge on."""
    folder = tmp_path_factory.mktemp("one") / "data"
    write_demo(folder, num_images=100)
    whole = open_dataset(folder)
    records = [
        one
        for one in sum(whole.splits.values(), ())
        if any(thing.name == "car" and not thing.difficult for thing in one.objects)
    ]
    chosen = open_dataset(folder, classes=["car"])
    cars = {one.path: one for part in chosen.splits.values() for one in part}
    kept = [cars[one.path] for one in records]
    assert len(kept) > 40
    return chosen.with_splits({"train": tuple(kept[20:]), "test": tuple(kept[:20])})


def test_the_gain_is_the_slope_of_a_logarithm_through_the_scores(
    one_class: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_law, "EXPONENTS", (0.0,))
    plan = planned(one_class, Budget(20, 2, SHARES, 2.0))
    judged, together = judged_of(plan, tmp_path)
    half, quarter = [8, 8], [6, 6]
    found = {(1.0, 1.0): [10, 11], (0.5, 1.0): half, (0.25, 1.0): quarter}
    found |= {(1.0, 0.5): [10, 10], (1.0, 0.25): [9, 10]}
    outcomes = outcomes_of(plan, judged, tmp_path, found)
    number = len(one_class.splits["train"])
    gains = gains_of(plan, outcomes, judged, together, [number], metric="voc12", samples=2000)
    # With nothing but right detections, AP by area is recall.
    objects = [sum(not thing.difficult for thing in one.objects) for one in judged.splits["all"]]
    recalls = {key: [sum(objects[:n]) / sum(objects) for n in ns] for key, ns in found.items()}
    for one in gains.scored:
        own = recalls[one.run.share, one.run.time_share][one.run.draw]
        assert one.mean == pytest.approx(own, abs=1e-6)
    images, minutes = gains.gains
    assert (images.of, images.now, images.more) == ("images", number, number)
    assert images.score == pytest.approx(np.mean(recalls[1.0, 1.0]))
    runs = [one.run for one in gains.scored if one.run.time_share == 1]
    xs = np.log2([run.num_images / number for run in runs])
    ys = [recalls[run.share, 1.0][run.draw] for run in runs]
    assert images.gain is not None and minutes.gain is not None
    assert images.gain.value == pytest.approx(np.polyfit(xs, ys, 1)[0], abs=0.01)
    assert images.is_told
    assert (minutes.of, minutes.now, minutes.more) == ("minutes", 2.0, 2.0)
    xs = np.log2([1.0, 1.0, 0.5, 0.5, 0.25, 0.25])
    ys = [*recalls[1.0, 1.0], *recalls[1.0, 0.5], *recalls[1.0, 0.25]]
    assert minutes.gain.value == pytest.approx(np.polyfit(xs, ys, 1)[0], abs=0.01)
    assert minutes.gain.value < images.gain.value
    within = [np.var(ys, ddof=1) for ys in recalls.values()]
    assert gains.noise is not None
    assert gains.noise.deviation == pytest.approx(np.sqrt(np.mean(within)))


def test_the_whole_is_foretold_from_the_smaller_parts(one_class: Dataset, tmp_path: Path) -> None:
    plan = planned(one_class, Budget(20, 2, SHARES, 2.0))
    judged, together = judged_of(plan, tmp_path)
    short = {(1.0, 0.5): [15, 15], (1.0, 0.25): [14, 15]}
    for whole, holds in (([15, 16], True), ([1, 1], False)):
        found = {(1.0, 1.0): whole, (0.5, 1.0): [12, 12], (0.25, 1.0): [9, 10], **short}
        outcomes = outcomes_of(plan, judged, tmp_path, found)
        forecast = gains_of(plan, outcomes, judged, together, [1], metric="voc12").forecast
        assert forecast is not None
        assert forecast.holds is holds
        assert forecast.num_images == plan.runs[1].num_images


def test_chance_in_the_judged_images_is_the_bootstraps(one_class: Dataset, tmp_path: Path) -> None:
    plan = planned(one_class, Budget(20, 2, SHARES, 2.0))
    judged, together = judged_of(plan, tmp_path)
    found = {(run.share, run.time_share): [10, 10] for run in plan.runs}  # no chance in training
    outcomes = outcomes_of(plan, judged, tmp_path, found)
    gains = gains_of(plan, outcomes, judged, together, [9], metric="voc12", samples=4000)
    records, names = judged.splits["all"], judged.class_names
    detections = pair(
        read_predictions(outcomes[0].cell.found, class_names=names), records, names
    ).detections
    own = bootstrap_map(
        detections, judged.truths("all"), names, metric="voc12", samples=4000, seed=5
    ).mean
    assert gains.mean is not None and own is not None
    assert own.high - own.low > 0.2
    assert gains.mean.low == pytest.approx(own.low, abs=0.04)
    assert gains.mean.high == pytest.approx(own.high, abs=0.04)
    for one in gains.gains:  # what all have in common is no doubt about a difference
        assert one.gain == Interval(0.0, 0.0, 0.0)


def test_trainings_that_are_too_short_to_tell_of_images_are_told(
    one_class: Dataset, tmp_path: Path
) -> None:
    plan = planned(one_class, Budget(20, 2, SHARES, 2.0))
    judged, together = judged_of(plan, tmp_path)
    same, rising = [10, 10], {1.0: [10, 10], 0.5: [7, 7], 0.25: [5, 5]}
    slow = {(share, 1.0): same for share in SHARES} | {(1.0, one): rising[one] for one in SHARES}
    fast = {(one, 1.0): rising[one] for one in SHARES} | {(1.0, share): same for share in SHARES}
    for found, is_short in ((slow, True), (fast, False)):
        outcomes = outcomes_of(plan, judged, tmp_path, found)
        gains = gains_of(plan, outcomes, judged, together, [9], metric="voc12")
        assert gains.is_short is is_short


def test_the_class_whose_objects_bring_most_is_first(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    plan = planned(dataset, Budget(20, 2, SHARES, 2.0))
    judged, together = judged_of(plan, tmp_path)
    found = {(run.share, run.time_share): [int(10 * run.share)] * 2 for run in plan.runs}
    gains = gains_of(plan, outcomes_of(plan, judged, tmp_path, found), judged, together, [1])
    classes = [one for one in gains.gains if one.of == "objects"]
    assert {one.class_name for one in classes} == set(dataset.class_names)
    values = [one.value for one in classes]
    assert values == sorted(values, reverse=True)
    train = [thing.name for one in dataset.splits["train"] for thing in one.objects]
    assert {one.class_name: one.now for one in classes} == Counter(train)


def test_trainings_that_failed_are_left_out_while_enough_are_left(
    one_class: Dataset, tmp_path: Path
) -> None:
    plan = planned(one_class, Budget(20, 2, SHARES, 2.0))
    judged, together = judged_of(plan, tmp_path)
    found = {(run.share, run.time_share): [12, 13] for run in plan.runs}
    outcomes = outcomes_of(plan, judged, tmp_path, found)
    failed = [Outcome(one.cell, error="no memory") for one in outcomes]
    gains = gains_of(plan, [failed[0], *outcomes[1:]], judged, together, [1])
    assert len(gains.scored) == 9
    for left in ([*failed[:9], outcomes[9]], [*outcomes[:5], *failed[5:]]):
        with pytest.raises(DetkitError, match="too many trainings failed"):
            gains_of(plan, left, judged, together, [1])


# The command


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained; a training finds more with more images. Set `stop` to end one."""
    done: list[str] = []

    def train(cell: Cell, training: Sequence[str], force: bool, say: object, place: object) -> None:
        done.append(cell.name)
        if len(done) == 4:
            raise Interrupted("interrupted; go on with the same command and --resume")

    def measure(cell: Cell, conditions: Conditions) -> Measured:
        judged = open_dataset(conditions.data)
        share = {"100": 10, "50": 7, "25": 5}[cell.name.split("-")[1]]
        find(judged, cell.found, share + (cell.seed or 0) % 2)
        return MEASURED

    monkeypatch.setattr(runs, "_train", train)
    monkeypatch.setattr(runs, "_measure", measure)
    return done


def test_an_interrupted_command_goes_on_and_ends_with_what_more_would_bring(
    data: Path, tmp_path: Path, work: list[str]
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    words = ["enough", data, "--model", "ssd", "--max-minutes", "20", "-o", out, "--report", page]
    stopped = detkit(*words)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert "--resume" in stopped.stderr.splitlines()[-1]
    assert len(work) == 4
    again = detkit(*words)
    assert (again.returncode, again.stdout) == (2, "")
    assert "add --resume" in again.stderr
    with holding(out, "anything"):
        beside = detkit(*words, "--resume")
    assert beside.returncode == 2 and "another detkit enough is writing" in beside.stderr
    done = detkit(*words, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert len(work) == 4 + 7  # three were kept
    report = json.loads(done.stdout)
    assert faults("enough", report) == []
    assert [one["of"] for one in report["more"]] == ["images"] * 2 + ["minutes"] + ["objects"] * 3
    assert report["more"][1]["more"] == len(open_dataset(data).splits["train"])
    assert report["more"][1]["gain"]["value"] > 0
    text = page.read_text(encoding="utf-8")
    assert "What more would bring" in text
    table = detkit(*words, "--resume", "--more", "30", "-q")
    assert (table.returncode, table.stderr) == (0, "")
    assert len(work) == 11
    assert table.stdout.splitlines()[1].startswith("30 images")
    assert "foretold" in table.stdout
    for option, told in (
        (("--seed", "1"), "--seed 0, not --seed 1"),
        (("--set", "size=64"), "no --set, not --set size=64"),
        (("--max-minutes", "30"), "--max-minutes 20.0, not --max-minutes 30.0"),
        (("--skip-bad",), "no --skip-bad, not --skip-bad"),
    ):
        other = detkit(*words, "--resume", *option, "-q")
        assert (other.returncode, other.stdout) == (2, "")
        assert f"{out} was begun with {told}; give that again" in other.stderr
        assert len(other.stderr.splitlines()) == 1
    scored = detkit(*words, "--resume", "--metric", "coco", "-q")  # which costs no training
    assert scored.returncode == 0
    assert len(work) == 11


def test_other_labels_are_not_mixed_with_what_was_trained_before(
    data: Path, tmp_path: Path, work: list[str]
) -> None:
    own = tmp_path / "data"
    shutil.copytree(data, own)
    words = ["enough", own, "--model", "ssd", "--max-minutes", "20", "-o", tmp_path / "out", "-q"]
    assert detkit(*words).returncode == 130
    name = open_dataset(own).splits["train"][0].path.stem
    label = own / "Annotations" / f"{name}.xml"
    text = label.read_text(encoding="utf-8")
    narrower = re.sub(r"<xmax>(\d+)", lambda x: f"<xmax>{int(x[1]) - 1}", text, count=1)
    label.write_text(narrower, encoding="utf-8")
    done = detkit(*words, "--resume")
    assert (done.returncode, done.stdout) == (2, "")
    assert "was begun with data_hash" in done.stderr
    assert len(work) == 4
    label.write_text(text, encoding="utf-8")
    assert detkit(*words, "--resume").returncode == 0


def test_the_plan_is_told_without_training(data: Path, work: list[str]) -> None:
    done = detkit("enough", data, "--model", "ssd", "--max-minutes", "20", "--dry-run")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 11
    assert "20 minutes for 10 trainings, 2 draws each: on 10, 21 and 42 images" in done.stderr
    assert work == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "--model is missing"),
        (["--model", "ssd"], 2, "--max-minutes is missing"),
        (["--model", "sdd"], 2, "did you mean ssd?"),
        (["--model", "sdd", "--max-minutes", "1", "-o", "out"], 2, "did you mean ssd?"),
        (["--model", "ssd", "--max-minutes", "9"], 2, "-o DIR is missing"),
        (["--model", "ssd", "--max-minutes", "9", "--dry-run", "--json"], 2, "has no results"),
        (["--model", "sdd", "--max-minutes", "9", "-o", "out"], 2, "did you mean ssd?"),
        (["--model", "ssd", "--max-minutes", "1", "-o", "out"], 2, "give at least 3.6 minutes"),
        (["--model", "ssd", "--max-minutes", "9", "-o", "out", "--parts", "x"], 2, "--parts x"),
        (["--model", "ssd", "--max-minutes", "9", "-o", "out", "--set", "sise=3"], 2, "sise"),
        (["--model", "ssd", "--max-minutes", "9", "-o", "out", "--split", "no"], 2, "--split no"),
        (["--model", "ssd", "--max-minutes", "9", "-o", "out", "--metric", "x"], 2, "--metric x"),
        (["--model", "ssd", "--max-minutes", "9", "-o", "data/out"], 2, "in the source folder"),
        (["--model", "ssd", "--max-minutes", "9", "-o", "out", "--report", "no/p"], 2, "no folder"),
        (
            ["--model", "ssd", "--max-minutes", "90", "-o", "out", "--parts", ".05,.1,1"],
            3,
            "42 images to train on: too few for 3 parts",
        ),
        (
            ["--model", "ssd", "--max-minutes", "9", "-o", "out", "--group", "jpg"],
            3,
            "to one group",
        ),
    ],
)
def test_a_wrong_command_is_refused_in_one_line_before_anything_is_trained(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: list[str],
    words: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(data.parent)
    done = detkit("enough", "data", *words, "-q")
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert work == []
    assert not (data.parent / "out").exists()


def test_a_page_shows_names_as_text_alone(data: Path, tmp_path: Path, work: list[str]) -> None:
    work += ["", "", "", ""]
    hostile = tmp_path / "<script>x" / "data"
    write_demo(hostile, num_images=60)
    page = tmp_path / "page.html"
    words = ["--model", "ssd", "--max-minutes", "20", "-o", tmp_path / "out", "--report", page]
    assert detkit("enough", hostile, *words, "-q").returncode == 0
    assert "<script>x" not in page.read_text(encoding="utf-8")


def test_help_says_what_is_in_an_interval() -> None:
    assert "chance in the judged images, in the parts and in training" in " ".join(
        (enough.__doc__ or "").split()
    )


@pytest.mark.slow
def test_real_trainings_end_with_a_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_runs, "LEAST_SECONDS", 0.5)
    small = ["--set", "size=64", "--num-workers", "0", "--threads", "1", "--parts", ".5,1"]
    words = ["--model", "ssd", "--max-minutes", ".5", "-o", tmp_path / "out", *small]
    done = detkit("enough", data, *words)
    assert done.returncode == 0, done.stderr
    assert "minutes a training" in done.stdout
