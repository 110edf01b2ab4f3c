"""What to label next: the images of a pool by doubt x novelty x need, near copies last.

The order is that of greedy k-centre (Sener and Savarese, "Active Learning for Convolutional Neural
Networks: A Core-Set Approach", ICLR 2018, arXiv:1708.00489, algorithm 1): the image farthest from
all that is labelled or chosen comes next, and is then one of the chosen. Here the distance is
multiplied by the detector's doubt and by the need of the classes it doubts; without a detector it
stands alone.

Shape shorthand: N images of the pool, M labelled ones, D numbers of a scene.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.labelling.doubt import Doubt, image_doubt
from detkit.labelling.novelty import as_features, distances, nearest, scale_of
from detkit.text import counted

FLOOR = 0.25  # ours: of the pool's mean doubt, which an image has where nothing is doubted
NEW_SCENE = 0.75  # ours: of how far two images are from each other as a rule


@dataclass(frozen=True, slots=True)
class Ranked:
    """An image of the list, and what it stands there for."""

    place: int  # in the pool
    score: float  # factor x need x novelty: comparable within one list alone
    factor: float  # of its doubt: 1 is an image of the pool's mean doubt
    need: float  # of the classes that are doubted: 1 is the average class
    novelty: float  # how far from all before it, in what two images are apart as a rule; 0: a copy
    near: int | None = None  # the image before it that it is most like: in the pool, or ...
    near_is_labelled: bool = False  # ... among those labelled
    is_copy: bool = False  # of that image


def rank(
    features: ArrayLike,
    doubts: ArrayLike | None = None,
    needs: ArrayLike | None = None,
    *,
    labelled_features: ArrayLike = (),
    copies: Iterable[tuple[int, int]] = (),
    seen: Mapping[int, int] | None = None,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Ranked]:
    """Return the images of a pool in the order in which to label them, the first `most` of them.

    `features` are their scenes (N, D), `labelled_features` those of what is labelled (M, D);
    `doubts` (N,), at least 0, and `needs` (N,), above 0, of a detector, None without one. `copies`
    are pairs of the pool that show the same, `seen` the labelled image that one of the pool is a
    copy of: a copy of what comes before it has no novelty, and goes to the end. Among equals, the
    most usual scene of the pool comes first where nothing is labelled, else the earlier in it.
    `progress` hears (images ranked, in all).
    """
    scenes, labelled = as_features(features), as_features(labelled_features)
    number = len(scenes)
    factors = _factors(np.zeros(number) if doubts is None else np.asarray(doubts, np.float64))
    needed = np.ones(number) if needs is None else np.asarray(needs, np.float64)
    weights = factors * needed
    scale = scale_of(scenes)
    away, near = nearest(scenes, labelled)
    novelty = np.where(np.isinf(away), 1.0, away / scale)
    from_labelled = near >= 0
    is_copy = np.zeros(number, np.bool_)
    for place, other in (seen or {}).items():
        novelty[place], near[place], is_copy[place] = 0.0, other, True
    partners: defaultdict[int, list[int]] = defaultdict(list)
    for first, second in copies:
        partners[first].append(second)
        partners[second].append(first)
    usual = None
    if number and not len(labelled):  # rounded: of two as far from the mean the earlier comes first
        usual = -np.round(distances(scenes, scenes.mean(0)) / scale, 9)
    left = np.ones(number, np.bool_)
    ranked: list[Ranked] = []
    wanted = number if most is None else min(most, number)
    while len(ranked) < wanted:
        place = _next(weights * novelty, weights, left, usual)
        usual, left[place] = None, False
        ranked.append(
            Ranked(
                place,
                float(weights[place] * novelty[place]),
                float(factors[place]),
                float(needed[place]),
                float(novelty[place]),
                None if near[place] < 0 else int(near[place]),
                bool(from_labelled[place]),
                bool(is_copy[place]),
            )
        )
        to_it = distances(scenes, scenes[place]) / scale
        for other in partners[place]:
            to_it[other] = 0.0
            is_copy[other] = True
        # Of the first to be chosen all others hear, though they were no nearer to anything yet.
        nearer = left & ((to_it < novelty) | (near < 0))
        novelty[nearer], near[nearer], from_labelled[nearer] = to_it[nearer], place, False
        if progress is not None:
            progress(len(ranked), wanted)
    return ranked


def _factors(doubts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return doubts (N,) as factors: 1 for the mean, `FLOOR` / (1 + `FLOOR`) for none."""
    mean = float(doubts.mean()) if len(doubts) else 0.0
    if mean <= 0:
        return np.ones(len(doubts))
    return np.asarray((doubts / mean + FLOOR) / (1.0 + FLOOR), np.float64)


def _next(
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    left: NDArray[np.bool_],
    usual: NDArray[np.float64] | None,
) -> int:
    """Return the best image left; where all left are copies, by weight."""
    ranks = np.where(left, scores, -1.0)
    if ranks.max() <= 0:
        ranks = np.where(left, weights, -1.0)
    if usual is None:
        return int(ranks.argmax())
    best = np.flatnonzero(ranks == ranks.max())
    return int(best[usual[best].argmax()])


@dataclass
class LabelQueue:
    """The queue of a pool, fed with detections as they arrive; without any, by novelty alone.

    One that hears of more detections, or another detector's, is ranked anew by `ranked`.
    """

    features: NDArray[np.float64]  # (N, D) scenes of the pool
    labelled_features: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    copies: Sequence[tuple[int, int]] = ()  # pairs of the pool that show the same
    seen: Mapping[int, int] = field(default_factory=dict)  # labelled image by its copy in the pool
    needs: Mapping[str, float] = field(default_factory=dict)  # of each class: `class_needs`
    counts: Mapping[str, int] | None = None  # labelled objects of each class, for the reasons
    aps: Mapping[str, float | None] = field(default_factory=dict)  # of each class, for the reasons
    doubts: dict[int, Doubt] = field(default_factory=dict)  # by place in the pool

    def add(self, place: int, labels: Sequence[str], scores: ArrayLike) -> None:
        """Take what a detector found in the image at `place` of the pool, for what it had found.

        The scores (K,) are probabilities.
        """
        self.doubts[place] = image_doubt(labels, scores, self.needs)

    def ranked(
        self, most: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> list[Ranked]:
        """Return the first `most` images of the list, all by default.

        An image that no detections have arrived of counts as one of mean doubt.
        """
        totals = [one.total for one in self.doubts.values()]
        mean = sum(totals) / len(totals) if totals else 0.0
        unknown = Doubt(total=mean)
        known = [self.doubts.get(place, unknown) for place in range(len(self.features))]
        return rank(
            self.features,
            [one.total for one in known] if totals else None,
            [one.need for one in known] if totals else None,
            labelled_features=self.labelled_features,
            copies=self.copies,
            seen=self.seen,
            most=most,
            progress=progress,
        )

    def reasons(self, ranked: Ranked, name: Callable[[int, bool], str]) -> list[str]:
        """Return why an image stands where it does, in words.

        `name` tells an image by its place in the pool or, if the second value is true, among the
        labelled ones.
        """
        doubt = self.doubts.get(ranked.place, Doubt())
        words = []
        if doubt.num_doubtful:
            words.append(counted(doubt.num_doubtful, "doubtful detection"))
        elif ranked.place in self.doubts:
            words.append("nothing doubtful")
        words.append(self._scene(ranked, name))
        if doubt.neediest is not None and self.needs.get(doubt.neediest, 1.0) > 1.0:
            words.append(self._class(doubt.neediest))
        return words

    def _scene(self, ranked: Ranked, name: Callable[[int, bool], str]) -> str:
        """Return what is new about an image."""
        if ranked.near is None:
            return (
                "the most usual scene" if ranked.place not in self.doubts else "nothing like it yet"
            )
        other = name(ranked.near, ranked.near_is_labelled)
        if ranked.is_copy:
            return f"a copy of {other}"
        return "new scene" if ranked.novelty >= NEW_SCENE else f"like {other}"

    def _class(self, name: str) -> str:
        """Return why a class needs objects."""
        ap = self.aps.get(name)
        told = [] if self.counts is None else [counted(self.counts.get(name, 0), "object")]
        told += [] if ap is None else [f"AP {ap:.2f}"]
        return f"{name} has {' and '.join(told)}"
