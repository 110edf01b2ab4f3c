"""Image files are opened once for all that is asked of them, by threads that stop when asked to."""

from __future__ import annotations

import builtins
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detkit.data import exif_times, image_files
from detkit.data.checks.check import check
from detkit.data.exif_times import taken_of
from detkit.data.groups import find_groups
from detkit.data.identical_files import digest_of_file, identical_files
from detkit.data.image_files import open_images
from detkit.data.image_headers import read_header
from detkit.data.images import image_size, read_small_grey
from detkit.data.looks import blank_looks
from detkit.data.near_duplicates import MIN_ALIKE, find_copies, likeness
from detkit.data.records import Dataset, ImageRecord
from detkit.data.threads import in_threads


def photo(seed: int, size: tuple[int, int] = (220, 300)) -> np.ndarray:
    """Return a picture of light, shade and noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def exif(time: str | None = "2024:05:06 12:00:00", **more: Any) -> Image.Exif:
    tags = Image.Exif()
    for tag, value in more.get("tags", {0x010F: "Maker", 0x0110: "Model"}).items():
        tags[tag] = value
    details = tags.get_ifd(0x8769)
    if time is not None:
        details[0x9003] = time
    for tag, value in more.get("details", {}).items():
        details[tag] = value
    if more.get("big_endian"):
        tags.endian = ">"
    return tags


def jpeg(tags: Image.Exif | bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(0, (20, 30))).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


BLOCKS = {
    "plain": exif(),
    "big-endian": exif(big_endian=True),
    "parts of a second": exif(details={0x9291: "25"}),
    "parts that are no number": exif(details={0x9291: "x"}),
    "no camera": exif(tags={}),
    "one letter": exif(tags={0x0110: "A"}),
    "turned": exif(tags={0x0112: 6, 0x0110: "Model"}),
    "large notes": exif(details={0x927C: b"n" * 40_000, 0xA432: (1.0, 2.0, 3.0, 4.0)}),
    "no time": exif(None, details={0x9291: "25"}),
    "no details": exif(None),
    "another way of writing": exif("2024-05-06 12:00:00"),
    "no such month": exif("2024:13:06 12:00:00"),
    "zeros": exif("0000:00:00 00:00:00"),
    "spaces": exif("2024:05:06 12:00:00  "),
    "a number for a time": exif(details={0x9003: 7}),
    "cut short": exif().tobytes()[:-20],
    "cut in the directory": exif().tobytes()[:30],
    "no block": b"Exif\0\0nothing of the kind",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_time_of_a_jpeg_is_what_pillow_says(name: str) -> None:
    data = jpeg(BLOCKS[name])
    assert taken_of(data[: 1 << 16], lambda: data) == exif_times._by_pillow(data)


@pytest.mark.parametrize("name", list(BLOCKS)[:12])
def test_blocks_as_cameras_write_them_need_no_pillow(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exif_times, "_by_pillow", lambda data: pytest.fail("Pillow was asked"))
    data = jpeg(BLOCKS[name])
    found = taken_of(data, lambda: data)
    assert (found is None) == (list(BLOCKS).index(name) >= 8)


def test_any_damage_to_a_block_is_told_as_pillow_tells_it() -> None:
    whole = exif(details={0x9291: "25"}).tobytes()
    rng = np.random.default_rng(0)
    differing = []
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(6, len(whole), 2):
            damaged[place] = rng.integers(0, 256)
        data = jpeg(bytes(damaged))
        if taken_of(data, lambda data=data: data) != exif_times._by_pillow(data):  # type: ignore[misc]
            differing.append(bytes(damaged))
    assert differing == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count by name how often each image file is opened for reading."""
    counts: Counter[str] = Counter()
    original = Path.open

    def counting(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if "r" in mode and self.suffix in (".jpg", ".png", ".tif"):
            counts[self.name] += 1
        return original(self, mode, *more, **named)

    monkeypatch.setattr(Path, "open", counting)
    return counts


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """Make images of three kinds in two splits: copies, equal bytes, a cut one, one with a time."""
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    splits: dict[str, list[ImageRecord]] = {"train": [], "val": []}
    for number, kind in enumerate(["jpg", "png", "tif", "jpg", "jpg"]):
        image = Image.fromarray(photo(number))
        for split, quality in (("train", 95), ("val", 95 if number == 0 else 60)):
            path = tmp_path / f"{split}{number}.{kind}"
            more = {"exif": exif(), "quality": quality} if kind == "jpg" else {}
            image.save(path, **more)
            splits[split].append(ImageRecord(path.name, path, label_file=tmp_path / "labels.json"))
    cut = tmp_path / "val4.jpg"
    cut.write_bytes(cut.read_bytes()[:-2000])
    members = {name: tuple(records) for name, records in splits.items()}
    yield Dataset(tmp_path, "coco", ("car",), members)


def test_check_opens_each_image_once_whether_or_not_it_has_seen_it_before(
    dataset: Dataset, opened: Counter[str]
) -> None:
    found = []
    for _ in range(2):
        opened.clear()
        found.append(check(dataset))
        assert opened == {one.path.name: 1 for part in dataset.splits.values() for one in part}
    assert found[0] == found[1]
    codes = Counter(one.code for one in found[0])
    assert (codes["leaked-image"], codes["near-copy"]) == (3, 1)  # PNG and TIFF are saved alike
    assert codes["unreadable-image"] == 1


def test_groups_open_each_image_once(dataset: Dataset, opened: Counter[str]) -> None:
    records = [one for part in dataset.splits.values() for one in part]
    find_groups(records)
    assert opened == {one.path.name: 1 for one in records}


def test_what_one_reading_tells_is_what_each_question_is_answered_alone(dataset: Dataset) -> None:
    paths = [one.path for part in dataset.splits.values() for one in part]
    files = open_images([*paths, paths[0]], headers=True, dated=paths, looked_at=paths)
    for path, grey in zip(paths, files.looks_of(paths).grey):
        taken = files[path].taken
        assert (taken is not None) == (path.suffix == ".jpg")
        if path.name == "val4.jpg":
            assert files[path].problem == "truncated JPEG: its end is missing; replace the file"
            assert files[path].size is None and not grey.any()
        else:
            assert np.array_equal(grey, read_small_grey(path, 96)) and grey.any()
            assert files[path].size == image_size(path) == (220, 300)
    same = [{one.name for one in group} for group in files.identical(paths)]
    assert same == [{f"train{n}.{kind}", f"val{n}.{kind}"} for n, kind in
                    ((0, "jpg"), (1, "png"), (2, "tif"))]  # fmt: skip


def test_of_files_not_looked_at_those_that_end_alike_are_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bytearray(np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes())
    contents = {"one": whole, "same": whole, "middle": whole, "end": whole, "longer": whole + b"."}
    contents = {name: bytearray(content) for name, content in contents.items()}
    contents["middle"][100_000] ^= 1
    contents["end"][-1] ^= 1
    paths = [tmp_path / f"{name}.jpg" for name in contents]
    for path, content in zip(paths, contents.values()):
        path.write_bytes(content)
    read: list[str] = []
    monkeypatch.setattr(
        image_files, "digest_of_file", lambda path: read.append(path.stem) or digest_of_file(path)
    )
    assert open_images(paths).identical(paths) == identical_files(paths) == [paths[:2]]
    assert sorted(read) == ["middle", "one", "same"]
    looked_at = open_images(paths, looked_at=paths[:1])
    assert looked_at.identical(paths) == [paths[:2]]


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
@pytest.mark.parametrize("more", [0, 20_000, 60_000])  # bytes before the size; more than 8 KiB, ...
def test_a_header_is_read_with_one_opening_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, more: int
) -> None:
    path = tmp_path / f"one.{kind}"
    tags = exif(tags={0x0112: 6, 0x0110: "Model"}, details={0x927C: b"n" * more})
    Image.fromarray(photo(0, (300, 200))).save(path, exif=tags.tobytes())
    if kind == "jpg":  # more than 64 KiB, with two such segments
        data = path.read_bytes()
        path.write_bytes(data[:2] + b"\xff\xfe\x75\x32" + bytes(30_000) + data[2:])
    opened: list[object] = []
    for module, name in ((os, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, noting(opened, getattr(module, name)))
    header = read_header(path)
    monkeypatch.undo()
    assert (header.upright_size, header.orientation) == ((200, 300), 6)
    assert [one for one in opened if not isinstance(one, int)] == [path]


def noting(opened: list[object], original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `open` that puts down what it opens."""

    def noted(what: object, *more: Any, **named: Any) -> Any:
        opened.append(what)
        return original(what, *more, **named)

    return noted


def test_small_pictures_of_a_folder_are_kept_in_few_files(tmp_path: Path, dataset: Dataset) -> None:
    paths = [one.path for part in dataset.splits.values() for one in part]
    first = open_images(paths[:6], looked_at=paths[:6]).looks.grey
    assert len([*(tmp_path / "cache").rglob("*.grey")]) == 1
    again = open_images(paths, looked_at=paths).looks.grey
    assert np.array_equal(again[:6], first)
    assert len([*(tmp_path / "cache").rglob("*.grey")]) == 2


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes by name here")
    os.mkfifo(tmp_path / "pipe.jpg")
    files = open_images([tmp_path / "pipe.jpg"], headers=True, looked_at=[tmp_path / "pipe.jpg"])
    assert files[tmp_path / "pipe.jpg"].problem == "no such image file"


def test_a_part_of_looks_holds_those_images_whether_copied_or_not() -> None:
    looks = blank_looks(6)
    looks.grey[:] = np.random.default_rng(0).integers(0, 256, looks.grey.shape, np.uint8)
    looks.describe()
    for places in ([], [2], [1, 2, 3], [3, 2, 1], [0, 2, 4], [1, 1, 3], [0, 0, 2]):
        part = looks.part(places)
        for mine, all_ in ((part.grey, looks.grey), (part.hashes, looks.hashes)):
            assert np.array_equal(mine, all_[np.array(places, int)])
    assert np.shares_memory(looks.part([1, 2, 3]).grey, looks.grey)


def test_pairs_that_are_not_laid_on_each_other_are_no_copies() -> None:
    photos = [photo(seed) for seed in range(30)]
    cut = [
        one[: int(220 * (1 - 0.004 * n)), int(300 * 0.003 * n) :] for n, one in enumerate(photos)
    ]
    looks = blank_looks(60)
    for place, one in enumerate([*photos, *cut]):
        grey = Image.fromarray(one).convert("L")
        looks.grey[place] = np.asarray(grey.resize((96, 96), Image.Resampling.BOX))
    looks.describe()
    looks.hashes[:] = 0  # all are of one hash, so that the four first are laid on each
    found = {(one.image, one.other): one.alike for one in find_copies(looks.part(range(30, 34)),
             looks.part(range(4)))}  # fmt: skip
    alone = {
        (image, other): min(likeness(looks.grey[30 + image], looks.grey[other]), 1.0)
        for image in range(4)
        for other in range(4)
    }
    assert found == {pair: alike for pair, alike in alone.items() if alike >= MIN_ALIKE}
    assert set(found) == {(n, n) for n in range(4)}


def test_threads_return_what_they_find_in_the_order_of_the_items() -> None:
    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    for at_once in (1, 4, 100):
        assert list(in_threads(slow, range(20), at_once)) == [n * n for n in range(20)]
    assert list(in_threads(slow, [])) == []


def test_threads_begin_no_further_item_when_the_reader_is_interrupted() -> None:
    begun: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    with pytest.raises(KeyboardInterrupt):
        for number in in_threads(slow, range(10_000), 50):
            if number == 10:
                raise KeyboardInterrupt
    assert len(begun) < 2000
    stopped = len(begun)
    time.sleep(0.05)
    assert len(begun) == stopped
