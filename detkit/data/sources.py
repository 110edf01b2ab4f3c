"""The images a user names: files, folders, globs, lists, paths on stdin, videos and streams.

Everything is found lazily and in a fixed order, because a list may be long and a pipe endless.
Names are kept as the user wrote them, "./" included, so that results can be joined with the
list they come from.
"""

from __future__ import annotations

import codecs
import functools
import glob
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from detkit.data.image_kinds import VIDEO_SUFFIXES, is_image, kinds_text
from detkit.data.images import image_size, read_image
from detkit.data.paths import suffix_of
from detkit.data.unused_content import UnusedContent
from detkit.data.videos import Frame, frames_of_file, frames_of_stream, is_stream
from detkit.errors import DetkitError, UsageError
from detkit.files import open_text

LIST_SUFFIX = ".txt"
# Labels, texts and what systems leave: nobody expects them among the images of a folder.
_NO_MEDIA = frozenset(
    {
        *(".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".names", ".data"),
        *(".mat", ".md", ".rst", ".html", ".log", ".cfg", ".ini", ".cache", ".db", ".partial"),
    }
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image by name; its pixels when they are asked for."""

    name: str  # as the user wrote it; a frame: "clip.mp4#00042"
    read: Callable[[], NDArray[np.uint8]]  # (H, W, 3) RGB; raises DetkitError when it cannot
    file: Path | None = None  # which holds this image alone
    seconds: float | None = None  # of a frame: its time in the video

    def num_pixels(self) -> int:
        """Return how many pixels it has, if a header can tell before it is read; else 0."""
        if self.file is None:
            return 0
        try:
            height, width = image_size(self.file)
        except DetkitError:  # it is told when the image is read
            return 0
        return height * width

    @classmethod
    def of_file(cls, name: str | Path) -> ImageSource:
        """Return the image of a file."""
        return cls(str(name), functools.partial(read_image, Path(name)), Path(name))

    @classmethod
    def of_frame(cls, frame: Frame) -> ImageSource:
        """Return a frame of a video, readable or not."""
        if frame.pixels is None:
            return replace(cls.unreadable(frame.name, frame.error), seconds=frame.seconds)
        return replace(cls.of_pixels(frame.name, frame.pixels), seconds=frame.seconds)

    @classmethod
    def of_pixels(cls, name: str, pixels: NDArray[np.uint8]) -> ImageSource:
        """Return an image that is in memory already, (H, W, 3) uint8 RGB."""
        return cls(name, lambda: pixels)

    @classmethod
    def unreadable(cls, name: str, reason: str) -> ImageSource:
        """Return an image that raises DetkitError with this reason."""

        def fail() -> NDArray[np.uint8]:
            raise DetkitError(f"{name}: {reason}")

        return cls(name, fail)


def find_images(
    sources: Sequence[str],
    *,
    stdin: TextIO | None = None,
    every: int = 1,
    take: Callable[[str], bool] = lambda name: True,
) -> Iterator[ImageSource]:
    """Return the images of the sources, in order, found while iterating.

    A source is an image file; a folder (its images and videos and those of its sub-folders,
    sorted; files and folders with a leading dot are left out); a glob, quoted or not (`**` for
    any depth); a video (every `every`-th frame from the first); a camera, "camera:0", or the
    address of a stream, "rtsp://..." or "http://...", as long as it lasts; a list, `@FILE` or
    `FILE.txt`, with a path a line; or `-`, paths on `stdin`, one a line. Paths in a list are
    relative to where the user stands or else to the list; empty lines and those that begin with
    `#` are left out.

    All sources but stdin and streams are looked up before this returns. Raises UsageError for one
    that does not exist, and DetkitError for a folder, glob or list without images. A path in a
    list or on stdin that cannot be read raises only when its pixels are asked for. A stream that
    does not open raises DetkitError when its turn has come, stdin without a path when it ends.

    When all are found, a line of the log says of folders and globs how many files of which kinds
    were left out, and one each of files with several frames, and with 16 bits of which the upper
    are not used.

    `take` is asked of each image's name in their order, and those it refuses are passed over: a
    file is then not opened.
    """
    if every < 1:
        raise UsageError(f"--every {every}: must be at least 1")
    if not sources:
        raise UsageError(
            "no images named; give files, folders, globs, videos, streams, or - for stdin"
        )
    if sources.count("-") > 1:
        raise UsageError("- is given twice; stdin can be read once")
    if "-" in sources and stdin is None:
        raise UsageError("-: there is no stdin to read paths from")
    for source in sources:
        _check(source)
    return _images_of_all(sources, stdin, every, take)


def count_images(
    sources: Sequence[str], take: Callable[[str], bool] = lambda name: True
) -> int | None:
    """Return how many images of the sources are taken; None with stdin or a video among them."""
    count = 0
    for source in sources:
        if source == "-" or is_live(source):
            return None
        for name in _names(source):
            if suffix_of(name) in VIDEO_SUFFIXES:
                return None
            count += take(name)
    return count


def _images_of_all(
    sources: Sequence[str], stdin: TextIO | None, every: int, take: Callable[[str], bool]
) -> Iterator[ImageSource]:
    """Yield the images of the sources that are taken, then say what was left out."""
    left_out: list[str] = []
    unused = UnusedContent()
    for source in sources:
        if is_live(source):
            frames = frames_of_stream(source, every)
            yield from (ImageSource.of_frame(frame) for frame in frames if take(frame.name))
            continue
        names = names_on(stdin) if source == "-" and stdin is not None else _names(source, left_out)
        for name in names:
            if suffix_of(name) in VIDEO_SUFFIXES:
                frames = frames_of_file(name, every)
                yield from (ImageSource.of_frame(frame) for frame in frames if take(frame.name))
            elif take(name):
                unused.add(Path(name))
                yield ImageSource.of_file(name)
    if left_out:
        logger.warning(
            "%d left out, of kinds that are not read here: %s", len(left_out), kinds_text(left_out)
        )
    for _, message, _ in unused.told():
        logger.warning("%s", message)


def _check(source: str) -> None:
    """Raise DetkitError when a source does not exist or holds no image."""
    if source == "-" or is_live(source) or next(_names(source), None) is not None:
        return
    if Path(source).is_dir():
        left_out: list[str] = []
        deque(_names(source, left_out), maxlen=0)
        seen = f"; there are {kinds_text(left_out)}" if left_out else ""
        raise DetkitError(f"{source}: no images or videos in this folder or below it{seen}")
    if _list_of(source) is not None:
        raise DetkitError(f"{source}: no paths in this list; expected one a line")
    if glob.has_magic(source):
        raise DetkitError(f"{source}: no image or video matches")
    raise DetkitError(f"{source}: no such file or folder")


def is_live(source: str) -> bool:
    """Return whether a source is a camera or an address and no file that is called so."""
    return is_stream(source) and not Path(source).exists()


def _names(source: str, left_out: list[str] | None = None) -> Iterator[str]:
    """Yield the names of the image and video files of a source, nothing if it has none.

    The suffixes of a folder's or a glob's files that are neither go to `left_out`.
    """
    list_file = _list_of(source)
    if list_file is not None:
        yield from _listed(list_file)
    elif Path(source).is_dir():
        yield from _media(_in_folder(source), left_out)
    elif Path(source).exists():
        yield source
    elif glob.has_magic(source):
        # Not Path.glob: it takes no absolute patterns and forgets a leading "./".
        found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207
        yield from _media((name for name in found if not Path(name).is_dir()), left_out)


def _media(names: Iterable[str], left_out: list[str] | None) -> Iterator[str]:
    """Yield the names of images and videos; the suffixes of others go to `left_out`."""
    for name in names:
        suffix = suffix_of(name)
        if is_image(suffix) or suffix in VIDEO_SUFFIXES:
            yield name
        elif left_out is not None and suffix not in _NO_MEDIA:
            left_out.append(suffix)


def _in_folder(folder: str) -> Iterator[str]:
    """Yield the files below a folder: its own by name, then folder by folder."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            # macOS leaves "._photo.jpg" beside photo.jpg on foreign disks: not an image.
            if not name.startswith("."):
                yield str(Path(parent, name))


def _list_of(source: str) -> Path | None:
    """Return the file of a source that is a list; DetkitError when `@FILE` does not exist."""
    if source.startswith("@") and not Path(source).exists():
        if not Path(source[1:]).is_file():
            raise DetkitError(f"{source}: no such list file")
        return Path(source[1:])
    path = Path(source)
    return path if path.suffix.lower() == LIST_SUFFIX and path.is_file() else None


def _listed(file: Path) -> Iterator[str]:
    """Yield the paths of a list file."""
    try:
        with open_text(file) as lines:
            for name in _stripped(lines, str(file)):
                beside = file.parent / name
                yield name if Path(name).exists() or not beside.exists() else str(beside)
    except OSError as error:
        raise DetkitError(f"{file}: the list cannot be read: {error.strerror}") from error


def names_on(stream: TextIO) -> Iterator[str]:
    """Yield the paths on a stream, each as soon as its line is complete; DetkitError for none."""
    try:
        lines: Iterable[str] = _raw_lines(stream.fileno())
    except (OSError, ValueError, AttributeError):  # a stream in memory
        lines = stream
    name = None
    for name in _stripped(lines, "-"):
        yield name
    if name is None:
        # As of an empty list: a `find` that failed before the pipe looks just so.
        raise DetkitError("-: no paths on stdin; expected one a line")


def _raw_lines(descriptor: int) -> Iterator[str]:
    """Yield the lines of an open file.

    Python's own buffered stdin has a lock; a thread that waits for input while the program ends
    would hold it, and bring the interpreter down with a fatal error.
    """
    rest = b""
    is_first = True
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            # Windows' tools put a byte order mark before the first path.
            yield _path_of(line.removeprefix(codecs.BOM_UTF8) if is_first else line)
            is_first = False
    if rest:
        yield _path_of(rest.removeprefix(codecs.BOM_UTF8) if is_first else rest)


def _path_of(line: bytes) -> str:
    """Return a line as a path: as `os.fsdecode`, which Windows' other code pages make fail."""
    return line.decode(sys.getfilesystemencoding(), "surrogateescape")


def _stripped(lines: Iterable[str], origin: str) -> Iterator[str]:
    """Yield the lines that name something, without line ends and outer spaces.

    Raises DetkitError for a line that can be no path.
    """
    for line in lines:
        name = line.strip()
        if "\0" in name:
            raise DetkitError(
                f"{origin}: expected paths, one a line, but found a NUL character; give an image's "
                "name, not its bytes, and `find` without -print0"
            )
        if name and not name.startswith("#"):
            yield name
