"""`detkit eval` says what of a split is known from training, and the mAP without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from labelled_folders import xml
from pictures import folder, picture, save
from running import detkit

from detkit.cli.leaks import learnt_by
from detkit.data import open_dataset
from detkit.data.images import image_size
from detkit.evaluation.leakage import groups_of_split

FINE_BOX, MISSED_BOX = (1, 1, 40, 40), (60, 60, 90, 90)


def divided(root: Path, test: int = 8) -> Path:
    """Write 8 images to train on and others to test on, of two classes."""
    names = [f"train/{n}.jpg" for n in range(8)] + [f"test/{n}.jpg" for n in range(test)]
    folder(root, {name: picture(seed) for seed, name in enumerate(names)})
    for number, name in enumerate(names):
        label((root / name).with_suffix(".xml"), "car" if number % 2 else "dog")
    return root


def label(path: Path, name: str) -> None:
    path.write_text(xml((name, *FINE_BOX), size=(160, 120)), encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Save an image again as another, with its labels."""
    save(target, cv2.imread(str(source))[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    target.with_suffix(".xml").write_text(source.with_suffix(".xml").read_text())


def found_in(root: Path, found: set[str], path: Path, split: str = "test") -> Path:
    """Write detections that find the objects of these images, and are wrong in the others."""
    rows = []
    for number, record in enumerate(open_dataset(root).splits[split]):
        box = record.objects[0].box if record.image_id in found else MISSED_BOX
        one = {"label": record.objects[0].name, "score": 0.9 - number / 100, "box": list(box)}
        height, width = image_size(record.path)
        image = {"image": record.image_id, "width": width, "height": height}
        rows.append({**image, "detections": [one]})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def report_of(*words: str | Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(detkit("eval", *words, "--json").stdout)
    return report


def test_map_without_copies_is_that_of_a_folder_that_never_had_them(tmp_path: Path) -> None:
    root = divided(tmp_path / "data")
    for number in range(3):
        copy(root / f"train/{number}.jpg", root / f"test/{number}.jpg")
    known = {f"test/{number}.jpg" for number in range(5)}
    found = found_in(root, known, tmp_path / "found.jsonl")
    report = report_of("--predictions", found, root)
    leaks = report["leaks"]
    assert (leaks["num_leaked"], leaks["share"], leaks["learnt_from"]) == (3, 3 / 8, "train")
    assert {one["image"]: one["seen"] for one in leaks["images"]} == {
        f"test/{number}.jpg": f"train/{number}.jpg" for number in range(3)
    }
    text = detkit("eval", "--predictions", found, root).stdout
    for path in [f"test/{number}{end}" for number in range(3) for end in (".jpg", ".xml")]:
        (root / path).unlink()
    clean = report_of("--predictions", found_in(root, known, tmp_path / "clean.jsonl"), root)
    assert clean["num_images"] == 5 and clean["leaks"]["num_leaked"] == 0
    assert leaks["without"]["mAP"] == clean["mAP"] < report["mAP"]
    assert leaks["without"]["classes"] == {one["name"]: one["AP"] for one in clean["classes"]}
    line = (
        "38 % of the test images (3 of 8) are known from train: 3 copies; mAP without them "
        f"{clean['mAP']:.3f} ({report['mAP']:.3f} with)"
    )
    rows = text.splitlines()
    assert rows[rows.index(line) - 2].startswith("mAP ")


def test_a_split_that_shares_nothing_is_said_to_on_stderr_alone(tmp_path: Path) -> None:
    root = divided(tmp_path / "data")
    found = found_in(root, set(), tmp_path / "found.jsonl")
    done = detkit("eval", "--predictions", found, root)
    assert "known" not in done.stdout
    assert "none of the 8 images of test is known from train\n" in done.stderr


def test_frames_of_recordings_that_were_learnt_from_are_known_by_the_rule_that_is_given(
    tmp_path: Path,
) -> None:
    names = [f"train/rec{clip}_{n}.png" for clip in range(3) for n in range(3)]
    names += ["test/rec0_8.png", "test/rec7_8.png", "test/rec7_9.png", "test/rec8_8.png"]
    root = folder(tmp_path / "data", {name: picture(seed) for seed, name in enumerate(names)})
    found = found_in(root, {"test/rec0_8.png"}, tmp_path / "found.jsonl")
    leaks = report_of("--predictions", found, root)["leaks"]
    assert [one["image"] for one in leaks["images"]] == ["test/rec0_8.png"]
    assert (leaks["from_recordings"], leaks["without"]["num_images"]) == (1, 3)
    line = detkit("eval", "--predictions", found, root).stdout
    assert "25 % of the test images (1 of 4) are known from train: 1 from its recordings" in line
    none = report_of("--predictions", found, root, "--group", "none")["leaks"]
    assert none["num_leaked"] == 0
    table = tmp_path / "own.csv"
    table.write_text("".join(f"{name},{name[-5] in '02'}\n" for name in names))
    by_file = report_of("--predictions", found, root, "--group", str(table))["leaks"]
    assert by_file["num_leaked"] == 4 and by_file["without"] is None
    told = detkit("eval", "--predictions", found, root, "--group", str(table)).stdout
    assert "no image is left to score without them" in told


def test_map_of_the_unseen_images_is_a_gate_and_stands_on_the_page(tmp_path: Path) -> None:
    root = divided(tmp_path / "data")
    copy(root / "train/0.jpg", root / "test/0.jpg")
    found = found_in(root, {"test/0.jpg"}, tmp_path / "found.jsonl")
    words = ("eval", "--predictions", found, root, "--fail-under")
    assert detkit(*words, "mAP-unseen=0").returncode == 0
    page = tmp_path / "page.html"
    failed = detkit(*words, "mAP-unseen=.1", "--report", page)
    assert failed.returncode == 1 and "mAP-unseen .0000 is .1000 below .1" in failed.stderr
    text = page.read_text(encoding="utf-8")
    assert "12 % of the test images (1 of 8) are known from train: 1 copy; mAP without" in text
    whole = folder(tmp_path / "whole", {f"{n}.png": picture(n) for n in range(3)})
    unknown = found_in(whole, set(), tmp_path / "whole.jsonl", "all")
    done = detkit("eval", "--predictions", unknown, whole, "--json", "--fail-under", "mAP-unseen=0")
    assert done.returncode == 1 and json.loads(done.stdout)["leaks"] is None
    assert "mAP-unseen has no value" in done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run of two steps, and the folder without splits that it was trained on."""
    place = tmp_path_factory.mktemp("run")
    data = folder(place / "photos", {f"{n}.png": picture(n) for n in range(10)})
    words = ("--model", "ssd", "--set", "size=96", "--max-steps", "2", "--batch-size", "2")
    more = ("--num-workers", "0", "--device", "cpu", "-o", place / "run")
    done = detkit("train", data, *words, *more)
    assert done.returncode == 0, done.stderr
    return place / "run", data


def test_a_model_that_is_judged_on_its_own_training_images_is_told_so(
    run: tuple[Path, Path],
) -> None:
    folder_of_run, data = run
    report = report_of(folder_of_run, data, "--device", "cpu")
    assert report["leaks"]["share"] == 0.8 and report["leaks"]["without"]["num_images"] == 2
    learnt = learnt_by(str(folder_of_run / "last.safetensors"), open_dataset(data), "all")
    assert learnt is not None and len(learnt.records) == 8
    kept = open_dataset(data, val=0.2).splits["train"]  # what `train` keeps of it
    assert {one.path for one in learnt.records} == {one.path for one in kept}


def test_copies_of_a_runs_training_images_are_known_in_another_folder(
    run: tuple[Path, Path], tmp_path: Path
) -> None:
    folder_of_run, data = run
    learnt = learnt_by(str(folder_of_run), open_dataset(data), "all")
    assert learnt is not None
    other = folder(tmp_path / "other", {f"{n}.png": picture(50 + n) for n in range(3)})
    copy(learnt.records[0].path, other / "c.jpg")
    leaks = report_of(folder_of_run, other, "--device", "cpu")["leaks"]
    assert [one["image"] for one in leaks["images"]] == ["c.jpg"]
    assert Path(leaks["learnt_from"].removeprefix("all of ")) == data
    (data / "0.xml").write_text(xml(("car", 2, 2, 9, 9), size=(160, 120)))
    # Labelled anew, the folder is no longer known to be what was learnt from.
    assert learnt_by(str(folder_of_run), open_dataset(other), "all") is None


def test_a_split_of_one_recording_is_one_group_though_nothing_in_it_tells(tmp_path: Path) -> None:
    names = [f"train/rec{clip}_{n}.png" for clip in range(3) for n in range(3)]
    names += [f"test/rec7_{n}.png" for n in range(5)]
    root = folder(tmp_path / "data", {name: picture(seed) for seed, name in enumerate(names)})
    numbers, words = groups_of_split(open_dataset(root), "test")
    assert len(set(numbers)) == 1
    assert words == "1 group of the 5 images (stems before a number)"
    found = found_in(root, {"test/rec7_0.png"}, tmp_path / "found.jsonl")
    done = detkit("eval", "--predictions", found, root, "--interval", "--json")
    interval = json.loads(done.stdout)["interval"]
    assert (interval["groups"], interval["mAP"]) == (1, None)
    told = detkit("eval", "--predictions", found, root, "--interval")
    assert "no interval, since one tells nothing of others" in told.stderr


def test_intervals_are_over_groups_and_say_so(tmp_path: Path) -> None:
    names = [f"train/rec{clip}_{n}.png" for clip in range(2) for n in range(2)]
    names += [f"test/rec{clip}_{n}.png" for clip in range(3, 13) for n in range(3)]
    root = folder(tmp_path / "data", {name: picture(seed) for seed, name in enumerate(names)})
    easy = {name for name in names if name.split("_")[0][-1] in "02468"}
    found = found_in(root, easy, tmp_path / "found.jsonl")
    words = ("--predictions", found, root, "--interval")
    told = detkit("eval", *words).stdout
    assert "95 % interval over 10 groups of the 30 images (stems before a number), 1000" in told
    by_group, by_image = (
        report_of(*words, "--group", rule)["interval"] for rule in ("auto", "none")
    )
    assert (by_group["groups"], by_image["groups"]) == (10, 30)

    def width(report: dict[str, Any]) -> float:
        return float(report["mAP"]["high"] - report["mAP"]["low"])

    assert width(by_group) > 1.4 * width(by_image)
    old = tmp_path / "old.json"
    old.write_text(detkit("eval", *words, "--json", "--with-detections").stdout)
    worse = found_in(root, set(sorted(easy)[:3]), tmp_path / "worse.jsonl")
    done = detkit("eval", "--predictions", worse, root, "--baseline", old)
    assert "draws of the 10 groups of the 30 images" in done.stderr
    assert "95 % interval over 10 groups of the 30 images" in done.stdout


def test_a_file_of_groups_has_to_name_the_judged_images_alone(tmp_path: Path) -> None:
    root = divided(tmp_path / "data")
    found = found_in(root, {f"test/{number}.jpg" for number in range(5)}, tmp_path / "found.jsonl")
    table = tmp_path / "groups.csv"
    rows = [f"test/{number}.jpg,{number // 2}" for number in range(8)]
    table.write_text("\n".join(rows))
    words = ("eval", "--predictions", found, root, "--interval", "--group", table)
    done = detkit(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["interval"]["groups"] == 4
    assert done.stderr.count("no group for 8 images that are not judged, the first train/0") == 1
    table.write_text("\n".join(rows[1:]))
    done = detkit(*words)
    assert done.returncode == 3
    assert "no group for 1 image, the first test/0.jpg; add a row" in done.stderr
