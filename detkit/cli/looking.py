"""How `detect` and `eval` look at images: `--tile`, `--overlap` and `--tta`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.config import DetectorConfig

WAYS = "looking"  # under this a part keeps what `Looking.words` said
LEAST_TILE = 32  # pixels: smaller ones are a slip of the pen


@dataclass(frozen=True)
class Looking:
    """How images are looked at: what `--tile`, `--overlap` and `--tta` say."""

    tile: int | None = None  # 0: no tiles; None: as the model says
    overlap: float | None = None
    tta: tuple[str, ...] = ()
    compare: bool = False  # with looking at whole images alone

    @property
    def is_measured(self) -> bool:
        """Whether what it brings is to be measured: tiles to compare, and any TTA."""
        return self.compare or bool(self.tta)

    @property
    def plain(self) -> Looking:
        """What it is compared with: no TTA, and no tiles if those are compared."""
        return replace(self, tile=0 if self.compare else self.tile, tta=(), compare=False)

    def side(self, config: DetectorConfig) -> int:
        """Return the side of the tiles, with a model of this config; 0: none."""
        return config.tile if self.tile is None else self.tile

    def words(self, config: DetectorConfig) -> str:
        """Return how images are looked at beyond the whole, in words; "" if they are not."""
        side = self.side(config)
        overlap = config.tile_overlap if self.overlap is None else self.overlap
        tiles = [f"tiles of {side} px that overlap by {overlap:g}"] if side else []
        return " and ".join([*tiles, *([f"TTA ({', '.join(self.tta)})"] if self.tta else [])])


def looking_of(
    tile: str | None, overlap: float | None, tta: str | None, *, comparable: bool = False
) -> Looking:
    """Return what the options say; raises UsageError for a side or a variant there is not.

    `comparable`: `--tile compare` and `--tile compare=N` are understood.
    """
    from detkit.inference.views import require_tta

    word, _, number = (tile or "").partition("=")
    compare = comparable and word == "compare"
    given = number if compare else tile
    forms = "a number of pixels, none" + (", compare or compare=N" if comparable else "")
    side = None if given in (None, "") else tile_side(str(given), f"--tile {tile}", forms)
    if tile == "" or (compare and side == 0):
        raise UsageError(f"--tile {tile}: expected {forms}")
    variants = tuple(name.strip() for name in (tta or "").split(",") if name.strip())
    if tta is not None and not variants:
        raise UsageError("--tta: no variant named; expected flip, scale or flip,scale")
    require_tta(variants)
    return Looking(side, overlap, variants, compare)


def tell_ways(console: Console, ways: str) -> None:
    """Say how images are looked at beyond the whole, by `Looking.words`."""
    if ways:
        console.note(f"looking at whole images and {ways}")


def tile_side(text: str, given: str, forms: str) -> int:
    """Return a tile's side, 0 for "none"; UsageError, which quotes what was `given`."""
    if text == "none":
        return 0
    if not text.isdecimal() or not int(text):
        raise UsageError(f"{given}: expected {forms}")
    if int(text) < LEAST_TILE:
        raise UsageError(f"{given}: at least {LEAST_TILE} pixels make a tile")
    return int(text)
