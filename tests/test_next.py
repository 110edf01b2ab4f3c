"""`detkit next`: the list as a user gets it, of files on a disk and of a model that was trained."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from labelled_folders import put, xml
from labelling import save as save_noise
from numpy.typing import NDArray
from pictures import picture
from pictures import save as write_picture
from running import Done, detkit, process
from test_schema import faults

from detkit.data import open_dataset, sources
from detkit.data.images import read_image
from detkit.errors import DetkitError
from detkit.labelling.photos import open_photos
from detkit.model_file import model_info

QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Six scenes, the first of them saved again, resized; the last file is cut short."""
    folder = tmp_path / "pöol"
    for number in range(6):
        save(folder / f"{number}.jpg", picture(number), QUALITY)
    again = cv2.resize(picture(0), (240, 180))
    save(folder / "a-copy.jpg", again, [cv2.IMWRITE_JPEG_QUALITY, 60])
    (folder / "broken.jpg").write_bytes((folder / "5.jpg").read_bytes()[:50])
    return folder


def save(path: Path, image: NDArray[np.uint8], options: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_picture(path, image, options)


def rows_of(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def names_of(done: Done) -> list[str]:
    return [Path(row["image"]).name for row in rows_of(done)]


def test_a_pipe_gets_json_lines_copies_last_and_what_is_broken_on_stderr(pool: Path) -> None:
    done = process("next", pool)
    rows = rows_of(done)
    assert [row["rank"] for row in rows] == [*range(1, 8)]
    assert {Path(row["image"]).name for row in rows[-1:]} <= {"0.jpg", "a-copy.jpg"}
    last = rows[-1]
    assert last["copy"] and last["novelty"] == 0
    assert {Path(last["image"]).name, Path(last["near"]).name} == {"0.jpg", "a-copy.jpg"}
    assert last["why"] == [f"a copy of {last['near']}"]
    assert not any(row["copy"] for row in rows[:-1])
    assert "broken.jpg" not in done.stdout and "broken.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    for row in rows:
        assert faults("next", row) == []


def test_the_first_of_the_list_are_the_same_as_of_a_shorter_one(pool: Path) -> None:
    whole = names_of(detkit("next", pool, "-n", "0"))
    assert names_of(detkit("next", pool, "-n", "3")) == whole[:3]
    assert names_of(detkit("next", pool)) == whole


def test_paths_are_lines_as_they_were_given(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pool.parent)
    (pool / "two words.jpg").write_bytes((pool / "3.jpg").read_bytes())
    done = detkit("next", pool.name, "--paths", "-n", "0")
    assert set(done.stdout.splitlines()) == {
        f"{pool.name}/{name}.jpg" for name in ["a-copy", "two words", *range(6)]
    }
    refused = detkit("next", pool.name, "--paths", "--json")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_what_is_labelled_is_left_out_and_a_scene_like_it_is_not_new(
    pool: Path, tmp_path: Path
) -> None:
    labelled = tmp_path / "labelled"
    for number in (1, 2):
        save(labelled / f"old-{number}.jpg", cv2.flip(picture(number), -1), QUALITY)
        label = xml(("car", 1, 1, 40, 40), size=(160, 120))
        put(labelled, {f"old-{number}.xml": label})
    save(labelled / "shown.jpg", picture(4), [cv2.IMWRITE_JPEG_QUALITY, 50])
    put(labelled, {"shown.xml": xml(size=(160, 120))})
    rows = rows_of(detkit("next", pool, "--labelled", labelled))
    copies = {Path(row["image"]).name: row["near"] for row in rows if row["copy"]}
    assert copies.pop("4.jpg") == str(labelled / "shown.jpg")  # labelled: as one without objects
    assert len(copies) == 1 and len(rows) == 7


def test_a_folder_half_of_which_is_labelled_is_a_pool_of_the_other_half(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.jpg", picture(number), QUALITY)
    for number in (0, 2):
        put(tmp_path, {f"{number}.xml": xml(("car", 1, 1, 9, 9), size=(160, 120))})
    done = detkit("next", tmp_path, "--labelled", tmp_path)
    assert set(names_of(done)) == {"1.jpg", "3.jpg"}
    assert "2 images of the pool are labelled: left out" in done.stderr
    for number in (1, 3):
        put(tmp_path, {f"{number}.xml": xml(size=(160, 120))})
    done = detkit("next", tmp_path, "--labelled", tmp_path)
    assert done.returncode == 3 and "no image of the pool is left to label" in done.stderr


def test_an_image_named_twice_is_listed_once(pool: Path) -> None:
    done = detkit("next", pool / "1.jpg", pool, pool / ".." / pool.name / "2.jpg")
    assert len(rows_of(done)) == 7
    assert "2 images named more than once, listed once" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nosuch"], 3, "nosuch: no such file or folder"),
        (["POOL", "--model", "nosuch.safetensors"], 3, "nosuch.safetensors"),
        (["POOL", "--labelled", "nosuch"], 3, "--labelled nosuch: no such folder"),
        (["POOL", "--tile", "64"], 2, "--tile 64: says how a model looks"),
        (["POOL", "--set", "size=3"], 2, "--set size=3"),
        (["POOL", "-n", "-1"], 2, "--number"),
        (["camera:0"], 2, "camera:0: is a stream"),
        (["POOL/broken.jpg"], 3, "no image of the pool can be read"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    pool: Path, words: list[str], code: int, says: str
) -> None:
    done = detkit("next", *(word.replace("POOL", str(pool)) for word in words))
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_video_in_the_pool_is_left_out_and_said(pool: Path) -> None:
    writer = cv2.VideoWriter(str(pool / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for shade in (10, 90, 200):
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    done = detkit("next", pool)
    assert len(rows_of(done)) == 7
    assert "clip.avi: is a video, left out" in done.stderr


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
@pytest.mark.parametrize("how", ["folder", "folder-of-that-name", "file", "glob", "list"])
def test_an_image_that_no_label_file_can_name_is_left_out_as_label_does(
    tmp_path: Path, how: str
) -> None:
    root = tmp_path / (os.fsdecode(b"al\xe9") if how == "folder-of-that-name" else "pool")
    names = [
        b"a b.png",
        "\N{SNOWMAN}.png".encode(),
        b"-c.png",
        b"\xff.png",
        b"d\ne.png",
        b"f\x1b.png",
    ]
    for seed, name in enumerate([*names, b"in\xfe/g.png"]):
        save_noise(root / os.fsdecode(name), seed=seed)
    fit = {"a b.png", "\N{SNOWMAN}.png", "-c.png"}
    assert {one.name for one in open_photos(root).photos} == fit
    sources = {
        "file": [str(root / os.fsdecode(name)) for name in names],
        "glob": [f"{root}/**/*.png"],
        "list": [f"@{tmp_path / 'list.txt'}"],
    }.get(how, [str(root)])
    lines = [str(one) for one in root.rglob("*.png") if "\n" not in one.name]
    (tmp_path / "list.txt").write_bytes(os.fsencode("\n".join(lines)))
    done = detkit("next", *sources)
    assert {Path(row["image"]).name for row in rows_of(done)} == fit
    told = [line for line in done.stderr.splitlines() if line.endswith("rename it; left out")]
    assert len(told) == {"file": 3, "list": 3}.get(how, 4)
    again = detkit("next", *sources, "--paths")
    assert {Path(line).name for line in again.stdout.splitlines()} == fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the demo, and a run of a few steps on it."""
    folder = tmp_path_factory.mktemp("trained")
    data, run = folder / "demo", folder / "run"
    assert detkit("demo", data, "--num-images", "12").returncode == 0
    words = ("--max-steps", "2", "--batch-size", "2", "--num-workers", "0", "--device", "cpu")
    done = detkit("train", data, "--model", "ssd", "-o", run, *words, "--set", "size=96")
    assert done.returncode == 0, done.stderr
    return data, run


def test_doubt_is_that_of_what_detect_finds_and_need_that_of_the_labelled_objects(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = trained
    pool = tmp_path / "pool"
    for number, path in enumerate(sorted(data.rglob("*.jpg"))[:5]):
        save(pool / f"new-{number}.jpg", cv2.imread(str(path))[:, ::-1, ::-1], QUALITY)
    done = detkit("next", pool, "--model", run, "--labelled", data, "--device", "cpu")
    rows = {row["image"]: row for row in rows_of(done)}
    counts = Counter(
        one.name
        for record in {
            one.path: one for part in open_dataset(data).splits.values() for one in part
        }.values()
        for one in record.objects
    )
    names = list(open_dataset(data).class_names)
    average = (sum(counts.values()) + len(names)) / len(names)
    aps = model_info(run / "best.safetensors")["scores"]["classes"]
    found = detkit("detect", run, pool, "--device", "cpu").stdout.splitlines()
    assert len(found) == len(rows) == 5
    some_doubt = 0.0
    for one in map(json.loads, found):
        row, total, weighted = rows[one["image"]], 0.0, 0.0
        for each in one["detections"]:
            if each["score"] >= 0.1:
                doubt = (1 - abs(each["score"] - (1 - each["score"]))) ** 2
                need = math.sqrt(average / (counts[each["label"]] + 1))
                total += doubt
                ap = aps[each["label"]]
                weighted += doubt * need * (1.0 if ap is None else 1.5 - ap)
        assert row["doubt"] == pytest.approx(total, rel=1e-3, abs=1e-5)
        assert row["doubt"] * row["need"] == pytest.approx(weighted or row["doubt"], rel=1e-3)
        assert faults("next", row) == []
        some_doubt += total
    assert some_doubt > 0


def test_an_image_that_only_the_model_cannot_read_is_left_out(
    trained: tuple[Path, Path], pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> NDArray[np.uint8]:
        if path.name == "0.jpg":
            raise DetkitError(f"{path}: gone")
        return read_image(path)

    monkeypatch.setattr(sources, "read_image", read)
    done = detkit("next", pool, "--model", trained[1], "--device", "cpu")
    rows = rows_of(done)
    assert {Path(row["image"]).stem for row in rows} == {"a-copy", "1", "2", "3", "4", "5"}
    assert "0.jpg: gone; left out" in done.stderr
    assert not any(row["copy"] for row in rows)  # what a-copy shows again is gone
