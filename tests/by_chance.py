"""What writes files by chance, nearly as they should be."""

from __future__ import annotations

import random


class WriterByChance:
    """Writes something in one of `calm` places not as it should be."""

    def __init__(self, seed: int, calm: int) -> None:
        self.rng = random.Random(seed)
        self.calm = calm

    def is_odd(self) -> bool:
        return self.rng.randrange(self.calm) == 0
