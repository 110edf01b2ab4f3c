"""Settings: parsing, refusal, and JSON there and back."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detkit.cli.train_plan import Plan, read_plan
from detkit.config import (
    DetectorConfig,
    Recipe,
    describe,
    from_json,
    override,
    parse_settings,
    require_within,
    setting,
    to_json,
)
from detkit.detectors.ssd import SSDConfig
from detkit.errors import DetkitError, UsageError


def parsed(*pairs: str) -> tuple[DetectorConfig, Recipe]:
    return override(SSDConfig(), Recipe(), parse_settings(pairs))


def test_set_reaches_fields_of_the_detector_and_of_the_recipe() -> None:
    config, recipe = parsed("size=512", "nms-thresh=.5", "batch_size=4", "schedule=cosine")
    assert isinstance(config, SSDConfig)
    assert (config.size, config.nms_thresh) == (512, 0.5)
    assert (recipe.batch_size, recipe.schedule) == (4, "cosine")


def test_tuples_are_given_with_or_without_brackets() -> None:
    for text in ("scales=.1,.2,.4", "scales=(.1, .2, .4)", "scales=[.1,.2,.4]"):
        config, _ = parsed(text)
        assert isinstance(config, SSDConfig)
        assert config.scales == (0.1, 0.2, 0.4)
    config, _ = parsed("ratios=[[2],[2,3]]")
    assert isinstance(config, SSDConfig)
    assert config.ratios == ((2.0,), (2.0, 3.0))


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("nms_tresh=.5", "did you mean nms_thresh"),
        ("size=big", "expected a whole number"),
        ("size=1.5", "--set size=1.5: expected a whole number"),
        ("size=abc", "--set size=abc: expected a whole number"),
        ("schedule=cosin", "choose from steps, cosine"),
        ("nms_thresh=5", "between 0 and 1"),
        ("nms_thresh=nan", "nms_thresh=nan: expected a finite number"),
        ("freeze_layers=few", "expected a whole number or none"),
        ("batch_size=0", "at least 1"),
        ("variances=.1,.2", "expected 4 values"),
        ("antialias=maybe", "expected true or false"),
        ("novalue", "expected key=value"),
        ("std=.2,0,.2", "above 0"),
        ("mean=123,117,104", "between 0 and 1"),
        ("weight_decay=-1", "--set weight_decay=-1.0: must be at least 0"),
        ("momentum=-.1", "--set momentum=-0.1: must lie between 0 and 1"),
        ("cache_size=-5", "--set cache_size=-5: must be at least 0"),
        ("milestones=5", "milestones=\\(5.0,\\): each must be above 0 and below 1"),
        ("milestones=.5,1.0", "each must be above 0 and below 1"),
        ("milestones=.5,.2", "--set milestones=0.5,0.2: must rise"),
        ("milestones=.5,.5", "must rise"),
        ("l2_norm_scale=-1", "--set l2_norm_scale=-1.0: must be above 0"),
        ("positive_thresh=5", "--set positive_thresh=5.0: must lie between 0 and 1"),
        ("freeze_layers=-1", "at least 0"),
        ("size=1", "--set size=1: must be at least 16"),
        ("variances=0,0,0,0", "above 0"),
        ("scales=.1,-.2", "above 0"),
        ("negatives_per_positive=-1", "--set negatives_per_positive=-1.0: must be at least 0"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(pair: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parsed(pair)


@dataclass(frozen=True, kw_only=True)
class BoundedConfig(DetectorConfig):
    """A config that a plugin could have: its bounds stand beside its defaults alone."""

    width: int = setting(8, "a test", above=0, below=10)
    pairs: tuple[tuple[float, float], ...] = setting(((1.0, 2.0),), "a test", at_most=5)
    step: int | None = setting(None, "a test", at_least=1)
    nms_thresh: float = setting(0.3, "a test: another default, the bounds of all detectors")
    score_thresh: float = setting(-2.0, "a test: other bounds", at_least=-3, at_most=-1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"width": 0}, "--set width=0: must be above 0 and below 10"),
        ({"width": 10}, "--set width=10: must be above 0 and below 10"),
        ({"pairs": ((1.0, 2.0), (3.0, 5.5))}, "each must be at most 5"),
        ({"pairs": ((math.nan, 2.0),)}, "each must be at most 5"),
        ({"step": 0}, "--set step=0: must be at least 1"),
        ({"nms_thresh": 1.5}, "--set nms_thresh=1.5: must lie between 0 and 1"),
        ({"score_thresh": 0.0}, "--set score_thresh=0.0: must lie between -3 and -1"),
    ],
)
def test_bounds_beside_a_default_are_checked_for_every_number_of_the_field(
    values: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        BoundedConfig(**values).validate()


def test_none_no_numbers_and_what_the_bounds_allow_are_within_them() -> None:
    BoundedConfig().validate()
    BoundedConfig(width=9, pairs=(), step=1, nms_thresh=1.0, score_thresh=-1.0).validate()


def test_an_option_of_another_name_is_quoted_as_it_was_given() -> None:
    with pytest.raises(UsageError, match="^--nms 2: must lie between 0 and 1$"):
        require_within(DetectorConfig(), "nms_thresh", 2.0, "--nms 2")


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        parse_settings(["size=1", "size=2"])


def test_configs_survive_json() -> None:
    config, recipe = parsed("ratios=[[2],[2,3]]", "scales=.1,.2,.3", "milestones=.5,.9")
    assert from_json(SSDConfig, json.loads(json.dumps(to_json(config)))) == config
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_an_unknown_field_in_json_is_named() -> None:
    with pytest.raises(UsageError, match="colour"):
        from_json(Recipe, {"colour": 1})


@pytest.mark.parametrize("config", [SSDConfig, Recipe])
def test_every_default_says_where_it_is_from(config: type[SSDConfig] | type[Recipe]) -> None:
    assert all(source for _, _, source in describe(config))


@pytest.mark.parametrize(
    ("plan", "words"), [({"max_steps": "x"}, "expected"), ({"colour": 1}, "unknown field colour")]
)
def test_a_plan_edited_wrongly_is_one_line_naming_the_file(
    tmp_path: Path, plan: dict[str, object], words: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"plan": plan}))
    with pytest.raises(DetkitError, match=f"config.json: .*{words}"):
        read_plan(file)


def test_a_plan_survives_json(tmp_path: Path) -> None:
    plan = Plan(data="d", classes=("a", "b"), max_steps=3, detector={"size": 96})
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"plan": dataclasses.asdict(plan)}))
    assert read_plan(file) == plan


def test_a_plan_is_written_with_the_typed_settings_of_its_training(tmp_path: Path) -> None:
    plan = Plan(data="d", seed=3, detector={"size": 64})
    config, recipe = SSDConfig(size=96, mean=(0.0, 0.5, 1.0)), Recipe(batch_size=5)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"plan": plan.to_json(config, recipe)}))
    again = read_plan(file)
    assert (again.data, again.options()["seed"]) == ("d", 3)
    assert from_json(SSDConfig, again.detector) == config
    assert from_json(Recipe, again.recipe) == recipe


def test_a_plan_takes_the_precision_that_auto_meant_in_its_run(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for asked, taken in (("auto", "bf16-mixed"), ("32-true", "32-true")):
        plan = dataclasses.asdict(Plan(data="d", precision=asked))
        file.write_text(json.dumps({"plan": plan, "precision": "bf16-mixed"}))
        assert read_plan(file).precision == taken
