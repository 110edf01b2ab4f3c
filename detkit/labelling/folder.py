"""The labelled folder that labelling writes: an image's files at once, those of the set soon after.

What takes part in it is an image that is labelled or marked as having no object. Its file is
copied, as `data.convert` does, the first time; where it is no longer labelled the copy goes again.
Label files follow from the journal: `restore` makes them anew where a kill came between.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detkit.data.convert import format_named, free_name, held
from detkit.data.formats.format import Format, Labelled
from detkit.data.formats.reading import format_of
from detkit.data.image_kinds import is_image
from detkit.data.records import ObjectRecord
from detkit.errors import DetkitError, UsageError
from detkit.files import beside, not_written, put_in_place, write_bytes
from detkit.labelling.photos import Photos

FORMATS = ("voc", "yolo", "coco")
PER_IMAGE = ("voc", "yolo")  # those with a label file an image


def choose_format(photos: Photos, out: Path, to: str | None, before: str | None) -> str:
    """Return the folder's format; UsageError for one that it is not or cannot be."""
    if to is not None and to not in FORMATS:
        raise UsageError(
            f"--to {to}: labels are written as {', '.join(FORMATS)}; `detkit convert` writes others"
        )
    if before is not None and to not in (None, before):
        raise UsageError(
            f"--to {to}: {out} is {before}; leave --to out, or convert it later: "
            f"detkit convert {out} OTHER --to {to}"
        )
    own = None if photos.dataset is None else format_of(photos.dataset).name
    return to or before or (own if own in FORMATS else None) or "voc"


def require_fitting(photos: Photos, form: Format) -> None:
    """Raise UsageError for splits and images that the format could not give back."""
    for split in {one.split for one in photos.photos}:
        if not form.keeps_split(split):
            others = [one for one in FORMATS if format_named(one).keeps_split(split)]
            hint = f"; choose --to {' or '.join(others)}" if others else ""
            raise UsageError(f'{form.name} cannot keep the split "{split}"{hint}')
    for one in photos.photos:
        if not form.names_images and not is_image(one.path.suffix.lower()):
            raise UsageError(
                f"{one.path}: {form.name} does not find images of this kind again; choose "
                "--to voc or --to coco"
            )


@dataclass(frozen=True, slots=True)
class Member:
    """An image of the folder."""

    place: str  # of its file, relative to the folder, with "/"
    split: str
    size: tuple[int, int]  # upright (height, width), pixels
    objects: tuple[ObjectRecord, ...]


class LabelFolder:
    """The files of a labelled folder; one thread at a time uses it."""

    def __init__(self, root: Path, form: str) -> None:
        """Use the folder `root`, which exists, in one of `FORMATS`."""
        self.root = root
        self.form = format_named(form)
        self.members: dict[str, Member] = {}  # by the image's name, in the order of the list
        self.class_names: tuple[str, ...] = ()
        self._taken: dict[str, set[str]] = {}  # by folder: see `free_name`
        self._texts: dict[str, str] = {}  # of the set's files, as last written
        self._seen: dict[str, None] = {}  # splits that had an image: their lists may become empty

    def place_for(self, name: str, split: str, *, earlier: str | None = None) -> str:
        """Return where an image's file belongs; where it was `earlier`, if it was."""
        folder = self.form.place(split)
        taken = self._taken.setdefault(folder, set())
        if earlier is not None:
            taken.add(Path(earlier).stem.casefold())
            return earlier
        return f"{folder}/{free_name(name, taken, self.form.is_flat)}"

    def prepare(self, name: str, member: Member, source: Path, *, sync: bool = True) -> Prepared:
        """Write an image's files beside their places; `Prepared.commit` puts them there.

        They are on disk when this returns, unless `sync` is off.

        Raises DetkitError, with nothing left, where the disk is full, and for an image that is
        gone.
        """
        done = Prepared(self, name, member, sync=sync)
        try:
            target = self.root / member.place
            if not target.is_file():
                done.add(target, source)
            for path, text in self._own_files(member):
                done.add(self.root / path, text)
        except BaseException:
            done.discard()
            raise
        return done

    def remove(self, name: str) -> None:
        """Take an image and its label file out of the folder."""
        member = self.members.pop(name, None)
        if member is None:
            return
        for path in (member.place, *(path for path, _ in self._own_files(member))):
            (self.root / path).unlink(missing_ok=True)

    def write_set(self) -> None:
        """Write the files that tell of all images, where they changed: lists, classes, COCO's JSON.

        Raises DetkitError where one cannot be written; the old one then stays.
        """
        for path, text in self._set_files():
            if self._texts.get(path) != text or not (self.root / path).is_file():
                self._folder_of(self.root / path)
                write_bytes(self.root / path, text.encode())
                self._texts[path] = text

    def restore(
        self,
        sources: Mapping[str, Path],
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Make the folder what `members` says; return of how many images files were written.

        Images are looked up by name in `sources`. One that is neither there nor in the folder
        leaves the members. `progress` hears (images done, images in all). Raises DetkitError
        where files cannot be written.
        """
        written = 0
        total = len(self.members)
        for number, (name, member) in enumerate(list(self.members.items()), start=1):
            if progress is not None:
                progress(number, total)
            target, source = self.root / member.place, sources.get(name)
            if not target.is_file() and (source is None or not source.is_file()):
                del self.members[name]
                continue
            whole = target.is_file() and not _is_cut(target, source)
            if whole and all(
                _holds(self.root / path, text) for path, text in self._own_files(member)
            ):
                continue
            if not whole and source is not None:
                target.unlink(missing_ok=True)
            self.prepare(name, member, source or target, sync=False).commit()
            written += 1
        self.write_set()
        return written

    def copy_to(self, root: Path) -> int:
        """Write the same labelled folder at `root`, which is new; return its number of images.

        The images are hard links where the file system has them: neither folder's files are ever
        changed in place.
        """
        for member in self.members.values():
            target = root / member.place
            self._folder_of(target)
            try:
                os.link(self.root / member.place, target)
            except OSError:
                shutil.copyfile(self.root / member.place, target)
        for path, text in self.form.write(self._splits(self.members.values()), self.class_names):  # type: ignore[misc]
            self._folder_of(root / path)
            (root / path).write_text(text, encoding="utf-8", newline="\n")
        return len(self.members)

    def _own_files(self, member: Member) -> Iterable[tuple[str, str]]:
        """Return the path and text of the label file that is an image's own; none of COCO's."""
        if self.form.name not in PER_IMAGE or self.form.write is None:
            return []
        return [next(iter(self.form.write(self._splits([member]), self.class_names)))]

    def _set_files(self) -> list[tuple[str, str]]:
        """Return the path and text of each file that is of all images."""
        if self.form.write is None or not (self.members or self._texts):
            return []
        members = list(self.members.values())
        self._seen.update((one.split, None) for one in members)
        empty: dict[str, list[Labelled]] = {split: [] for split in self._seen}
        if self.form.name not in PER_IMAGE:
            return list(self.form.write(empty | self._splits(members), self.class_names))
        # A list of images says nothing of their objects but whether all are machine-made.
        members = [replace(one, objects=_one_of(one.objects)) for one in members]
        own = {path for one in members for path, _ in self._own_files(one)}
        files = self.form.write(empty | self._splits(members), self.class_names)
        return [(path, text) for path, text in files if path not in own]

    def _splits(self, members: Iterable[Member]) -> dict[str, list[Labelled]]:
        """Return images by split, as formats write them."""
        splits: dict[str, list[Labelled]] = {}
        for one in members:
            name = one.place.removeprefix(f"{self.form.place(one.split)}/")
            objects = tuple(held(one.objects, self.form, self.class_names))
            height, width = one.size
            splits.setdefault(one.split, []).append(Labelled(name, width, height, objects))
        return splits

    def _folder_of(self, path: Path) -> None:
        """Make the folder of a file."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DetkitError(not_written(path, error)) from error


class Prepared:
    """An image's files, written beside their places."""

    def __init__(self, folder: LabelFolder, name: str, member: Member, *, sync: bool) -> None:
        """Begin with no file."""
        self._folder, self._name, self._member, self._sync = folder, name, member, sync
        self._files: list[tuple[Path, Path]] = []  # (where it is, where it belongs)

    def add(self, path: Path, content: Path | str) -> None:
        """Write a file, a text or a copy of another; DetkitError where it cannot be."""
        partial = beside(path, f"{os.getpid()}.partial")
        self._folder._folder_of(path)
        self._files.append((partial, path))
        try:
            with partial.open("wb") as file:
                if isinstance(content, str):
                    file.write(content.encode())
                else:
                    with _opened(content) as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                if self._sync:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise DetkitError(not_written(path, error)) from error

    def commit(self) -> None:
        """Put the files in place; the image is a member of the folder from now on.

        Raises DetkitError where one cannot be replaced.
        """
        for partial, path in self._files:
            try:
                put_in_place(partial, path)
            except OSError as error:
                self.discard()
                raise DetkitError(not_written(path, error)) from error
        self._folder.members[self._name] = self._member

    def discard(self) -> None:
        """Remove what is not in place."""
        for partial, _ in self._files:
            partial.unlink(missing_ok=True)


def _opened(path: Path):  # type: ignore[no-untyped-def]
    """Return an image's file opened; DetkitError where it is gone."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DetkitError(f"{path}: the image cannot be read: {error.strerror}") from error


def _one_of(objects: Sequence[ObjectRecord]) -> tuple[ObjectRecord, ...]:
    """Return one object that stands for all: one that is not machine-made, if there is any."""
    return tuple(sorted(objects, key=lambda one: one.machine_made)[:1])


def _is_cut(copy: Path, source: Path | None) -> bool:
    """Return whether a copy is shorter than the image it is of, as after a power cut."""
    try:
        return source is not None and copy.stat().st_size != source.stat().st_size
    except OSError:
        return False


def _holds(path: Path, text: str) -> bool:
    """Return whether a file has this text."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False
