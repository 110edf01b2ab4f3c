"""Relative paths of a labelled folder as texts with "/", and the splits that they name."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import PurePosixPath

# How people call the three parts; the year of "train2017" is dropped before looking here.
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}


def split_name(word: str) -> str | None:
    """Return "train", "val", "test" or "trainval" for a name of one ("valid", "train2017")."""
    return _SPLIT_NAMES.get(re.sub(r"[-_ ]?\d{2,4}$", "", word.lower()))


def split_in(path: str) -> str | None:
    """Return the split that a folder in a relative path is named after, or None."""
    folder, _, name = path.rpartition("/")
    if name == "" or name == ".":
        folder = folder_of(_without_end(path))
    return _split_of_folder(folder)


@lru_cache(maxsize=4096)
def _split_of_folder(folder: str) -> str | None:
    """Return the split that a part of a folder's path is named after, or None."""
    return next(filter(None, map(split_name, folder.split("/"))), None)


def split_in_stem(stem: str) -> str | None:
    """Return the split named in a file's stem ("instances_train2017"), or None."""
    for word in reversed(re.split(r"[\s_.\-]+", stem)):
        if name := split_name(word):
            return name
    return None


def folder_of(path: str) -> str:
    """Return the folder of a relative path, "" for the root."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """Return the last part of a relative path."""
    return path.rpartition("/")[2]


def stem_of(path: str) -> str:
    """Return the last part of a relative path without its suffix."""
    name = path.rpartition("/")[2]
    if name == "" or name == ".":
        name = name_of(_without_end(path))
    return stem_of_name(name)


def stem_of_name(name: str) -> str:
    """Return a file's name without its suffix."""
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name


def _without_end(path: str) -> str:
    """Return a path without "/" and "/." at its end, which name nothing."""
    if path.endswith(("/", "/.")) or path == ".":
        return "/".join(PurePosixPath(path).parts)
    return path


def suffix_of(path: str) -> str:
    """Return the suffix of a relative path in lower case."""
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - thousands of times a folder


def fold(text: str) -> str:
    """Return a name in the form in which letter case and Unicode form do not count."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def posix(text: str) -> str:
    """Return a path written on any system with "/", without "." parts and outer spaces."""
    parts = text.strip().replace("\\", "/").split("/")
    return "/".join(part for place, part in enumerate(parts) if part != "." and (part or not place))
