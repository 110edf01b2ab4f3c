"""`detkit check` names what a test shares with the training images, though no file is in both."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
from labelled_folders import put, xml
from pictures import folder, picture, save
from running import detkit

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.checks.leaks import LEAKS, find_leaks


def leaks(root: Path) -> list[tuple[str, str]]:
    return [(one.code, one.message) for one in check(open_dataset(root)) if one.code in LEAKS]


def divided(root: Path) -> Path:
    names = [f"{split}/{n}.jpg" for split, n in [("train", n) for n in range(8)]]
    names += [f"test/{n}.jpg" for n in range(4)]
    return folder(root, {name: picture(seed) for seed, name in enumerate(names)})


def test_a_folder_without_leaks_has_none(tmp_path: Path) -> None:
    assert leaks(divided(tmp_path)) == []


def test_a_training_image_that_is_saved_again_as_a_test_image_is_named(tmp_path: Path) -> None:
    root = divided(tmp_path)
    image = cv2.imread(str(root / "train/3.jpg"))[:, :, ::-1]
    save(root / "test/1.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    ((code, message),) = leaks(root)
    assert code == "near-copy"
    assert message.startswith("shows train/3.jpg again (9")
    found = open_dataset(root)
    (leak,) = find_leaks(found.splits["test"], found.splits["train"])
    assert (leak.image.image_id, leak.seen.image_id) == ("test/1.jpg", "train/3.jpg")


def test_the_same_bytes_are_told_once(tmp_path: Path) -> None:
    root = divided(tmp_path)
    (root / "test/1.jpg").write_bytes((root / "train/3.jpg").read_bytes())
    assert [code for code, _ in leaks(root)] == ["leaked-image"]
    found = open_dataset(root)
    (leak,) = find_leaks(found.splits["test"], found.splits["train"])
    assert (leak.seen.image_id, leak.alike) == ("train/3.jpg", 1.0)


def test_the_share_of_test_from_recordings_seen_in_training_is_said(tmp_path: Path) -> None:
    names = [f"train/rec{clip}_{n}.png" for clip in range(3) for n in range(3)]
    names += ["test/rec0_8.png", "test/rec1_8.png", "test/rec7_8.png", "test/rec8_8.png"]
    root = folder(tmp_path, {name: picture(seed) for seed, name in enumerate(names)})
    ((code, message),) = leaks(root)
    assert code == "shared-recording"
    assert message.startswith("50 % of test (2 images) come from recordings seen in train")


def test_leaks_are_errors_when_strict(tmp_path: Path) -> None:
    root = divided(tmp_path)
    image = cv2.imread(str(root / "train/3.jpg"))[:, :, ::-1]
    save(root / "test/1.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    command = [sys.executable, "-m", "detkit", "check", str(root), "--json"]
    lenient = subprocess.run(command, capture_output=True, encoding="utf-8")
    strict = subprocess.run([*command, "--strict"], capture_output=True, encoding="utf-8")
    assert (lenient.returncode, strict.returncode) == (0, 1)
    for result, severity in ((lenient, "warning"), (strict, "error")):
        found = [one for one in json.loads(result.stdout)["findings"] if one["code"] == "near-copy"]
        assert [one["severity"] for one in found] == [severity]


def test_twenty_test_images_replaced_by_training_images_saved_again_are_all_named(
    tmp_path: Path,
) -> None:
    names = [f"train/{n}.jpg" for n in range(40)] + [f"test/{n}.jpg" for n in range(30)]
    root = folder(tmp_path, {name: picture(seed) for seed, name in enumerate(names)})
    for number in range(20):
        image = cv2.imread(str(root / f"train/{number}.jpg"))[:, :, ::-1]
        save(root / f"test/{number + 5}.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    command = [sys.executable, "-m", "detkit", "check", str(root)]
    lenient = subprocess.run(command, capture_output=True, encoding="utf-8")
    strict = subprocess.run([*command, "--strict"], capture_output=True, encoding="utf-8")
    assert (lenient.returncode, strict.returncode) == (0, 1)
    for result, severity in ((lenient, "warning"), (strict, "error")):
        named = [line for line in result.stdout.splitlines() if " again (" in line]
        assert len(named) == 20
        for number in range(20):
            pair = f"test/{number + 5}.jpg: shows train/{number}.jpg again ("
            (line,) = [line for line in named if pair in line]
            assert severity in line


def test_a_near_copys_line_names_each_image_once_and_the_splits_that_paths_do_not_say(
    tmp_path: Path,
) -> None:
    names = {f"JPEGImages/{number}.jpg": picture(number) for number in range(8)}
    root = folder(tmp_path, names)
    image = cv2.imread(str(root / "JPEGImages/3.jpg"))[:, :, ::-1]
    save(root / "JPEGImages/7.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    for path in (root / "JPEGImages").glob("*.xml"):
        path.unlink()
    for number in range(8):
        put(root, {f"Annotations/{number}.xml": xml(("car", 1, 1, 40, 40), size=(160, 120))})
    lists = {"train": "0\n1\n2\n3\n4\n5\n", "test": "6\n7\n"}
    put(root, {f"ImageSets/Main/{split}.txt": text for split, text in lists.items()})
    (line,) = [one for one in detkit("check", root).stdout.splitlines() if " again (" in one]
    assert "JPEGImages/7.jpg: of test, shows JPEGImages/3.jpg (train) again (" in line
    assert line.count("7.jpg") == 1


def test_a_rule_of_ones_own_says_what_is_of_one_recording(tmp_path: Path) -> None:
    root = divided(tmp_path / "data")
    table = tmp_path / "groups.csv"
    table.write_text("test/0.jpg,a\ntest/1.jpg,a\ntest/2.jpg,b\ntest/3.jpg,c\ntrain/5.jpg,a\n")
    done = detkit("check", root, "--group", table)
    assert done.returncode == 0, done.stderr
    assert "50 % of test (2 images) come from recordings seen in train" in done.stdout
    assert "no group for 7 images that are not judged, the first train/0.jpg" in done.stderr
    assert detkit("check", root, "--group", table, "--strict").returncode == 1
    assert "recordings seen" not in detkit("check", root, "--group", "none").stdout
    table.write_text("test/0.jpg,a\n")
    done = detkit("check", root, "--group", table)
    assert done.returncode == 3
    assert "no group for 3 images, the first test/1.jpg; add a row" in done.stderr
    assert detkit("check", root, "--group", "(").returncode == 2
    assert detkit("check", root, "--group", "none", "--no-images").returncode == 2


def test_a_wrong_rule_is_told_where_there_is_nothing_to_hold_against_each_other(
    tmp_path: Path,
) -> None:
    root = folder(tmp_path, {f"{number}.jpg": picture(number) for number in range(2)})
    assert detkit("check", root, "--group", "(").returncode == 2
