"""What a labelled folder holds: every file once, and which image a label file means.

Nothing named in a label file is opened by that name. It is looked up here, among the files
that were seen in the folder, so no path written in a label can lead out of it; a symbolic
link that does is not followed. Letter case and Unicode form (macOS writes decomposed
accents) are forgiven where the exact name is not there. A file whose name no text can hold
is a finding and not in the listing, so that nobody behind this file meets one.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from detkit.data.image_kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_image
from detkit.data.paths import (
    fold,
    folder_of,
    name_of,
    posix,
    split_in,
    split_name,
    stem_of,
    suffix_of,
)
from detkit.data.records import Finding
from detkit.files import decoded, open_text, read_whole
from detkit.text import counted, is_plain, printable

# Why a file is left out.
UNFIT_NAME = (
    "the name is not UTF-8 or holds control characters, so no list or label file can name it; "
    "rename it"
)

# Folders that say what kind of file lies there and nothing about which images: of two paths
# that are equal without them, one is the label of the other.
LAYOUT_FOLDERS = frozenset(
    {
        *("image", "images", "img", "imgs", "jpegimages", "pics", "pictures", "photos"),
        *("annotation", "annotations", "anno", "annos", "ann", "anns", "xml", "xmls"),
        *("label", "labels", "txt", "json", "jsons"),
    }
)
# Those of label files alone, whose images lie beside the folder.
LABEL_FOLDERS = frozenset(
    {
        *("annotation", "annotations", "anno", "annos", "ann", "anns", "xml", "xmls"),
        *("label", "labels", "json", "jsons", "data"),
    }
)
# Folders with pictures that are no photographs: VOC's segmentation masks and the like.
_MASK_FOLDERS = frozenset({"segmentationclass", "segmentationobject", "mask", "masks", "depth"})


class Tree:
    """The files of a labelled folder by relative path, with "/" between the parts."""

    def __init__(self, root: Path, label_suffixes: Iterable[str]) -> None:
        """List the folder. Hidden files and folders (".git", "__MACOSX") are left out."""
        self.root = root
        self._suffixes = PICTURE_SUFFIXES | set(label_suffixes)
        self.findings: list[Finding] = []
        self.json_keys: dict[str, frozenset[str]] = {}  # by file: see `formats.json_file`
        self.xml_roots: dict[str, str] = {}  # by file, the outermost tag, once it was looked for
        self._real_root = root.resolve()
        self._root = os.fspath(root)
        self._roots = [f"{one.as_posix()}/" for one in (self._real_root, root.absolute())]
        self._inside_folders: dict[str, _Inside] = {}  # see `_is_inside`
        self.files: list[str] = []
        self.folders: set[str] = {""}
        self._list("", {self._real_root})
        self.files.sort()
        self._exact = set(self.files)
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[tuple[str, bool], list[str]] = {}
        # The same with what tells files of one name apart: clips are folders of 0001.jpg, ...
        self._by_place: dict[tuple[str, bool, tuple[str, ...]], list[str]] = {}
        self._by_parent: dict[tuple[str, str], list[str]] = {}
        self.images: list[str] = []
        self.other_images: list[str] = []  # not read here; a file of labels may still name one
        self.videos: list[str] = []
        # The same by the names that are left of percent-encoded ones: "a%20b.jpg" is "a b.jpg".
        self._by_decoded: dict[str, list[str]] = {}
        self._by_decoded_stem: dict[tuple[str, bool], list[str]] = {}
        self._by_suffix: dict[str, list[str]] = {}  # a dozen formats ask for theirs
        for file in self.files:
            suffix = suffix_of(file)
            self._by_suffix.setdefault(suffix, []).append(file)
            is_picture = not _holds_masks(folder_of(file))
            if is_picture and is_image(suffix):
                self.images.append(file)
                self._add_name(file)
                self._add_stem(file, is_image=True)
            elif suffix in PICTURE_SUFFIXES and is_picture:
                self.other_images.append(file)
                self._add_name(file)
            elif suffix in VIDEO_SUFFIXES:
                self.videos.append(file)
            elif suffix == ".txt":
                self._add_stem(file, is_image=False)

    def _add_name(self, image: str) -> None:
        """Let an image be found by its name, and by that with its folder's."""
        name, parent = fold(name_of(image)), fold(name_of(folder_of(image)))
        self._by_name.setdefault(name, []).append(image)
        if "%" in name:
            self._by_decoded.setdefault(fold(unquote(name_of(image))), []).append(image)
        self._by_parent.setdefault((parent, name), []).append(image)

    def _add_stem(self, file: str, *, is_image: bool) -> None:
        """Let an image or text be found by its stem, and by that with its place."""
        stem = fold(stem_of(file))
        self._by_stem.setdefault((stem, is_image), []).append(file)
        if "%" in stem:
            decoded = fold(unquote(stem_of(file)))
            self._by_decoded_stem.setdefault((decoded, is_image), []).append(file)
        self._by_place.setdefault((stem, is_image, _place(folder_of(file))), []).append(file)

    def _list(self, folder: str, above: set[Path]) -> None:
        """Add the files of a folder and those below it."""
        linked: list[str] = []
        with os.scandir(self.root / folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if not is_plain(entry.name):
                    self._refuse_name(path, is_folder=entry.is_dir())
                    continue
                if entry.is_symlink():
                    target = _target(entry.path)
                    if target is None:
                        continue  # it leads to itself
                    if not target.is_relative_to(self._real_root):
                        linked.append(path)
                        continue
                    if entry.is_dir() and target in above:
                        continue  # a circle
                    inner = above | {target}
                else:
                    inner = above
                if entry.is_dir():
                    self._add_folder(path, inner)
                elif entry.is_file():
                    self.files.append(path)
        if linked:
            more = f" and {len(linked) - 1} more" if len(linked) > 1 else ""
            self.findings.append(
                Finding(
                    "error",
                    "link-outside",
                    f"link leads out of the data folder ({linked[0]}{more}) and is not followed; "
                    "put the files themselves there, or name the folder they are in",
                    file=self.path(linked[0]),
                )
            )

    def _add_folder(self, folder: str, above: set[Path]) -> None:
        """Add a folder with what is in it, or the finding that it cannot be read."""
        try:
            self._list(folder, above)
        except PermissionError as error:
            message = f"the folder cannot be read ({error.strerror}); allow it, or move it away"
            file = self.path(folder)
            self.findings.append(Finding("error", "unreadable-folder", message, file=file))
        else:
            self.folders.add(folder)

    def _refuse_name(self, path: str, *, is_folder: bool) -> None:
        """Add the finding about a folder, image or label file whose name no text can hold."""
        if is_folder or suffix_of(path) in self._suffixes:
            file = self.path(path)
            self.findings.append(Finding("error", "bad-file-name", UNFIT_NAME, file=file))

    def __contains__(self, relative: str) -> bool:
        """Return whether the folder holds this file."""
        return relative in self._exact

    def path(self, relative: str) -> Path:
        """Return where a file of the folder is."""
        return self.root / relative

    def size(self, relative: str) -> int:
        """Return the size of a file in bytes."""
        return self.path(relative).stat().st_size

    def text(self, relative: str) -> str:
        """Return a text file's content, as `open_text` reads it."""
        return decoded(read_whole(f"{self._root}/{relative}") or b"")

    def text_of_at_most(self, relative: str, most: int) -> str | None:
        """Return a text file's content, or None where it has more bytes than `most`."""
        data = read_whole(f"{self._root}/{relative}", most)
        return None if data is None else decoded(data)

    def open_text(self, relative: str) -> TextIO:
        """Return a text file opened, as `files.open_text` does; ends of lines stay as they are."""
        return open_text(self.path(relative), newline="")

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the files with one of these lower-case suffixes, sorted."""
        found = [self._by_suffix.get(suffix, []) for suffix in dict.fromkeys(suffixes)]
        return sorted(chain.from_iterable(found)) if len(found) > 1 else list(*found)

    def _is_inside(self, path: str) -> bool:
        """Return whether a path below the root stays there when its links are followed.

        A folder is resolved once, and then only those names in it that are links.
        """
        folder, _, name = path.rpartition("/")
        known = self._inside_folders.get(folder)
        if known is None:
            known = self._inside_folders[folder] = self._folder_inside(folder)
        # No system has a file whose name is half a character, or holds a zero.
        if known.is_plain and name not in ("", ".", "..") and is_plain(name):
            # Where letter case does not count, the system follows the link by any of its cases.
            is_link = bool(known.links) and fold(name) in known.links
            return not is_link or self._resolves_inside(path)
        return self._resolves_inside(path)

    def _folder_inside(self, folder: str) -> _Inside:
        """Return what is known of the names in a folder, be it there or not."""
        if not self._resolves_inside(folder):
            return _Inside(is_plain=False)
        try:
            with os.scandir(self.root / folder) as entries:
                links = frozenset(fold(one.name) for one in entries if one.is_symlink())
            return _Inside(True, links)
        except FileNotFoundError:
            return _Inside(True)
        except (OSError, ValueError):
            return _Inside(is_plain=False)

    def _resolves_inside(self, path: str) -> bool:
        """Return the same of a path that is followed as it is."""
        try:
            return (self.root / path).resolve().is_relative_to(self._real_root)
        except (OSError, ValueError, RuntimeError):  # a NUL byte, a circle of links
            return False

    def expected(self, text: str, near: str) -> str | None:
        """Return where an image that is not there ought to be, as the file `near` names it.

        None when the path leads out of the data folder. What is not plain text in it is escaped.
        """
        stated = self._inside(text)
        if stated is None or stated.startswith("/") or re.match(r"[A-Za-z]:", stated):
            return None
        folder = folder_of(near)
        below = f"{folder}/{stated}" if folder else stated
        if not self._is_inside(below) and not self._is_inside(stated):
            return None
        parts = [part for part in stated.split("/") if part not in ("", "..")]
        if folder:
            above = folder_of(folder)
            counterparts = [f"{above}/{name}".lstrip("/") for name in ("JPEGImages", "images")]
            folder = next((one for one in counterparts if one in self.folders), folder)
        path = printable("/".join([folder, *parts] if folder else parts))
        return path if parts and self._is_inside(path) and self._is_possible(path) else None

    def _is_possible(self, relative: str) -> bool:
        """Return whether the system could hold a file called so."""
        try:
            os.lstat(f"{self._root}/{relative}")
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # a name too long
            return False
        return True

    def find(self, text: str, near: str = "") -> str | None:
        """Return the file that a path written in the file `near` means, or None.

        Looked for from the folder of `near` up to the root, then with the first parts of
        the stated path cut off one by one: "data/train.txt" of a folder that was called
        "data" where the labels were made, "../train/images" of an export. A percent-encoded path
        is decoded where it names nothing as it stands.
        """
        found = self._find(text, near, self._exact, None)
        if found is None and (decoded := unquote(text)) != text:
            return self._find(decoded, near, self._exact, None)
        return found

    def find_folder(self, text: str, near: str = "") -> str | None:
        """Return the folder that a path written in the file `near` means, or None."""
        found = self._find(text, near, self.folders, "")
        if found is None and (decoded := unquote(text)) != text:
            return self._find(decoded, near, self.folders, "")
        return found

    def _find(self, text: str, near: str, known: set[str], empty: str | None) -> str | None:
        stated = self._inside(text)
        if stated is None:
            return None
        parts = [part for part in stated.split("/") if part not in ("", "..", ".")]
        if not parts:
            return None if ".." in stated else empty
        bases = [folder_of(near)]
        while bases[-1]:
            bases.append(folder_of(bases[-1]))
        for first in range(len(parts)):
            for base in bases:
                path = "/".join(([base] if base else []) + parts[first:])
                if path in known:
                    return path
            if split_name(parts[first]):
                break  # "val/images" never means the "images" of another split
        return None

    def _inside(self, text: str) -> str | None:
        """Return a stated path with "/", relative to the root where it was absolute within."""
        stated = posix(text)
        if "\0" in stated:
            return None
        for root in self._roots:
            if stated.startswith(root):
                return stated[len(root) :]
        return stated

    def find_images(self, text: str, near: str, split: str | None = None) -> list[str]:
        """Return the images that a path written in the label file `near` may mean, best ones.

        None: there is no such image. Several: the name alone does not decide. An image in
        the folder of another split is never meant. A name that is percent-encoded, in the label
        file or as the image's own, means what it says decoded where it names nothing as it stands.
        """
        found = self._images_named(text, near, split)
        if not found and (decoded := unquote(text)) != text:
            found = self._images_named(decoded, near, split)
        return found

    def _images_named(self, text: str, near: str, split: str | None) -> list[str]:
        """Return the images that a path means as it is written."""
        stated = self._inside(text)
        if stated is None:
            return []
        if ".." not in stated:
            for base in (folder_of(near), ""):
                path = f"{base}/{stated}" if base else stated
                if path in self._exact and is_image(suffix_of(path)):
                    return [path]
        name, parent = fold(name_of(stated)), fold(name_of(folder_of(stated)))
        beside = self._by_parent.get((parent, name), []) if parent else []
        if best := self._best(beside, near, stated, split):
            return best
        found = self._by_name.get(name, [])
        if not found and not is_image(suffix_of(stated)):
            found = self._by_stem.get((name, True), [])
        found = found or self._by_decoded.get(name, [])
        if not found and not is_image(suffix_of(stated)):
            found = self._by_decoded_stem.get((name, True), [])
        return self._best(found, near, stated, split)

    def images_like(self, label: str, split: str | None = None) -> list[str]:
        """Return the images that a label file belongs to by its own name, best ones."""
        stem = fold(stem_of(label))
        beside = self._by_place.get((stem, True, _place(folder_of(label))), [])
        if best := self._best(beside, label, "", split):
            return best
        return self._best(self._with_stem(stem_of(label), is_image=True), label, "", split)

    def _with_stem(self, stem: str, *, is_image: bool) -> list[str]:
        """Return the images, or texts, of a stem; where there are none, percent-decoded ones."""
        if found := self._by_stem.get((fold(stem), is_image)):
            return found
        decoded = fold(unquote(stem))
        plain = self._by_stem.get((decoded, is_image), []) if "%" in stem else []
        return plain or self._by_decoded_stem.get((decoded, is_image), [])

    def is_near(self, image: str, label: str) -> bool:
        """Return whether an image lies beside a label file or in its counterpart folder."""
        folders = folder_of(image), folder_of(label)
        return folders[0] == folders[1] or _place(folders[0]) == _place(folders[1])

    def texts_like(self, image: str, *, anywhere: bool = False) -> list[str]:
        """Return the .txt files beside an image or in its counterpart folder, best ones.

        Or those `anywhere` that are called so, but for other splits.
        """
        stem = fold(stem_of(image))
        near = self._by_place.get((stem, False, _place(folder_of(image))), [])
        if anywhere or not near:
            others = self._with_stem(stem_of(image), is_image=False)
            near = [text for text in others if split_in(text) == split_in(image)]
            if not anywhere:  # but for how the name is written, it must lie where others do
                near = [
                    text
                    for text in near
                    if self.is_near(image, text) and fold(stem_of(text)) != stem
                ]
        return self._best(near, image, "", None)

    def _best(self, found: list[str], near: str, stated: str, split: str | None) -> list[str]:
        """Return those of the found files that are nearest to the label file `near`."""
        wanted = split_in(stated) or split_in(near) or split
        allowed = [
            path for path in found if not wanted or split_in(path) in (None, wanted, "trainval")
        ]
        if len(allowed) < 2:
            return allowed
        here, place = folder_of(near), _place(folder_of(near))
        stated_parts = [fold(part) for part in stated.split("/")[:-1]]

        def rank(path: str) -> tuple[int, bool, bool]:
            folder = folder_of(path)
            shared = shared_tail([fold(part) for part in folder.split("/")], stated_parts)
            return shared, folder == here, _place(folder) == place

        best = max(rank(path) for path in allowed)
        winners = [path for path in allowed if rank(path) == best]
        # By what the label file says, or by its own name where it says nothing.
        named = name_of(stated) or stem_of(near)
        exact = [path for path in winners if named in (name_of(path), stem_of(path))]
        return exact or winners

    def unused_images(self, used: Iterable[str]) -> dict[str, list[str]]:
        """Return the images that are not among the used ones, by folder."""
        known = set(used)
        unused: dict[str, list[str]] = {}
        for image in self.images:
            if image not in known:
                unused.setdefault(folder_of(image), []).append(image)
        return unused

    def seen(self) -> str:
        """Return what kinds of files the folder holds, for messages: "12 .jpg, 3 .mat"."""
        kinds = Counter(suffix_of(file) or "without suffix" for file in self.files)
        shown = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(6))
        return shown or "no files"


@dataclass(frozen=True, slots=True)
class _Inside:
    """What `Tree._is_inside` knows of a folder."""

    is_plain: bool  # it stays inside, so that only links in it may lead out
    links: frozenset[str] = frozenset()  # folded names


def _target(link: str) -> Path | None:
    """Return where a symbolic link leads, be it there or not; None when only to itself."""
    try:
        return Path(os.path.realpath(link, strict=True))
    except FileNotFoundError:
        return Path(os.path.realpath(link))
    except OSError:  # ELOOP
        return None


@lru_cache(maxsize=4096)
def _holds_masks(folder: str) -> bool:
    """Return whether a folder is one of masks."""
    return any(part.lower() in _MASK_FOLDERS for part in folder.split("/"))


@lru_cache(maxsize=4096)
def _place(folder: str) -> tuple[str, ...]:
    """Return a folder's path without the parts that only tell images from labels."""
    return tuple(
        split_name(part) or fold(part)
        for part in folder.split("/")
        if part and part.lower() not in LAYOUT_FOLDERS
    )


def shared_tail(parts: Sequence[str], others: Sequence[str]) -> int:
    """Return how many parts two paths have in common at their ends."""
    count = 0
    for one, other in zip(reversed(parts), reversed(others)):
        if one != other:
            break
        count += 1
    return count


def images_finding(tree: Tree, code: str, images: Sequence[str], message: str) -> Finding:
    """Return one warning about many images: "12 images (first: a.jpg)" and the message."""
    count = f"{counted(len(images), 'image')} (first: {images[0]})"
    return Finding("warning", code, f"{count} {message}", file=tree.path(folder_of(images[0])))
