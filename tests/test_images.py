import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from detkit.data.demo.pictures import write_demo
from detkit.data.image_headers import MAX_PIXELS
from detkit.data.images import WRITTEN_SUFFIXES, image_size, read_image, write_image
from detkit.errors import DetkitError

try:
    import resource
except ImportError:  # Windows
    resource = None

VOC100 = Path(__file__).parents[2] / "shared" / "data" / "voc100" / "JPEGImages"


def picture(height=24, width=40):
    """Four flat quarters, every corner another colour, so that any turn shows."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (250, 10, 10)
    image[: height // 2, width // 2 :] = (10, 250, 10)
    image[height // 2 :, : width // 2] = (10, 10, 250)
    image[height // 2 :, width // 2 :] = (240, 240, 10)
    return image


def turned(image, orientation):
    """The stored pixels that a viewer shows as `image`: EXIF 2.3's table, undone."""
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, 1),  # shown after a turn of 90 degrees clockwise
        7: image[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(image, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def jpeg_bytes(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_every_exif_orientation_comes_out_upright_in_every_format(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif}
    if suffix == ".jpg":
        options |= {"quality": 100, "subsampling": 0}
    if suffix == ".webp":
        options |= {"lossless": True}
    path = save(tmp_path / f"a{suffix}", turned(picture(), orientation), **options)
    image = read_image(path)
    assert image.shape == picture().shape
    assert image_size(path) == picture().shape[:2]
    assert np.abs(image.astype(int) - picture()).max() < 12


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg"])
def test_compressed_tiffs_are_turned_once(tmp_path, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(turned(picture(32, 64), 6)).save(
        path, compression=compression, tiffinfo={0x0112: 6}
    )
    assert image_size(path) == (32, 64)
    assert np.abs(read_image(path).astype(int) - picture(32, 64)).max() < 30


def test_orientation_of_a_png_is_found_behind_its_pixels(tmp_path):
    plain = tmp_path / "a.png"
    save(plain, turned(picture(), 8))
    data = plain.read_bytes()
    exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 8, 0, 0)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    plain.write_bytes(data[:-12] + chunk + data[-12:])
    assert image_size(plain) == (24, 40)
    assert np.array_equal(read_image(plain), picture())


def test_boxes_drawn_on_the_stored_image_would_be_elsewhere(tmp_path):
    """Guards the tests above: the stored pixels are not those of the upright image."""
    assert not np.array_equal(turned(picture(), 3), picture())


def test_grey_palette_rgba_and_cmyk_become_rgb(tmp_path):
    grey = np.full((8, 8), 77, np.uint8)
    for suffix in (".png", ".bmp", ".tif", ".webp"):
        assert np.abs(read_image(save(tmp_path / f"g{suffix}", grey)).astype(int) - 77).max() <= 1
    alpha = np.dstack([picture(), np.full(picture().shape[:2], 9, np.uint8)])
    for suffix in (".png", ".tif"):
        assert np.array_equal(read_image(save(tmp_path / f"a{suffix}", alpha)), picture())
    palette = tmp_path / "p.png"
    Image.fromarray(picture()).quantize(16).save(palette)
    assert np.abs(read_image(palette).astype(int) - picture()).max() < 16
    one_bit = tmp_path / "o.png"
    Image.fromarray(np.eye(8) > 0).save(one_bit)
    assert np.array_equal(read_image(one_bit)[:, :, 1], 255 * np.eye(8))
    for suffix in (".jpg", ".tif"):
        cmyk = tmp_path / f"c{suffix}"
        Image.fromarray(picture(32, 64)).convert("CMYK").save(cmyk)
        assert np.abs(read_image(cmyk).astype(int) - picture(32, 64)).max() < 40
        assert image_size(cmyk) == (32, 64)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bits_the_upper_8_are_kept(tmp_path, suffix, channels):
    values = np.linspace(0, 65535, 16 * 20 * channels).astype(np.uint16)
    image = values.reshape((16, 20, channels) if channels == 3 else (16, 20))
    path = tmp_path / f"deep{suffix}"
    cv2.imencode(suffix, image)[1].tofile(path)
    expected = (image >> 8).astype(np.uint8)
    expected = expected[:, :, ::-1] if channels == 3 else np.dstack([expected] * 3)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1
    assert image_size(path) == (16, 20)


@pytest.mark.parametrize("suffix", sorted(WRITTEN_SUFFIXES | {s.upper() for s in WRITTEN_SUFFIXES}))
def test_what_is_written_reads_back_under_a_name_that_is_not_ascii(tmp_path, suffix):
    path = tmp_path / "Çà et là 图像" / f"смотри{suffix}"
    path.parent.mkdir()
    write_image(path, picture())
    assert image_size(path) == (24, 40)
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 12
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_truncated_files_are_reported_by_name(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    path = tmp_path / f"cut{suffix}"
    write_image(path, noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DetkitError, match=f"cut{suffix}"):
        read_image(path)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.999), st.sampled_from([b"", b"\0" * 500]))
def test_a_jpeg_cut_anywhere_is_never_filled_with_grey(tmp_path_factory, share, filling):
    noise = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    data = jpeg_bytes(noise)
    path = tmp_path_factory.mktemp("cut") / "a.jpg"
    path.write_bytes(data[: int(len(data) * share)] + filling)
    with pytest.raises(DetkitError, match=r"a\.jpg"):
        read_image(path)


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 999, b"\r\n", b"SEFT samsung trailer", b"\xff"])
def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path, tail):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(picture()) + tail)
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 12


def test_an_end_marker_inside_the_header_is_not_the_end_of_the_image(tmp_path):
    thumbnail = jpeg_bytes(picture(8, 8))
    whole = jpeg_bytes(np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8))
    segment = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = whole[:2] + segment + whole[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert image_size(path) == (64, 64)
    path.write_bytes(data[:-300])
    with pytest.raises(DetkitError, match="truncated JPEG"):
        read_image(path)


def test_progressive_and_long_headed_jpegs_are_read(tmp_path):
    path = tmp_path / "p.jpg"
    Image.fromarray(picture(64, 64)).save(path, progressive=True, icc_profile=b"x" * 200_000)
    assert image_size(path) == (64, 64)
    assert read_image(path).shape == (64, 64, 3)


def test_a_decompression_bomb_is_refused_from_its_header_with_the_limit(tmp_path):
    png = tmp_path / "bomb.png"
    save(png, picture())
    data = bytearray(png.read_bytes())
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    png.write_bytes(bytes(data))
    jpg = tmp_path / "bomb.jpg"
    data = bytearray(jpeg_bytes(picture()))
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    jpg.write_bytes(bytes(data))
    bmp = tmp_path / "bomb.bmp"
    data = bytearray(save(bmp, picture()).read_bytes())
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    bmp.write_bytes(bytes(data))
    for path in (png, jpg, bmp):
        for read in (read_image, image_size):
            with pytest.raises(DetkitError, match=f"{MAX_PIXELS:,}") as caught:
                read(path)
            assert path.name in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"RIFF"]
)
@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_is_one_line_naming_the_file(tmp_path, content, read):
    path = tmp_path / "nonsense.jpg"
    path.write_bytes(content)
    with pytest.raises(DetkitError, match=r"nonsense\.jpg") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_an_empty_file_and_a_text_file_are_told_apart_from_a_damaged_image(tmp_path):
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_bytes(b"hello")
    with pytest.raises(DetkitError, match="the file is empty"):
        read_image(empty)
    with pytest.raises(DetkitError, match="not an image that can be read"):
        read_image(text)


@pytest.mark.parametrize("format", ["GIF", "PPM"])
def test_an_image_of_another_kind_is_read_under_any_suffix(tmp_path, format):
    path = tmp_path / "image.png"
    Image.fromarray(np.full((3, 5, 3), 255, np.uint8)).save(path, format=format)
    assert read_image(path).shape == (3, 5, 3)
    assert image_size(path) == (3, 5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_give_an_image_or_an_error_never_a_crash(tmp_path_factory, data):
    suffix = data.draw(st.sampled_from([".jpg", ".png", ".bmp", ".tif", ".webp"]))
    path = tmp_path_factory.mktemp("flip") / f"a{suffix}"
    write_image(path, picture())
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    for read in (read_image, image_size):
        try:
            read(path)
        except DetkitError as error:
            assert path.name in str(error)


def test_a_missing_file_and_a_folder_are_reported_by_name(tmp_path):
    for path in (tmp_path / "absent.jpg", tmp_path):
        for read in (read_image, image_size):
            with pytest.raises(DetkitError, match=path.name):
                read(path)


def test_a_wrong_suffix_does_not_matter_to_the_reader_but_does_to_the_writer(tmp_path):
    path = tmp_path / "a.jpg"
    save(path, picture(), format="PNG")
    assert np.array_equal(read_image(path), picture())
    with pytest.raises(DetkitError, match="suffix '.txt'"):
        write_image(tmp_path / "a.txt", picture())


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(DetkitError, match="cannot be written"):
        write_image(tmp_path / "absent" / "a.png", picture())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(resource is None, reason="Windows has no limit that stands for a full disk")
def test_an_image_for_which_the_disk_has_no_room_says_so_and_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(DetkitError, match=r"a\.png: not written, the disk is full"):
            write_image(tmp_path / "a.png", noise)
        with pytest.raises(DetkitError, match=r"demo: cannot be written: File too large"):
            write_demo(tmp_path / "demo", num_images=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not VOC100.is_dir(), reason="the shared data are not here")
def test_real_photographs_equal_pillow():
    for path in sorted(VOC100.glob("*.jpg"))[:10]:
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        image = read_image(path)
        assert image_size(path) == image.shape[:2] == expected.shape[:2]
        # Decoders may differ by rounding in chroma upsampling.
        assert np.abs(image.astype(int) - expected).mean() < 1.5


def test_importing_the_loader_imports_no_decoder():
    code = "import sys, detkit.data.images; print({'cv2', 'PIL', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert result.stdout.strip() == "set()", result.stderr
