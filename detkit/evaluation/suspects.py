"""Suspects: labels that are probably wrong, by what a detector says that has not learnt from them.

Kinds: `missing` (an object without a label), `class` (another class is there), `shifted` (the box
lies beside the object), `ghost` (a box on nothing), `duplicate` (a second box of one object).

The idea of one score a kind, from the detections of a model trained on other images, is that of
ObjectLab (Tkachenko, Thyagarajan, Mueller 2023, arXiv:2309.00832: overlooked, badly located and
swapped boxes); that labels are held against scores calibrated per class, so that a class the model
confuses is not wrong everywhere, is that of confident learning (Northcutt, Jiang, Chuang 2021,
arXiv:1911.00068). Figures and rules are ours, each beside its constant.

How sure a suspicion is lies in [0, 1] and reads alike for all kinds: of detections (of labels, for
`ghost`) like this one, the share that the labels (the model) confirm. It is no posterior
probability: where labels are clean, what is left of a sure suspicion is the model's own mistake.

Shape shorthand: N detections, R objects of one image, n detections of one class in all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detkit.evaluation.iou import iou_matrix
from detkit.evaluation.precision_recall import require_scorable
from detkit.evaluation.score_calibration import Calibration, calibrate
from detkit.evaluation.sizes import SIZES
from detkit.structures import BoolArray, Detections, DoubleArray, IntArray, Truth

KINDS = ("missing", "class", "shifted", "ghost", "duplicate")
SAME = 0.5  # IoU: of one object, as in VOC's rules
TOUCH = 0.1  # IoU: below lies background (TIDE, sec. 2.2)
SAME_LABEL = 0.7  # IoU of two labels of one object; below may be two objects, one half hidden
WELL_LOCATED = 0.7  # IoU: a label with a detection so near is not shifted
TIGHTER = 0.2  # IoU: by how much better than here such detections lie on labels, if one is shifted
LEAST = 0.2  # of `sure`; below, one in fifty was right (benchmarks/suspects.py)
BLIND = 0.5  # recall below which a label of that class and size without a detection says nothing
CONFUSED = 0.25, 3  # share and number of a class's objects that another's detections lie on, by
# which the model, and not the labels, confuse these two
SUPPORT = 0.3  # IoU: what lies so on a label speaks for it
COVERED = 0.5  # of a detection's area: so much inside a crowd is the crowd's


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that is probably wrong, or an object that probably lacks one."""

    image: int  # place in the split
    kind: str  # one of `KINDS`
    object: int | None  # row of the image's `Truth`; None: `missing`
    detection: int | None  # row of the image's `Detections`: what the model says; None: nothing
    sure: float  # in [0, 1]


@dataclass(frozen=True)
class _Image:
    """One image's detections beside its objects."""

    found: Detections
    truth: Truth
    ious: DoubleArray  # (N, R)
    probs: DoubleArray  # (N,) calibrated: the share of detections like it that labels confirm
    aside: BoolArray  # (N,) of a crowd or a difficult object
    own: DoubleArray  # (R,) the best prob of its class that lies on each object

    @property
    def wanted(self) -> IntArray:
        """The rows of the objects that are judged: no difficult ones, no crowds, none without area.

        Boxes without area are `detkit check`'s.
        """
        sides = self.truth.boxes[:, 2:] - self.truth.boxes[:, :2]
        return np.flatnonzero(~self.truth.difficult & (sides > 0).all(axis=1))


def find_suspects(
    detections: Sequence[Detections], truths: Sequence[Truth], class_names: Sequence[str]
) -> list[Suspect]:
    """Return what is suspect in `truths`, the surest first, by `detections[i]` in image i.

    An object is under one suspicion, the surest, and a detection is behind one. Difficult objects
    and crowds are under none, and what lies on them is no missing object. Raises as
    `precision_recall.require_scorable`.
    """
    require_scorable(detections, truths, len(class_names))
    images = _images(detections, truths, len(class_names))
    calibration = _calibration(images, len(class_names))
    images = [_with_probs(one, calibration) for one in images]
    recall = _recall(images, len(class_names))
    confused = _confused(images, len(class_names))
    suspects: list[Suspect] = []
    for place, one in enumerate(images):
        suspects += _of_image(place, one, calibration, recall, confused)
    return sorted(suspects, key=lambda one: (-one.sure, one.image, KINDS.index(one.kind)))


def _of_image(
    place: int, one: _Image, calibration: Calibration, recall: _Recall, confused: BoolArray
) -> list[Suspect]:
    """Return the suspects of one image, each object and each detection once."""
    candidates: list[Suspect] = []
    for row in one.wanted.tolist():
        asked = {
            "duplicate": _duplicate(one, row),
            "class": _other_class(one, row, confused),
            "shifted": _shifted(one, row, calibration),
            "ghost": (None, _ghost(one, row, recall)),
        }
        for kind, (behind, sure) in asked.items():
            candidates.append(Suspect(place, kind, row, behind, sure))
    for behind, sure in _missing(one):
        candidates.append(Suspect(place, "missing", None, behind, sure))
    chosen: list[Suspect] = []
    objects: set[int] = set()
    used: set[int] = set()
    # Of equally sure ones the more telling: a ghost knows no better place.
    for each in sorted(candidates, key=lambda one: -one.sure):
        if each.sure < LEAST or each.object in objects:
            continue
        if each.detection in used and each.kind != "duplicate":
            continue
        chosen.append(each)
        if each.object is not None:
            objects.add(each.object)
        if each.detection is not None:
            used.add(each.detection)
    return chosen


def _missing(one: _Image) -> list[tuple[int, float]]:
    """Return (detection, sure) of what lies on no label, each object once.

    `sure` is the detection's prob, less by what it overlaps with labels: a detection beside a
    label may be the model's second view of that object.
    """
    found: list[tuple[int, float]] = []
    kept: list[int] = []
    best = one.ious.max(axis=1, initial=0.0)
    for row in np.argsort(-one.probs, kind="stable").tolist():
        if one.probs[row] < LEAST:
            break
        boxes = one.found.boxes
        again = kept and iou_matrix(boxes[row][None], boxes[kept]).max() >= SUPPORT
        kept.append(row)
        if again or one.aside[row] or best[row] >= SAME:
            continue
        found.append((row, float(one.probs[row] * (1 - best[row]))))
    return found


def _other_class(one: _Image, row: int, confused: BoolArray) -> tuple[int | None, float]:
    """Return (detection, sure) that an object is of another class.

    `sure` is the prob of that class's detection times what speaks against the label's own.
    """
    label = one.truth.labels[row]
    here = (one.ious[:, row] >= SAME) & (one.found.labels != label) & ~one.aside
    here &= _is_nearest(one, row)
    here &= ~confused[label, one.found.labels]
    # What the label of its own class beside this one accounts for
    same = one.found.labels[:, None] == one.truth.labels[None]
    here &= ~((one.ious >= SAME) & same).any(axis=1)
    return _best(here, one.probs * (1 - one.own[row]))


def _shifted(one: _Image, row: int, calibration: Calibration) -> tuple[int | None, float]:
    """Return (detection, sure) that an object lies elsewhere, where the detection does.

    `sure` is the share of such detections that lie better on labels, by `TIGHTER`, than this one.
    """
    label = one.truth.labels[row]
    same = (one.found.labels == label) & ~one.aside
    ious = one.ious[:, row]
    good = same & (ious >= WELL_LOCATED)
    here = same & (ious >= TOUCH) & (ious < WELL_LOCATED) & _is_nearest(one, row)
    if not here.any():
        return None, 0.0
    behind = int(np.where(here, one.probs, -1).argmax())
    against = float(np.where(good, one.probs, 0).max(initial=0.0))
    score, value = float(one.found.scores[behind]), float(ious[behind])
    sure = calibration.prob(int(label), score, value + TIGHTER)
    return behind, float(sure * (1 - against))


def _duplicate(one: _Image, row: int) -> tuple[int | None, float]:
    """Return (detection, sure) that an object is labelled twice, and the other label is better.

    `sure` is the prob of the one detection on both, times the IoU of the labels. Where two
    detections lie there, there are two objects.
    """
    others = one.wanted[one.wanted != row]
    overlaps = iou_matrix(one.truth.boxes[row][None], one.truth.boxes[others])[0]
    for other in others[overlaps >= SAME_LABEL].tolist():
        pair = one.ious[:, [row, other]]
        either = np.isin(one.found.labels, one.truth.labels[[row, other]])
        both = (pair.max(axis=1) >= SAME) & either & ~one.aside
        if not both.any():
            continue
        behind = int(np.where(both, one.probs, -1).argmax())
        fits = [
            (one.found.labels[behind] == one.truth.labels[each], one.ious[behind, each], -each)
            for each in (row, other)
        ]
        if fits[1] <= fits[0]:  # this label is the one that stays
            continue
        rest = both & (np.arange(len(both)) != behind)
        second = float(np.where(rest, one.probs, 0).max(initial=0.0))
        overlap = float(iou_matrix(one.truth.boxes[[row]], one.truth.boxes[[other]])[0, 0])
        return behind, float(one.probs[behind] * overlap * (1 - second))
    return None, 0.0


@dataclass(frozen=True)
class _Recall:
    """What share of the labels of a class and size the model confirms."""

    supports: list[list[DoubleArray]]  # by class and size, sorted: `own` of each label
    shares: DoubleArray  # (C,) of each class, at a prob of .5

    def above(self, label: int, size: int, prob: float) -> float:
        """Return the share of such labels with more than `prob`; 0 in a blind spot."""
        supports = self.supports[label][size]
        share = float(self.shares[label])

        def over(least: float) -> float:
            count = len(supports) - int(np.searchsorted(supports, least, "right"))
            return (count + 2 * share) / (len(supports) + 2)  # few labels speak with their class

        return 0.0 if over(0.5) < BLIND else over(prob)


def _ghost(one: _Image, row: int, recall: _Recall) -> float:
    """Return how sure it is that a label lies on nothing.

    That is the share of labels of its class and size that the model confirms better, times what
    it says against this one, times the share of the image's other labels that it confirms: where
    it fails on the image, it says nothing.
    """
    others = one.own[one.wanted[one.wanted != row]]
    sees = (1 + int((others >= BLIND).sum())) / (1 + len(others))
    label = int(one.truth.labels[row])
    any_class = (one.ious[:, row] >= SUPPORT) & ~one.aside
    prob = float(np.where(any_class, one.probs, 0).max(initial=0.0))
    size = int(_sizes(one.truth)[row])
    return recall.above(label, size, float(one.own[row])) * (1 - prob) * sees


def _is_nearest(one: _Image, row: int) -> BoolArray:
    """Return which detections overlap no other object more than this one, (N,)."""
    nearest: BoolArray = one.ious[:, row] >= one.ious.max(axis=1, initial=0.0)
    return nearest


def _best(here: BoolArray, values: DoubleArray) -> tuple[int | None, float]:
    """Return the row of the largest of some values, and that value; None and 0 for none."""
    if not here.any():
        return None, 0.0
    row = int(np.where(here, values, -1.0).argmax())
    return row, float(values[row])


def _images(
    detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int
) -> list[_Image]:
    """Return each image's detections beside its objects, without probs."""
    images = []
    for found, truth in zip(detections, truths, strict=True):
        ious = iou_matrix(found.boxes, truth.boxes)
        nothing = np.zeros(len(found.labels))
        images.append(
            _Image(
                found, truth, ious, nothing, _aside(found, truth, ious), np.zeros(len(truth.labels))
            )
        )
    return images


def _aside(found: Detections, truth: Truth, ious: DoubleArray) -> BoolArray:
    """Return which detections belong to a difficult object or a crowd, (N,)."""
    hard = truth.difficult & ~truth.is_crowd
    on_hard = np.where(hard, ious, 0.0).max(axis=1, initial=0.0)
    on_other = np.where(truth.difficult, 0.0, ious).max(axis=1, initial=0.0)
    aside: BoolArray = (on_hard >= SUPPORT) & (on_hard > on_other)
    crowds = truth.boxes[truth.is_crowd].astype(np.float64)
    boxes = found.boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    inside = (high - low).clip(min=0).prod(axis=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=-1)
    on_crowd: BoolArray = (inside > COVERED * area[:, None]).any(axis=1)
    return aside | on_crowd


def _calibration(images: Sequence[_Image], num_classes: int) -> Calibration:
    """Return by score and class what share of detections the labels confirm, at each IoU."""
    labels, scores, ious = [], [], []
    for one in images:
        same = (one.found.labels[:, None] == one.truth.labels[None]) & ~one.truth.difficult
        values = np.where(same, one.ious, 0.0)
        claimed = np.zeros(len(one.truth.labels), np.bool_)
        for row in np.flatnonzero(~one.aside).tolist():  # best first
            best = int(values[row].argmax()) if values.shape[1] else -1
            value = float(values[row, best]) if best >= 0 else 0.0
            if value >= SAME:
                value = 0.0 if claimed[best] else value
                claimed[best] = True
            labels.append(int(one.found.labels[row]))
            scores.append(float(one.found.scores[row]))
            ious.append(value)
    return calibrate(np.array(labels, np.int64), np.array(scores), np.array(ious), num_classes)


def _with_probs(one: _Image, calibration: Calibration) -> _Image:
    """Return an image with the calibrated scores of its detections."""
    found = one.found
    probs = np.empty(len(found.labels))
    for label in np.unique(found.labels).tolist():
        here = found.labels == label
        probs[here] = calibration.probs(label, found.scores[here].astype(np.float64), SAME)
    same = (found.labels[:, None] == one.truth.labels[None]) & (one.ious >= SUPPORT)
    own = np.where(same, probs[:, None], 0.0).max(axis=0, initial=0.0)
    return replace(one, probs=probs, own=own)


def _recall(images: Sequence[_Image], num_classes: int) -> _Recall:
    """Return what the model confirms of the labels of each class and size."""
    lists: list[list[list[float]]] = [[[] for _ in SIZES] for _ in range(num_classes)]
    for one in images:
        sizes = _sizes(one.truth)
        for row in one.wanted.tolist():
            lists[int(one.truth.labels[row])][int(sizes[row])].append(float(one.own[row]))
    supports = [[np.sort(np.array(values)) for values in sizes] for sizes in lists]
    shares = np.zeros(num_classes)
    for label, by_size in enumerate(supports):
        values = np.concatenate(by_size)
        shares[label] = float((values > 0.5).mean()) if len(values) else 0.0
    return _Recall(supports, shares)


def _confused(images: Sequence[_Image], num_classes: int) -> BoolArray:
    """Return which class (rows) the model takes for which other (columns) so often, (C, C)."""
    taken = np.zeros((num_classes, num_classes), np.int64)
    number = np.zeros(num_classes, np.int64)
    for one in images:
        for row in one.wanted.tolist():
            label = int(one.truth.labels[row])
            number[label] += 1
            here = (one.ious[:, row] >= SAME) & ~one.aside & _is_nearest(one, row)
            best, prob = _best(here, one.probs)
            if best is not None and prob >= BLIND:
                taken[label, int(one.found.labels[best])] += 1
    share, least = CONFUSED
    confused: BoolArray = (taken >= least) & (taken > share * number[:, None])
    np.fill_diagonal(confused, False)
    return confused


def _sizes(truth: Truth) -> IntArray:
    """Return which of COCO's sizes each object is of, (R,)."""
    limits = np.array([high for _, _, high in SIZES[:-1]])
    return np.searchsorted(limits, truth.areas, "right")
