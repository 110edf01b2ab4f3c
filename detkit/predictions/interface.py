"""The interface of a writer of detections, and the names that a line of text can hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.text import is_plain, printable


class PredictionWriter(ABC):
    """Writes one image after the other; as a context manager it discards a broken file."""

    left_out: Sequence[str] = ()  # what the format could not keep, in words, once it is closed

    @abstractmethod
    def write(self, predictions: ImagePredictions) -> None:
        """Add one image's detections."""

    @abstractmethod
    def close(self) -> None:
        """Complete what was written and give it its name."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind."""

    def __enter__(self) -> PredictionWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Complete the file, or discard it when the block failed."""
        if kind is None:
            self.close()
        else:
            self.discard()


def require_plain(name: str, what: str) -> None:
    """Raise DetkitError for the name of a class or an image that no line of text can hold."""
    if not is_plain(name):
        raise DetkitError(
            f"{what} {printable(name)}: the name is not UTF-8 or holds control characters, which "
            "this format cannot keep; rename it, or write -f jsonl"
        )
