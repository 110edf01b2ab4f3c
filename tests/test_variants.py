"""`compare --set` with several values: what is an axis, what is one value of several numbers."""

from __future__ import annotations

import pytest

from detkit.cli.variants import takes_several, variants
from detkit.config import DetectorConfig, Recipe
from detkit.detectors.ssd import SSDConfig
from detkit.errors import UsageError


def settings_of(*words: str) -> list[tuple[str, ...]]:
    return [one.settings for one in variants("ssd", words, SSDConfig)]


def names_of(*words: str) -> list[str]:
    return [one.name for one in variants("ssd", words, SSDConfig)]


def test_values_parted_by_commas_are_a_row_each_named_by_them() -> None:
    assert settings_of("lr=.001,.003") == [("lr=.001",), ("lr=.003",)]
    assert names_of("lr=.001, .003", "size=64") == ["ssd lr=.001", "ssd lr=.003"]


def test_every_combination_is_a_row() -> None:
    words = ("lr=1,2", "augmentation=light,none", "size=64")
    assert settings_of(*words) == [
        (f"lr={lr}", f"augmentation={kind}", "size=64") for lr in "12" for kind in ("light", "none")
    ]
    assert names_of(*words)[1] == "ssd lr=1 augmentation=none"


def test_without_further_values_there_is_one_row_called_like_the_model() -> None:
    assert variants("ssd", (), SSDConfig)[0].name == "ssd"
    assert (names_of("lr=1"), settings_of("lr=1")) == (["ssd"], [("lr=1",)])


def test_the_commas_of_a_setting_of_several_numbers_are_its_own() -> None:
    assert settings_of("milestones=.5,.8") == [("milestones=.5,.8",)]
    assert settings_of("gamma=.1,.2") == [("gamma=.1,.2",)]  # one number or several
    assert settings_of("mean=(.4,.5,.6)") == [("mean=(.4,.5,.6)",)]


def test_a_key_that_is_given_again_has_a_further_value() -> None:
    assert settings_of("milestones=.5,.8", "milestones=.6,.9") == [
        ("milestones=.5,.8",),
        ("milestones=.6,.9",),
    ]
    assert names_of("lr=1", "lr=2,3") == ["ssd lr=1", "ssd lr=2", "ssd lr=3"]
    assert names_of("batch-size=1", "batch_size=2") == ["ssd batch_size=1", "ssd batch_size=2"]


def test_commas_in_brackets_part_nothing() -> None:
    assert settings_of("unknown=(1,2),[3,4]") == [("unknown=(1,2)",), ("unknown=[3,4]",)]


def test_every_tuple_of_the_settings_is_known_as_one() -> None:
    for config in (Recipe, SSDConfig, DetectorConfig):
        for key, value in vars(config()).items():
            several = isinstance(value, tuple)
            made = variants("ssd", [f"{key}=1,2"], config)
            assert len(made) == (1 if several or key == "gamma" else 2), key
    assert not takes_several(None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr"], "expected key=value"),
        (["=1"], "expected key=value"),
        (["lr="], "a value is missing"),
        (["lr=1,,2"], "a value is missing"),
        (["lr=1,"], "a value is missing"),
        (["lr=1,1"], "lr=1: given twice"),
        (["lr=1", "lr=2,1"], "lr=1: given twice"),
    ],
)
def test_values_that_are_none_or_twice_there_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings_of(*words)
