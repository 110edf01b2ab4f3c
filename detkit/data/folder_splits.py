"""Images gathered into splits by what the folder says, and the line that sums them up."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from detkit.data.paths import folder_of, split_in
from detkit.data.records import Dataset, Finding, ImageRecord
from detkit.data.tree import Tree, images_finding
from detkit.text import counted

_ORDER = {"train": 0, "trainval": 1, "val": 2, "test": 3}

Records = tuple[ImageRecord, ...]


def in_order(splits: dict[str, Records]) -> dict[str, Records]:
    """Return the splits as train, trainval, val, test, then the others by name; no empty ones."""
    names = sorted(splits, key=lambda name: (_ORDER.get(name, 9), name))
    return {name: splits[name] for name in names if splits[name]}


def rank(image_id: str, seed: int) -> bytes:
    """Return an image's place in the order in which a seed deals images out."""
    # Bytes even for a name that is not UTF-8: nothing else needs it to be.
    return hashlib.sha256(f"{seed}:{image_id}".encode(errors="surrogatepass")).digest()


def folder_splits(
    tree: Tree, records: Iterable[ImageRecord], findings: list[Finding]
) -> dict[str, Records]:
    """Return the splits that the images' folders are named after, or all images as "all"."""
    groups: dict[str | None, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(split_in(record.image_id), []).append(record)
    return named_splits(tree, groups, findings)


def named_splits(
    tree: Tree, groups: Mapping[str | None, Sequence[ImageRecord]], findings: list[Finding]
) -> dict[str, Records]:
    """Return the groups of records by split; the group None is "all" when it is alone.

    Beside named splits, images without one are not used, and a finding says so.
    """
    named = {name: tuple(group) for name, group in groups.items() if name is not None}
    if not named:
        return {"all": tuple(groups.get(None, ()))}
    sorted_in = {one.image_id for group in named.values() for one in group}
    rest = [one for one in groups.get(None, ()) if one.image_id not in sorted_in]
    if rest:
        message = f"in no split, beside {', '.join(sorted(named))}; not used: sort them in"
        images = [one.image_id for one in rest]
        findings.append(images_finding(tree, "in-no-split", images, message))
    return named


def unlabelled_folder(tree: Tree, folder: str, images: list[str]) -> Finding:
    """Return the warning about a folder of images of which not one has labels."""
    where = folder or "the top folder"
    message = f"and no label for any of them in {where}; not used"
    return images_finding(tree, "unlabelled-folder", images, message)


def unlisted_images(tree: Tree, listed: Collection[str], message: str) -> Iterator[Finding]:
    """Yield a warning a folder about images that no label file lists.

    `message` says so where images beside them are listed.
    """
    folders = {folder_of(image) for image in listed}
    for folder, images in tree.unused_images(listed).items():
        if folder in folders:
            yield images_finding(tree, "unlisted-image", images, message)
        else:
            yield unlabelled_folder(tree, folder, images)


def without_union(splits: dict[str, Records], union: str) -> tuple[dict[str, Records], str | None]:
    """Return the splits without the one that only repeats the others, and a note about it.

    "trainval" repeats train and val; a list of all images repeats every other.
    """
    if union not in splits:
        return splits, None
    parts = ("train", "val") if union == "trainval" else tuple(n for n in splits if n != union)
    inside = {one.image_id for name in parts for one in splits.get(name, ())}
    if not inside or any(one.image_id not in inside for one in splits[union]):
        return splits, None
    rest = {name: records for name, records in splits.items() if name != union}
    have = " + ".join(name for name in parts if name in splits)
    images = counted(len(splits[union]), "image")
    return rest, f"{union} ({images}) repeats {have} and is not listed twice"


def summary(dataset: Dataset) -> str:
    """Return the line that says what was found: format, images, boxes, classes, splits."""
    images = {one.image_id: one for part in dataset.splits.values() for one in part}
    boxes = sum([not thing.region for one in images.values() for thing in one.objects])
    counts = [
        counted(len(images), "image"),
        counted(boxes, "box"),
        counted(len(dataset.class_names), "class"),
    ]
    parts = ", ".join(f"{name} {len(part)}" for name, part in dataset.splits.items())
    named = "no splits" if not set(dataset.splits) - {"all"} else f"splits {parts}"
    return f"{dataset.format}: {', '.join(counts)}; {named}"
