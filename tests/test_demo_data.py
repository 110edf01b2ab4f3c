"""The drawn demo folder: readable by anyone's VOC reader, true to its pixels, repeatable."""

import hashlib
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import detkit

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
    records = pictures._objects(things, owner, 20)
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


LARGE, SMALL = (500, 750), (14, 24)  # (height, width) of a picture; least and largest side


@pytest.fixture(scope="module")
def small_objects() -> list[pictures.Picture]:
    """Pictures with objects of a size asked for."""
    return [draw_picture(np.random.default_rng([0, n]), LARGE, SMALL) for n in range(30)]


def test_pictures_and_objects_have_the_size_asked_for(
    small_objects: list[pictures.Picture],
) -> None:
    assert {one.image.shape for one in small_objects} == {(*LARGE, 3)}
    sides = [
        max(x2 - x1, y2 - y1)
        for picture in small_objects
        for x1, y1, x2, y2 in (one.box for one in picture.objects)
        if x1 > 0 and y1 > 0 and x2 < LARGE[1] and y2 < LARGE[0]
    ]
    whole = [side for side in sides if side >= SMALL[0]]  # the others are hidden in part
    assert len(whole) >= 0.9 * len(sides) > 50
    assert (min(whole), max(whole)) == SMALL


def test_an_object_is_not_difficult_for_being_as_small_as_was_asked(
    small_objects: list[pictures.Picture],
) -> None:
    below = [
        one
        for picture in small_objects
        for one in picture.objects
        if max(one.box[2] - one.box[0], one.box[3] - one.box[1]) < pictures.DIFFICULT_SIDE
    ]
    assert len(below) > 30
    assert sum(one.difficult for one in below) < 0.1 * len(below)


@pytest.mark.parametrize("size", [10, 14, 24])
@pytest.mark.parametrize("name", CLASS_NAMES)
def test_the_opaque_pixels_of_a_small_object_span_the_size_asked_for(name: str, size: int) -> None:
    for seed in range(30):
        _, opacity = PAINTERS[name](np.random.default_rng(seed), size).fit_opaque()
        rows, columns = np.nonzero(opacity > 0.5)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == size


def test_the_silhouettes_of_the_classes_differ_at_14_pixels() -> None:
    """Each is told by the silhouette most like it among 40 of each class, itself left out."""
    names, shapes = [], []
    for name in CLASS_NAMES:
        for seed in range(40):
            sprite = PAINTERS[name](np.random.default_rng(seed), 14)
            _, opacity = sprite.fit_opaque(mirror=seed % 2 == 0)
            frame = np.zeros((16, 16), bool)
            frame[: opacity.shape[0], : opacity.shape[1]] = opacity > 0.5
            names.append(name)
            shapes.append(frame.ravel())
    shape = np.array(shapes, np.int32)
    shared = shape @ shape.T
    area = np.diag(shared)
    alike = shared / (area[:, None] + area - shared)
    np.fill_diagonal(alike, 0)
    told = [names[index] for index in alike.argmax(axis=1)]
    assert np.mean([one == other for one, other in zip(told, names)]) > 0.95


def test_a_large_picture_has_more_small_objects_and_draws_them_in_a_second() -> None:
    started = time.process_time()
    drawn = [draw_picture(np.random.default_rng([0, n]), (2000, 3000), SMALL) for n in range(4)]
    assert time.process_time() - started < 4  # .3 s each on two old cores
    assert max(len(one.objects) for one in drawn) > pictures.MOST_OBJECTS


@pytest.mark.parametrize("image_size", [(64, 64), (64, 1000), (1000, 64)])
@pytest.mark.parametrize("object_size", [None, (10, 32)])
def test_the_narrowest_pictures_can_be_drawn(
    image_size: tuple[int, int], object_size: tuple[int, int] | None
) -> None:
    num_objects = 0
    for number in range(20):
        picture = draw_picture(np.random.default_rng([0, number]), image_size, object_size)
        assert picture.image.shape == (*image_size, 3)
        num_objects += len(picture.objects)
    assert num_objects > 10


def test_the_share_in_sight_is_what_counting_pixel_by_pixel_gives() -> None:
    rng = np.random.default_rng(4)
    things = []
    for number in range(30):
        rows, columns = rng.integers(4, 30, 2)
        name = "car" if number % 3 else None
        opacity = rng.random((rows, columns)).astype(np.float32)
        left, top = rng.integers(-10, 60, 2)
        things.append(
            pictures._Placed(name, pictures.AIR, opacity[..., None], opacity, int(left), int(top))
        )
    owner: dict[tuple[int, int], int] = {}
    for number, thing in enumerate(things):
        for row, column in np.argwhere(thing.opacity > 0.5):
            owner[int(row) + thing.top, int(column) + thing.left] = number
    inside = [n for (y, x), n in owner.items() if 0 <= y < 60 and 0 <= x < 70]
    wanted = [
        inside.count(number) / (thing.opacity > 0.5).sum()
        for number, thing in enumerate(things)
        if thing.name is not None
    ]
    assert pictures._visible(things, 60, 70) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--image-size", "63"], "--image-size 63x63: both sides must lie between 64 and 10000"),
        (["--image-size", "200x20000"], "200x20000: both sides must lie between 64 and 10000"),
        (["--image-size", "3x4x5"], "--image-size 3x4x5: expected WxH or one number"),
        (["--image-size", "wide"], "--image-size wide: expected WxH or one number"),
        (["--object-size", "24-14"], "--object-size 24-14: the least comes first"),
        (["--object-size", "2-14"], "--object-size 2-14: must be at least 10"),
        (["--object-size", "a-b"], "--object-size a-b: expected MIN-MAX or one number"),
        (["--object-size", "20-130"], "--object-size 20-130: must be at most 120, half the"),
        (["--image-size", "300x100", "--object-size", "60"], "60-60: must be at most 50"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    tmp_path: Path, words: list[str], told: str
) -> None:
    result = detkit("demo", tmp_path / "demo", *words)
    assert result.returncode == 2
    assert told in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_the_command_draws_the_sizes_asked_for(tmp_path: Path) -> None:
    sizes = ["--image-size", "400x300", "--object-size", "14-24"]
    result = detkit("demo", tmp_path / "demo", "--num-images", "6", *sizes)
    assert (result.returncode, result.stdout) == (0, "")
    root = ElementTree.parse(tmp_path / "demo" / "Annotations" / "000001.xml").getroot()
    assert [root.findtext(f"size/{side}") for side in ("width", "height")] == ["400", "300"]
    image = cv2.imread(str(tmp_path / "demo" / "JPEGImages" / "000001.jpg"))
    assert image is not None and image.shape == (300, 400, 3)


def test_fewer_than_six_pictures_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        write_demo(tmp_path / "demo", num_images=5)
