"""Images as users name them: found in a fixed order, lazily, under the names they gave."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detkit.data.images import write_image
from detkit.data.sources import find_images
from detkit.errors import DetkitError, ExitCode, UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with images in it and below it."""
    monkeypatch.chdir(tmp_path)
    names = ["b.png", "a.PNG", "pics/z.jpg", "pics/ä ö.jpg", "pics/deep/x.webp", "img[1].png"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((4, 5, 3), 100, np.uint8))
    (tmp_path / "pics" / "._z.jpg").write_bytes(b"AppleDouble")
    (tmp_path / "pics" / ".hidden").mkdir()
    (tmp_path / "pics" / ".hidden" / "y.jpg").write_bytes(b"")
    (tmp_path / "pics" / "notes.md").write_text("no image", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(*sources: str, stdin: str | None = None) -> list[str]:
    stream = None if stdin is None else io.StringIO(stdin)
    found = [image.name for image in find_images(sources, stdin=stream)]
    return [name.replace("\\", "/") for name in found]


@pytest.mark.usefixtures("folder")
def test_a_file_keeps_the_name_it_was_given() -> None:
    assert names("b.png", "./b.png") == ["b.png", "./b.png"]


@pytest.mark.usefixtures("folder")
def test_a_folder_is_searched_to_the_bottom_in_sorted_order_without_hidden_files() -> None:
    assert names("pics") == ["pics/z.jpg", "pics/ä ö.jpg", "pics/deep/x.webp"]


@pytest.mark.usefixtures("folder")
def test_quoted_globs_are_resolved_here() -> None:
    assert names("*.png") == ["b.png", "img[1].png"]
    assert names("pics/**/*") == ["pics/deep/x.webp", "pics/z.jpg", "pics/ä ö.jpg"]


def test_absolute_globs_work(folder: Path) -> None:
    assert names(f"{folder}/pics/*.jpg") == [
        name.replace("\\", "/") for name in (f"{folder}/pics/z.jpg", f"{folder}/pics/ä ö.jpg")
    ]


@pytest.mark.usefixtures("folder")
def test_a_file_that_looks_like_a_glob_is_a_file() -> None:
    assert names("img[1].png") == ["img[1].png"]


def test_lists_hold_paths_from_here_or_from_the_list(folder: Path) -> None:
    text = "\ufeff# comment\nb.png\n\n  z.jpg  \nnowhere.jpg\n"
    (folder / "pics" / "list.txt").write_text(text, encoding="utf-8")
    (folder / "pics" / "list.lst").write_text(text, encoding="utf-8")
    expected = ["b.png", "pics/z.jpg", "nowhere.jpg"]
    assert names("pics/list.txt") == expected
    assert names("@pics/list.txt") == expected
    assert names("@pics/list.lst") == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_that_powershell_wrote_is_read(folder: Path, encoding: str) -> None:
    text = "\ufeffb.png\r\nz.jpg\r\n\u00e4 \u00f6.jpg\r\n"
    (folder / "pics" / "list.txt").write_bytes(text.encode(encoding))
    assert names("pics/list.txt") == ["b.png", "pics/z.jpg", "pics/\u00e4 \u00f6.jpg"]


def test_what_holds_no_paths_is_told_apart_from_a_defect(folder: Path) -> None:
    with pytest.raises(DetkitError, match=r"^-: expected paths, one a line.*-print0"):
        names("-", stdin="b.png\0a.PNG\0")
    (folder / "list.txt").write_bytes((folder / "b.png").read_bytes())
    with pytest.raises(DetkitError, match=r"^list\.txt: expected paths"):
        names("list.txt")


@pytest.mark.usefixtures("folder")
def test_paths_come_from_stdin_too_between_other_sources() -> None:
    assert names("b.png", "-", "a.PNG", stdin="./x y.jpg\r\n\nz.jpg") == [
        "b.png",
        "./x y.jpg",
        "z.jpg",
        "a.PNG",
    ]


@pytest.mark.usefixtures("folder")
def test_a_path_on_stdin_that_does_not_exist_fails_only_when_it_is_read() -> None:
    (missing,) = find_images(["-"], stdin=io.StringIO("none.jpg\n"))
    with pytest.raises(DetkitError, match="none.jpg"):
        missing.read()


def test_stdin_is_read_as_it_comes_and_names_need_not_be_utf8() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "r") as stream:
        images = find_images(["-"], stdin=stream)
        os.write(writing, b"one.jpg\ntwo")
        assert next(images).name == "one.jpg"
        os.write(writing, b".jpg\n\xff.jpg\n")
        assert next(images).name == "two.jpg"
        assert os.fsencode(next(images).name) == b"\xff.jpg"
        os.close(writing)
        assert list(images) == []


def test_a_path_in_another_code_page_on_windows_stdin_is_a_missing_file_and_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # There the file system's names are UTF-8 whose only spare codes are lone surrogates.
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("utf-8", "surrogatepass"))
    reading, writing = os.pipe()
    os.write(writing, "caf\u00e9.jpg\r\nb.jpg".encode("cp1252"))
    os.close(writing)
    with os.fdopen(reading, "r") as stream:
        found = [image.name for image in find_images(["-"], stdin=stream)]
    assert found == ["caf\udce9.jpg", "b.jpg"]


def test_a_byte_order_mark_and_windows_line_ends_on_stdin_are_no_part_of_a_path() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"\xef\xbb\xbfone.jpg\r\n\r\ntwo.jpg\r\n")
    os.close(writing)
    with os.fdopen(reading, "r") as stream:
        assert [one.name for one in find_images(["-"], stdin=stream)] == ["one.jpg", "two.jpg"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("source", ["nowhere.jpg", "nowhere/", "*.gif", "@nowhere.txt", "pics/*"])
def test_a_source_that_does_not_exist_is_named_before_anything_is_read(source: str) -> None:
    if source == "pics/*":
        assert names(source)
        return
    with pytest.raises(DetkitError) as error:
        find_images(["b.png", source])
    assert error.value.exit_code == 3
    assert str(error.value).startswith(f"{source}: no ")
    assert "\n" not in str(error.value)


def test_folders_and_lists_without_images_are_errors(folder: Path) -> None:
    (folder / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    for source in ("empty", "empty.txt"):
        with pytest.raises(DetkitError, match=rf"^{source}: no ") as error:
            find_images([source])
        assert error.value.exit_code == ExitCode.BAD_INPUT


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", ["", "\n \n# nothing\n"])
def test_stdin_without_a_path_is_an_error_as_an_empty_list_is(text: str) -> None:
    images = find_images(["b.png", "-"], stdin=io.StringIO(text))
    assert next(images).name == "b.png"
    with pytest.raises(DetkitError, match=r"^-: no paths on stdin") as error:
        next(images)
    assert error.value.exit_code == ExitCode.BAD_INPUT


def test_wrong_usage_is_told() -> None:
    with pytest.raises(UsageError, match="no images named"):
        find_images([])
    with pytest.raises(UsageError, match="twice"):
        find_images(["-", "-"], stdin=io.StringIO())
    with pytest.raises(UsageError, match="stdin"):
        find_images(["-"])
    with pytest.raises(UsageError, match="every"):
        find_images(["."], every=0)


def test_an_endless_list_of_paths_is_never_read_to_its_end(folder: Path) -> None:
    class Endless(io.StringIO):
        def __iter__(self) -> Iterator[str]:  # type: ignore[override]
            while True:
                yield "b.png\n"

    images = find_images(["-"], stdin=Endless())
    assert [next(images).name for _ in range(1000)] == ["b.png"] * 1000
