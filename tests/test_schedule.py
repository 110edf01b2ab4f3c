"""Tests of the learning rate and the budget, on numbers one can check by hand."""

from __future__ import annotations

import pytest

from detkit.config import Recipe
from detkit.training.schedule import lr_factor, stage_budgets


def test_the_rate_falls_by_gamma_at_each_milestone() -> None:
    recipe = Recipe(milestones=(0.5, 0.75), gamma=0.1)
    factors = [lr_factor(recipe, step / 8) for step in range(8)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_papers_milestones_fall_on_their_steps() -> None:
    recipe = Recipe()  # steps at 80k and 100k of 120k
    at = [lr_factor(recipe, step / 120_000) for step in (79_999, 80_000, 99_999, 100_000)]
    assert at == pytest.approx([1, 0.1, 0.1, 0.01])


def test_the_rate_rises_linearly_during_warmup() -> None:
    recipe = Recipe(warmup=0.5, warmup_factor=0.1, milestones=())
    assert [lr_factor(recipe, p) for p in (0, 0.25, 0.5)] == pytest.approx([0.1, 0.55, 1.0])


def test_a_cosine_ends_at_zero_and_is_half_way_down_in_the_middle() -> None:
    recipe = Recipe(schedule="cosine", warmup=0.2)
    assert lr_factor(recipe, 0.2) == pytest.approx(1)
    assert lr_factor(recipe, 0.6) == pytest.approx(0.5)
    assert lr_factor(recipe, 1.0) == pytest.approx(0, abs=1e-12)


def test_stages_share_steps_and_seconds_in_proportion() -> None:
    recipes = [Recipe(max_steps=steps) for steps in (80, 40, 80)]
    budgets = stage_budgets(recipes, 11, 50.0)
    assert [budget.steps for budget in budgets] == [4, 3, 4]
    assert [budget.seconds for budget in budgets] == pytest.approx([20, 10, 20])


def test_every_stage_has_at_least_one_step() -> None:
    assert [one.steps for one in stage_budgets([Recipe(max_steps=1)] * 3, 1, None)] == [1, 1, 1]


def test_the_limit_that_is_reached_first_counts() -> None:
    budget = stage_budgets([Recipe()], 10, 100.0)[0]
    assert budget.progress(5, 10.0) == 0.5
    assert budget.progress(5, 90.0) == 0.9
    assert budget.progress(5, 900.0) == 1.0
