"""Images of one recording, burst, export or picture are found and kept together."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from labelled_folders import put, xml
from pictures import folder, picture, save
from PIL import Image, ImageOps

from detkit.data import open_dataset
from detkit.data.groups import find_groups
from detkit.data.image_files import open_images
from detkit.data.images import decode_small_grey, read_small_grey, write_image
from detkit.data.looks import Looks
from detkit.data.near_duplicates import MIN_ALIKE, find_copies, likeness, num_differing
from detkit.data.records import Dataset, ImageRecord
from detkit.data.splits import split_dataset, training_splits
from detkit.errors import DetkitError, UsageError


def records_of(dataset: Dataset) -> list[ImageRecord]:
    return list({one.path: one for part in dataset.splits.values() for one in part}.values())


def look_at(paths: list[Path]) -> Looks:
    return open_images(paths, looked_at=paths).looks


def together(root: Path, rule: str = "auto") -> set[frozenset[str]]:
    """Return the groups of two and more images, by their paths."""
    records = records_of(open_dataset(root))
    groups = find_groups(records, rule)
    members: dict[int, set[str]] = {}
    for record in records:
        members.setdefault(groups.number_of[record.path], set()).add(record.image_id)
    return {frozenset(one) for one in members.values() if len(one) > 1}


def changed(image: np.ndarray) -> Iterable[tuple[str, np.ndarray, list[int]]]:
    """Yield copies of an image as people make them: name, pixels, JPEG options."""
    height, width = image.shape[:2]
    rows, columns = height // 20, width // 20  # .05
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    yield "saved again", image, [cv2.IMWRITE_JPEG_QUALITY, 40]
    yield "half as large", half, []
    yield "cut at two sides", image[rows:, columns:], []
    yield "cut at all sides", image[rows:-rows, columns:-columns], []
    yield "brighter", np.clip(image * 1.2 + 8, 0, 255).astype(np.uint8), []


@pytest.mark.parametrize("number", range(5))
def test_copies_are_found_among_others_and_others_are_not_taken_for_copies(
    tmp_path: Path, number: int
) -> None:
    scenes = [picture(seed, (240, 320)) for seed in range(24)]
    originals = [save(tmp_path / f"{n}.jpg", one, []) for n, one in enumerate(scenes)]
    copies = []
    for place, scene in enumerate(scenes[:12]):
        _, pixels, options = list(changed(scene))[number]
        copies.append(save(tmp_path / f"copy{place}.jpg", pixels, options))
    looks = look_at(originals)
    found = find_copies(look_at(copies), looks)
    assert [(one.image, one.other) for one in found] == [(n, n) for n in range(12)]
    assert find_copies(looks) == []


def test_two_views_with_the_same_light_and_shade_are_no_copies() -> None:
    sky = cv2.resize(np.array([[60, 200], [90, 230]], np.uint8), (96, 96))
    first, second = (sky.copy() for _ in range(2))
    for scene, seed in ((first, 0), (second, 1)):
        rng = np.random.default_rng(seed)
        for _ in range(4):
            cv2.circle(scene, tuple(int(one) for one in rng.integers(8, 88, 2)), 5, 20, -1)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.8
    assert likeness(first, second) < MIN_ALIKE / 2
    assert likeness(first, first) == pytest.approx(1)


def test_the_bits_in_which_hashes_differ_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2**63, (n, 2)).astype(np.uint64) for n in (5, 7))
    counted = [
        [sum((int(a) ^ int(b)).bit_count() for a, b in zip(one, other)) for other in second]
        for one in first
    ]
    assert num_differing(first, second).tolist() == counted


def test_plain_images_and_files_that_cannot_be_read_are_copies_of_nothing(tmp_path: Path) -> None:
    grey = [tmp_path / f"{n}.png" for n in range(3)]
    for n, path in enumerate(grey):
        write_image(path, np.full((50, 60, 3), 100 + n, np.uint8))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    looks = look_at([*grey, broken, tmp_path / "absent.jpg"])
    assert not looks.shows.any()
    assert find_copies(looks) == []


def test_frames_of_a_recording_belong_together_by_their_stems(tmp_path: Path) -> None:
    names = [f"rec{clip}_{frame:06}.png" for clip in range(3) for frame in (1, 2, 30)]
    folder(tmp_path, {name: picture(seed) for seed, name in enumerate(names)})
    assert together(tmp_path) == {frozenset(names[at : at + 3]) for at in (0, 3, 6)}


def test_folders_below_the_splits_belong_together_whatever_the_split(tmp_path: Path) -> None:
    names = [
        f"{split}/cam{camera}/{frame}.png"
        for camera in range(2)
        for split in ("train", "val")
        for frame in "ab"
    ]
    folder(tmp_path, {name: picture(seed) for seed, name in enumerate(names)})
    assert together(tmp_path) == {frozenset(names[:4]), frozenset(names[4:])}


@pytest.mark.parametrize("stem", ["apple", "2008", "photo", "train2017"])
def test_names_that_need_not_be_of_a_recording_join_only_what_looks_alike(
    tmp_path: Path, stem: str
) -> None:
    names = [f"{one}_{n}.png" for one in (stem, f"{stem}x") for n in range(4)]
    strangers = {name: picture(seed) for seed, name in enumerate(names)}
    assert together(folder(tmp_path / "strangers", strangers, thing="apple")) == set()


def test_consecutive_frames_that_look_alike_belong_together_by_any_name(tmp_path: Path) -> None:
    pictures = {}
    for seed, place in enumerate(("kitchen", "yard")):
        wide = picture(seed, (120, 400))
        pictures |= {f"{place}_{n}.png": wide[:, 30 * n : 30 * n + 200] for n in range(6)}
    found = together(folder(tmp_path, pictures))
    assert found == {
        frozenset(f"{place}_{n}.png" for n in range(6)) for place in ("kitchen", "yard")
    }


def test_one_stem_for_all_images_joins_none_unless_neighbours_look_alike(tmp_path: Path) -> None:
    folder(tmp_path / "photos", {f"rec1_{n}.png": picture(n) for n in range(12)})
    assert together(tmp_path / "photos") == set()
    first, last = (picture(n).astype(np.float32) for n in (1, 2))
    frames = {f"IMG_{n}.png": (first + (last - first) * n / 11).astype(np.uint8) for n in range(12)}
    folder(tmp_path / "film", frames)
    (group,) = together(tmp_path / "film")
    assert len(group) == 12


def test_exports_of_one_picture_belong_together(tmp_path: Path) -> None:
    names = [f"a{n}_jpg.rf.{hash_:032x}.png" for n in range(2) for hash_ in (3, 4)]
    folder(tmp_path, {name: picture(seed) for seed, name in enumerate(names)})
    assert together(tmp_path) == {frozenset(names[:2]), frozenset(names[2:])}


def test_a_burst_by_exif_times_belongs_together(tmp_path: Path) -> None:
    times = {"a": "12:00:00", "b": "12:00:07", "c": "12:00:16", "d": "12:09:00"}
    folder(tmp_path, {f"{name}.jpg": picture(n) for n, name in enumerate(times)})
    for name, time in times.items():
        image = Image.open(tmp_path / f"{name}.jpg")
        tags = Image.Exif()
        tags[0x0110] = "Camera"
        tags.get_ifd(0x8769)[0x9003] = f"2024:05:06 {time}"
        image.save(tmp_path / f"{name}.jpg", exif=tags, quality=95)
    assert together(tmp_path) == {frozenset(["a.jpg", "b.jpg", "c.jpg"])}


def test_an_expression_or_a_file_says_what_belongs_together(tmp_path: Path) -> None:
    names = [f"{a}-{b}.png" for a in "xy" for b in "12"]
    root = folder(tmp_path / "in", {name: picture(n) for n, name in enumerate(names)})
    by_first = {frozenset(names[:2]), frozenset(names[2:])}
    assert together(root, "none") == set()
    assert together(root, r"^(\w)-") == by_first
    assert together(root, r"\d") == {frozenset(names[::2]), frozenset(names[1::2])}
    table = tmp_path / "groups.csv"
    table.write_text("image,group\n" + "".join(f"{one},{one[0]}\n" for one in names))
    assert together(root, str(table)) == by_first
    table.write_text("x-1,one\nx-2,one\n")
    with pytest.raises(DetkitError, match=r"no group for 2 images, the first y-1\.png; add a row"):
        together(root, str(table))
    with pytest.raises(UsageError, match=r"--group rec\\d: matches no image's path, like x-1"):
        together(root, r"rec\d")
    with pytest.raises(UsageError, match=r"--group \(: neither auto, none"):
        together(root, "(")


@pytest.mark.parametrize("seed", range(4))
def test_no_recording_is_in_two_splits(tmp_path: Path, seed: int) -> None:
    names = [f"rec{clip}_{frame}.png" for clip in range(12) for frame in range(3 + clip % 3)]
    root = folder(tmp_path, {name: picture(n, (40, 50)) for n, name in enumerate(names)})
    divided = split_dataset(open_dataset(root), val=0.2, test=0.2, seed=seed)
    clips = {
        name: {record.image_id.split("_")[0] for record in part}
        for name, part in divided.splits.items()
    }
    assert not clips["train"] & clips["val"]
    assert not clips["test"] & (clips["train"] | clips["val"])
    assert set.union(*clips.values()) == {f"rec{clip}" for clip in range(12)}
    total = sum(len(part) for part in divided.splits.values())
    assert len(divided.splits["test"]) / total == pytest.approx(0.2, abs=0.07)
    assert any("stems before a number: 12" in note for note in divided.notes)
    assert any(note.startswith("classes have their shares") for note in divided.notes)


def test_too_few_groups_for_the_shares_are_an_error(tmp_path: Path) -> None:
    names = [f"rec{clip}_{frame}.png" for clip in range(2) for frame in range(10)]
    root = folder(tmp_path, {name: picture(n, (40, 50)) for n, name in enumerate(names)})
    with pytest.raises(UsageError, match="20 images in 2 groups .* too few for .* --group none"):
        split_dataset(open_dataset(root), val=0.2, test=0.2, seed=0)
    assert split_dataset(open_dataset(root), val=0.2, test=0.2, seed=0, group="none")


def test_a_share_cut_off_for_validation_keeps_recordings_whole(tmp_path: Path) -> None:
    names = [f"rec{clip}_{frame}.png" for clip in range(10) for frame in range(2)]
    root = folder(tmp_path, {name: picture(n, (40, 50)) for n, name in enumerate(names)})
    train, val, notes = training_splits(open_dataset(root), None, 0)
    clips = [{record.image_id.split("_")[0] for record in part} for part in (train, val)]
    assert len(val) == 4
    assert not clips[0] & clips[1]
    assert "20 images in 10 groups" in notes[0]


def test_when_all_images_are_one_group_a_share_is_cut_all_the_same_and_said(tmp_path: Path) -> None:
    put(tmp_path, {f"{n}.png": None for n in range(5)})
    put(tmp_path, {f"{n}.xml": xml(("car", 1, 1, 9, 9)) for n in range(5)})
    train, val, notes = training_splits(open_dataset(tmp_path), None, 0)
    assert (len(train), len(val)) == (4, 1)
    assert "one group, which is divided: the score will flatter" in notes[0]


def test_a_second_look_takes_no_decoding_and_a_changed_image_is_looked_at_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    paths = [save(tmp_path / f"{n}.jpg", picture(n), []) for n in range(3)]
    first = look_at(paths).grey
    read: list[bytes] = []

    def counted(data: bytes, side: int) -> np.ndarray:
        read.append(data)
        return decode_small_grey(data, side)

    monkeypatch.setattr("detkit.data.image_files.decode_small_grey", counted)
    assert np.array_equal(look_at(paths).grey, first) and read == []
    save(paths[1], picture(9), [])
    again = look_at(paths).grey
    assert read == [paths[1].read_bytes()] and not np.array_equal(again[1], first[1])
    for kept in (tmp_path / "cache").rglob("*.grey"):  # as a full disk leaves them
        kept.write_bytes(kept.read_bytes()[:10])
    assert np.array_equal(look_at(paths).grey, again) and len(read) == 4
    monkeypatch.setenv("DETKIT_CACHE_GIB", "0")
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "none"))
    assert np.array_equal(look_at(paths).grey, again) and not (tmp_path / "none").exists()


@pytest.mark.parametrize("seed", range(6))
def test_a_class_of_one_recording_is_learnt_and_said_to_be_missing_elsewhere(
    tmp_path: Path, seed: int
) -> None:
    for clip in range(10):
        thing = "rare" if clip == 3 else "car"
        names = [f"rec{clip}_{frame}.png" for frame in range(4)]
        folder(tmp_path, {name: picture(clip * 4 + n) for n, name in enumerate(names)}, thing)
    divided = split_dataset(open_dataset(tmp_path), val=0.2, test=0.2, seed=seed)
    held = {
        name: {one.name for record in part for one in record.objects}
        for name, part in divided.splits.items()
    }
    assert held == {"train": {"car", "rare"}, "val": {"car"}, "test": {"car"}}
    assert divided.notes[-2:] == ("val has no object of rare", "test has no object of rare")


def test_one_bold_thing_in_two_pictures_does_not_make_them_copies() -> None:
    stripes = np.where(np.arange(96) // 4 % 2, 255, 0).astype(np.uint8)
    pictures = []
    for seed in (1, 2):
        grey = cv2.resize(picture(seed), (96, 96), interpolation=cv2.INTER_AREA)[:, :, 0]
        grey[20:60, 30:66] = stripes[30:66]
        pictures.append(grey)
    assert likeness(*pictures) < 0.7 * MIN_ALIKE
    assert likeness(pictures[0], np.clip(pictures[0] * 0.8 + 9, 0, 255).astype(np.uint8)) > 0.95


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_jpeg_is_read_as_small_grey(tmp_path: Path, orientation: int) -> None:
    ramp = np.broadcast_to(np.arange(0, 240, dtype=np.uint8)[:, None], (240, 320))
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.stack([ramp, ramp // 2, ramp // 4], axis=2)).save(path, exif=tags)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("L").resize((96, 96), Image.Resampling.BOX)
    grey = read_small_grey(path, 96)
    assert np.abs(grey.astype(int) - np.asarray(upright).astype(int)).max() <= 4
