"""Finding out what a labelled folder is: every known layout is tried, and the choice is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from detkit.data.class_names import without_bad_names
from detkit.data.folder_splits import summary
from detkit.data.formats.coco import coco_files, read_coco
from detkit.data.formats.tables import lacking_columns, read_tables, table_files
from detkit.data.formats.voc import read_voc
from detkit.data.formats.yolo import read_yolo
from detkit.data.formats.yolo_spec import spec_files
from detkit.data.paths import suffix_of
from detkit.data.records import Dataset, Finding
from detkit.data.tree import LAYOUT_FOLDERS, Tree, images_finding
from detkit.errors import DetkitError

# The order in which layouts are looked for; the first that is there is read. XML comes
# first because the other kinds are commonly made from it.
_READERS: dict[str, Callable[[Tree], Dataset | None]] = {
    "voc": read_voc,
    "coco": read_coco,
    "yolo": read_yolo,
    "csv": read_tables,
}
_BY_SUFFIX: dict[str, Callable[[Tree, str], Dataset | None]] = {
    ".json": read_coco,
    ".yaml": read_yolo,
    ".yml": read_yolo,
    ".data": read_yolo,
    ".csv": read_tables,
}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_WORDS = {"voc": "VOC XML", "coco": "COCO JSON", "yolo": "YOLO txt"}
_LOOKED_FOR = (
    "looked for Pascal VOC XML (also beside images), COCO JSON, YOLO (data.yaml or .txt beside "
    "images or in labels/), CSV with filename,class,xmin,ymin,xmax,ymax, MATLAB's table as CSV"
)


def read_folder(path: Path) -> Dataset:
    """Return the labelled folder, or the data set of the one label file, at `path`.

    Raises DetkitError when there is none.
    """
    if not path.exists():
        raise DetkitError(f"{path}: no such folder; name a folder of labelled images")
    dataset = without_bad_names(_of_file(path) if path.is_file() else _of_folder(path))
    return replace(dataset, notes=(summary(dataset), *dataset.notes))


def _of_folder(path: Path) -> Dataset:
    """Return the data set of a folder; raise DetkitError when it is none."""
    tree = _tree(path)
    for name, reader in _READERS.items():
        dataset = reader(tree)
        if dataset is not None:
            return replace(
                dataset,
                findings=(*dataset.findings, *_not_looked_for(tree, dataset)),
                notes=(*dataset.notes, *_also_seen(tree, name)),
            )
    raise DetkitError(f"{path}: no labelled folder: {_LOOKED_FOR}; saw {tree.seen()}{_hint(tree)}")


def _tree(root: Path) -> Tree:
    """Return the listing of a folder; raise DetkitError when it cannot be read."""
    try:
        return Tree(root)
    except OSError as error:
        raise DetkitError(f"{root}: the folder cannot be read: {error.strerror}") from error


def _hint(tree: Tree) -> str:
    """Return what may help with a folder that is no data set, with "; " before it, or ""."""
    if tree.findings:
        first = tree.findings[0]
        return f"; {first.file}: {first.message}"
    if tree.root.absolute().name.lower() in LAYOUT_FOLDERS:
        return "; name the folder above it, which holds images and labels"
    labels = tree.with_suffix(".xml", ".json", ".txt", ".csv")
    if tree.with_suffix(".mat"):
        return "; a .mat file is read after writetable(groundTruth, 'labels.csv') in MATLAB"
    if (archives := tree.with_suffix(*_ARCHIVES)) and not labels:
        return f"; unpack {archives[0]} first"
    if tree.images and not labels:
        return "; there are images but no labels"
    for table in tree.with_suffix(".csv"):
        if lacking := lacking_columns(tree, table):
            return f"; {table} has no column {', '.join(lacking)}"
    if tree.with_suffix(".xml", ".json"):
        return "; export the labels as one of these from the tool that made them"
    if tree.images and tree.with_suffix(".txt"):
        return "; no .txt lies beside its image or at the image's place under labels/"
    return ""


def _of_file(path: Path) -> Dataset:
    """Return the data set of one label file; raise DetkitError when it is none."""
    reader = _BY_SUFFIX.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(_BY_SUFFIX)
        do = "unpack it" if path.suffix.lower() in _ARCHIVES else "name a folder of labelled images"
        raise DetkitError(f"{path}: not a label file ({known}); {do}")
    root = path.parent
    if root.name.lower() in ("annotations", "annotation", "labels", "data"):
        root = root.parent  # images are beside this folder, not in it
    tree = _tree(root)
    dataset = reader(tree, path.relative_to(root).as_posix())
    if dataset is None:
        raise DetkitError(f"{path}: no labels in it; {_LOOKED_FOR}")
    return dataset


def _not_looked_for(tree: Tree, dataset: Dataset) -> Iterator[Finding]:
    """Yield the warning about images of kinds that only count where a label file names them."""
    used = {one.image_id for part in dataset.splits.values() for one in part}
    left = [image for image in tree.other_images if image not in used]
    if left:
        kinds = ", ".join(sorted({suffix_of(image) for image in left}))
        message = f"of a kind that is not looked for ({kinds}); not used: save as PNG or JPEG"
        yield images_finding(tree, "unread-image", left, message)


def _also_seen(tree: Tree, read: str) -> list[str]:
    """Return notes on labels of other kinds in the folder, which are not read."""
    others: dict[str, Callable[[Tree], list[str]]] = {
        "coco": coco_files,
        "yolo": spec_files,
        "csv": table_files,
    }
    order = list(_READERS)
    notes = []
    for kind in order[order.index(read) + 1 :]:
        files = others[kind](tree)
        if files:
            shown = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
            notes.append(
                f"{kind.upper()} labels seen too ({shown}) and not read, as {_WORDS[read]} is "
                "there; name one of these files to read it"
            )
    return notes
