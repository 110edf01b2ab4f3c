"""Kinds of files: which are read, what is said of the rest, and of what reading leaves out."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from labelled_folders import put, xml
from numpy.typing import NDArray
from PIL import Image, features
from running import detkit

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.image_headers import MAX_PIXELS
from detkit.data.image_kinds import kinds_text
from detkit.data.images import image_size, read_image, stored_size
from detkit.data.sources import find_images
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import DetkitError
from detkit.model_file import save_model

RED = np.full((20, 40, 3), (200, 30, 40), np.uint8)
# A kind for each suffix that is not the first one of its kind.
KINDS = {
    **dict.fromkeys((".jpe", ".jfif", ".JPG"), "JPEG"),
    **{".apng": "PNG", ".gif": "GIF", ".ppm": "PPM", ".dib": "DIB", ".jp2": "JPEG2000"},
    **{".TIFF": "TIFF", ".webp": "WEBP"},
}
HEIC = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic") + b"\0" * 200


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model that has learnt nothing."""
    torch.manual_seed(0)
    path = tmp_path / "m.safetensors"
    save_model(path, SSD(SSDConfig(backbone="tiny", size=64), ("car", "dog")))
    return path


@pytest.fixture
def no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no plug-in of Pillow's be installed."""
    from detkit.data.image_kinds import is_image

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    monkeypatch.setattr(features, "check", lambda name: False)
    is_image.cache_clear()
    monkeypatch.setattr("detkit.data.image_kinds.is_image", is_image.__wrapped__)
    monkeypatch.setattr("detkit.data.sources.is_image", is_image.__wrapped__)
    monkeypatch.setattr("detkit.data.tree.is_image", is_image.__wrapped__)


def save(path: Path, kind: str, pixels: NDArray[np.uint8] = RED, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format=kind, **options)
    return path


def twelve_bits(path: Path, channels: int = 1, bits: int = 12) -> Path:
    """Write 16-bit pixels of which only the lower bits are used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, (1 << bits) - 1, 30 * 40 * channels).astype(np.uint16)
    pixels = ramp.reshape((30, 40, channels) if channels > 1 else (30, 40))
    cv2.imencode(path.suffix, pixels)[1].tofile(path)
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_a_folder_s_images_are_found_and_read_whatever_their_kind(
    tmp_path: Path, suffix: str
) -> None:
    path = save(tmp_path / f"a{suffix}", KINDS[suffix])
    (found,) = find_images([str(tmp_path)])
    assert found.name == str(path)
    assert np.abs(found.read().astype(int) - RED).max() < 8
    assert image_size(path) == (20, 40)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_read_upright(tmp_path: Path, orientation: int) -> None:
    left_red = RED.copy()
    left_red[:, 20:] = (20, 30, 220)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.avif", "AVIF", left_red, exif=exif, quality=95)
    with Image.open(path) as image:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    assert (expected.shape[:2] == (40, 20)) == (orientation >= 5)
    (found,) = find_images([str(tmp_path)])
    assert found.name == str(path)


def test_a_heic_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.HEIC", "HEIF", exif=exif.tobytes(), quality=95)
    assert image_size(path) == read_image(path).shape[:2] == (40, 20)
    (found,) = find_images([str(tmp_path)])
    assert np.abs(found.read().astype(int) - RED[0, 0]).max() < 8


@pytest.mark.usefixtures("no_plugin")
@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_a_heic_without_its_package_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HEIC)
    for read in (read_image, image_size):
        with pytest.raises(
            DetkitError, match=f"{name}: an image of HEIF needs pillow-heif: pip install"
        ):
            read(tmp_path / name)


@pytest.mark.usefixtures("no_plugin")
def test_detect_and_propose_say_once_what_they_leave_out(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "in"
    save(folder / "a.png", "PNG")
    for name in ("b.HEIC", "c/d.heic", "e.avif", "f.psd", ".hidden.psd", "a.xml", "a.txt", "no"):
        put(folder, {name: "x"})
    line = (
        "detkit: warning: 5 left out, of kinds that are not read here: 2 .heic (pip install "
        "pillow-heif), 1 without suffix, 1 .avif (pip install pillow-avif-plugin), 1 .psd\n"
    )
    done = detkit("detect", model, folder, "-q", "-f", "jsonl")
    assert (done.returncode, done.stderr) == (0, line)
    assert len(done.stdout.splitlines()) == 1
    done = detkit("detect", model, f"{folder}/**", "-q", "-f", "jsonl")
    assert (done.returncode, done.stderr) == (0, line)
    done = detkit("propose", folder, "-q", "-o", tmp_path / "p.jsonl")
    assert (done.returncode, done.stderr) == (0, line)


@pytest.mark.usefixtures("no_plugin")
def test_a_folder_of_nothing_that_can_be_read_says_what_is_there(tmp_path: Path) -> None:
    put(tmp_path, {"b.HEIC": "x", "a.xml": "x"})
    with pytest.raises(DetkitError, match=r"no images or videos .*; there are 1 \.heic \(pip inst"):
        find_images([str(tmp_path)])


def test_a_video_in_a_folder_is_looked_at_frame_by_frame(tmp_path: Path) -> None:
    save(tmp_path / "z.png", "PNG")
    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for _ in range(2):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    names = [Path(one.name).name for one in find_images([str(tmp_path)])]
    assert names == ["a.avi#00000", "a.avi#00001", "z.png"]


@pytest.mark.usefixtures("no_plugin")
@pytest.mark.parametrize("words", [("check",), ("split", "OUT"), ("convert", "OUT", "--to", "voc")])
def test_data_folders_read_what_can_be_read_and_say_what_is_left_out(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    for number, (suffix, kind) in enumerate(KINDS.items()):
        save(data / f"{number}{suffix}", kind)
        put(data, {f"{number}.xml": xml(("car", 2, 2, 9, 9))})
    put(data, {"b.heic": "x", "clip.mp4": "x"})
    command, *rest = (word.replace("OUT", str(tmp_path / "out")) for word in words)
    done = detkit(command, data, *rest)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    left_out = "of kinds that are not read here: 1 .heic (pip install pillow-heif), 1 .mp4; "
    assert said.count(left_out) == 1
    assert f"{len(KINDS)} image" in said or "images                   10" in said


def test_a_labelled_image_that_needs_a_package_is_an_error_that_names_it(
    tmp_path: Path, no_plugin: None
) -> None:
    put(tmp_path, {"b.heic": HEIC, "b.xml": xml(("car", 1, 1, 9, 9), filename="b.heic")})
    put(tmp_path, {"a.png": None, "a.xml": xml(("car", 1, 1, 9, 9))})
    (finding,) = check(open_dataset(tmp_path))
    assert (finding.severity, finding.code) == ("error", "unreadable-image")
    assert "pip install pillow-heif" in finding.message


def test_kinds_are_counted_the_most_frequent_first() -> None:
    assert kinds_text([".psd", ".svg", ".svg", ""]) == "2 .svg, 1 without suffix, 1 .psd"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_or_many_pages_the_first_is_read_and_it_is_said_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [Image.fromarray(np.full((20, 40, 3), 90 * number, np.uint8)) for number in (2, 0, 1)]
    for name in ("a", "b"):
        pages[0].save(
            tmp_path / f"{name}.{kind.lower()}",
            save_all=True,
            append_images=pages[1:],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
    images = list(find_images([str(tmp_path)]))
    for image in images:
        assert np.abs(image.read().astype(int) - 180).max() <= 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("2 images of several frames or pages (the first: a.")
    assert "up to 3): only the first frame of each is read" in message


def test_check_says_how_many_images_have_more_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((20, 40), 90 * number, np.uint8)) for number in (2, 0)]
    for name in ("a", "b"):
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:])
        put(tmp_path, {f"{name}.xml": xml(("car", 2, 2, 9, 9))})
    (tmp_path / "b.tif").write_bytes((tmp_path / "b.tif").read_bytes() + b"\0")
    (finding,) = check(open_dataset(tmp_path))
    assert (finding.severity, finding.code) == ("warning", "more-frames")
    assert finding.message.startswith("2 images of several frames")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_check_says_that_no_image_uses_the_upper_bits(
    tmp_path: Path, suffix: str, channels: int
) -> None:
    for name in ("a", "b"):
        twelve_bits(tmp_path / f"{name}{suffix}", channels)
        put(tmp_path, {f"{name}.xml": xml(("car", 2, 2, 9, 9), size=(40, 30))})
    twelve_bits(tmp_path / f"b{suffix}", channels, bits=11)
    put(tmp_path, {"c.png": None, "c.xml": xml(("car", 2, 2, 9, 9))})
    (finding,) = check(open_dataset(tmp_path))
    assert (finding.severity, finding.code) == ("warning", "unused-bits")
    assert "not one of 2 images of 16 bits (the first: a." in finding.message
    assert "more than the lower 12," in finding.message
    assert "multiply their pixels by 16 " in finding.message
    twelve_bits(tmp_path / f"b{suffix}", channels, bits=16)  # one that does use them is enough
    assert check(open_dataset(tmp_path)) == []


def test_detect_says_that_no_image_uses_the_upper_bits(tmp_path: Path, model: Path) -> None:
    twelve_bits(tmp_path / "in" / "a.png")
    done = detkit("detect", model, tmp_path / "in", "-q", "-f", "jsonl")
    assert done.returncode == 0
    assert done.stderr.count("more than the lower 12, so they are read as nearly black") == 1
    assert json.loads(done.stdout)["width"] == 40
    twelve_bits(tmp_path / "in" / "b.png", bits=16)
    assert detkit("detect", model, tmp_path / "in", "-q", "-f", "jsonl").stderr == ""


def test_train_says_that_no_image_uses_the_upper_bits(tmp_path: Path) -> None:
    for number in range(4):
        twelve_bits(tmp_path / "data" / f"{number}.png", bits=12 - number)
        put(tmp_path / "data", {f"{number}.xml": xml(("car", 2, 2, 9, 9), size=(40, 30))})
    words = ["--model", "ssd", "--backbone", "tiny", "--set", "size=64", "--device", "cpu"]
    words += ["--max-steps", "1", "--batch-size", "2", "--num-workers", "0", "-q"]
    done = detkit("train", tmp_path / "data", *words, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("more than the lower 12, so they are read as nearly black") == 1


def test_a_tiff_that_states_its_12_bits_is_read_in_full_range(tmp_path: Path) -> None:
    values = [0, 4095, 2048, 1024]  # two pixels in three bytes, the upper bits first
    packed = bytes(
        byte
        for one, two in zip(values[::2], values[1::2])
        for byte in (one >> 4, (one & 15) << 4 | two >> 8, two & 255)
    )
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 200), (277, 1), (278, 1)]
    tags.append((279, len(packed)))
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 8) + directory + b"\0" * 4
    path = tmp_path / "packed.tif"
    path.write_bytes(content.ljust(200, b"\0") + packed)
    assert read_image(path)[0, :, 0].tolist() == [value >> 4 for value in values]


def test_a_picture_of_200_megapixels_is_within_the_limit_and_one_beyond_is_named(
    tmp_path: Path,
) -> None:
    def claiming(width: int, height: int) -> Path:
        path = tmp_path / f"{width}.bmp"
        buffer = io.BytesIO()
        Image.fromarray(RED).save(buffer, "BMP")
        data = bytearray(buffer.getvalue())
        data[18:26] = struct.pack("<ii", width, height)
        path.write_bytes(bytes(data))
        return path

    for size in ((16320, 12240), (8064, 6048), (25000, 8000)):  # phones of 200 and 48, a panorama
        assert image_size(claiming(*size)) == size[::-1]
    with pytest.raises(DetkitError, match=f"claims .* above the limit of {MAX_PIXELS:,}"):
        image_size(claiming(20000, 20000))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_the_stored_size_is_that_before_any_turn(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RED).save(path, exif=exif)
    assert stored_size(path) == (20, 40)
