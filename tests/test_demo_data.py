"""The drawn demo folder: readable by anyone's VOC reader, true to its pixels, repeatable."""

import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

from detkit.data.demo import pictures
from detkit.data.demo.objects import PAINTERS
from detkit.data.demo.pictures import CLASS_NAMES, draw_picture, write_demo
from detkit.errors import DetkitError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "größe 1"
    write_demo(root, num_images=34, seed=3)
    return root


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def members(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Main" / f"{split}.txt").read_text("utf-8").split()


def test_every_image_has_one_label_file_and_lies_in_exactly_one_split(folder: Path) -> None:
    images = sorted(path.stem for path in (folder / "JPEGImages").iterdir())
    labels = sorted(path.stem for path in (folder / "Annotations").iterdir())
    listed = [name for split in ("train", "val", "test") for name in members(folder, split)]
    assert images == labels == sorted(listed)
    assert [len(members(folder, split)) for split in ("train", "val", "test")] == [24, 4, 6]


def test_boxes_lie_in_the_real_image_and_the_stated_size_is_the_real_one(folder: Path) -> None:
    num_boxes = 0
    for path in (folder / "Annotations").iterdir():
        root = ElementTree.parse(path).getroot()
        data = np.fromfile(folder / "JPEGImages" / f"{path.stem}.jpg", np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None
        height, width = image.shape[:2]
        assert [root.findtext(f"size/{side}") for side in ("width", "height")] == [
            str(width),
            str(height),
        ]
        for box in root.iter("bndbox"):
            x1, y1, x2, y2 = (int(str(box.findtext(k))) for k in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= x1 <= x2 <= width
            assert 1 <= y1 <= y2 <= height
            num_boxes += 1
    assert num_boxes > 34


def test_the_set_has_every_class_an_empty_image_and_difficult_objects() -> None:
    pictures = [draw_picture(np.random.default_rng([0, number])) for number in range(60)]
    counts = {name: 0 for name in CLASS_NAMES}
    for picture in pictures:
        for one in picture.objects:
            counts[one.name] += 1
    assert min(counts.values()) > 20
    assert any(not picture.objects for picture in pictures)
    assert any(one.difficult for picture in pictures for one in picture.objects)


@pytest.mark.parametrize("name", CLASS_NAMES)
@pytest.mark.parametrize("size", [24, 90, 200])
def test_a_sprite_is_as_large_as_asked_and_opaque_up_to_its_borders(name: str, size: int) -> None:
    color, opacity = PAINTERS[name](np.random.default_rng(1), size).fit(mirror=True)
    assert max(opacity.shape) == size
    assert color.shape == (*opacity.shape, 3)
    assert opacity.max() == pytest.approx(1.0)
    solid = opacity > 0.5
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    assert rows[-1] - rows[0] >= opacity.shape[0] - 3
    assert columns[-1] - columns[0] >= opacity.shape[1] - 3


def test_a_box_is_the_extent_of_the_pixels_that_can_still_be_seen() -> None:
    def square(name: str, left: int, top: int) -> pictures._Placed:
        side = 40
        color = np.full((side, side, 3), 200, np.float32)
        return pictures._Placed(
            name, pictures.AIR, color, np.ones((side, side), np.float32), left, top
        )

    # The second hides the right 24 of the first one's 40 columns; the third leaves the picture.
    things = [square("car", 10, 10), square("sheep", 26, 10), square("balloon", -30, 70)]
    canvas, owner = np.zeros((100, 90, 3), np.float32), np.full((100, 90), -1, np.int32)
    for number, thing in enumerate(things):
        pictures._paint(canvas, owner, thing, number, 0.0, (0, 0, 0))
    records = pictures._objects(things, owner)
    assert [one.box for one in records] == [(10, 10, 26, 50), (26, 10, 66, 50), (0, 70, 10, 100)]
    assert [one.difficult for one in records] == [True, False, True]  # seen: .4, 1, 300 / 1600
    assert pictures._visible(things, 100, 90) == [0.4, 1.0, 300 / 1600]
    assert (canvas[10:50, 10:66] == 200).all() and not canvas[:, 70:].any()


def test_the_same_seed_draws_the_same_files_and_another_seed_others(
    folder: Path, tmp_path: Path
) -> None:
    write_demo(tmp_path / "same", num_images=34, seed=3)
    write_demo(tmp_path / "other", num_images=34, seed=4)
    assert hashes(tmp_path / "same") == hashes(folder)
    assert hashes(tmp_path / "other") != hashes(folder)


def test_a_folder_with_content_is_left_alone_without_force(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", num_images=6)
    before = hashes(tmp_path / "demo")
    with pytest.raises(UsageError, match="--force"):
        write_demo(tmp_path / "demo", num_images=6, seed=9)
    assert hashes(tmp_path / "demo") == before
    write_demo(tmp_path / "demo", num_images=6, seed=9, force=True)
    assert hashes(tmp_path / "demo") != before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_shell_that_stands_in_the_folder_keeps_standing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    write_demo(Path(), num_images=6)
    write_demo(Path(), num_images=7, force=True)
    assert tmp_path.stat().st_ino == before
    assert len(list(Path("JPEGImages").iterdir())) == 7


def test_what_force_replaces_is_kept_when_the_exchange_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_demo(tmp_path / "demo", num_images=6)
    before = hashes(tmp_path / "demo")
    original = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name == "ImageSets" and "partial" in str(self.parent):
            raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(DetkitError, match="No space left on device"):
        write_demo(tmp_path / "demo", num_images=7, force=True)
    assert hashes(tmp_path / "demo") == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_force_does_not_replace_a_folder_that_holds_other_peoples_files(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        write_demo(tmp_path / "home", num_images=6, force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_progress_hears_every_picture(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    write_demo(tmp_path / "demo", num_images=7, progress=lambda *step: heard.append(step))
    assert heard == [(number, 7) for number in range(1, 8)]


def test_fewer_than_six_pictures_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        write_demo(tmp_path / "demo", num_images=5)
