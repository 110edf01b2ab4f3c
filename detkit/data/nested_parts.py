"""Parts of a training set of which each holds the smaller ones, for learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from detkit.data.folder_splits import Records
from detkit.data.groups import Groups, find_groups
from detkit.data.records import Dataset, ImageRecord
from detkit.data.splits import DEFAULT_FRACTION, deal, ranked, training_name
from detkit.errors import DetkitError, UsageError
from detkit.text import counted

LEAST_IMAGES = 5  # ours: a training on fewer tells of these few images alone


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The images of a data set for trainings on parts of it, all judged on the same."""

    pool: Records  # that parts are taken from
    judged: Records  # never trained on, nor used to choose weights
    val: Records  # to choose a training's weights by; () where the data set has no third split
    together: Groups  # of all these
    note: str  # what was chosen, or cut

    def groups_of(self, records: Sequence[ImageRecord]) -> Groups:
        """Return the groups of some of the images."""
        numbers = {one.path: self.together.number_of[one.path] for one in records}
        return Groups(numbers, self.together.rules)


def hold_out(
    dataset: Dataset,
    split: str | None,
    group: str,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Return what is judged, `split` or test or val or a share of the rest, and what is left.

    Where there is neither, `DEFAULT_FRACTION` of the training images are cut off by the seed,
    groups whole and classes in their shares. `group` is a rule of `find_groups`, and `progress`
    hears what it looks at. Raises UsageError for a split that there is not or that is trained on,
    DetkitError when there is nothing to judge on.
    """
    name = training_name(dataset)
    if split is not None and split not in dataset.splits:
        raise UsageError(f"--split {split}: {dataset.root} has {', '.join(dataset.splits)}")
    chosen = split or next((one for one in ("test", "val") if dataset.splits.get(one)), None)
    if chosen == name:
        raise UsageError(
            f"{dataset.root}: trainings would be judged on {chosen}, which they are trained on; "
            f"cut off a test split first: detkit split {dataset.root} OUT --test .2"
        )
    judged = dataset.splits[chosen] if chosen else ()
    held = {one.path for one in judged}
    val = () if chosen in (None, "val") or name == "val" else dataset.splits.get("val", ())
    val = tuple(one for one in val if one.path not in held)
    held |= {one.path for one in val}
    pool = tuple(one for one in dataset.splits[name] if one.path not in held)
    together = find_groups((*pool, *val, *judged), group, progress)
    if chosen is None:
        pool, judged = _cut(pool, together, seed, f"{dataset.root}: {name}")
    if not any(one.objects for one in judged):
        raise DetkitError(
            f"{dataset.root}: no object is labelled in the {counted(len(judged), 'image')} of "
            f"{chosen or 'what was cut off'}: there is nothing to judge trainings on"
        )
    if len({together.number_of[one.path] for one in judged}) < 2:
        images = counted(len(judged), "image")
        raise DetkitError(
            f"{dataset.root}: the {images} of {chosen or 'what was cut off'} "
            "belong to one group, which does not tell of others; name another part by --split, or "
            "finer groups by --group"
        )
    origin = chosen or f"cut off {name}, seed {seed}"
    note = f"judged on {counted(len(judged), 'image')} ({origin}), never trained on"
    if val:
        note += f"; the best weights are chosen on {counted(len(val), 'image')} of val"
    return HeldOut(pool, judged, val, together, note)


def _cut(records: Records, together: Groups, seed: int, what: str) -> tuple[Records, Records]:
    """Return (kept, cut): `DEFAULT_FRACTION` of the images are cut off, groups whole."""
    number = round(len(records) * DEFAULT_FRACTION)
    shares = {"kept": 1 - DEFAULT_FRACTION, "cut": DEFAULT_FRACTION}
    sizes = {"kept": len(records) - number, "cut": number}
    groups = sorted(ranked(records, together, seed), key=lambda group: -len(group))
    place: Mapping[str, str] = deal(groups, sizes, shares) if number else {}
    cut = tuple(one for one in records if place.get(one.image_id) == "cut")
    if not cut or len(cut) > 2 * number:
        raise DetkitError(
            f"{what} has no val or test split, and {together.in_words()}, too few to cut one off; "
            "name finer groups by --group, or label more images"
        )
    return tuple(one for one in records if place[one.image_id] == "kept"), cut


def nested_parts(
    records: Sequence[ImageRecord], shares: Sequence[float], together: Groups, seed: int
) -> list[Records]:
    """Return a part for each share, each with all images of the smaller ones.

    `shares` rise and end with 1, which is all images. Images that belong together stay together,
    and classes keep about their shares in each part, the rarest first, so that it is in the
    smallest part where any group of images allows it. The same seed makes the same parts.
    Raises DetkitError when images or groups are too few for the parts.
    """
    count = len(records)
    steps = [share - before for share, before in zip(shares, (0.0, *shares))]
    rings = {str(number): step for number, step in enumerate(steps)}
    is_grouped = together.num_groups < count
    whole = together.in_words() if is_grouped else counted(count, "image")
    if count * shares[0] < LEAST_IMAGES - 0.5 or together.num_groups < 2 * len(shares):
        raise DetkitError(
            f"{whole} to train on: too few for {counted(len(shares), 'part')}, the smallest "
            f"{100 * shares[0]:.3g} % of them; label more images, or ask for other --parts"
        )
    ends = [round(count * share) for share in shares]
    sizes = {name: end - start for name, end, start in zip(rings, ends, (0, *ends))}
    groups = sorted(ranked(tuple(records), together, seed), key=lambda group: -len(group))
    place = deal(groups, sizes, rings)
    parts = [
        tuple(one for one in records if int(place[one.image_id]) <= number)
        for number in range(len(shares))
    ]
    lengths = [len(part) for part in parts]
    if len(parts[0]) < LEAST_IMAGES or any(a >= b for a, b in zip(lengths, lengths[1:])):
        raise DetkitError(
            f"{whole} to train on: the groups are too large for parts of "
            f"{', '.join(map(str, ends))} images (they would have "
            f"{', '.join(map(str, lengths))}); ask for other --parts, or for finer groups by "
            "--group"
        )
    if not any(one.objects for one in parts[0]):
        raise DetkitError(
            f"no object is labelled in the smallest part, {counted(lengths[0], 'image')}: ask for "
            "larger --parts"
        )
    return parts
