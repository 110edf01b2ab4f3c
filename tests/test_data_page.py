"""`check --report`: the page of a labelled folder, read as text and in a browser."""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import Page
from labelled_folders import put, xml
from mistakes import IMAGES, TABLE
from report_samples import HOSTILE, HOSTILE_XML
from running import Done, detkit

from detkit.data import open_dataset
from detkit.data.images import read_image, write_image
from detkit.report import data_page
from detkit.report.data_samples import EXTREMES, sample_objects
from detkit.report.small_pictures import Wish, take_pictures

SIZE = (160, 100)
HOSTILE_FILE = "<img src=x onerror=alert(1)>"  # no "/": a file may be called so


def noise(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.asarray(cv2.resize(coarse, size), np.uint8))


def broken_folder(root: Path) -> Path:
    """Return a VOC folder with one of each: see the counts in `FOUND`."""
    head = {"size": SIZE}
    car = ("car", 11, 11, 50, 50)
    put(
        root,
        {
            "Annotations/sound.xml": xml(car, ("dog", 101, 21, 150, 70), **head),
            "Annotations/swapped.xml": xml(car, ("dog", 90, 30, 60, 60), **head),
            "Annotations/outside.xml": xml(("dog", 101, 21, 250, 70), **head),
            "Annotations/gone.xml": xml(car, **head),
            "Annotations/cut.xml": xml(car, **head),
            "Annotations/copy.xml": xml(car, **head),
            f"Annotations/{HOSTILE_FILE}.xml": xml((HOSTILE_XML, 61, 61, 61, 61), **head),
            "Annotations/bad.xml": "<annotation>",
            "ImageSets/Main/train.txt": f"sound\nswapped\ngone\ncut\nbad\n{HOSTILE_FILE}\n",
            "ImageSets/Main/test.txt": "outside\ncopy\n",
        },
    )
    for seed, name in enumerate(("sound", "swapped", "outside", "cut", HOSTILE_FILE, "bad")):
        noise(root / "JPEGImages" / f"{name}.jpg", seed)
    cut = root / "JPEGImages" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    again = (root / "JPEGImages" / "sound.jpg").read_bytes()
    (root / "JPEGImages" / "copy.jpg").write_bytes(again)
    return root


def data_of(page: Path) -> Any:
    """Return the JSON inside a page."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def plain(data: Path, *words: str) -> Done:
    return detkit("check", data, *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken_folder(tmp_path_factory.mktemp("dätä") / "data")


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    page = folder.parent / "data.html"
    assert detkit("check", folder, "--report", page).returncode == 1
    return page


def test_the_page_holds_every_finding_of_check(folder: Path, report: Path) -> None:
    found = json.loads(plain(folder, "--json").stdout)["findings"]
    wanted = Counter((one["severity"], one["code"]) for one in found)
    shown = Counter((one["severity"], one["code"]) for one in data_of(report)["findings"])
    assert shown == wanted
    codes = {code for _, code in wanted}
    assert codes >= {"swapped-box", "outside-image", "missing-image", "unreadable-image"}
    assert codes >= {"bad-xml", "one-pixel", "leaked-image"}
    text = html.unescape(report.read_text(encoding="utf-8"))
    for one in found:
        assert one["message"] in text


def test_what_check_prints_and_its_exit_code_are_the_same_with_a_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detkit.cli.reached.is_installed", lambda _: False)  # spares the seconds
    for words in ((), ("--json",), ("--markdown",), ("--no-images",)):
        before = plain(folder, *words)
        after = plain(folder, *words, "--report", str(tmp_path / "a.html"), "--force")
        assert (after.returncode, after.stdout) == (before.returncode, before.stdout)
        assert f"report: {tmp_path / 'a.html'}" in after.stderr


@pytest.mark.parametrize("mistake", ["broken", "missing", "outside", "twice", "swapped", "twins"])
@pytest.mark.parametrize("name", ["voc", "coco", "yolo", "csv", "wider", "mot"])
def test_a_folder_with_a_mistake_has_a_page_with_it(
    tmp_path: Path, name: str, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mistake not in TABLE[name]:
        pytest.skip("cannot be")
    monkeypatch.setattr("detkit.cli.reached.is_installed", lambda _: False)  # spares the seconds
    files, code = TABLE[name][mistake]
    data, page = put(tmp_path / "data", files), tmp_path / "page.html"
    done = detkit("check", data, "--report", page)
    assert done.returncode == plain(data).returncode
    assert code in {one["code"] for one in data_of(page)["findings"]}
    assert "How large networks see the objects needs PyTorch" in page.read_text(encoding="utf-8")


def test_nothing_is_overwritten_without_force_nor_written_into_the_data(
    folder: Path, report: Path, tmp_path: Path
) -> None:
    before = report.read_bytes()
    refused = plain(folder, "--report", str(report))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "exists already; add --force" in refused.stderr
    assert report.read_bytes() == before
    inside = plain(folder, "--report", str(folder / "a.html"))
    assert inside.returncode == 2
    assert not (folder / "a.html").exists()
    missing = plain(folder, "--report", str(tmp_path / "no" / "a.html"))
    assert missing.returncode == 2


def test_boxes_stand_where_the_label_says_and_the_one_of_the_finding_is_marked(
    report: Path,
) -> None:
    data = data_of(report)
    one = next(one for one in data["findings"] if one["code"] == "swapped-box")
    whole = data["pictures"][one["shots"][0]]
    assert whole["whole"] == list(SIZE)
    car, dog = data["classes"].index("car"), data["classes"].index("dog")
    # VOC's 1-based and inclusive corners as 0-based and half-open ones.
    assert whole["boxes"] == [[car, 0, 10, 10, 50, 50], [dog, 1, 89, 29, 60, 60]]


def test_a_missing_and_a_broken_image_have_a_frame_of_their_size_that_says_why(
    report: Path,
) -> None:
    data = data_of(report)
    for code, words in (("missing-image", "no such image"), ("unreadable-image", "cannot be read")):
        one = next(one for one in data["findings"] if one["code"] == code)
        shot = data["pictures"][one["shots"][0]]
        assert (shot["source"], shot["whole"]) == (-1, list(SIZE))
        assert shot["why"].startswith(words)
        assert len(shot["boxes"]) == 1


def test_both_pictures_of_a_leak_are_shown_and_look_alike(report: Path) -> None:
    data = data_of(report)
    one = next(one for one in data["findings"] if one["code"] == "leaked-image")
    shots = [data["pictures"][place] for place in one["shots"]]
    assert {shot["name"] for shot in shots} == {"JPEGImages/sound.jpg", "JPEGImages/copy.jpg"}
    assert {data["splits"][place] for place in one["splits"]} == {"train", "test"}
    pixels = [decoded(data["sources"][shot["source"]]) for shot in shots]
    assert (pixels[0] == pixels[1]).all()


def decoded(source: str) -> np.ndarray[Any, Any]:
    kind, _, text = source.partition(",")
    assert kind == "data:image/webp;base64"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels


def test_a_crop_shows_the_pixels_around_its_box(folder: Path, report: Path) -> None:
    data = data_of(report)
    crop = next(one for one in data["crops"] if one["name"] == "JPEGImages/outside.jpg")
    # The dog at (100, 20, 250, 70), with 15 % of 150 around it, ends with the image of 160 x 100.
    assert crop["box"] == [23.0, 20.0, 173.0, 70.0]
    assert (crop["width"], crop["height"]) == (83, 93)
    pixels = decoded(crop["source"])
    wanted = read_image(folder / "JPEGImages" / "outside.jpg")[0:93, 77:160]
    assert pixels.shape == wanted.shape or max(pixels.shape) == 112
    small = cv2.resize(pixels, (83, 93)).astype(float)
    assert np.abs(small - wanted).mean() < 12


def test_of_a_class_the_extremes_are_in_the_sample_and_all_sizes_and_images(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    files: dict[str, str | None | tuple[int, int]] = {}
    sides = []
    for number in range(100):
        objects = []
        for _ in range(5):
            width, height = (int(side) for side in random.integers(5, 190, 2))
            objects.append(("car", 1, 1, width, height))
            sides.append((width, height))
        files[f"images/{number}.png"] = (200, 200)
        files[f"Annotations/{number}.xml"] = xml(*objects, size=(200, 200))
    chosen = sample_objects(open_dataset(put(tmp_path, files)))
    assert len(chosen) == 24
    wanted = {
        "smallest": min(w * h for w, h in sides),
        "largest": max(w * h for w, h in sides),
        "narrowest": min(w / h for w, h in sides),
        "widest": max(w / h for w, h in sides),
    }
    for kind in EXTREMES:
        one = next(one for one in chosen if kind in one.kind)
        value = one.area if kind in EXTREMES[:2] else one.aspect
        assert value == pytest.approx(wanted[kind])
    assert len({one.record.path for one in chosen}) >= 22
    quarters = np.quantile([w * h for w, h in sides], (0.25, 0.5, 0.75))
    counts = np.bincount(np.searchsorted(quarters, [one.area for one in chosen]), minlength=4)
    assert counts.min() >= 4


def test_with_less_room_every_class_is_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, str | None | tuple[int, int]] = {}
    for number in range(20):
        objects = [(f"class{place}", 1, 1, 20 + place, 30) for place in range(10)]
        files[f"images/{number}.png"] = (60, 60)
        files[f"Annotations/{number}.xml"] = xml(*objects, size=(60, 60))
    data = open_dataset(put(tmp_path / "data", files))
    data_page.write_data_page(tmp_path / "all.html", data, [])
    monkeypatch.setattr(data_page, "CROP_BYTES", 1200)
    data_page.write_data_page(tmp_path / "few.html", data, [])
    every, few = (data_of(tmp_path / f"{name}.html")["crops"] for name in ("all", "few"))
    assert len(few) < len(every)
    assert {one["class"] for one in few} == set(range(10))
    used = sum(len(base64.b64decode(one["source"].partition(",")[2])) for one in few)
    assert used <= 1200


def test_a_page_too_large_is_made_with_fewer_findings_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detkit.data.checks.check import check

    data = open_dataset(folder)
    findings = check(data) * 300
    data_page.write_data_page(tmp_path / "full.html", data, findings)
    whole = (tmp_path / "full.html").stat().st_size
    monkeypatch.setattr(data_page, "MOST_BYTES", whole // 2)
    data_page.write_data_page(tmp_path / "half.html", data, findings)
    assert (tmp_path / "half.html").stat().st_size <= whole // 2
    shown = data_of(tmp_path / "half.html")["findings"]
    assert {one["code"] for one in shown} == {one.code for one in findings}
    told = f"Of {len(findings):,} findings {len(shown):,} are shown"
    assert told in (tmp_path / "half.html").read_text(encoding="utf-8")


def test_pictures_stop_at_the_bytes_there_are(tmp_path: Path) -> None:
    wishes = []
    for seed in range(6):
        noise(tmp_path / f"{seed}.png", seed)
        wishes.append(Wish(tmp_path / f"{seed}.png", 100))
    every, _ = take_pictures(wishes, 10**9)
    sizes = [len(every[wish].webp) for wish in wishes]
    some, _ = take_pictures(wishes, sum(sizes[:3]))
    assert list(some) == wishes[:3]
    assert max(decoded(every[wishes[0]].source).shape) == 100


def test_the_objects_on_the_networks_image_are_those_of_check_for_that_model(
    tmp_path: Path,
) -> None:
    files = {
        **IMAGES,
        "images/a.png": (600, 600),
        "images/b.png": (300, 600),
        "Annotations/a.xml": xml(("car", 1, 1, 10, 10), ("car", 1, 1, 300, 200), size=(600, 600)),
        "Annotations/b.xml": xml(("car", 1, 1, 100, 100), size=(600, 300)),
    }
    page = tmp_path / "page.html"
    assert detkit("check", put(tmp_path / "data", files), "--report", page).returncode == 0
    sizes = data_of(page)["sizes"]
    ssd = next(one for one in sizes["models"] if one["name"] == "ssd")
    assert sorted(ssd["sides"]) == [[5.0, 5.0], [50.0, 100.0], [150.0, 100.0]]  # 300 x 300
    for one in sizes["models"]:
        told = json.loads(
            detkit("check", tmp_path / "data", "--model", one["name"], "--json").stdout
        )
        assert one["reached"].count(0) == told["reach"]["unreached"], one["name"]
    assert {"rcnn", "fast-rcnn", "faster-rcnn", "ssd", "yolov1"} <= {
        one["name"] for one in sizes["models"]
    }


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    browser.errors.clear()
    browser.requests.clear()
    browser.look(1280, 900)
    browser.open(report)
    return browser


def choose(page: Page, name: str, text: str) -> None:
    page.run(
        f"(() => {{ const one = document.getElementById('filters').elements.{name}; one.value ="
        f"[...one.options].find(o => o.textContent === {json.dumps(text)}).value;"
        "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )


def scroll_to(page: Page, code: str) -> str:
    """Bring the finding of that code into the window, drawn, and return its selector."""
    place = page.run(f"DATA.findings.findIndex(one => one.code === '{code}')")
    card = f".finding[data-finding='{place}']"
    page.run(f'document.querySelector("{card}").scrollIntoView()')
    page.screenshot()  # draws a frame, and with it what is near the window
    return card


VISIBLE = "[...document.querySelectorAll('.finding:not([hidden])')].map(e => e.dataset.finding)"
CROPS = (
    "[...document.querySelectorAll('.of-class:not([hidden]) .crops > li:not([hidden]) .card')]"
    ".map(e => e.title)"
)


@pytest.mark.browser
def test_the_page_loads_without_errors_and_without_the_network(page: Page, report: Path) -> None:
    assert page.errors == []
    asked = {url for url in page.requests if not url.startswith("data:")}
    assert asked == {report.resolve().as_uri()}


@pytest.mark.browser
def test_names_that_look_like_markup_are_text(page: Page) -> None:
    assert "taken over" not in page.run("document.title")
    assert page.run("document.querySelectorAll('main img[src=x]').length") == 0
    assert HOSTILE in page.run("document.querySelector('#counts').textContent")
    assert HOSTILE in page.run("document.querySelector('#filters').textContent")
    assert HOSTILE_FILE in page.run("document.body.textContent")
    assert page.errors == []


@pytest.mark.browser
def test_filters_leave_the_findings_and_objects_that_fit(page: Page, report: Path) -> None:
    data = data_of(report)
    assert len(page.run(VISIBLE)) == len(data["findings"])
    assert len(page.run(CROPS)) == len(data["crops"])
    for name, key, text in (
        ("severity", "severity", "error"),
        ("code", "code", "swapped-box"),
    ):
        choose(page, name, text)
        wanted = [str(place) for place, one in enumerate(data["findings"]) if one[key] == text]
        assert wanted
        assert sorted(page.run(VISIBLE)) == sorted(wanted)
        choose(page, name, "all")
    for name, text in (("class", "dog"), ("split", "test")):
        choose(page, name, text)
        key = {"class": "classes", "split": "splits"}[name]
        number = data[key].index(text)
        wanted = [str(n) for n, one in enumerate(data["findings"]) if number in one[key]]
        assert 0 < len(wanted) < len(data["findings"])
        assert sorted(page.run(VISIBLE)) == sorted(wanted)
        crops = [
            one["name"]
            for one in data["crops"]
            if number in (one["splits"] if name == "split" else [one["class"]])
        ]
        assert 0 < len(crops) < len(data["crops"])
        assert sorted(page.run(CROPS)) == sorted(crops)
        choose(page, name, "all")
    assert len(page.run(VISIBLE)) == len(data["findings"])


@pytest.mark.browser
def test_the_sizes_follow_the_class_and_the_backend(page: Page) -> None:
    told = "document.getElementById('size-reading').textContent"
    assert page.run("document.querySelectorAll('#shape-chart circle').length") > 3
    choose(page, "class", "dog")
    sound = page.run("DATA.sizes.classes.filter(c => c === DATA.classes.indexOf('dog')).length")
    assert page.run("document.querySelectorAll('#shape-chart circle').length") == sound
    page.run(
        "(() => { const one = document.getElementById('size-model'); one.selectedIndex = 3;"
        "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )
    assert page.run(told).startswith(page.run("DATA.sizes.models[3].name"))


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_and_is_drawn_in_light_and_dark(
    page: Page, width: int, dark: bool
) -> None:
    page.look(width, 900, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    pixels = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert float(pixels.mean()) < 70 if dark else float(pixels.mean()) > 190
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.mark.browser
def test_a_picture_opens_large_by_the_keyboard_with_its_marked_box(page: Page) -> None:
    card = scroll_to(page, "swapped-box")
    page.run(f'document.querySelector("{card} .card").focus()')
    page.press("Enter", 13, "\r")
    assert page.run("document.getElementById('viewer').open")
    first = page.run("document.getElementById('viewer-title').textContent")
    assert page.run("document.querySelectorAll('#viewer-picture rect.marked').length") == 1
    page.press("ArrowRight", 39)
    page.press("ArrowRight", 39)
    assert page.run("document.getElementById('viewer-title').textContent") != first
    page.press("Escape", 27)
    assert not page.run("document.getElementById('viewer').open")
    assert page.errors == []


@pytest.mark.browser
def test_a_box_outside_its_image_is_in_the_picture(page: Page) -> None:
    card = scroll_to(page, "outside-image")

    def edges(inner: str) -> list[float]:
        found = f'document.querySelector("{card} {inner}").getBoundingClientRect()'
        return list(page.run(f"(r => [r.left, r.right])({found})"))

    frame, box, image = edges(".shot"), edges(".marked"), edges(".shot img")
    assert box[1] <= frame[1] + 2
    assert box[0] >= frame[0] - 2
    # Of a picture that is 250 pixels wide with the box, the image is 160.
    assert (image[1] - image[0]) / (frame[1] - frame[0]) == pytest.approx(160 / 250, abs=0.02)
