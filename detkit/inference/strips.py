"""Very large images read in strips: rows are decoded when they are asked for, and let go.

A panorama of 200 megapixels is 600 MB decoded, but tiles of it need a few rows at a time. JPEG,
PNG, TIFF and WebP can be decoded from top to bottom by libvips (extra `large`), which holds no
more than the rows it is at.

Shape shorthand: H x W pixels.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import image_size
from detkit.errors import DetkitError, is_installed, need_of

MANY_PIXELS = 64_000_000  # ours: more, 192 MB decoded, are worth the slower decoding in strips
ROWS = 256  # decoded at once at least
LOADERS = ("jpegload", "pngload", "tiffload")  # libvips' that decode from top to bottom

logger = logging.getLogger(__name__)


def in_strips(path: Path) -> Strips | None:
    """Return a very large image that is to be read in strips; None: read it whole.

    That is one of more than `MANY_PIXELS`. Says so where strips cannot be had.
    """
    height, width = image_size(path)
    if height * width <= MANY_PIXELS:
        return None
    whole = f"{path}: its {height * width / 1e6:.0f} megapixels are decoded at once"
    if not is_installed("pyvips"):
        logger.info("%s; reading it in strips %s", whole, need_of("pyvips"))
        return None
    strips = Strips.of(path)
    if strips is None:
        logger.info("%s: its kind, or its turned pixels, cannot be read in strips", whole)
    return strips


class Strips:
    """An image file whose rows are decoded as they are asked for; slices like an array.

    `image[y1:y2, x1:x2]` is an (h, w, 3) uint8 RGB array. Rows are kept as long as the next
    request may begin in them; one that begins before them starts again at the top of the file,
    so ask from top to bottom. Several threads may ask at once.
    """

    def __init__(self, path: Path, image: Any) -> None:
        """Take a file and libvips' image of it; `of` opens one."""
        self._path = path
        self._lock = threading.Lock()
        self.shape = (int(image.height), int(image.width), 3)
        self._small: NDArray[np.uint8] | None = None
        self._restart(image)

    @classmethod
    def of(cls, path: Path) -> Strips | None:
        """Return the image of a file; None for a kind that cannot be decoded from top to bottom.

        Nor can one whose pixels are to be turned (EXIF). Raises ImportError without pyvips.
        """
        import pyvips

        try:
            image: Any = _open(path)
        except pyvips.Error:  # what reads it whole says why
            return None
        turned = "orientation" in image.get_fields() and image.get("orientation") != 1
        if turned or image.get("vips-loader") not in LOADERS:
            return None
        return cls(path, image)

    def __getitem__(self, at: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Return the (h, w, 3) pixels of a slice of rows and one of columns, without steps."""
        rows, columns = (one.indices(side) for one, side in zip(at, self.shape))
        with self._lock:
            self._read(rows[0], rows[1])
            kept = self._rows[rows[0] - self._first : rows[1] - self._first]
            shown: NDArray[np.uint8] = kept[:, columns[0] : columns[1]].copy()
            return shown

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole image, (H, W, 3), decoded at once."""
        whole: NDArray[Any] = np.asarray(self[:, :], dtype)
        return whole

    def shrunk(self, longest: int) -> NDArray[np.uint8]:
        """Return the whole image with a longer side of `longest` pixels, never enlarged.

        Raises DetkitError when the file is damaged.
        """
        import pyvips

        with self._lock:
            if self._small is None or max(self._small.shape) != longest:
                try:
                    image: Any = pyvips.Image.thumbnail(
                        str(self._path), longest, height=longest, size="down"
                    )
                    self._small = np.ascontiguousarray(_rgb(image).numpy(), np.uint8)
                except pyvips.Error as error:
                    raise self._unreadable(error) from error
            return self._small

    def _restart(self, image: Any) -> None:
        """Begin at the top again."""
        import pyvips

        self._region = pyvips.Region.new(_rgb(image))  # one for all rows: it goes down the file
        self._first = 0  # the row of the image that `_rows` begins with
        self._rows = np.empty((0, self.shape[1], 3), np.uint8)

    def _read(self, first: int, last: int) -> None:
        """Have the rows from `first` to before `last`."""
        import pyvips

        if first < self._first:
            self._restart(_open(self._path))
        end = self._first + len(self._rows)
        if last <= end:
            return
        # Tiles of the row before may still be asked for by another thread.
        keep = max(self._first, first - (last - first))
        until = min(self.shape[0], max(last, end + ROWS))
        new = [self._rows[keep - self._first :]]
        for row in range(end, until, ROWS):
            count = min(ROWS, until - row)
            try:
                content = self._region.fetch(0, row, self.shape[1], count)
            except pyvips.Error as error:
                raise self._unreadable(error) from error
            rows = np.frombuffer(content, np.uint8).reshape(count, self.shape[1], 3)
            new.append(rows[max(0, keep - row) :])
        self._rows, self._first = np.concatenate(new), keep

    def _unreadable(self, error: Exception) -> DetkitError:
        """Return the one line for a file that libvips cannot read."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        return DetkitError(f"{self._path}: damaged or truncated image ({reason}); replace the file")


def _open(path: Path) -> Any:
    """Return libvips' image of a file, to be read once from top to bottom."""
    import pyvips

    return pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated")


def _rgb(image: Any) -> Any:
    """Return libvips' image as 8-bit RGB; of 16 bits the upper 8 are kept."""
    if image.interpretation not in ("srgb", "b-w", "rgb16", "grey16"):
        image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.extract_band(0, n=image.bands - 1)
    if image.format == "ushort":
        image = (image >> 8).cast("uchar")
    if image.bands == 1:
        image = image.bandjoin([image, image])
    return image
