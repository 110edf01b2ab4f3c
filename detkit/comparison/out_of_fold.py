"""What cross-validation leaves: which fold an image is in, and what was found in it there.

In the folder of a comparison `folds.csv` has a line an image (its path in the data set, the number
of what belongs together, its fold from 1 on), and `NAME-SEED.jsonl` the detections of every image,
as `detkit detect` writes them, each by the model that was not trained on it. It is put together
of the folds' `NAME-SEED-fold-K.jsonl` once all of them are there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from detkit.comparison.runs import Outcome
from detkit.data.folds import Folds
from detkit.files import write_bytes

FOLDS_FILE = "folds.csv"
COLUMNS = ("image", "group", "fold")


def write_folds(path: Path, folds: Folds) -> None:
    """Write the group and fold of each image; DetkitError when that cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, fold in enumerate(folds.folds, start=1):
        for record in fold.test:
            writer.writerow((record.image_id, folds.groups.number_of[record.path], number))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode("utf-8", errors="surrogateescape"))


def write_pooled(outcomes: Sequence[Outcome], pooled: Path) -> None:
    """Put the detections of a model's folds into one file; none is left where a fold is missing.

    `outcomes` are all of one name and seed. Raises DetkitError when it cannot be written.
    """
    if any(one.measured is None for one in outcomes):
        pooled.unlink(missing_ok=True)
        return
    write_bytes(pooled, b"".join(one.cell.found.read_bytes() for one in outcomes))
