"""`detkit check` names what a test shares with the training images, though no file is in both."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
from pictures import folder, picture, save

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
    assert message.startswith("test/1.jpg is train/3.jpg again (9")
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
            pair = f"test/{number + 5}.jpg is train/{number}.jpg again ("
            (line,) = [line for line in named if pair in line]
            assert severity in line
