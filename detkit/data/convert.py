"""Conversion of a data set into another label format; its own folder stays untouched.

What a format cannot hold stands in its `Format`. A set without splits (its one split is "all")
stays without in every format.

Images are copied as they are, never linked and never encoded again. VOC trees are flat;
the other formats keep sub-folders. Where two images have one name, the later one takes its
folders into the name: `b/cat.jpg` becomes `b_cat.jpg`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath

from detkit.data.formats import reading
from detkit.data.formats.format import Format, Labelled
from detkit.data.image_kinds import is_image
from detkit.data.images import image_size
from detkit.data.output import new_folder, require_apart
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.errors import DetkitError, UsageError
from detkit.files import fitting_name
from detkit.text import agreed, counted

# Folder names that tell a layout, or a split, and not one image from another.
_IMAGE_FOLDERS = frozenset(["images", "jpegimages", "imgs", "img", "labels", "annotations"])
_SPLIT_FOLDERS = frozenset(
    ["train", "training", "val", "valid", "validation", "test", "testing", "trainval", "all"]
)


def convert(
    dataset: Dataset,
    out: Path,
    to: str,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    copy: Callable[[Path, Path], object] = shutil.copyfile,
    apart_from: Iterable[Path] | None = None,
) -> dict[str, Path]:
    """Write the data set as a folder `out` in the format called `to`; return each image's source.

    The sources are by the images' new paths, relative to `out`, with "/". `out` appears when
    everything is written, or not at all. `progress` hears (images done, images in all), and
    `copy` puts the file of an image, its first argument, to its second. `out` may not lie in nor
    hold the folders `apart_from`, by default those of the data set and its images. Raises
    UsageError for an unknown format, a split that the format cannot name or an `out` that is not
    empty or overlaps these; DetkitError for an image that is missing, unreadable or unlabelled.
    """
    form = format_named(to)
    write = form.write or _nothing
    if refusal := form.refusal(dataset.class_names):
        raise UsageError(f"--to {to}: {refusal}")
    if apart_from is None:
        images = {one.path.parent for records in dataset.splits.values() for one in records}
        apart_from = (dataset.root, *sorted(images))
    for folder in apart_from:
        require_apart(folder, out)
    _check_splits(dataset, form)
    _check_kinds(dataset, form)
    names = _new_names(dataset, form)
    sources: dict[str, Path] = {}
    with new_folder(out, force=force) as root:
        copied: dict[Path, tuple[int, int]] = {}
        splits: dict[str, list[Labelled]] = {}
        for split, records in dataset.splits.items():
            place = form.place(split)
            (root / place).mkdir(parents=True, exist_ok=True)
            splits[split] = []
            for record in records:
                name = names[place, record.path]
                target = root / place / name
                if target not in copied:
                    copied[target] = _copy(dataset, record, target, copy)
                    sources[f"{place}/{name}"] = record.path
                    if progress is not None:
                        progress(len(copied), len(names))
                height, width = copied[target]
                objects = tuple(held(record.objects, form, dataset.class_names))
                splits[split].append(Labelled(name, width, height, objects, record.key))
        for path, text in write(splits, dataset.class_names):
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
    return sources


def format_named(name: str) -> Format:
    """Return the format of `--to`; raise UsageError when there is none of this name."""
    known = {form.name: form for form in reading.FORMATS if form.write is not None}
    if name not in known:
        raise UsageError(f"--to {name}: no such format; choose from {', '.join(known)}")
    return known[name]


def losses(dataset: Dataset, to: str) -> list[str]:
    """Return what the format called `to` cannot hold of the data set, or not as it is.

    A sentence each.
    """
    form = format_named(to)
    records = {one.image_id: one for records in dataset.splits.values() for one in records}
    objects = [one for record in records.values() for one in record.objects]
    said = []
    regions = [one for one in objects if one.region]
    objects = [one for one in objects if not one.region]
    crowds = sum(one.is_crowd for one in objects)
    difficult = sum(one.difficult for one in objects)
    if difficult and not form.keeps_difficult:
        said.append(
            f"{counted(difficult, 'difficult object')} became ordinary: {to} has no mark for them"
        )
    if difficult and form.difficult_as:
        said.append(f"{counted(difficult, 'difficult object')}: {form.difficult_as}")
    if crowds and not form.keeps_crowds:
        kind = "difficult objects" if form.keeps_difficult else "ordinary objects"
        kind = "regions left out for every class" if form.keeps_regions else kind
        said.append(f"{counted(crowds, 'crowd')} became {kind}: {to} has no mark for them")
    areas = sum(one.has_own_area for one in objects)
    if areas and not form.keeps_areas:
        said.append(
            f"{counted(areas, 'area')} of outlines {agreed(areas, 'is', 'are')} lost: in {to} "
            "there are boxes alone, by which small, medium and large will be divided"
        )
    said += _lost_marks(objects, form)
    said += _lost_regions(regions, form, dataset.class_names)
    if form.is_numbered:
        said.append(f"{to} calls images by their number: their names are lost")
    used = {one.name for one in objects}
    unused = [name for name in dataset.class_names if name not in used]
    if unused and not form.keeps_classes:
        said.append(f"{to} has no place for classes without objects: {', '.join(unused)}")
    order = [name for name in dataset.class_names if name in used]
    if order != sorted(order) and not form.keeps_order:
        said.append(f"{to} has no order of classes: {', '.join(order)} will be read by name")
    return said


def _lost_marks(objects: Sequence[ObjectRecord], form: Format) -> list[str]:
    """Return what a format forgets of machine-made objects, in a sentence each."""
    said = []
    scores = sum(one.score is not None for one in objects)
    if scores and not form.keeps_scores:
        are = agreed(scores, "is", "are")
        said.append(f"{counted(scores, 'score')} {are} lost: {form.name} has no place for them")
    made = sum(one.machine_made for one in objects)
    is_marked = form.keeps_machine_made or (form.marks_whole_sets and made == len(objects))
    if made and not is_marked:
        mark = "mark for them among others" if form.marks_whole_sets else "mark for them"
        said.append(
            f"{counted(made, 'machine-made object')} became ordinary: {form.name} has no {mark}"
        )
    return said


def _lost_regions(
    regions: Sequence[ObjectRecord], form: Format, class_names: Sequence[str]
) -> list[str]:
    """Return what becomes of regions in a format, in a sentence each."""
    if form.keeps_regions or not regions:
        return []
    lost = sum(not held([one], form, class_names) for one in regions)
    kept = len(regions) - lost
    what = "left out for every class"
    kind = "a crowd of each class" if form.keeps_crowds else "difficult objects of one class"
    said = [f"{counted(kept, 'region')} {what} became {kind}"] if kept else []
    if lost:
        are = agreed(lost, "is", "are")
        said.append(
            f"{counted(lost, 'region')} {what} {are} lost: {form.name} has no mark for them, and "
            "what they hold counts as background"
        )
    return said


def held(
    objects: Sequence[ObjectRecord], form: Format, class_names: Sequence[str]
) -> list[ObjectRecord]:
    """Return objects as a format can hold them: regions, and crowds where it has only regions."""
    kept: list[ObjectRecord] = []
    for one in objects:
        if one.is_crowd and not one.region and form.keeps_regions and not form.keeps_crowds:
            kept.append(replace(one, region=True))
        elif not one.region or form.keeps_regions:
            kept.append(one)
        elif form.keeps_crowds:
            kept += [replace(one, name=name, region=False, crowd=True) for name in class_names]
        elif one.name in class_names and form.keeps_difficult:
            kept.append(replace(one, region=False, difficult=True))
    return kept


def _nothing(*_: object) -> Iterable[tuple[str, str]]:
    """Return no label file: of a format that is only read, which `format_named` refuses."""
    return ()


def _check_splits(dataset: Dataset, form: Format) -> None:
    """Raise UsageError for a split that the format would not give back under its name."""
    to = form.name
    for split in dataset.splits:
        if not form.keeps_split(split):
            writers = [one for one in reading.FORMATS if one.write is not None]
            others = [one.name for one in writers if one.keeps_split(split)]
            hint = f", or write --to {' or '.join(others)}" if others else ""
            raise UsageError(
                f'--to {to}: the split "{split}" would be lost, as {to} knows train, val, test and '
                f"trainval; divide the images anew with detkit split{hint}"
            )


def _check_kinds(dataset: Dataset, form: Format) -> None:
    """Raise DetkitError for an image that nothing would find again, as no label names it."""
    if form.names_images:
        return
    for record in (one for records in dataset.splits.values() for one in records):
        if not is_image(record.path.suffix.lower()):
            raise DetkitError(
                f"{record.path}: --to {form.name}: images of this kind are found only where labels "
                f"name them, as {form.name.upper()}'s do not; save it as PNG or JPEG, or choose "
                "another format"
            )


def _new_names(dataset: Dataset, form: Format) -> dict[tuple[str, Path], str]:
    """Return the new name of each image by (image folder, old path), relative to that folder."""
    names: dict[tuple[str, Path], str] = {}
    taken: dict[str, set[str]] = {}
    for split, records in dataset.splits.items():
        place = form.place(split)
        for record in records:
            if (place, record.path) not in names:
                used = taken.setdefault(place, set())
                if form.is_numbered:
                    name = f"{len(used) + 1:06d}{record.path.suffix.lower()}"
                    used.add(name)
                else:
                    name = free_name(record.image_id, used, form.is_flat)
                names[place, record.path] = name
    return names


def free_name(image_id: str, used: set[str], is_flat: bool) -> str:
    """Return a new name for an image, relative to its split's folder, and add its key to `used`.

    `used` has the names' stems in the form in which letter case does not count. The name is
    plain: any list and label file can hold it. `is_flat`: without sub-folders.
    """
    path = PurePosixPath("/".join(map(_plain_part, image_id.split("/"))))
    folders = [part for part in path.parts[:-1] if part not in ("/", "..", ".")]
    of_images, of_splits = _layout_folders(reading.FORMATS)
    telling = [part for part in folders if part.lower() not in of_images]
    own = [part for part in telling if re.sub(r"\d{4}$", "", part.lower()) not in of_splits]
    candidates = [path.name if is_flat else "/".join([*own, path.name])]
    candidates += ["_".join([*parts, path.name]) for parts in (own, telling, folders)]
    counted_up = (f"{path.stem}_{count}{path.suffix}" for count in range(2, len(used) + 3))
    for candidate in chain(candidates, counted_up):
        name = str(PurePosixPath(candidate).with_name(fitting_name(PurePosixPath(candidate).name)))
        # Letter case does not tell files apart everywhere, labels are named by the stem, and
        # tools that look an image up by its name alone must find the right one.
        key = PurePosixPath(name).stem.casefold()
        if key not in used:
            used.add(key)
            return name
    raise DetkitError(f"{image_id}: no free name for the image was found")  # pragma: no cover


@lru_cache(maxsize=4)
def _layout_folders(forms: tuple[Format, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the folder names that tell that images lie there, and those that tell a split."""
    splits = ("train", "val", "test", "trainval")
    of_images = {part for form in forms for part in form.place("all").lower().split("/")}
    of_splits = {
        part for form in forms for split in splits for part in form.place(split).lower().split("/")
    }
    return _IMAGE_FOLDERS | of_images, _SPLIT_FOLDERS | of_splits


def _plain_part(part: str) -> str:
    """Return a part of a path as every list and label file can hold it, not hidden either."""
    stem, dot, suffix = part.replace("\\", "_").rpartition(".")
    return f"{stem.strip(' .')}{dot}{suffix.strip()}" if stem.strip(" .") else part.strip(" .")


def _copy(
    dataset: Dataset, record: ImageRecord, target: Path, copy: Callable[[Path, Path], object]
) -> tuple[int, int]:
    """Copy an image; return its upright (height, width)."""
    if not record.path.is_file():
        raise DetkitError(
            f"{record.path}: no such image; `detkit check {dataset.root}` lists all that is wrong"
        )
    if record.label_file is None and not reading.format_of(dataset).unlabelled_is_empty:
        raise DetkitError(
            f"{record.path}: has no label file, which is not the same as no object; "
            f"`detkit check {dataset.root}` lists all that is wrong"
        )
    size = image_size(record.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    copy(record.path, target)
    return size
