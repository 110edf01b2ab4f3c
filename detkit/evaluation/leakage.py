"""Leakage: what of a split a detector knows from training, and the scores without it.

A split holds too much when its images are training images, show what these show, or are frames of
recordings that these are of, too. A score on them tells of memory, not of new images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detkit.data.checks.leaks import Leak, leaks_among, records_of, shared_recordings
from detkit.data.groups import MOST_LOOKED_AT, find_groups, recordings
from detkit.data.image_files import open_images
from detkit.data.records import Dataset, ImageRecord
from detkit.evaluation.scores import asked_iou, score
from detkit.structures import Detections, Scores, Truth
from detkit.text import agreed, counted

UNSEEN = "mAP-unseen"  # the figure's name, for gates


@dataclass(frozen=True)
class Learnt:
    """Images that were learnt from."""

    name: str  # "train", or "train of DIR"
    records: Sequence[ImageRecord]
    is_own: bool = True  # of the data set that is judged on: recordings have the same names there


@dataclass(frozen=True)
class Leakage:
    """The images of a split that those learnt from give away."""

    split: str
    learnt: str  # `Learnt.name`
    num_learnt: int
    num_looked_at: int  # images; 0 where they were too many, and names alone told
    leaks: tuple[Leak, ...]  # images that are, or show, one of those learnt from
    of_recordings: tuple[ImageRecord, ...]  # further images, of recordings that were learnt from
    scores: Scores  # of all images
    without: Scores | None  # of the images that are neither; None when no image is left

    @property
    def num_leaked(self) -> int:
        """How many images of the split are known."""
        return len(self.leaks) + len(self.of_recordings)

    @property
    def share(self) -> float:
        """The share of the split's images that are known, in [0, 1]."""
        return self.num_leaked / max(self.scores.num_images, 1)

    def in_words(self) -> str:
        """Return in one line what is known, and the mean AP with it and without."""
        images = counted(self.scores.num_images, "image")
        if not self.num_leaked:
            return f"none of the {images} of {self.split} is known from {self.learnt}"
        same = sum(one.image.path == one.seen.path for one in self.leaks)
        copies = len(self.leaks) - same
        kinds = [f"{same} of its images"] if same else []
        if copies:
            kinds.append(f"{copies} {agreed(copies, 'copy', 'copies')}")
        if self.of_recordings:
            kinds.append(f"{len(self.of_recordings)} from its recordings")
        of_them = (
            f"{_percent(self.share)} of the {self.split} images ({self.num_leaked} of "
            f"{self.scores.num_images}) are known from "
            f"{self.learnt}: {', '.join(kinds)}"
        )
        if self.without is None:
            return f"{of_them}; no image is left to score without them"
        means = (_figure(self.without.mean), _figure(self.scores.mean))
        return f"{of_them}; mAP without them {means[0]} ({means[1]} with)"


def find_leakage(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    dataset: Dataset,
    split: str,
    learnt: Learnt,
    scores: Scores,
    rule: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Leakage:
    """Return what of a split is known from the images learnt from, and the scores without it.

    `scores` are those of `detections[i]` in the i-th image of the split, where `truths[i]` is.
    `rule` says what a recording is, as for `groups.find_groups`; across data sets copies alone are
    told. `progress` hears (images looked at, in all). Raises as `groups.find_groups`.
    """
    members = dataset.splits[split]
    own = records_of(dataset) if learnt.is_own else list(members)
    records = list({one.path: one for one in [*own, *learnt.records]}.values())
    paths = [one.path for one in records]
    is_few = len(records) <= MOST_LOOKED_AT
    files = open_images(
        paths,
        digests=is_few or rule != "auto",
        dated=paths if learnt.is_own and rule == "auto" else (),
        looked_at=paths if is_few else (),
        progress=progress,
    )
    leaks = leaks_among(members, learnt.records, files)
    of_recordings: list[ImageRecord] = []
    if learnt.is_own:
        told = {one.image.path for one in leaks}
        needed = {one.path for one in members}
        groups = (
            recordings(records, files)
            if rule == "auto"
            else find_groups(records, rule, needed=needed, files=files)
        )
        shared = shared_recordings(members, learnt.records, groups.number_of)
        of_recordings = [one for one in shared if one.path not in told]
    known = {one.image.path for one in leaks} | {one.path for one in of_recordings}
    left = [place for place, one in enumerate(members) if one.path not in known]
    without: Scores | None = scores
    if known:
        without = _score_some(left, detections, truths, dataset.class_names, scores)
    return Leakage(
        split,
        learnt.name,
        len(learnt.records),
        len(files.looked_at),
        tuple(leaks),
        tuple(of_recordings),
        scores,
        without,
    )


def with_unseen(scores: Scores, leakage: Leakage | None) -> Scores:
    """Return the scores with the mean AP of the unseen images among their figures, for gates.

    It has no value where it is not known what was learnt from, or no image is left.
    """
    without = None if leakage is None else leakage.without
    return replace(scores, extra={**scores.extra, UNSEEN: without.mean if without else None})


def leakage_to_json(leakage: Leakage | None) -> dict[str, Any] | None:
    """Return the leakage as JSON values, each known image with what gives it away."""
    if leakage is None:
        return None
    left = leakage.without
    images: list[dict[str, Any]] = [
        {"image": one.image.image_id, "seen": one.seen.image_id, "alike": round(one.alike, 4)}
        for one in leakage.leaks
    ]
    images += [
        {"image": one.image_id, "seen": None, "alike": None} for one in leakage.of_recordings
    ]
    return {
        "learnt_from": leakage.learnt,
        "num_learnt_from": leakage.num_learnt,
        "num_leaked": leakage.num_leaked,
        "share": leakage.share,
        "copies": len(leakage.leaks),
        "from_recordings": len(leakage.of_recordings),
        "images": images,
        "without": None if left is None else _means(left),
    }


def _means(scores: Scores) -> dict[str, Any]:
    """Return the mean AP and the classes' as JSON values."""
    return {
        "num_images": scores.num_images,
        "mAP": scores.mean,
        "classes": {one.name: one.ap for one in scores.classes},
    }


def groups_of_split(
    dataset: Dataset,
    split: str,
    rule: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[int], str]:
    """Return the number of each image's group, for the bootstrap's draws, and all in words.

    What belongs together is found over the whole data set, since a split of one recording has
    nothing to tell it from another; but a file has to name the images of the split alone. Raises as
    `groups.find_groups`.
    """
    members = dataset.splits[split]
    is_file = rule.strip().lower().endswith(".csv")
    groups = find_groups(members if is_file else records_of(dataset), rule, progress)
    numbers = [groups.number_of[one.path] for one in members]
    number = len(set(numbers))
    images = counted(len(members), "image")
    if number == len({one.path for one in members}):
        return numbers, images
    rules = "; ".join(rule.rpartition(": ")[0] or rule for rule in groups.rules)
    return numbers, f"{counted(number, 'group')} of the {images} ({rules})"


def _score_some(
    places: Sequence[int],
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    scores: Scores,
) -> Scores | None:
    """Return the scores of some of the images, by the same protocol; None for no image."""
    if not places:
        return None
    found, wanted = [detections[place] for place in places], [truths[place] for place in places]
    return score(found, wanted, class_names, scores.metric, asked_iou(scores))


def _percent(share: float) -> str:
    """Return a share above 0 in words, never as 0 %, nor as 100 when it is less."""
    if share < 0.005:
        return "under 1 %"
    return f"{100 if share == 1 else min(round(100 * share), 99)} %"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
