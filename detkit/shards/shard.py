"""Which images are of which share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from detkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """One share of a run: the `number`-th of `of`, counted from 1, in blocks of images."""

    number: int
    of: int
    block: int = 1

    @classmethod
    def parse(cls, word: str, block: int = 1) -> Shard:
        """Return the share that a word like "2/8" names; raises UsageError for what names none."""
        number, slash, of = word.partition("/")
        if not (slash and _is_number(number) and _is_number(of)):
            raise UsageError(f"--shard {word}: expected I/N, like 1/8 for the first of eight")
        if not 1 <= int(number) <= int(of):
            raise UsageError(f"--shard {word}: shares are counted from 1/{of} to {of}/{of}")
        return cls(int(number), int(of), block)

    def holds(self, place: int) -> bool:
        """Return whether the source at this place, from 0, is of this share."""
        return place // self.block % self.of == self.number - 1

    def size(self, num_sources: int) -> int:
        """Return how many of so many sources are of this share."""
        rounds, rest = divmod(num_sources, self.block * self.of)
        before = (self.number - 1) * self.block
        return rounds * self.block + min(self.block, max(0, rest - before))

    def __str__(self) -> str:
        """Return it as `--shard` names it."""
        return f"{self.number}/{self.of}"


def _is_number(word: str) -> bool:
    """Return whether a word is a number that a person would write."""
    return word.isascii() and word.isdecimal() and len(word) < 10


@dataclass
class Turns:
    """Says of each source, in their order, whether it is looked at here, and remembers them all.

    Those of the share that were done before are passed over.
    """

    shard: Shard
    num_done: int = 0
    done_names: str = ""  # the digest of their names, in order
    num_sources: int = 0
    num_own: int = 0
    _names: Any = field(default_factory=hashlib.sha256)
    _own: Any = field(default_factory=hashlib.sha256)

    def __call__(self, name: str) -> bool:
        """Return whether the next source, of this name, is to be looked at.

        Raises UsageError when the images done before are not those that come first now.
        """
        place = self.num_sources
        self.num_sources += 1
        add_name(self._names, name)
        if not self.shard.holds(place):
            return False
        self.num_own += 1
        if self.num_own > self.num_done:
            return True
        add_name(self._own, name)
        if self.num_own == self.num_done and self._own.hexdigest() != self.done_names:
            raise UsageError(self._other_images())
        return False

    def require_all(self) -> None:
        """Raise UsageError when fewer images came, in the end, than were done before."""
        if self.num_own < self.num_done:
            raise UsageError(self._other_images())

    def _other_images(self) -> str:
        return (
            f"share {self.shard} was begun on other images, or on these in another order; begin "
            "anew with --force"
        )

    @property
    def names(self) -> str:
        """The digest of all sources' names."""
        return str(self._names.hexdigest())


def add_name(digest: Any, name: str) -> None:
    """Add a source's name to a digest of names; file names need not be Unicode."""
    digest.update(name.encode("utf-8", errors="surrogatepass") + b"\n")
