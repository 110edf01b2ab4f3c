"""The hold that one `detkit label` has on the folder it writes: whose it is, and its lock."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from detkit.errors import DetkitError, UsageError
from detkit.files import FileLock, make_folder, not_written, remove_empty, write_bytes

HIDDEN = ".detkit-label"  # the folder in OUT that holds the journal; no reader looks there


class Claim:
    """A folder OUT, locked until `release`."""

    def __init__(self, out: Path) -> None:
        """Claim a folder, which is made where it is not there.

        Raises UsageError for one that is something else than an earlier session's, DetkitError
        where another process labels there.
        """
        self.out, self.hidden = out, out / HIDDEN
        self.journal = self.hidden / "journal.jsonl"
        self.is_new = not self._is_ours()
        self._made: list[Path] = []
        self._lock = self._take_lock()

    def release(self) -> None:
        """Let others in."""
        self._lock.release()

    def tell_address(self, address: str) -> None:
        """Note where this session answers, for whoever finds the folder in use."""
        write_bytes(self.hidden / "address", address.encode())

    def give_up(self) -> None:
        """Release the folder after a failed start; what was made for nothing goes again."""
        self._lock.release()
        if self.is_new and not self.journal.exists():
            remove_empty(self._made)

    def _is_ours(self) -> bool:
        """Return whether `out` is of an earlier session; UsageError when it is something else."""
        if not self.out.exists():
            return False
        if not self.out.is_dir():
            raise UsageError(f"{self.out}: is a file; name a folder")
        if self.journal.is_file():
            return True
        held = [one.name for one in self.out.iterdir() if one.name not in (HIDDEN, ".DS_Store")]
        if held:
            raise UsageError(
                f"{self.out}: is not empty, and detkit label did not make it; name another folder "
                f"(to correct labels: detkit label {self.out} -o OTHER)"
            )
        return False

    def _take_lock(self) -> FileLock:
        """Return the folder's lock; DetkitError, which says who has it, when it is taken."""
        try:
            self._made = make_folder(self.hidden)
            return FileLock(self.hidden / "lock")
        except BlockingIOError as error:
            address = ""
            with suppress(OSError):
                address = (self.hidden / "address").read_text("utf-8")
            where = f" at {address}" if address else ""
            raise DetkitError(
                f"{self.out}: another detkit label is working there{where}; go on in it, or end "
                "it first"
            ) from error
        except OSError as error:
            remove_empty(self._made)
            raise DetkitError(not_written(self.out, error)) from error
