"""Images that are copies of others: saved again, resized, cut a little, made brighter.

A difference hash of a small grey picture finds the few images that may be a copy. Most of these
are seen to be none when the middle of one is looked for in the other (J. P. Lewis, "Fast
normalized cross-correlation", 1995). The others are laid on each other, allowing for what was cut
off (by the enhanced correlation coefficient of Evangelidis and Psarakis, 2008, which does not
change with brightness and contrast), and their details correlated. Mirrored and turned copies are
not found.

cv2 is imported inside the functions: reading labels does not need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.looks import GREY_SIDE, NUM_BITS, Looks
from detkit.data.threads import in_threads

# Ours, measured on 664 photos and micrographs and 400 drawn scenes, with copies of .025 and .05 cut
# off all sides: 99 % of the copies differ in at most so many of their 128 bits, of other pairs of
# photos fewer than .1 %. On each other, copies are .82 alike and more, other pairs .57 and less.
MAX_BITS = 38
NEAREST = 4  # images of the nearest hashes that an image is laid on
MIN_ALIKE = 0.75
_SAME = 0.95  # likeness without any shift that needs no closer look
_SHADE = 0.1  # of the side: coarser light and shade is left out where two are laid on each other
_FINE = 4.0  # pixels: coarser details are left out where they are compared
_AROUND, _FAINT = 6.0, 6.0  # pixels around that details are evened over; grey levels of faint ones
_SIDES = (GREY_SIDE // 2, GREY_SIDE)  # from coarse to fine
_STEPS, _PRECISION = 40, 1e-4
# Ours, of 660 copies with .05 cut off all sides or .1 off one or two, and of 1,040 pairs of near
# hashes that are none: the best place of a copy's middle is .67 alike and more, that of 90 % of the
# pairs .5 and less. So those take a fifth of the time.
_COARSE_SIDE, _MIDDLE, _COARSE_SCALES = 24, 18, (0.94, 1.07)
_MIN_COARSE = 0.5
_MAX_SHIFT, _MAX_SHEAR, _SCALES = 0.15, 0.08, (0.85, 1.18)  # a tenth cut off, at most
_BLOCK = 2048  # rows of the table of hashes that are compared at once
_AT_ONCE = 4  # images that a thread lays on others


@dataclass(frozen=True, slots=True)
class Copy:
    """Two images that show the same."""

    image: int  # its place among the images that were asked about
    other: int  # its place among the others
    alike: float  # `likeness`, at most 1


def num_differing(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return how many of their 128 bits (N, 2) hashes differ from (M, 2) others, as (N, M)."""
    differing = np.zeros((len(hashes), len(others)), np.uint8)
    for word in range(hashes.shape[1]):
        differing += _num_bits(hashes[:, word, None] ^ others[None, :, word])
    return differing


def _num_bits(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return how many bits of each word are set."""
    if hasattr(np, "bitwise_count"):  # since NumPy 2.0
        return np.asarray(np.bitwise_count(words), np.uint8)
    ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
    parts = words[..., None].view(np.uint8)
    return np.asarray(ones[parts].sum(-1), np.uint8)


def find_copies(looks: Looks, others: Looks | None = None) -> list[Copy]:
    """Return, for each image that is a copy of one of the others, the one most like it.

    Without `others` the images are compared with each other, and each pair is told once, the later
    image as the copy of the earlier. An image is laid on the `NEAREST` of hash.
    """
    same = others is None
    others = looks if others is None else others
    pairs = _candidates(looks, others, same)
    by_image = [[*group] for _, group in groupby(pairs, lambda pair: pair[0])]

    def lay(pairs: list[tuple[int, int]]) -> list[float]:
        picture = _Picture(looks.grey[pairs[0][0]])
        return [
            _likeness(picture, _Picture(others.grey[other]), at_least=MIN_ALIKE)
            for _, other in pairs
        ]

    alike = chain.from_iterable(in_threads(lay, by_image, _AT_ONCE))
    best: dict[tuple[int, int] | int, Copy] = {}
    for (image, other), value in zip(pairs, alike):
        if value >= MIN_ALIKE:
            first, second = (max(image, other), min(image, other)) if same else (image, other)
            key = (first, second) if same else first
            if key not in best or best[key].alike < value:
                best[key] = Copy(first, second, min(value, 1.0))
    return sorted(best.values(), key=lambda one: (one.image, one.other))


def _candidates(looks: Looks, others: Looks, same: bool) -> list[tuple[int, int]]:
    """Return (image, other) for the nearest hashes of each image, those that may be a copy."""
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(looks), _BLOCK):
        block = slice(start, start + _BLOCK)
        differing = num_differing(looks.hashes[block], others.hashes)
        differing[~looks.shows[block]] = NUM_BITS
        differing[:, ~others.shows] = NUM_BITS
        if same:
            rows = np.arange(len(differing))
            differing[rows, start + rows] = NUM_BITS
        rows, columns = np.nonzero(differing <= MAX_BITS)
        order = np.lexsort((columns, differing[rows, columns], rows))
        rows, columns = rows[order], columns[order]
        _, first = np.unique(rows, return_index=True)
        rank = np.arange(len(rows)) - np.repeat(first, np.diff([*first, len(rows)]))
        near = rank < NEAREST
        pairs += zip((start + rows[near]).tolist(), columns[near].tolist())
    if same:  # each pair is looked at once, whichever found the other
        pairs = sorted({(max(pair), min(pair)) for pair in pairs})
    return pairs


def likeness(grey: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return how alike the details of two (96, 96) grey pictures are, -1 to 1, one on the other.

    One may be a part of the other: up to a tenth cut off its sides. It is the correlation of what
    is left of both when their coarse light and shade, in which any two skies agree, is taken away.
    """
    return _likeness(_Picture(grey), _Picture(other))


class _Picture:
    """A small grey picture, and what is computed of it once, though it is laid on several."""

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        """Hold (96, 96) grey values."""
        self.grey = grey

    @cached_property
    def fine(self) -> NDArray[np.float64]:
        """Its fine details, (96, 96)."""
        return _evened(_details(self.grey, _FINE))

    @cached_property
    def rough(self) -> NDArray[np.float64]:
        """Nearly its fine details, (48, 48), in a quarter of the time."""
        import cv2

        side = GREY_SIDE // 2
        small = cv2.resize(self.grey, (side, side), interpolation=cv2.INTER_AREA)
        return _evened(_details(small, _FINE / 2), _AROUND / 2)

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """Its coarse details, (24, 24)."""
        return self.details(_COARSE_SIDE)

    @cached_property
    def middles(self) -> list[NDArray[np.float32]]:
        """The middle of its coarse details, (18, 18), a little smaller and larger each way."""
        import cv2

        size = (_MIDDLE, _MIDDLE)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        first, last = (_COARSE_SIDE - 1) / 2, (_MIDDLE - 1) / 2
        found = []
        for down, across in product(_COARSE_SCALES, repeat=2):
            scale = np.array([[across, 0, first - across * last], [0, down, first - down * last]])
            middle = cv2.warpAffine(
                self.coarse, scale, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
            found.append(np.asarray(middle, np.float32))
        return found

    def details(self, side: int) -> NDArray[np.float32]:
        """Return its details in a picture of (side, side), without coarse light and shade."""
        import cv2

        small = cv2.resize(self.grey, (side, side), interpolation=cv2.INTER_AREA)
        return _details(small, _SHADE * side)


def _likeness(one: _Picture, other: _Picture, at_least: float = -1.0) -> float:
    """Return the `likeness` of two pictures; where it is less than `at_least`, it may be more."""
    import cv2

    if at_least > _MIN_COARSE and _coarse_likeness(one, other) < _MIN_COARSE:
        rough = _correlation(one.rough.ravel(), other.rough.ravel())
        if rough < _MIN_COARSE:
            return rough
    as_they_are = _correlation(one.fine.ravel(), other.fine.ravel())
    if as_they_are >= _SAME:
        return as_they_are
    shift = np.eye(2, 3, dtype=np.float32)
    before = _SIDES[0]
    limits = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _PRECISION)
    for side in _SIDES:
        shift[:, 2] *= side / before
        before = side
        inner = np.zeros((side, side), np.uint8)
        inner[2:-2, 2:-2] = 1  # else black from beyond the border is blended in
        try:
            first, second = one.details(side), other.details(side)
            _, found = cv2.findTransformECC(
                first, second, shift, cv2.MOTION_AFFINE, limits, inner, 5
            )
        except cv2.error:  # it does not converge
            return as_they_are
        shift = np.asarray(found, np.float32)
        if not _is_a_cut(shift, side):
            return as_they_are
    size = (GREY_SIDE, GREY_SIDE)
    linear, nearest = (cv2.WARP_INVERSE_MAP | one for one in (cv2.INTER_LINEAR, cv2.INTER_NEAREST))
    laid = cv2.warpAffine(other.grey, shift, size, flags=linear, borderMode=cv2.BORDER_REPLICATE)
    common = cv2.warpAffine(np.ones_like(other.grey), shift, size, flags=nearest)
    inside = cv2.erode(common, np.ones((3, 3), np.uint8), iterations=2) > 0
    laid_fine = _evened(_details(laid, _FINE))
    return max(as_they_are, _correlation(one.fine[inside], laid_fine[inside]))


def _coarse_likeness(one: _Picture, other: _Picture) -> float:
    """Return how alike the middle of one picture is to the best place in the other, -1 to 1."""
    import cv2

    found = (
        cv2.matchTemplate(other.coarse, middle, cv2.TM_CCOEFF_NORMED) for middle in one.middles
    )
    return max(float(one.max()) for one in found)


def _is_a_cut(shift: NDArray[np.float32], side: int) -> bool:
    """Return whether a (2, 3) affine map only takes a little off the sides."""
    low, high = _SCALES
    return bool(
        low < shift[0, 0] < high
        and low < shift[1, 1] < high
        and max(abs(shift[0, 1]), abs(shift[1, 0])) < _MAX_SHEAR
        and np.abs(shift[:, 2]).max() < _MAX_SHIFT * side
    )


def _details(grey: Any, sigma: float) -> NDArray[np.float32]:
    """Return a grey picture without what a Gaussian of `sigma` pixels leaves of it."""
    import cv2

    wide = np.asarray(grey, np.float32)
    return wide - np.asarray(cv2.GaussianBlur(wide, (0, 0), sigma), np.float32)


def _evened(details: NDArray[np.float32], around: float = _AROUND) -> NDArray[np.float64]:
    """Return details divided by their strength `around` each pixel."""
    import cv2

    strength = np.sqrt(cv2.GaussianBlur(details * details, (0, 0), around))
    return (details / (strength + _FAINT)).astype(np.float64)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of the evened details (N,) of two pictures; 0 for plain ones.

    Details are divided by how strong they are around, so that one bold thing in both pictures does
    not outweigh all else. Noise, far below `_FAINT`, does not become strong by that.
    """
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size > 0 else 0.0
