"""The page of suspects in a browser: keys answer and move, and the patch holds the yeses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Page, find_chromium
from running import detkit
from test_suspects import folder

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here ($DETKIT_CHROMIUM names one)"),
]
__all__ = ["folder"]
DOWN, UP = ("ArrowDown", 40), ("ArrowUp", 38)
PATCH = "JSON.stringify(patch())"
CURRENT = "Number(document.querySelector('[aria-current]').dataset.index)"
SHOWN = "document.querySelectorAll('#suspects > li:not([hidden])').length"


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    page, found = folder.parent / "süspects.html", folder.parent / "found.jsonl"
    done = detkit("suspects", folder, "--predictions", found, "-n", "3", "-o", page)
    assert done.returncode == 0, done.stderr
    return page


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    browser.errors.clear()
    browser.requests.clear()
    browser.look(1200, 900)
    browser.open(report)
    browser.run("localStorage.clear()")
    browser.open(report)
    return browser


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.press(key, ord(key.upper()), key)


def kinds_said(page: Page) -> list[str]:
    """The kinds of the changes in the patch: what was there before and after."""
    changes = json.loads(page.run(PATCH))["changes"]
    kinds = {(True, True): "class", (True, False): "ghost", (False, True): "missing"}
    return [kinds[bool(one["old"]), bool(one["new"])] for one in changes]


def rows(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.run("suspects.rows")
    return found


def test_the_page_loads_without_network_and_draws_both_boxes(page: Page, report: Path) -> None:
    assert page.errors == []
    assert [one for one in page.requests if not one.startswith(("file:", "data:", "blob:"))] == []
    for one in rows(page):
        card = f"#suspects > li[data-index='{rows(page).index(one)}'] rect"
        drawn = page.run(f"[...document.querySelectorAll(`{card}`)].map(r => r.classList[1])")
        assert drawn == ["label"] * bool(one["box"]) + ["model"] * bool(one["model"])


def test_a_drawn_box_lies_where_the_label_does(page: Page) -> None:
    (wrong,) = (one for one in rows(page) if one["kind"] == "class")
    picture, (x1, y1, x2, y2) = wrong["picture"], wrong["picture"]["label"]
    assert wrong["box"] == [0, 0, 40, 40]
    # Around 40 pixels lie .75 x 40 more: the image ends at 0, so 70 are shown.
    assert (picture["width"], picture["height"]) == (300, 300)
    assert (x1, y1, x2, y2) == pytest.approx((0, 0, 40 * 300 / 70, 40 * 300 / 70), abs=0.1)


def test_keys_say_yes_and_no_move_and_undo(page: Page) -> None:
    order = [one["kind"] for one in rows(page)]
    assert page.run(CURRENT) == 0
    press(page, "y", "n", "y")
    assert kinds_said(page) == [order[0], order[2]]
    assert page.run("byId('patch').textContent") == "Download the patch (2)"
    press(page, "u")
    assert kinds_said(page) == [order[0]] and page.run(CURRENT) == 2
    press(page, "k", "k", "j", "y")  # the no becomes a yes
    assert kinds_said(page) == order[:2] and page.run(CURRENT) == 2
    page.press(*UP)
    page.press(*UP)
    press(page, "y")  # again: taken back
    assert kinds_said(page) == [order[1]] and page.run(CURRENT) == 0
    page.press(*DOWN)
    assert page.run(CURRENT) == 1


def test_filters_hide_and_keys_stay_among_what_is_shown(page: Page) -> None:
    page.run("byId('kind').value = 'ghost'; byId('kind').dispatchEvent(new Event('change'))")
    assert page.run(SHOWN) == 1
    press(page, "y", "j", "y")
    assert kinds_said(page) in ([], ["ghost"])
    page.run("byId('kind').value = ''; byId('kind').dispatchEvent(new Event('change'))")
    page.run("byId('class').value = 'bus'; byId('class').dispatchEvent(new Event('change'))")
    assert page.run(SHOWN) == len([one for one in rows(page) if one["class"] == "bus"]) > 0


def test_answers_are_there_after_a_reload_and_the_patch_goes_in(
    page: Page, report: Path, folder: Path, tmp_path: Path
) -> None:
    press(page, "y", "y", "y")
    before = page.run(PATCH)
    page.open(report)
    assert page.run(PATCH) == before
    assert page.run("byId('patch').href").startswith("blob:")
    (tmp_path / "patch.json").write_text(before)
    words = ("convert", folder, tmp_path / "out", "--apply", tmp_path / "patch.json")
    done = detkit(*words)
    assert done.returncode == 0, done.stderr
    assert page.errors == []


def test_buttons_say_the_same_as_keys(page: Page) -> None:
    page.run("document.querySelector('#suspects > li:last-child button[value=y]').click()")
    assert kinds_said(page) == [rows(page)[-1]["kind"]]
    page.run("document.querySelector('#suspects > li:last-child button[value=n]').click()")
    assert kinds_said(page) == []
