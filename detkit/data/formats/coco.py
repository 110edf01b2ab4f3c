"""COCO JSON: `annotations/instances_*.json`, or one `_annotations.coco.json` a split folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from detkit.data.folder_splits import named_splits, unlisted_images, without_union
from detkit.data.formats.coco_json import Page, json_text, load, numbered, stated
from detkit.data.formats.format import Format, Splits
from detkit.data.formats.json_file import MAX_JSON_BYTES
from detkit.data.formats.shapes import told
from detkit.data.paths import name_of
from detkit.data.records import Dataset, Finding, ImageRecord, agreed_ids, labels_differ
from detkit.data.tree import Tree
from detkit.text import counted

_SNIFF_BYTES = 1 << 16  # the first part of a JSON file, where its first keys are


def read_coco(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's COCO JSON files, or None where it has none.

    `only` names the one file to read. Where there are `instances_*.json`, the captions,
    keypoints and panoptic files beside them are not read.
    """
    findings: list[Finding] = []
    files = [only] if only else coco_files(tree)
    instances = [file for file in files if name_of(file).startswith("instances")]
    left = [file for file in files if instances and file not in instances]
    notes = [f"not read, beside instances_*.json: {', '.join(left[:5])}"] if left else []
    pages = []
    for file in instances or files:
        content = load(tree, file, findings)
        if content is not None:
            pages.append(Page(tree, file, content))
            findings += pages[-1].findings
    notes += told(sum((page.shapes for page in pages), Counter[str]()))
    if not pages and not findings:
        return None
    groups, seen = _grouped(tree, pages, findings)
    splits = named_splits(tree, groups, findings)
    splits, note = without_union(splits, "trainval")
    notes += [note] if note else []
    message = 'in no JSON file; not used: list images without objects under "images"'
    findings += unlisted_images(tree, seen, message)
    return Dataset(
        root=tree.root,
        format="coco",
        class_names=_class_names(pages, notes),
        splits=splits,
        findings=tuple(findings),
        notes=tuple(notes),
        category_ids=_category_ids(pages, splits),
    )


def coco_files(tree: Tree) -> list[str]:
    """Return the JSON files of a folder that look like COCO's."""
    return [file for file in tree.with_suffix(".json") if _may_be(tree, file)]


def _may_be(tree: Tree, file: str) -> bool:
    """Return whether a JSON file looks like COCO's, from its first part or its name."""
    name = name_of(file).lower()
    if name.endswith(".coco.json") or name.startswith("instances_"):
        return True
    try:
        with tree.path(file).open("rb") as opened:
            start = opened.read(_SNIFF_BYTES)
            if len(start) < _SNIFF_BYTES:
                return b'"images"' in start and b'"annotations"' in start
            if not any(key in start for key in (b'"images"', b'"annotations"', b'"categories"')):
                return False
            whole = start + opened.read(MAX_JSON_BYTES)
            return b'"images"' in whole and b'"categories"' in whole
    except OSError:
        return False


def _grouped(
    tree: Tree, pages: Sequence[Page], findings: list[Finding]
) -> tuple[Mapping[str | None, list[ImageRecord]], set[str]]:
    """Return the records of all files by split, and the ids of all images in them."""
    groups: dict[str | None, dict[str, ImageRecord]] = {}
    for page in pages:
        group = groups.setdefault(page.split, {})
        records = page.records()
        again = [one for one in records if one.image_id in group]
        other = [one for one in again if labels_differ(one.objects, group[one.image_id].objects)]
        if again:
            count = f"{counted(len(again), 'image')} listed before (first: {again[0].image_id})"
            message = f"{count}; the first is used"
            if other:
                message += (
                    f", and the other labels of {len(other)} (first: {other[0].image_id}) are "
                    "lost: gather them in one file, or name the file to read"
                )
            severity = "error" if other or len(pages) == 1 else "warning"
            where = tree.path(page.file)
            findings.append(Finding(severity, "image-twice", message, file=where))
        for record in records:
            group.setdefault(record.image_id, record)
    seen = {image for group in groups.values() for image in group}
    return {split: list(group.values()) for split, group in groups.items()}, seen


def _class_names(pages: Sequence[Page], notes: list[str]) -> tuple[str, ...]:
    """Return the classes of all files by category id.

    A category without objects that only serves as the others' supercategory, as one well
    known export writes it at id 0, is no class.
    """
    used = {name for page in pages for name in page.used}
    groups = {name for page in pages for name in page.groups}
    names: list[str] = []
    for page in pages:
        for _, name in sorted(page.categories.items(), key=lambda one: (str(type(one[0])), one[0])):
            if name in names:
                continue
            if name in groups and name not in used:
                note = f"category {name} only groups the others: no class"
                notes += [note] if note not in notes else []
                continue
            names.append(name)
    return tuple(names)


def _category_ids(
    pages: Sequence[Page], splits: Mapping[str, object]
) -> dict[str, Mapping[int | str, str]]:
    """Return the class name of each category id, for each split by the files it is read from."""
    named = {page.split for page in pages if page.split in splits}
    return {
        split: agreed_ids(
            page.categories for page in pages if page.split == split or split not in named
        )
        for split in splits
    }


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a JSON file for each split."""
    ids = numbered(splits)
    for split, images in splits.items():
        name = "instances" if split == "all" else f"instances_{split}"
        yield f"annotations/{name}.json", json_text(images, class_names, ids[split])


def _box_hint(box: tuple[float, ...], size: tuple[int, int]) -> str:
    """Return what to do where the box's width and height look like its second corner."""
    width, height = box[2] - box[0], box[3] - box[1]
    if box[0] < width <= size[1] and box[1] < height <= size[0]:
        return "x1, y1, x2, y2? COCO has x, y, width, height; else cut it at the border"
    return ""


FORMAT = Format(
    name="coco",
    title="COCO JSON",
    looked_for="COCO JSON",
    difficult_as="marked as crowds (iscrowd), too, which pycocotools leaves out",
    keeps_crowds=True,
    keeps_areas=True,
    keeps_machine_made=True,
    keeps_scores=True,
    suffixes=(".json",),
    read=read_coco,
    write=_label_files,
    file_suffixes=(".json",),
    files=coco_files,
    by_split=True,
    stated=stated,
    box_hint=_box_hint,
)
