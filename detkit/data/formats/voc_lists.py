"""The lists of a VOC tree: which images of ImageSets/Main/*.txt make which split.

Without that folder, train.txt, val.txt and so on count beside and above the XML files.
"""

from __future__ import annotations

from collections.abc import Mapping

from detkit.data.folder_splits import Records, without_union
from detkit.data.image_kinds import PICTURE_SUFFIXES
from detkit.data.paths import folder_of, name_of, posix, split_name, stem_of, suffix_of
from detkit.data.records import Finding, ImageRecord
from detkit.data.tree import Tree, images_finding, shared_tail
from detkit.text import agreed, counted

_UNDIVIDED = "default"  # what CVAT calls the only list of a task without subsets
_MARKS = ("1", "0", "-1")  # of an image in a class's list: holds it, only difficult, not


def split_lists(tree: Tree) -> list[str]:
    """Return the lists of image names: ImageSets/Main/*.txt, else ImageSets/*.txt, else train.txt.

    VOC's lists for one class ("aeroplane_train.txt") are no splits.
    """
    lists = [
        file
        for file in tree.with_suffix(".txt")
        if "imagesets" in (part.lower() for part in file.split("/")[-3:-1])
        and not is_class_list(stem_of(file))
        and not _repeats(tree, file)
    ]
    main = [file for file in lists if file.split("/")[-2].lower() == "main"]
    direct = [file for file in lists if file.split("/")[-2].lower() == "imagesets"]
    return main or direct or [file for file in tree.with_suffix(".txt") if _is_loose(tree, file)]


def _is_loose(tree: Tree, file: str) -> bool:
    """Return whether a text file beside or above labels is a split's list, by name and content."""
    if split_name(stem_of(file)) is None:
        return False
    folder = folder_of(file)
    inside = f"{folder}/" if folder else ""
    if not any(label.startswith(inside) for label in tree.with_suffix(".xml")):
        return False
    first = next((line for line in tree.text(file).splitlines() if line.strip()), "")
    return bool(first and tree.find_images(_stem_listed(first), file))


def _repeats(tree: Tree, file: str) -> bool:
    """Return whether a list marks one class's images of another: "car_default", of "default"."""
    stem = stem_of(file)
    places = [place for place, letter in enumerate(stem) if place and letter == "_"]
    folder = folder_of(file)
    if not any(f"{folder}/{stem[place + 1 :]}.txt" in tree for place in places):
        return False
    lines = [line.split() for line in tree.text(file).splitlines() if line.strip()]
    return all(len(words) > 1 and words[-1] in _MARKS for words in lines)


def is_class_list(stem: str) -> bool:
    """Return whether a list is one of VOC's for a single class: "aeroplane_train"."""
    head, _, tail = stem.rpartition("_")
    return bool(head) and split_name(tail) is not None


class ImageSets:
    """Reads the lists of a tree against the images that its annotations gave."""

    def __init__(self, tree: Tree, records: Mapping[str, ImageRecord]) -> None:
        """Read nothing yet; `findings` and `notes` fill up while `splits` reads."""
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self._tree = tree
        self._records = records
        self._by_stem: dict[str, list[str]] = {}
        for image in records:
            self._by_stem.setdefault(stem_of(image), []).append(image)

    def splits(self, lists: list[str]) -> dict[str, Records]:
        """Return the images of each list in its order; those in no list are a finding."""
        splits: dict[str, dict[str, ImageRecord]] = {}
        for file in lists:
            split = splits.setdefault(split_name(stem_of(file)) or stem_of(file), {})
            text = self._tree.text(file)
            for line, content in enumerate(text.splitlines(), 1):
                if content.strip():
                    self._add(split, file, line, content.strip())
        listed = {image for split in splits.values() for image in split}
        rest = [image for image in self._records if image not in listed]
        if rest:
            where = folder_of(lists[0]) or "the top folder"
            self.notes.append(
                f"{len(rest)} of {counted(len(self._records), 'image')} "
                f"{agreed(len(rest), 'is', 'are')} in no list of {where}: not used"
            )
            message = f"in no list of {where}; not used: add them to one if they should be"
            self.findings.append(images_finding(self._tree, "in-no-split", rest, message))
        roots = sorted({_tree_of(file) for file in lists} - {""})
        parts = {name: self._labelled(name, part, roots) for name, part in splits.items()}
        full, note = without_union(parts, "trainval")
        if note:
            self.notes.append(note)
        return {"all": full[_UNDIVIDED]} if list(full) == [_UNDIVIDED] else full

    def _labelled(self, name: str, split: dict[str, ImageRecord], roots: list[str]) -> Records:
        """Return a split's images without those of a tree that has labels for none of them.

        So VOC2012's test, whose labels are secret, does not spoil that of VOC2007 beside it.
        """
        secret: list[str] = []
        for root in roots:
            inside = [one for one in split.values() if one.image_id.startswith(root)]
            beside = (one for one in split.values() if not one.image_id.startswith(root))
            if not inside or any(one.label_file for one in inside):
                continue
            if any(one.label_file for one in beside):
                secret.append(root)
                self.notes.append(
                    f"{name} of {root[:-1]} ({counted(len(inside), 'image')}) has no labels: left "
                    "out beside others that have"
                )
        return tuple(one for one in split.values() if not one.image_id.startswith(tuple(secret)))

    def _add(self, split: dict[str, ImageRecord], file: str, line: int, content: str) -> None:
        """Add the image that one line of a list names to its split."""
        root = _tree_of(file)
        images = self._named(posix(content), root)

        def finding(severity: str, code: str, message: str, image: str | None = None) -> None:
            where = self._tree.path(file)
            self.findings.append(Finding(severity, code, message, where, line, image_id=image))

        near = f"{root}JPEGImages/x"
        missing = self._tree.expected(f"{_stem_listed(content)}.jpg", near)
        if not images and (missing is None or self._tree.expected(content, near) is None):
            message = f"{content} leads out of the data folder; write the image's stem alone"
            finding("error", "path-outside", message)
            return
        if len(images) > 1:
            message = f"{content} may be any of {', '.join(images[:3])}; rename all but one"
            finding("error", "ambiguous-image", message)
            return
        image = images[0] if images else missing or content
        if image in split:
            finding("warning", "listed-twice", f"{content} is listed twice; used once", image)
            return
        split[image] = self._records.get(image) or ImageRecord(image, self._tree.path(image))

    def _named(self, name: str, root: str) -> list[str]:
        """Return the images that a listed name may mean: a stem, a file name or a path."""
        stem = name_of(name)
        images = self._by_stem.get(stem) or self._by_stem.get(_stem_listed(name), [])
        inside = [one for one in images if one.startswith(root)]
        # A tree with images of its own does not mean those of another year.
        if inside or f"{root}JPEGImages" in self._tree.folders:
            images = inside
        if len(images) > 1 and "/" in name:
            folders = folder_of(name).split("/")
            shared = {one: shared_tail(folder_of(one).split("/"), folders) for one in images}
            images = [one for one in images if shared[one] == max(shared.values())]
        if len(images) > 1:
            images = [one for one in images if name_of(one) == stem] or images
        return images


def _stem_listed(content: str) -> str:
    """Return the stem in a line of a list without the suffix or the class's 1, 0, -1."""
    words = name_of(posix(content)).split()
    if len(words) > 1 and words[-1] in _MARKS:
        words.pop()
    name = " ".join(words)
    return stem_of(name) if suffix_of(name) in (*PICTURE_SUFFIXES, ".xml") else name


def _tree_of(file: str) -> str:
    """Return the VOC tree that a list belongs to, with "/" at its end: "VOC2007/" or ""."""
    parts = file.split("/")[:-1]
    folders = [part.lower() for part in parts]
    depth = folders.index("imagesets") if "imagesets" in folders else len(parts)
    return "".join(f"{part}/" for part in parts[:depth])
