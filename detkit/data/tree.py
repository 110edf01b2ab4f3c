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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TextIO, TypeVar
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
    stem_of_name,
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

_Key = TypeVar("_Key")
_ByPlace = dict[tuple[str, ...], dict[str, list[str]]]


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
        self._folder_paths: dict[str, Path] = {}  # see `path`
        self.files: list[str] = []
        self.folders: set[str] = {""}
        self._list("", {self._real_root})
        self.files.sort()
        self._exact = set(self.files)
        self.images: list[str] = []
        self.other_images: list[str] = []  # not read here; a file of labels may still name one
        self.videos: list[str] = []
        self._by_suffix: dict[str, list[str]] = {}  # a dozen formats ask for theirs
        for file in self.files:
            dot = file.rfind(".")  # `suffix_of` in a third of its time: no name begins with one
            suffix = file[dot:].lower() if dot > file.rfind("/") else ""
            if suffix in self._by_suffix:
                self._by_suffix[suffix].append(file)
            else:
                self._by_suffix[suffix] = [file]
        for suffix, files in self._by_suffix.items():
            if suffix in PICTURE_SUFFIXES:
                pictures = [one for one in files if not _holds_masks(one.rpartition("/")[0])]
                (self.images if is_image(suffix) else self.other_images).extend(pictures)
            elif suffix in VIDEO_SUFFIXES:
                self.videos += files
        for several in (self.images, self.other_images, self.videos):
            several.sort()

    # What follows is made when it is asked for first, as few formats ask for all of it.

    @cached_property
    def _pictures(self) -> list[str]:
        """The images, also those that are not read here, in the order of the files."""
        return sorted([*self.images, *self.other_images])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The images by folded name."""
        return _grouped(self._pictures, lambda image: fold(name_of(image)))

    @cached_property
    def _by_decoded(self) -> dict[str, list[str]]:
        """The same by the names that are left of percent-encoded ones: "a%20b.jpg" is "a b.jpg"."""
        encoded = [image for image in self._pictures if "%" in name_of(image)]
        return _grouped(encoded, lambda image: fold(unquote(name_of(image))))

    @cached_property
    def _by_parent(self) -> dict[tuple[str, str], list[str]]:
        """The images by the folded names of their folder and of themselves."""
        return _grouped(
            self._pictures, lambda image: (fold(name_of(folder_of(image))), fold(name_of(image)))
        )

    @cached_property
    def _by_stem(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The texts, and the images that are read here, by folded stem."""
        texts, images = self._by_suffix.get(".txt", []), self.images
        return _grouped(texts, _folded_stem), _grouped(images, _folded_stem)

    @cached_property
    def _by_decoded_stem(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The same by the stems that are left of percent-encoded ones."""
        texts, images = (
            [one for one in files if "%" in stem_of(one)]
            for files in (self._by_suffix.get(".txt", []), self.images)
        )
        return _grouped(texts, _decoded_stem), _grouped(images, _decoded_stem)

    @cached_property
    def _by_place(self) -> tuple[_ByPlace, _ByPlace]:
        """The texts, and the images that are read here, by what tells files of one name apart.

        Clips are folders of 0001.jpg, ... By place, then by folded stem.
        """
        both: tuple[_ByPlace, _ByPlace] = ({}, {})
        for places, files in zip(both, (self._by_suffix.get(".txt", []), self.images)):
            before, stems = None, {}
            for file in files:
                folder, _, name = file.rpartition("/")
                if folder != before:
                    before, stems = folder, places.setdefault(_place(folder), {})
                stem = fold(stem_of_name(name))
                if stem in stems:
                    stems[stem].append(file)
                else:
                    stems[stem] = [file]
        return both

    def _list(self, folder: str, above: set[Path]) -> None:
        """Add the files of a folder and those below it."""
        linked: list[str] = []
        with os.scandir(self.root / folder) as entries:
            for entry in sorted(entries, key=attrgetter("name")):
                name = entry.name
                if name[0] == "." or name == "__MACOSX":
                    continue
                path = f"{folder}/{name}" if folder else name
                if not is_plain(name):
                    self._refuse_name(path, is_folder=entry.is_dir())
                    continue
                if entry.is_file(follow_symlinks=False):
                    self.files.append(path)
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
                    "put the files themselves there, or name a folder that holds both",
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
        if ":" in relative:  # on Windows, "C:b" of "a/C:b" alone is another place
            return self.root / relative
        folder, _, name = relative.rpartition("/")
        above = self._folder_paths.get(folder)
        if above is None:
            above = self._folder_paths[folder] = self.root / folder
        return above / name  # faster than all parts at once

    def address(self, relative: str) -> str:
        """Return where a file of the folder is as a text, in a tenth of the time of a path."""
        return f"{self._root}/{relative}"

    def size(self, relative: str) -> int:
        """Return the size of a file in bytes."""
        return self.path(relative).stat().st_size

    def text(self, relative: str) -> str:
        """Return a text file's content, as `open_text` reads it."""
        return decoded(read_whole(self.address(relative)) or b"")

    def bytes_of_at_most(self, relative: str, most: int) -> bytes | None:
        """Return a file's content, or None where it has more bytes than `most`."""
        return read_whole(self.address(relative), most)

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
            found = self._by_stem[True].get(name, [])
        found = found or self._by_decoded.get(name, [])
        if not found and not is_image(suffix_of(stated)):
            found = self._by_decoded_stem[True].get(name, [])
        return self._best(found, near, stated, split)

    def images_like(self, label: str, split: str | None = None) -> list[str]:
        """Return the images that a label file belongs to by its own name, best ones."""
        beside = self._beside(label, is_image=True)
        if len(beside) == 1:  # of its place, and so of its split
            return beside
        if best := self._best(beside, label, "", split):
            return best
        return self._best(self._with_stem(stem_of(label), is_image=True), label, "", split)

    def _with_stem(self, stem: str, *, is_image: bool) -> list[str]:
        """Return the images, or texts, of a stem; where there are none, percent-decoded ones."""
        if found := self._by_stem[is_image].get(fold(stem)):
            return found
        decoded = fold(unquote(stem))
        plain = self._by_stem[is_image].get(decoded, []) if "%" in stem else []
        return plain or self._by_decoded_stem[is_image].get(decoded, [])

    def _beside(self, file: str, *, is_image: bool) -> list[str]:
        """Return the images, or texts, of a file's stem that lie beside it or in a counterpart."""
        folder, _, name = file.rpartition("/")
        stems = self._by_place[is_image].get(_place(folder))
        return [] if stems is None else stems.get(fold(stem_of_name(name)), [])

    def is_near(self, image: str, label: str) -> bool:
        """Return whether an image lies beside a label file or in its counterpart folder."""
        folders = folder_of(image), folder_of(label)
        return folders[0] == folders[1] or _place(folders[0]) == _place(folders[1])

    def texts_like(self, image: str, *, anywhere: bool = False) -> list[str]:
        """Return the .txt files beside an image or in its counterpart folder, best ones.

        Or those `anywhere` that are called so, but for other splits.
        """
        near = self._beside(image, is_image=False)
        if len(near) == 1 and not anywhere:  # of its place, and so of its split
            return near
        if anywhere or not near:
            others = self._with_stem(stem_of(image), is_image=False)
            near = [text for text in others if split_in(text) == split_in(image)]
            if not anywhere:  # but for how the name is written, it must lie where others do
                near = [
                    text
                    for text in near
                    if self.is_near(image, text) and _folded_stem(text) != _folded_stem(image)
                ]
        return self._best(near, image, "", None)

    def _best(self, found: list[str], near: str, stated: str, split: str | None) -> list[str]:
        """Return those of the found files that are nearest to the label file `near`."""
        if not found:
            return found
        wanted = (split_in(stated) if stated else None) or split_in(near) or split
        allowed = found
        if wanted:
            allowed = [one for one in found if split_in(one) in (None, wanted, "trainval")]
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


def _grouped(files: Iterable[str], key: Callable[[str], _Key]) -> dict[_Key, list[str]]:
    """Return files by what the key makes of each."""
    groups: dict[_Key, list[str]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return groups


def _folded_stem(file: str) -> str:
    return fold(stem_of(file))


def _decoded_stem(file: str) -> str:
    return fold(unquote(stem_of(file)))


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
