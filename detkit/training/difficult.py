"""What training makes of difficult objects and of crowds, before the first step.

A score counts neither, whether they are found or not. Crowds, a box around many objects, are
ignored in training by every backend; difficult objects by the recipe's `train_difficult`.

Shape shorthand: R objects of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from detkit.config import TrainDifficult
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError
from detkit.structures import BoolArray, Truth
from detkit.text import agreed, counted

IN_WORDS = {
    "yes": "learnt like others",
    "no": "left out: their place is background",
    "ignore": "ignored: neither objects nor background",
}


def learnt(truth: Truth, rule: TrainDifficult) -> tuple[Truth, BoolArray]:
    """Return the objects that training knows of, and which of them, (R,) bool, it ignores.

    By `no` difficult objects are not among them, by `ignore` they are ignored; crowds always.
    """
    crowd = truth.is_crowd
    difficult = truth.difficult & ~crowd
    if rule == "no":
        return truth.rows(~difficult), crowd[~difficult]
    return truth, (crowd | difficult if rule == "ignore" else crowd)


def difficult_note(
    records: Iterable[ImageRecord], class_names: Sequence[str], rule: TrainDifficult
) -> str:
    """Return how many objects are difficult or crowds and what becomes of them; "" without any.

    Raises DetkitError when nothing is left to be learnt.
    """
    known = set(class_names)
    every = [one for record in records for one in record.objects]
    regions = sum(one.region for one in every)
    objects = [one for one in every if one.name in known and not one.region]
    crowds = sum(one.is_crowd for one in objects)
    difficult = sum(one.difficult for one in objects)
    said = []
    if difficult:
        what = f"{counted(difficult, 'difficult object')} {agreed(difficult, 'is', 'are')}"
        said.append(f"{what} {IN_WORDS[rule]} (--set train_difficult=yes|no|ignore)")
    if crowds:
        said.append(f"{counted(crowds, 'crowd')} {agreed(crowds, 'is', 'are')} ignored")
    if regions:
        said.append(f"{counted(regions, 'region')} {agreed(regions, 'is', 'are')} ignored")
    note = "; ".join(said)
    if objects and len(objects) == crowds + (0 if rule == "yes" else difficult):
        raise DetkitError(
            f"nothing to learn: of {counted(len(objects), 'training object')} {note}; label "
            "others, or learn difficult ones by --set train_difficult=yes"
        )
    return note
