"""Where results may go: nothing is overwritten unasked, nothing is written to the data."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from report_samples import write_folder, write_found
from running import Done, detkit

from detkit.data.output import new_folder
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import UsageError
from detkit.model_file import save_model

IMAGES = "JPEGImages"
OPTIONS = (("--report", "r.html"), ("--junit", "r.xml"), ("--pr-curve", "r.png"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "dätä")


def scored(folder: Path, *words: str | Path) -> Done:
    found = write_found(folder.parent / "found.jsonl")
    return detkit("eval", "--predictions", found, folder, *words)


@pytest.mark.parametrize(("option", "name"), OPTIONS)
def test_eval_overwrites_nothing_without_force(
    folder: Path, tmp_path: Path, option: str, name: str
) -> None:
    out = tmp_path / name
    assert scored(folder, option, out).returncode == 0
    before = out.read_bytes()
    out.write_bytes(b"mine")
    refused = scored(folder, option, out)
    assert refused.returncode == 2 and "--force" in refused.stderr
    assert out.read_bytes() == b"mine"
    assert scored(folder, option, out, "--force").returncode == 0
    assert len(out.read_bytes()) == len(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("option", ["--report", "--junit"])
def test_scores_are_told_though_the_disk_is_full(folder: Path, option: str) -> None:
    done = scored(folder, option, "/dev/full")
    assert done.returncode == 3 and "the disk is full" in done.stderr
    assert done.stdout == scored(folder).stdout != ""


@pytest.mark.parametrize("option", [option for option, _ in OPTIONS])
def test_a_dash_makes_no_file_of_that_name(folder: Path, option: str) -> None:
    done = scored(folder, option, Path("-"))
    assert done.returncode == 2 and f"{option} -: is no file" in done.stderr


@pytest.mark.parametrize(("option", "name"), OPTIONS)
def test_eval_writes_nothing_into_the_labelled_folder_even_with_force(
    folder: Path, option: str, name: str
) -> None:
    done = scored(folder, option, folder / name, "--force")
    assert done.returncode == 2 and "lies in the source folder" in done.stderr
    assert not (folder / name).exists()


@pytest.mark.parametrize(
    "words",
    [
        "check DATA --report",
        "eval --predictions DATA DATA --report",
        "suspects DATA --predictions DATA -o",
        "compare DATA --models ssd --folds 3 --max-steps 1 -o OUT --report",
        "enough DATA --model ssd --max-minutes 9 -o OUT --report",
    ],
)
@pytest.mark.parametrize("name", ["page.txt", "page", ".html", "page.html.bak"])
def test_a_page_by_a_name_that_no_browser_opens_is_refused_at_once(
    folder: Path, tmp_path: Path, words: str, name: str
) -> None:
    *start, option = words.split()
    places = {"DATA": folder, "OUT": tmp_path / "out"}
    page = tmp_path / name
    done = detkit(*(places.get(word, word) for word in start), option, page)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"detkit: error: {option} {page}: a page's name ends in .html, by which it is opened\n"
    )
    assert not page.exists()


def test_a_page_may_have_any_of_the_suffixes_of_pages(folder: Path, tmp_path: Path) -> None:
    for name in ("a.html", "a.HTM"):
        assert detkit("check", folder, "--report", tmp_path / name).returncode == 0
        assert "<html" in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="named pipes")
def test_a_pipe_is_no_file_to_overwrite(folder: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "junit"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    assert scored(folder, "--junit", pipe).returncode == 0
    reader.join(60)
    assert "<testsuites" in read[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail-under", "moon=.1"], "--fail-under moon=0.1: no such class"),
        (["--pr-curve", "OUT/r.gif"], "a plot is written as one of"),
        (["--report", "OUT/no/r.html"], "there is no folder"),
        (["--junit", "OUT"], "is a folder"),
    ],
)
def test_a_wrong_option_is_told_before_the_model_is_opened(
    folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"no model")
    done = detkit("eval", model, folder, *(word.replace("OUT", str(tmp_path)) for word in words))
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("more", [(), ("--devices", "2")])
def test_a_place_that_detections_cannot_go_to_is_told_before_the_model_is_opened(
    folder: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"no model")
    done = detkit("detect", model, folder, "-o", tmp_path / "no" / "f.jsonl", *more)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        f"there is no folder {tmp_path / 'no'}; make it first"
    )


def test_a_plot_names_classes_that_look_like_formulas_and_says_nothing(
    folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for path in (folder / "Annotations").glob("*.xml"):
        path.write_text(
            path.read_text(encoding="utf-8").replace("car", "猫 $\\frac$").replace("dog", "_dog"),
            encoding="utf-8",
        )
    found = write_found(tmp_path / "found.jsonl")
    text = found.read_text(encoding="utf-8").replace("car", "猫 $\\\\frac$").replace("dog", "_dog")
    found.write_text(text, encoding="utf-8")
    words = ("eval", "--predictions", found, folder, "--pr-curve", tmp_path / "pr.svg")
    done = detkit(*words)
    assert done.returncode == 0, done.stderr
    assert not [one for one in recwarn if "matplotlib" in one.filename or "plots" in one.filename]
    assert (tmp_path / "pr.svg").stat().st_size > 1000


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """Return a model that has learnt nothing."""
    torch.manual_seed(0)
    save_model(tmp_path / "m.safetensors", SSD(SSDConfig(size=64), ("car", "dog")))
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("kind", ["folder", "file", "glob", "list", "stdin", "below"])
def test_no_drawing_replaces_an_image_that_is_read_even_with_force(
    folder: Path, tmp_path: Path, model: Path, kind: str
) -> None:
    images = folder / IMAGES
    before = {path: path.read_bytes() for path in images.iterdir()}
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, before)), encoding="utf-8")
    source: str | Path = {
        "folder": images,
        "file": images / "one.jpg",
        "glob": images / "*.jpg",
        "list": listed,
        "stdin": "-",
        "below": folder,
    }[kind]
    stdin = listed.read_text(encoding="utf-8")
    done = detkit("detect", model, source, "--draw", images, "--force", "-q", stdin=stdin)
    assert done.returncode == 2
    assert "is read from there" in done.stderr
    assert {path: path.read_bytes() for path in images.iterdir()} == before


@pytest.mark.parametrize("command", ["detect", "next", "propose"])
def test_an_empty_stdin_is_one_error_and_nothing_is_replaced(
    command: str, tmp_path: Path, model: Path
) -> None:
    out = tmp_path / "found.jsonl"
    out.write_text("of before", encoding="utf-8")
    words = {
        "detect": [model, "-", "-o", out, "--force"],
        "next": ["-"],
        "propose": ["-", "-o", out, "--force"],
    }[command]
    done = detkit(command, *words, "-q", stdin="")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "detkit: error: -: no paths on stdin; expected one a line\n"
    assert out.read_text(encoding="utf-8") == "of before"
    assert [path.name for path in tmp_path.glob("*found*")] == ["found.jsonl"]


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder nobody can write to")
@pytest.mark.parametrize(
    "words",
    [
        "eval --predictions no.jsonl DATA --report /sys/r.html",
        "eval --predictions no.jsonl DATA --pr-curve /sys/r.png",
        "suspects DATA --predictions no.jsonl --patch /sys/p.json",
        "compare DATA --run no.safetensors -o OUT --report /sys/r.html",
        "detect MODEL DATA --draw /sys/drawn",
        "detect MODEL DATA --draw /sys/drawn/deep --force",
    ],
)
def test_a_place_nobody_can_write_to_is_told_before_the_work(
    folder: Path, tmp_path: Path, model: Path, words: str
) -> None:
    places = {"DATA": folder, "OUT": tmp_path / "out", "MODEL": model}
    done = detkit(*(places.get(word, word) for word in words.split()), "-q")
    assert (done.returncode, done.stdout) == (3, "")
    place = next(word for word in words.split() if word.startswith("/sys/"))
    assert done.stderr.startswith(f"detkit: error: {place}: cannot be written: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_no_drawing_goes_through_a_link_onto_its_image(
    folder: Path, tmp_path: Path, model: Path
) -> None:
    image, drawn = folder / IMAGES / "one.jpg", tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "one.jpg").symlink_to(image)
    before = image.read_bytes()
    done = detkit("detect", model, image, "--draw", drawn, "--force", "-q")
    assert done.returncode == 2
    assert image.read_bytes() == before


def test_detections_do_not_go_where_an_image_is(folder: Path, model: Path) -> None:
    image = folder / IMAGES / "one.jpg"
    before = image.read_bytes()
    done = detkit("detect", model, image, "-f", "jsonl", "-o", image, "--force")
    assert done.returncode == 2 and "named like an image" in done.stderr
    assert image.read_bytes() == before


@pytest.mark.parametrize("onto", ["model", "list", "list by @"])
def test_detections_do_not_replace_what_they_are_made_from_even_with_force(
    folder: Path, tmp_path: Path, model: Path, onto: str
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder / IMAGES / 'one.jpg'}\n", encoding="utf-8")
    out = model if onto == "model" else listed
    before = out.read_bytes()
    source = f"@{listed}" if onto == "list by @" else listed
    done = detkit("detect", model, source, "-f", "csv", "-o", out, "--force")
    assert done.returncode == 2 and "is read from there" in done.stderr
    assert out.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_detect_writes_names_out_that_would_steer_the_terminal(
    folder: Path, tmp_path: Path, model: Path
) -> None:
    image = tmp_path / "a\x1b[2J\n.jpg"
    image.write_bytes((folder / IMAGES / "one.jpg").read_bytes())
    done = detkit("detect", model, image, "-f", "table", "--score", "0", "-q")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "a\\u001b[2J\\u000a.jpg" in done.stdout.splitlines()[1]


def test_of_two_runs_into_one_folder_the_later_replaces_nothing_without_force(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="is not empty"), new_folder(out) as partial:
        (partial / "images").mkdir()
        (out / "annotations").mkdir(parents=True)  # as if the other had ended first
    assert [one.name for one in out.iterdir()] == ["annotations"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on a file's size")
@pytest.mark.parametrize("form", ["jsonl", "json", "coco", "csv"])
@pytest.mark.parametrize("most", [4000, 12_000])
def test_detections_that_do_not_fit_on_the_disk_name_their_file_and_leave_nothing(
    tmp_path: Path, form: str, most: int
) -> None:
    out = tmp_path / f"found.{form}"
    code = f"""
import resource, sys
from pathlib import Path
import numpy as np
from detkit.predictions.image import ImagePredictions
from detkit.predictions.writers import open_writer
VALUES = np.ones(60), np.ones((60, 4))
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
try:
    with open_writer({form!r}, Path({str(out)!r}), class_names=["car"]) as writer:
        for number in range(30):  # what is held back and what is written at once, in turn
            one = ImagePredictions(f"{{number}}.jpg", 9, 9, ("car",) * 60, *VALUES)
            writer.write(one)
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.startswith(f"DetkitError: {out}: not written, the disk is full"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on a file's size")
@pytest.mark.parametrize(
    "words",
    [
        "detect MODEL DATA/JPEGImages --score 0 --draw OUT",
        "detect MODEL DATA/JPEGImages --score 0 -f voc -o OUT",
        "detect MODEL DATA/JPEGImages --score 0 --as-labels OUT --to coco",
        "train DATA --model ssd --max-steps 1 --batch-size 2 --num-workers 0 --device cpu -o OUT",
        "compare DATA --models ssd --folds 2 --max-steps 1 --device cpu -o OUT",
        "convert DATA OUT --to coco",
        "label DATA --no-open -o OUT",
        "demo OUT --num-images 6",
    ],
)
def test_a_full_disk_leaves_no_folder_that_was_not_there(
    folder: Path, tmp_path: Path, model: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    places = {"MODEL": model, "OUT": tmp_path / "new" / "out"}
    asked = [places.get(word, word.replace("DATA", str(folder))) for word in words.split()]
    before = {path.name for path in tmp_path.iterdir()} | {"cache"}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))
    try:
        done = detkit(*asked, "-q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert done.returncode == 3, done.stderr
    assert str(places["OUT"]) in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= before
