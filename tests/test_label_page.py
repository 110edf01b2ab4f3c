"""The page of `detkit label` under a real pointer, fingers and keys, and what is then on disk."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, find_chromium
from labelling import Client, labelling, save

from detkit.data import open_dataset
from detkit.labelling.desk import Desk

CHROMIUM = find_chromium()
DOCS = Path(__file__).parents[1] / "docs" / "labelling.md"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here ($DETKIT_CHROMIUM names one)"),
]
WIDTH, HEIGHT = 300, 200
SHIFT = 8
HELP = r"""[...document.getElementById("help-rows").rows].map((row) => row.cells.length === 1
  ? `\n**${row.textContent}**\n\n| key or gesture | what it does |\n|---|---|`
  : `| ${[...row.cells[0].childNodes].map((one) => one.nodeName === "KBD"
      ? "`" + one.textContent + "`" : one.textContent).join("")} | ${row.cells[1].textContent} |`
).join("\n")"""
STAGE = """(() => {
  const stage = document.getElementById("stage");
  const { x, y, width, height } = stage.getBoundingClientRect();
  const { scale, left, top } = stage.dataset;
  return [x + Number(left), y + Number(top), Number(scale), x + width / 2, y + height / 2];
})()"""
READY = """document.documentElement?.dataset.ready === "yes"
  && document.getElementById("stage")?.dataset.scale !== undefined"""
SAVED = 'document.getElementById("saving")?.dataset.kind === "saved"'


class Labeller:
    """A page of `detkit label` with a hand on it."""

    def __init__(self, page: Page, client: Client, out: Path) -> None:
        self.page, self.client, self.out = page, client, out

    def open(self, number: int = 1) -> None:
        self.page.open("about:blank")  # or another number would be the same page
        self.page.open(f"{self.client.address}#{number}")
        self.page.wait_for(READY)
        self.settle()

    def settle(self) -> None:
        """Wait until what was done is drawn and on disk."""
        self.page.call(
            "Runtime.evaluate",
            expression="new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))",
            awaitPromise=True,
        )
        time.sleep(0.12)  # keys held are saved together
        self.page.wait_for(SAVED)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the image is in the window."""
        left, top, scale, *_ = self.page.run(STAGE)
        return left + x * scale, top + y * scale

    def drag(self, x1: float, y1: float, x2: float, y2: float, **options: Any) -> None:
        self.page.drag(self.at(x1, y1), self.at(x2, y2), **options)
        self.settle()

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.click(*self.at(x, y), **options)
        self.settle()

    def keys(self, *names: str) -> None:
        for name in names:
            self.page.key(name)
        self.settle()

    def record(self, number: int = 1) -> Any:
        return self.client.get(f"images/{number}")

    def boxes(self, number: int = 1) -> list[list[float]]:
        return [one["box"] for one in self.record(number)["objects"]]

    def labels(self, number: int = 1) -> list[str]:
        return [one["label"] for one in self.record(number)["objects"]]

    def on_disk(self) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
        """Return what detkit's own reader finds in the folder, image by image."""
        splits = open_dataset(self.out).splits
        return {
            record.path.stem: [(one.name, one.box) for one in record.objects]
            for records in splits.values()
            for record in records
        }

    def text(self, name: str) -> str:
        found = self.page.run(f'document.getElementById("{name}").textContent')
        assert isinstance(found, str)
        return found


@pytest.fixture
def hand(browser: Page, tmp_path: Path) -> Iterator[Labeller]:
    for seed, name in enumerate(["one.png", "two.png", "zoo.png"]):
        save(tmp_path / "photos" / name, HEIGHT, WIDTH, seed)
    with labelling(tmp_path / "photos", tmp_path / "out", classes=["car", "dog", "cat"]) as client:
        browser.errors.clear()
        browser.look(1280, 800)
        hand = Labeller(browser, client, tmp_path / "out")
        hand.open()
        yield hand
        assert browser.errors == []
        browser.open("about:blank")


def test_a_box_drawn_by_hand_is_on_disk_to_the_pixel(hand: Labeller) -> None:
    hand.drag(31, 42, 121, 143)
    assert hand.on_disk() == {"one": [("car", (31, 42, 121, 143))]}
    hand.drag(290, 190, 400, 300)  # past the corner: the image's last pixels are in it
    assert hand.boxes()[1] == [290, 190, WIDTH, HEIGHT]


def test_undo_and_redo_go_through_the_whole_history_of_an_image(hand: Labeller) -> None:
    hand.drag(10, 10, 50, 50)
    hand.drag(20, 20, 30, 40)  # inside the first, which is selected: it moves
    hand.keys("2", "Delete")
    states: list[list[list[float]]] = [
        [],
        [[20, 30, 60, 70]],
        [[20, 30, 60, 70]],
        [[10, 10, 50, 50]],
        [],
    ]
    assert hand.boxes() == states[0]
    for expected in states[1:]:
        hand.keys("Ctrl+z")
        assert hand.boxes() == expected
    hand.keys("Ctrl+z")
    assert hand.boxes() == [] and hand.text("note").startswith("Nothing to undo")
    for expected in states[-2::-1]:
        hand.keys("Ctrl+y")
        assert hand.boxes() == expected
    hand.keys("Ctrl+z", "Ctrl+z", "Ctrl+Shift+z")
    assert hand.labels() == ["dog"]


def test_history_is_kept_while_other_images_are_open(hand: Labeller) -> None:
    hand.drag(10, 10, 50, 50)
    hand.keys("d")
    hand.page.wait_for('document.getElementById("name").textContent === "two.png"')
    hand.keys("a")
    hand.page.wait_for('document.getElementById("name").textContent === "one.png"')
    hand.keys("Ctrl+z")
    assert hand.boxes() == []


@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        ("nw", [113, 67, 200, 140]),
        ("n", [100, 67, 200, 140]),
        ("ne", [100, 67, 213, 140]),
        ("e", [100, 60, 213, 140]),
        ("se", [100, 60, 213, 147]),
        ("s", [100, 60, 200, 147]),
        ("sw", [113, 60, 200, 147]),
        ("w", [113, 60, 200, 140]),
    ],
)
def test_each_handle_moves_its_edges_alone(
    hand: Labeller, handle: str, expected: list[float]
) -> None:
    hand.drag(100, 60, 200, 140)
    x = 100 if "w" in handle else 200 if "e" in handle else 150
    y = 60 if "n" in handle else 140 if "s" in handle else 100
    hand.drag(x, y, x + 13, y + 7)
    assert hand.boxes() == [expected]


def test_a_handle_pulled_over_the_other_side_turns_the_box_over(hand: Labeller) -> None:
    hand.drag(100, 60, 200, 140)
    hand.drag(200, 140, 50, 20)
    assert hand.boxes() == [[50, 20, 100, 60]]


def test_zoomed_in_a_box_is_drawn_to_the_pixel_under_the_pointer(hand: Labeller) -> None:
    x, y = map(round, hand.at(200, 100))  # a mouse stands on whole pixels of the screen
    left, top, before, *_ = hand.page.run(STAGE)
    point = ((x - left) / before, (y - top) / before)
    for _ in range(12):
        hand.page.mouse("Wheel", x, y, wheel=-300)
    hand.settle()
    assert hand.page.run(STAGE)[2] > 8 * before
    assert hand.at(*point) == pytest.approx((x, y), abs=1e-3)  # the wheel zooms at the pointer
    hand.drag(198, 99, 203, 101)
    assert hand.boxes() == [[198, 99, 203, 101]]
    hand.keys("0")
    assert hand.page.run(STAGE)[2] == pytest.approx(before)


def test_the_middle_button_moves_the_image_and_draws_nothing(hand: Labeller) -> None:
    hand.keys("+")
    x, y = hand.at(100, 100)
    hand.page.drag((x, y), (x + 40, y - 30), button="middle")
    hand.settle()
    assert hand.at(100, 100) == pytest.approx((x + 40, y - 30))
    assert hand.boxes() == []


def test_fingers_draw_and_two_zoom_without_drawing(hand: Labeller) -> None:
    start, end = hand.at(40, 40), hand.at(90, 110)
    hand.page.touch("Start", start)
    for step in (0.4, 1.0):
        hand.page.touch("Move", tuple(a + (b - a) * step for a, b in zip(start, end)))
    hand.page.touch("End")
    hand.settle()
    assert hand.boxes() == [[40, 40, 90, 110]]
    before = hand.page.run(STAGE)[2]
    (x1, y1), (x2, y2) = hand.at(180, 60), hand.at(220, 60)
    hand.page.touch("Start", (x1, y1))
    hand.page.touch("Start", (x1, y1), (x2, y2))
    hand.page.touch("Move", (x1 - 40, y1), (x2 + 40, y2))
    hand.page.touch("End")
    hand.settle()
    assert hand.page.run(STAGE)[2] == pytest.approx(before * (x2 - x1 + 80) / (x2 - x1), rel=1e-3)
    assert hand.boxes() == [[40, 40, 90, 110]]


def test_the_keyboard_alone_places_moves_resizes_names_and_leaves(hand: Labeller) -> None:
    hand.keys("Enter")
    ((x1, y1, x2, y2),) = hand.boxes()
    assert x1 + x2 == pytest.approx(WIDTH, abs=1) and y1 + y2 == pytest.approx(HEIGHT, abs=1)
    hand.keys("ArrowRight", "Shift+ArrowDown", "Ctrl+ArrowRight", "Alt+ArrowUp", "3", "f")
    assert hand.boxes() == [[x1 + 1, y1 + 9, x2 + 2, y2 + 10]]
    (found,) = hand.record()["objects"]
    assert (found["label"], found["difficult"]) == ("cat", True)
    hand.keys("Escape", "Enter", "Tab")  # past the last box
    assert hand.page.run('document.activeElement.id !== "stage"')
    hand.keys("Shift+Tab", "Shift+Tab", "Delete")
    assert len(hand.boxes()) == 1
    hand.keys("Escape", "ArrowRight")
    hand.page.wait_for('document.getElementById("name").textContent === "two.png"')
    hand.keys("e")
    assert hand.record(2)["state"] == "empty"


def test_boxes_are_copied_from_the_image_before_and_duplicated(hand: Labeller) -> None:
    hand.drag(10, 10, 50, 50)
    hand.keys("2", "d", "p")
    assert (hand.boxes(2), hand.labels(2)) == ([[10, 10, 50, 50]], ["dog"])
    hand.click(30, 30)
    hand.keys("Ctrl+d")
    assert hand.boxes(2) == [[10, 10, 50, 50], [14, 14, 54, 54]]


def test_pre_labels_are_taken_one_by_one_and_all_above_the_threshold(
    hand: Labeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        {"label": "car", "score": 0.9, "box": [10.25, 10.5, 60.75, 60.5]},
        {"label": "dog", "score": 0.7, "box": [100, 20, 150, 80]},
        {"label": "cat", "score": 0.3, "box": [200, 100, 260, 180]},
    ]
    state, model = Desk.state, {"name": "run", "generation": 1, "map": None}
    monkeypatch.setattr(Desk, "state", lambda self: state(self) | {"model": model})
    answer = {"status": "ready", "generation": 1, "detections": found}
    monkeypatch.setattr(Desk, "drafts", lambda self, number: answer)
    hand.open()
    hand.page.wait_for('document.getElementById("accept-all").textContent === "Accept all 2"')
    assert hand.boxes() == []  # nothing is taken by itself
    hand.click(30, 30)
    (first,) = hand.record()["objects"]
    assert first == {**found[0], "difficult": False, "machine_made": True}  # to the last digit
    hand.keys("]", "]", "]", "]", "]", "Shift+y")  # above .75 there is nothing more
    assert len(hand.boxes()) == 1
    hand.keys(*"[[[[[[[[[[", "Shift+y")  # .25
    assert hand.labels() == ["car", "dog", "cat"]
    hand.keys("Ctrl+z")
    assert hand.labels() == ["car"]


def test_a_proposal_is_offered_with_shift_and_a_click_takes_it(
    hand: Labeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Desk.state
    monkeypatch.setattr(Desk, "state", lambda self: state(self) | {"proposals": True})
    answer = {"status": "ready", "boxes": [[20, 30, 90, 120], [150, 50, 250, 150]]}
    monkeypatch.setattr(Desk, "proposals", lambda self, number: answer)
    hand.open()
    hand.page.wait_for('document.getElementById("proposal-status").textContent.startsWith("2 ")')
    hand.click(200, 100, keys=SHIFT)
    assert hand.boxes() == [[150, 50, 250, 150]]
    hand.drag(24, 33, 88, 117)
    assert hand.boxes()[1] == [24, 33, 88, 117]  # what was drawn stays unless one asks
    hand.keys("y")
    assert hand.boxes()[1] == [20, 30, 90, 120]


def test_ten_thousand_images_scroll_and_jump_without_lag(hand: Labeller) -> None:
    script = """(async () => {
      const { Images } = await import("./page/images.js");
      const list = new Images(document);
      const images = Array.from({ length: 10000 }, (_, at) =>
        [at + 1, `photo-${at + 1}.jpg`, 640, 480, at % 2 ? "done" : "todo", 1, 0]);
      const start = performance.now();
      list.fill({ images, order: images.map(([number]) => number) });
      list.open(9000);
      const rows = () => [...list.list.querySelectorAll(".image-row:not([hidden])")];
      const seen = rows().some((row) => row.dataset.number === "9000");
      for (let top = 0; top < 360000; top += 3600) { list.list.scrollTop = top; list.draw(); }
      list.search.value = "photo-777";
      list.filter();
      return [performance.now() - start, seen, rows().length, list.rows.length];
    })()"""
    answer = hand.page.call(
        "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
    )
    milliseconds, seen, rows, found = answer["result"]["value"]
    assert seen and rows < 60 and found == 11  # 777, 7770 to 7779
    assert milliseconds < 2000  # a jump, a hundred scrolls and a filter


LONG = {
    "of-one-folder": [
        f"recordings-of-the-crossing/camera-left/frame-{n:06}.png" for n in range(98, 102)
    ],
    "of-folders-that-differ-in-the-middle": [
        f"recordings/{where}-of-the-crossing/2023-05-01/000001.png"
        for where in ("left", "right", "rear")
    ],
    "of-dates": [
        f"2023-05-01T12-{minute}-07.123456789+0200_camera_{side}_final_version.png"
        for minute in (33, 34)
        for side in ("left", "right")
    ],
    "in-wide-letters": [f"交差点の録画/左側のカメラ/写真の番号は{n}番です.png" for n in "一二三"],
    "with-accents-apart": [
        f"cafe\u0301s-et-re\u0301staurants-de-la-ville/ete\u0301-{n}.png" for n in range(3)
    ],
    "short": ["a.png", "b.png"],
}
ROWS = """[...document.querySelectorAll(".image-row:not([hidden])")].map((row) => {
  const name = row.querySelector(".name");
  return [name.textContent, row.title, name.scrollWidth <= name.clientWidth, row.ariaLabel];
})"""
TITLE = """(() => {
  const [start, end] = document.getElementById("name").children;
  const box = end.getBoundingClientRect();
  return [start.textContent + end.textContent, document.getElementById("name").title,
    box.right <= document.getElementById("name").getBoundingClientRect().right + 1];
})()"""


@pytest.mark.parametrize("names", LONG.values(), ids=LONG)
@pytest.mark.parametrize("width", [1000, 1280])
def test_long_names_in_the_list_are_told_apart_by_what_is_shown(
    browser: Page, tmp_path: Path, names: list[str], width: int
) -> None:
    for name in names:
        save(tmp_path / "photos" / name, HEIGHT, WIDTH)
    browser.errors.clear()
    browser.look(width, 800)
    with labelling(tmp_path / "photos", tmp_path / "out", classes=["car"]) as client:
        Labeller(browser, client, tmp_path / "out").open()
        rows = browser.run(ROWS)
        assert len({shown for shown, *_ in rows}) == len(names)
        found = set()
        for shown, title, fits, label in rows:
            (name,) = (one for one in names if title.startswith(one))
            assert fits and label.startswith(name)
            parts = [re.escape(part) for part in shown.split("…")]
            assert re.fullmatch(".+".join(parts) if len(parts) > 1 else parts[0], name), shown
            assert all(not part.startswith("\u0301") for part in shown.split("…"))
            assert shown.endswith(name[-4:])
            found.add(name)
        assert found == set(names)
        whole, title, is_in_sight = browser.run(TITLE)
        assert (whole, title) == (names[0], names[0]) and is_in_sight
        assert browser.errors == []
        browser.open("about:blank")


def test_a_reload_keeps_the_image_the_boxes_and_the_right_to_write(hand: Labeller) -> None:
    hand.keys("d")
    hand.drag(10, 20, 50, 60)
    hand.page.run("window.isOld = true")
    hand.page.call("Page.reload")
    hand.page.wait_for(f"window.isOld === undefined && {READY}")
    hand.settle()
    assert hand.text("name") == "two.png" and hand.text("object-count") == "1"
    hand.drag(100, 20, 150, 60)
    assert hand.boxes(2) == [[10, 20, 50, 60], [100, 20, 150, 60]]


def test_names_that_are_html_are_shown_and_never_run(browser: Page, tmp_path: Path) -> None:
    name = "<img src=x onerror=window.hacked=1>"
    save(tmp_path / "photos" / f"{name}.png", HEIGHT, WIDTH)
    browser.errors.clear()
    browser.look(1280, 800)
    with labelling(tmp_path / "photos", tmp_path / "out", classes=["car"]) as client:
        hand = Labeller(browser, client, tmp_path / "out")
        hand.open()
        hand.keys("c")
        browser.type(name)
        hand.keys("Enter")
        hand.drag(20, 20, 80, 80)
        assert hand.labels() == [name] and hand.text("name") == f"{name}.png"
        assert browser.run("window.hacked === undefined && !document.querySelector('body img')")
        assert browser.errors == []
        browser.open("about:blank")


def test_a_second_tab_only_looks_until_it_takes_over(hand: Labeller) -> None:
    hand.drag(10, 10, 50, 50)
    first = hand.page.new_tab()
    hand.page.look(1280, 800)
    hand.open()
    assert "only shows it" in hand.text("read-only") and hand.text("object-count") == "1"
    hand.keys("Delete", "Enter", "e")
    assert hand.boxes() == [[10, 10, 50, 50]]
    hand.page.run('document.querySelector("[data-do=take-over]").click()')
    hand.page.wait_for('document.getElementById("read-only").hidden')
    hand.keys("Escape", "Tab", "Shift+ArrowRight")
    assert hand.boxes() == [[20, 10, 60, 50]]
    hand.page.close_tab(first)
    hand.page.wait_for('!document.getElementById("read-only").hidden')  # and it sees the other's
    hand.page.wait_for(
        'document.querySelector("#object-list .place").textContent.endsWith("20, 10")'
    )


def test_what_another_page_saved_is_shown_and_ones_own_is_one_undo_away(hand: Labeller) -> None:
    hand.drag(10, 10, 50, 50)
    hand.client.editor = hand.client.get("state")["editor"]
    assert hand.client.put(1, ("dog", [100, 100, 150, 150]))[0] == 200
    hand.drag(60, 60, 90, 90)
    hand.page.wait_for('!document.getElementById("conflict").hidden')
    assert hand.boxes() == [[100, 100, 150, 150]]
    hand.keys("Ctrl+z")
    assert hand.boxes() == [[10, 10, 50, 50], [60, 60, 90, 90]]
    hand.page.errors.clear()  # the browser lists the refused request


def test_what_could_not_be_saved_says_so_and_is_saved_later(
    hand: Labeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def refuse(self: object, *rest: object) -> int:
            raise OSError(28, "No space left on device")

        broken.setattr("detkit.labelling.session.Session._append", refuse)
        hand.page.drag(hand.at(10, 10), hand.at(50, 50))
        hand.page.wait_for('document.getElementById("saving").textContent.startsWith("NOT SAVED")')
    hand.settle()
    assert hand.boxes() == [[10, 10, 50, 50]]
    hand.page.errors.clear()  # the browser lists the refused requests


@pytest.mark.parametrize(("width", "height"), [(360, 640), (390, 844), (3840, 2160)])
def test_nothing_is_wider_than_a_screen_of_any_size(
    hand: Labeller, width: int, height: int
) -> None:
    hand.page.look(width, height)
    hand.settle()
    assert hand.page.run("document.documentElement.scrollWidth") <= width
    hand.drag(50, 50, 100, 100)
    assert hand.boxes() == [[50, 50, 100, 100]]


def test_the_help_and_the_docs_list_the_same_keys_and_gestures(hand: Labeller) -> None:
    hand.keys("?")
    assert hand.page.run('document.getElementById("help").open')
    assert hand.page.run(HELP) in DOCS.read_text(encoding="utf-8")
    hand.keys("Escape")
    assert not hand.page.run('document.getElementById("help").open')
