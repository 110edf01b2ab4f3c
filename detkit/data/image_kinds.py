"""Kinds of image and video files by their suffixes, and what many images hold that is not used.

A suffix says whether a file is looked at at all; what it is read as, its content decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from detkit.data.image_headers import package_for

_EVERYWHERE = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".png", ".apng", ".webp", ".gif"),
        *(".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"),
    }
)
_BY_PLUGINS = frozenset({".heic", ".heif", ".hif", ".avif"})
_NOT_READ = frozenset({".jxl", ".psd", ".svg", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
# Pictures that people have. Not all are read, but a file of labels may name any.
PICTURE_SUFFIXES = _EVERYWHERE | _BY_PLUGINS | _NOT_READ
VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp"),
        *(".mts", ".m2ts"),
    }
)


@lru_cache
def is_image(suffix: str) -> bool:
    """Return whether files with this suffix, in lower case, are looked at as images here."""
    return suffix in _EVERYWHERE or (suffix in _BY_PLUGINS and package_for(suffix) is None)


def kinds_text(suffixes: Iterable[str]) -> str:
    """Return files by kind, the most frequent first: "3 .heic (pip install NAME), 1 .psd"."""
    kinds = Counter(suffixes)
    shown = []
    for kind, number in sorted(kinds.items(), key=lambda one: (-one[1], one[0])):
        package = package_for(kind)
        advice = f" (pip install {package})" if package else ""
        shown.append(f"{number} {kind or 'without suffix'}{advice}")
    return ", ".join(shown)
