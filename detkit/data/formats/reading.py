"""Finding out what a labelled folder is: every known layout is tried, and the choice is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from detkit.data.class_names import without_bad_names
from detkit.data.folder_splits import Records, in_order, summary
from detkit.data.formats import (
    coco,
    createml,
    cvat,
    dota,
    huggingface,
    kitti,
    label_studio,
    labelme,
    mot,
    openimages,
    supervisely,
    tables,
    via,
    voc,
    vott,
    wider,
    yolo,
)
from detkit.data.formats.format import Format
from detkit.data.formats.unread_tables import unread_table
from detkit.data.image_kinds import kinds_text
from detkit.data.paths import folder_of, suffix_of
from detkit.data.records import Dataset, Finding
from detkit.data.tree import LABEL_FOLDERS, LAYOUT_FOLDERS, Tree
from detkit.errors import DetkitError
from detkit.machine import paused_collector
from detkit.text import agreed, counted

# In the order in which they are looked for; the first that is there is read. XML comes first
# because the other kinds are commonly made from it.
FORMATS: tuple[Format, ...] = (
    voc.FORMAT,
    coco.FORMAT,
    cvat.FORMAT,
    labelme.FORMAT,
    label_studio.FORMAT,
    createml.FORMAT,
    via.FORMAT,
    supervisely.FORMAT,
    vott.FORMAT,
    huggingface.FORMAT,
    openimages.FORMAT,
    wider.FORMAT,
    mot.FORMAT,
    kitti.FORMAT,
    dota.FORMAT,
    yolo.FORMAT,
    tables.FORMAT,
)

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def label_file_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that hold the labels of many images, lower-case."""
    return tuple(dict.fromkeys(end for form in FORMATS for end in form.file_suffixes))


def label_suffixes() -> frozenset[str]:
    """Return the suffixes of all files that labels are looked for in, lower-case."""
    return frozenset(label_file_suffixes()).union(*(form.suffixes for form in FORMATS))


def format_of(dataset: Dataset) -> Format:
    """Return the format of a data set or, where it has none of its own, the nearest to it."""
    return next((one for one in FORMATS if one.name == dataset.format), tables.FORMAT)


def writable(form: Format) -> Format:
    """Return a format if it can be written, else the one that holds most of what it does."""
    return coco.FORMAT if form.write is None else form


def read_folder(path: Path) -> Dataset:
    """Return the labelled folder, or the data set of the one label file, at `path`.

    Raises DetkitError when there is none.
    """
    if not path.exists():
        kind = "file" if path.suffix.lower() in label_file_suffixes() else "folder"
        raise DetkitError(f"{path}: no such {kind}; name a folder of labelled images")
    with paused_collector():
        dataset = without_bad_names(_of_file(path) if path.is_file() else _of_folder(path))
        return replace(dataset, notes=(summary(dataset), *dataset.notes))


def _of_folder(path: Path) -> Dataset:
    """Return the data set of a folder; raise DetkitError when it is none."""
    tree = _tree(path)
    for form in FORMATS:
        dataset = _read(form, tree)
        if dataset is not None:
            return replace(
                dataset,
                findings=(*dataset.findings, *_not_looked_for(tree, dataset)),
                notes=(*dataset.notes, *_also_seen(tree, form)),
            )
    if words := unread_table(tree):
        raise DetkitError(f"{path}: no labelled folder: {words}")
    raise DetkitError(
        f"{path}: no labelled folder: {_looked_for()}; saw {tree.seen()}{_hint(tree)}"
    )


def _read(form: Format, tree: Tree, file: str | None = None) -> Dataset | None:
    """Return what a format reads in a folder, its splits in order, the folder's findings first."""
    dataset = form.read(tree, file)
    if dataset is None:
        return None
    splits = in_order(dataset.splits) or {"all": ()}
    return replace(
        dataset,
        splits=splits,
        findings=(*tree.findings, *dataset.findings),
        notes=(*dataset.notes, *_made_by_machine(splits)),
    )


def _made_by_machine(splits: Mapping[str, Records]) -> list[str]:
    """Return the note on objects that a detector found and no person has drawn."""
    records = {one.image_id: one for part in splits.values() for one in part}
    count = sum([thing.machine_made for one in records.values() for thing in one.objects])
    are = agreed(count, "is", "are")
    return [f"{counted(count, 'object')} {are} machine-made: a detector's"] if count else []


def _tree(root: Path) -> Tree:
    """Return the listing of a folder; raise DetkitError when it cannot be read."""
    try:
        return Tree(root, label_suffixes())
    except OSError as error:
        raise DetkitError(f"{root}: the folder cannot be read: {error.strerror}") from error


def _looked_for() -> str:
    """Return which labels were looked for."""
    return "looked for " + ", ".join(form.looked_for for form in FORMATS)


def _hint(tree: Tree) -> str:
    """Return what may help with a folder that is no data set, with "; " before it, or ""."""
    if tree.findings:
        first = tree.findings[0]
        return f"; {first.file}: {first.message}"
    if tree.root.absolute().name.lower() in LAYOUT_FOLDERS:
        return "; name the folder above it, which holds images and labels"
    labels = tree.with_suffix(*(suffix for form in FORMATS for suffix in form.suffixes))
    if tree.with_suffix(".mat"):
        return "; a .mat file is read after writetable(groundTruth, 'labels.csv') in MATLAB"
    if (archives := tree.with_suffix(*_ARCHIVES)) and not labels:
        return f"; unpack {archives[0]} first"
    if tree.images and not labels:
        return "; there are images but no labels"
    if hint := next(filter(None, (form.hint(tree) for form in FORMATS)), ""):
        return f"; {hint}"
    if any(suffix_of(label) != ".txt" for label in labels):  # any text may be called .txt
        return "; export the labels as one of these from the tool that made them"
    if tree.images and labels:
        return "; no .txt lies beside its image or at the image's place under labels/"
    return ""


def _of_file(path: Path) -> Dataset:
    """Return the data set of one label file; raise DetkitError when it is none."""
    forms = [form for form in FORMATS if path.suffix.lower() in form.file_suffixes]
    if not forms:
        do = "unpack it" if path.suffix.lower() in _ARCHIVES else "name a folder of labelled images"
        raise DetkitError(f"{path}: not a label file ({', '.join(label_file_suffixes())}); {do}")
    root = path.parent
    if root.name.lower() in LABEL_FOLDERS:
        root = root.parent  # images are beside this folder, not in it
    tree = _tree(root)
    file = path.relative_to(root).as_posix()
    # Where two formats share a suffix, the one that knows the file reads it.
    known_by = (form for form in forms if len(forms) == 1 or file in form.files(tree))
    dataset = _read(next(known_by, forms[0]), tree, file)
    if dataset is None:
        words = unread_table(tree, file) if path.suffix.lower() == ".csv" else ""
        raise DetkitError(f"{path}: no labels in it; {words or _looked_for()}")
    return dataset


def _not_looked_for(tree: Tree, dataset: Dataset) -> Iterator[Finding]:
    """Yield the warning about images of kinds that are not read here, and about videos."""
    others = [*tree.other_images, *tree.videos]
    used = {one.image_id for part in dataset.splits.values() for one in part if others}
    left = [file for file in others if file not in used]
    if left:
        kinds = kinds_text(map(suffix_of, left))
        message = (
            f"{len(left)} left out (the first: {left[0]}), of kinds that are not read here: "
            f"{kinds}; save images as PNG or JPEG, and videos as their frames"
        )
        file = tree.path(folder_of(left[0]))
        yield Finding("warning", "unread-image", message, file=file)


def _also_seen(tree: Tree, read: Format) -> list[str]:
    """Return notes on labels of other kinds in the folder, which are not read."""
    notes = []
    own = set(read.files(tree))
    for form in FORMATS[FORMATS.index(read) + 1 :]:
        if files := [file for file in form.files(tree) if file not in own]:
            shown = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
            notes.append(
                f"{form.name.upper()} labels seen too ({shown}) and not read, as {read.title} is "
                "there; name one of these files to read it"
            )
    return notes
