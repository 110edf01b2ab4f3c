"""The labelled folders that trainers are given: train and val with labels, test without.

They lie in `DIR/data/` of a comparison, one for each division and format. Their images are copied
once, into `DIR/data/.images`, and are there under further names (hard links), so that a trainer
which writes on them cannot touch the data set. Beside each lies NAME.json: what it was written
from, and which of its images is which of the data set's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detkit.data.convert import convert
from detkit.data.records import Dataset
from detkit.data.summary import data_hash
from detkit.errors import DetkitError
from detkit.files import beside, one_at_a_time, write_bytes

FORMATS = ("coco", "voc", "yolo")


@dataclass(frozen=True, slots=True)
class TrainerFolder:
    """Where a trainer's folder is, or will be, and of which format."""

    path: Path
    format: str = "coco"

    @property
    def description(self) -> Path:
        """Return where it stands what the folder was written from."""
        return self.path.with_name(f"{self.path.name}.json")


def write_folder(folder: TrainerFolder, dataset: Dataset) -> None:
    """Write the data set as the folder, unless it is there already; one process at a time.

    Raises DetkitError and UsageError as `data.convert.convert` does.
    """
    asked = {"data_hash": data_hash(dataset), "format": folder.format, "root": str(dataset.root)}
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.path.parent / ".lock"):  # all of them share files of images
        if not folder.path.is_dir() or _described(folder).get("asked") != asked:
            _write(folder, dataset, asked)


def _write(folder: TrainerFolder, dataset: Dataset, asked: Mapping[str, str]) -> None:
    """Write the data set as the folder, and beside it what was `asked`."""
    folder.description.unlink(missing_ok=True)
    store = folder.path.parent / ".images"

    def link(source: Path, target: Path) -> None:
        kept = store / f"{hashlib.blake2b(os.fsencode(source), digest_size=16).hexdigest()}"
        if not kept.exists():
            store.mkdir(parents=True, exist_ok=True)
            partial = beside(kept, f"{os.getpid()}.partial")
            shutil.copyfile(source, partial)
            partial.replace(kept)
        try:
            os.link(kept, target)
        except OSError:  # a file system without them
            shutil.copyfile(source, target)

    sources = convert(dataset, folder.path, folder.format, force=True, copy=link)
    images = {name: str(path) for name, path in sources.items()}
    text = json.dumps({"asked": asked, "images": images}, indent=1, ensure_ascii=False)
    write_bytes(folder.description, text.encode("utf-8", errors="surrogateescape"))


def sources(folder: TrainerFolder) -> dict[str, str]:
    """Return the data set's file of each image of a folder, by its path there, with "/".

    Raises DetkitError when the folder was not written, or changed.
    """
    images = _described(folder).get("images")
    if not isinstance(images, dict):
        raise DetkitError(f"{folder.description}: is not as it was written; begin with --force")
    return images


def _described(folder: TrainerFolder) -> dict[str, object]:
    """Return what stands beside a folder; {} where there is nothing of ours."""
    try:
        content = json.loads(folder.description.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
