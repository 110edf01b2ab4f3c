"""What image files hold and reading them leaves out: told once of many, not image by image."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from detkit.data.image_headers import JPEG, ImageHeader, UnreadableImage, read_header
from detkit.data.images import bits_used
from detkit.errors import DetkitError
from detkit.text import counted

MOST_LOOKED_AT = 100  # ours: 16-bit images decoded to see which bits they use
DARK_BITS = 14  # a quarter of the range and less: what is read is dark at its brightest


@dataclass
class UnusedContent:
    """Gathers the files of several frames, and whether 16-bit files use their upper bits."""

    num_longer: int = 0  # of several frames or pages
    longest: int = 1  # frames
    first_longer: Path | None = None
    num_deep: int = 0  # 16-bit files looked at
    bits: int = 0  # the most bits that one of them uses
    first_deep: Path | None = None

    def add(self, path: Path) -> None:
        """Look at one file; what cannot be read is told elsewhere."""
        with suppress(UnreadableImage, OSError, struct.error):
            with path.open("rb") as file:
                if file.read(len(JPEG)) == JPEG:  # 8 bits, and one image
                    return
            self.add_header(path, read_header(path))

    def add_header(self, path: Path, header: ImageHeader) -> None:
        """Look at the header of one file, and at its pixels where they are of 16 bits."""
        if header.frames > 1:
            self.num_longer += 1
            self.longest = max(self.longest, header.frames)
            self.first_longer = self.first_longer or path
        if header.bits == 16 and self.num_deep < MOST_LOOKED_AT and self.bits <= DARK_BITS:
            with suppress(DetkitError):
                self.bits = max(self.bits, bits_used(path))
                self.num_deep += 1
                self.first_deep = self.first_deep or path

    def told(self) -> Iterator[tuple[str, str, Path]]:
        """Yield the code, the message and the first file of each thing worth saying."""
        if self.first_longer is not None:
            message = (
                f"{counted(self.num_longer, 'image')} of several frames or pages (the first: "
                f"{self.first_longer.name}; up to {self.longest}): only the first frame of each is "
                "read; save the others as files of their own if they count"
            )
            yield "more-frames", message, self.first_longer
        if self.first_deep is not None and 0 < self.bits <= DARK_BITS:
            message = (
                f"not one of {counted(self.num_deep, 'image')} of 16 bits (the first: "
                f"{self.first_deep.name}) uses more than the lower {self.bits}, so they are read "
                f"as nearly black; multiply their pixels by {1 << (16 - self.bits)} and save them"
            )
            yield "unused-bits", message, self.first_deep
