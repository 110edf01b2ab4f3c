"""Parts of a training set of which each holds the smaller ones, for learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from detkit.data.folder_splits import Records
from detkit.data.groups import Groups
from detkit.data.records import ImageRecord
from detkit.data.splits import deal, ranked
from detkit.errors import DetkitError
from detkit.text import counted

LEAST_IMAGES = 5  # ours: a training on fewer tells of these few images alone


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
    groups = sorted(ranked(records, together, seed), key=lambda group: -len(group))
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
