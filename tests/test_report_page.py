"""The pages in a browser: they load, their switches and filters work, keys reach everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Page, find_chromium
from report_samples import HOSTILE, write_folder, write_found
from running import detkit

from detkit.comparison.gains import Forecast, Gain, Gains, Point, Scored, gains_to_json
from detkit.comparison.part_runs import PartRun
from detkit.comparison.power_law import Noise
from detkit.comparison.table import Comparison, Row
from detkit.data import open_dataset
from detkit.evaluation.bootstrap import Interval
from detkit.report.comparison_page import write_comparison
from detkit.report.enough_page import write_enough

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here ($DETKIT_CHROMIUM names one)"),
]
TAB, ENTER, ESCAPE, RIGHT = 9, 13, 27, 39
VISIBLE = "document.querySelectorAll('#pictures > li:not([hidden])').length"
FOUND = "document.querySelectorAll('#pictures > li:not([hidden]) rect.detection').length"
OBJECTS = "document.querySelectorAll('#pictures > li:not([hidden]) rect.object').length"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    folder, page = write_folder(root / "dätä"), root / "repört.html"
    found = write_found(root / "found.jsonl")
    assert detkit("eval", "--predictions", found, folder, "--report", page).returncode == 0
    return page


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    browser.errors.clear()
    browser.requests.clear()
    browser.look(1200, 900)
    browser.open(report)
    return browser


def test_the_page_of_a_comparison_loads_and_draws(browser: Page, tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path / "data"))
    classes = dict.fromkeys(dataset.class_names, 0.5)
    rows = [
        Row(
            name,
            name,
            (0, 1),
            (mean, mean - 0.1),
            mean,
            0.07,
            None,
            classes,
            seconds=seconds,
            model_bytes=9,
        )
        for name, mean, seconds in (("ssd", 0.8, 0.02), (HOSTILE, 0.7, 1.4))
    ]
    table = Comparison("VOC 2007", "test", 3, 1000, (*rows, Row("bad", errors=("bad-0: no",))), 3)
    write_comparison(tmp_path / "c.html", table, dataset, "hash")
    browser.errors.clear()
    browser.open(tmp_path / "c.html")
    assert browser.errors == []
    assert browser.run("document.querySelectorAll('#speed circle').length") == 6
    names = browser.run("[...document.querySelectorAll('#speed text')].map(t => t.textContent)")
    assert HOSTILE in names


@pytest.mark.parametrize("width", [1100, 1250, 1400])
def test_the_main_table_of_a_comparison_needs_no_scrolling_on_a_desk(
    browser: Page, tmp_path: Path, width: int
) -> None:
    dataset = open_dataset(write_folder(tmp_path / "data"))
    full = Row(
        "faster-rcnn lr=0.001 size=600 backbone=mobilenet_v2",
        "faster-rcnn",
        (0, 1, 2),
        (0.712, 0.698, 0.705),
        0.705,
        0.0071,
        Interval(-0.123, -0.187, -0.054),
        dict.fromkeys(dataset.class_names, 0.5),
        sizes={"small": 0.123, "medium": 0.456, "large": 0.789},
        seconds=12.3456,
        memory_mib=12345.0,
        model_bytes=553_400_000,
        training_seconds=72_000.0,
        training_memory_mib=12345.0,
        interval=Interval(0.705, 0.642, 0.761),
    )
    plain = replace(full, name="ssd", difference=None)
    table = Comparison("VOC 2007", "test", 3, 1000, (plain, full), 3)
    write_comparison(tmp_path / "c.html", table, dataset, "hash")
    browser.look(width, 900)
    browser.open(tmp_path / "c.html")
    scroller = "document.querySelector('#models').parentElement"
    assert browser.run(f"{scroller}.scrollWidth - {scroller}.clientWidth") == 0
    assert browser.run("document.documentElement.scrollWidth") <= width
    broken = (
        "[...document.querySelectorAll('#models td span, #models data')]"
        ".filter(one => one.getClientRects().length > 1).length"
    )
    assert browser.run(broken) == 0  # no number is broken over two lines


def test_the_page_of_what_more_would_bring_draws_a_dot_a_training(
    browser: Page, tmp_path: Path
) -> None:
    runs = [
        PartRun(f"r{n}", n, share, time, int(80 * share), 2 * time, {HOSTILE: 9}, "a", "b")
        for n in range(2)
        for share, time in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5))
    ]
    scored = tuple(Scored(run, 0.5 * run.share * run.time_share, {HOSTILE: 0.4}) for run in runs)
    told, open_ = Interval(0.1, 0.05, 0.2), Interval(0.0, -0.1, 0.1)
    gains = Gains(
        "VOC 2007",
        20,
        18,
        1000,
        scored,
        told,
        Noise(0.01, 3),
        (
            Gain("images", None, 80, 40, 0.5, told),
            Gain("minutes", None, 2.0, 2.0, 0.5, open_),
            Gain("objects", HOSTILE, 9, 9, None, None),
        ),
        Forecast(40, told, 0.5),
        {
            "images": (Point(20.0, told), Point(160.0, told)),
            "minutes": (Point(0.5, open_), Point(4.0, told)),
        },
    )
    facts = {"data": "d", "data_hash": "0", "model": "ssd", "max_minutes": 9}
    report = {**facts, "training_minutes": 2.0, "draws": 2, **gains_to_json(gains)}
    write_enough(tmp_path / "e.html", gains, report)
    browser.errors.clear()
    browser.open(tmp_path / "e.html")
    assert browser.errors == []
    assert browser.run("document.querySelectorAll('#by-images circle').length") == 4
    assert browser.run("document.querySelectorAll('#by-minutes circle').length") == 4
    cells = browser.run(
        "[...document.querySelectorAll('#gains tbody tr')].map(r => r.lastElementChild.textContent)"
    )
    assert cells == ["", "may be none", "too few to tell"]
    assert HOSTILE in browser.run("document.querySelector('#gains').textContent")
    assert "trust" in browser.run("document.querySelector('.note').textContent")


def tick(page: Page, selector: str) -> None:
    page.run(f"document.querySelector(`{selector}`).click()")


def slide(page: Page, selector: str, value: int) -> None:
    page.run(
        f"(() => {{ const one = document.querySelector(`{selector}`); one.value = {value};"
        "one.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_the_page_loads_without_errors_and_without_the_network(page: Page, report: Path) -> None:
    assert page.errors == []
    asked = {url for url in page.requests if not url.startswith("data:")}
    assert asked == {report.resolve().as_uri()}


def test_a_name_that_looks_like_a_script_is_not_run(page: Page) -> None:
    assert "taken over" not in page.run("document.title")
    named = page.run(
        "[...document.querySelectorAll('#score-class option')].map(o => o.textContent)"
    )
    assert HOSTILE in named


def test_a_screenshot_is_not_blank_in_light_nor_dark_and_they_differ(page: Page) -> None:
    means = []
    for dark in (False, True):
        page.look(1200, 900, dark=dark)
        pixels = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
        means.append(float(pixels.mean()))
    assert means[0] > 200
    assert means[1] < 60


def test_the_colours_can_be_chosen_against_the_system(page: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.run(paper)
    tick(page, "#theme [value=dark]")
    assert page.run(paper) != before
    tick(page, "#theme [value=auto]")
    assert page.run(paper) == before


def test_the_page_fits_a_phone(page: Page) -> None:
    page.look(390, 844)
    assert page.run("document.documentElement.scrollWidth") <= 390


def test_boxes_are_switched_on_and_off_and_filtered(page: Page) -> None:
    slide(page, "[name=score]", 0)
    assert (page.run(VISIBLE), page.run(FOUND), page.run(OBJECTS)) == (3, 6, 5)
    tick(page, "[name=truth]")
    assert (page.run(FOUND), page.run(OBJECTS)) == (6, 0)
    tick(page, "[name=truth]")
    tick(page, "[name=found]")
    assert (page.run(FOUND), page.run(OBJECTS)) == (0, 5)
    tick(page, "[name=found]")
    slide(page, "[name=score]", 65)
    assert page.run(FOUND) == 4  # .95 .9 .8 .7
    assert page.run("document.querySelectorAll('rect.is-missed').length") == 3


def test_of_a_kind_and_a_class_only_images_that_have_it_are_left(page: Page) -> None:
    slide(page, "[name=score]", 0)
    for kind in range(8):
        if kind != 4:  # duplicate
            tick(page, f"[name=kind][value='{kind}']")
    assert (page.run(VISIBLE), page.run(FOUND), page.run(OBJECTS)) == (1, 1, 0)
    assert page.run("document.getElementById('picture-count').textContent") == "1 of 3 images"
    dog = page.run("DATA.classes.indexOf('dog')")
    page.run(
        f"(() => {{ const one = document.querySelector('#filters select'); one.value = {dog};"
        "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )
    assert page.run(VISIBLE) == 0


def test_the_threshold_moves_the_figures_beside_the_curves(page: Page) -> None:
    car = page.run("DATA.classes.indexOf('car')")
    cells = f"[...document.querySelectorAll('#legend tbody tr')[{car}].cells].slice(2)"
    slide(page, "#threshold", 100)
    assert page.run(f"{cells}.map(cell => cell.textContent)") == ["n/a", "0.000"]
    slide(page, "#threshold", 92)
    assert page.run(f"{cells}.map(cell => cell.textContent)") == ["1.000", "0.500"]
    slide(page, "#threshold", 0)
    assert page.run(f"{cells}.map(cell => cell.textContent)") == ["0.333", "0.500"]


def test_the_threshold_of_the_point_under_the_pointer_is_told(page: Page) -> None:
    page.run(
        "document.querySelector('#curves svg').dispatchEvent(new PointerEvent('pointermove',"
        "{ clientX: 300, clientY: 900, bubbles: true }))"
    )
    told = page.run("document.getElementById('curve-reading').textContent")
    assert "at score 0." in told


def test_the_confusion_matrix_follows_its_threshold(page: Page) -> None:
    cells = "[...document.querySelectorAll('#confusion td')]"
    total = f"{cells}.reduce((sum, cell) => sum + Number(cell.textContent), 0)"
    slide(page, "#level", 0)
    assert page.run(total) == 8  # five objects, three detections of background
    slide(page, "#level", 20)
    assert page.run(total) == 5  # all missed


def test_scores_of_one_class_can_be_looked_at(page: Page) -> None:
    told = "document.getElementById('score-reading').textContent"
    assert page.run(told) == "2 boxes are right, 4 are wrong"
    page.run(
        "(() => { const one = document.getElementById('score-class');"
        "one.value = DATA.classes.indexOf('dog');"
        "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )
    assert page.run(told) == "1 box is right, 1 is wrong"


def test_every_control_is_reached_by_the_keyboard(page: Page) -> None:
    seen: list[str] = []
    for _ in range(60):
        page.press("Tab", TAB)
        seen.append(
            page.run("(e => e.id || e.name || e.className || e.tagName)(document.activeElement)")
        )
    for name in ("threshold", "level", "score-class", "truth", "kind", "class", "score", "card"):
        assert name in seen, seen


def test_an_image_opens_turns_and_closes_by_keys(page: Page) -> None:
    title = "document.getElementById('viewer-title').textContent"
    page.run("document.querySelector('.card').focus()")
    page.press("Enter", ENTER, "\r")
    assert page.run("document.getElementById('viewer').open")
    first = page.run(title)
    assert page.run("document.querySelectorAll('#viewer-picture rect.object').length") > 0
    page.press("ArrowRight", RIGHT)
    assert page.run(title) != first
    page.press("Escape", ESCAPE)
    assert not page.run("document.getElementById('viewer').open")
    assert page.errors == []
