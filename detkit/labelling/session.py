"""A session of labelling: what is known of each image, behind one lock, journal first.

A change is confirmed when its line is in the journal and on disk. The image's own label file is
replaced in the same moment; lists, class names and COCO's one file for all follow within seconds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkit.data.image_files import read_image_file
from detkit.data.output import require_apart
from detkit.errors import DetkitError, UsageError
from detkit.files import is_full, not_written
from detkit.labelling.claim import Claim
from detkit.labelling.editor import Editors
from detkit.labelling.folder import LabelFolder, Member, choose_format, require_fitting
from detkit.labelling.journal import VERSION, Journal, read_journal
from detkit.labelling.known import Known, line_of, source_findings
from detkit.labelling.labels import (
    BadLabels,
    Labels,
    bad_class_name,
    from_json,
    labels_of,
    numbered,
    to_json,
)
from detkit.labelling.photos import Photos
from detkit.text import counted

logger = logging.getLogger(__name__)

SOON = 1.0  # seconds between a change and the files of the set, at least


class Refused(Exception):
    """A change that is not made: an HTTP status, why, and what else the page is told."""

    def __init__(self, status: int, message: str, **values: Any) -> None:
        """Say why."""
        super().__init__(message)
        self.status, self.values = status, {"error": message, **values}


class Session:
    """All images and their labels, and the folder they are written to; safe for threads."""

    def __init__(
        self,
        photos: Photos,
        out: Path,
        *,
        to: str | None = None,
        classes: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Open `out`, new or an earlier session's, and lock it until `close`.

        `to` is one of `folder.FORMATS`, by default the earlier session's, the data set's if it
        is one of them, or VOC. `progress` hears (images done, images in all) of what is copied at
        the start. Raises UsageError for an `out` that is something else, overlaps
        the photos or is of another format, and for classes that the format cannot hold;
        DetkitError where another process labels there or the journal cannot be read.
        """
        self.photos, self.out = photos, out
        self.lock = threading.RLock()
        self.editors = Editors()
        self.changes = 0
        self.trouble = ""  # why the files of the set are not up to date
        self.on_labelled: Callable[[int], None] = lambda count: None  # hears of each new one
        for folder in {photos.root, *(one.path.parent for one in photos.photos)}:
            require_apart(folder, out)
        self._claim = Claim(out)
        self.hidden, self.is_new = self._claim.hidden, self._claim.is_new
        try:
            lines = [] if self._claim.is_new else read_journal(self._claim.journal)
            header = lines[0] if lines else {}
            self.form = choose_format(photos, out, to, header.get("format"))
            self.folder = LabelFolder(out, self.form)
            require_fitting(photos, self.folder.form)
            self.known = {one.number: Known(one, Labels()) for one in photos.photos}
            self._by_name = {one.photo.name: one for one in self.known.values()}
            self._orphans: dict[str, dict[str, Any]] = {}  # labelled once, not among the photos
            self.class_names = self._first_classes(lines, classes)
            if self._claim.is_new:
                self._take_over_labels()
            self._replay(lines)
            self._journal = Journal(self._claim.journal, self._lines())
            self._restore(progress)
        except BaseException:
            self._claim.give_up()
            raise
        self.num_at_start = self.num_labelled
        self._dirty = threading.Event()
        self._ending = False
        self._writer = threading.Thread(target=self._write_sets, name="detkit-label-sets")
        self._writer.daemon = True
        self._writer.start()
        self._looker = threading.Thread(target=self._look, name="detkit-label-look", daemon=True)
        self._looker.start()

    # Opening and closing

    def close(self) -> None:
        """Write what is still to be written, and let others in."""
        self._ending = True
        self._dirty.set()
        self._writer.join()
        self._journal.close()
        self._claim.release()

    def tell_address(self, address: str) -> None:
        """Note where this session answers, for whoever finds the folder in use."""
        self._claim.tell_address(address)

    def _first_classes(
        self, lines: Sequence[Mapping[str, Any]], asked: Sequence[str] | None
    ) -> list[str]:
        """Return the classes to begin with: the earlier session's, the data set's, those asked."""
        names: dict[str, None] = {}
        for line in lines:
            names.update(dict.fromkeys(line.get("classes", ())))
        names.update(dict.fromkeys([*self.photos.class_names, *(asked or ())]))
        for name in names:
            if why := bad_class_name(name, []):
                raise UsageError(f"class {name!r}: {why}")
        if refusal := self.folder.form.refusal(list(names)):
            raise UsageError(f"{self.form}: {refusal}")
        return list(names)

    def _take_over_labels(self) -> None:
        """Begin with the labels of the data set, if it is one."""
        for one in self.known.values():
            record = one.photo.record
            if record is None or record.label_file is None:
                continue  # also YOLO's image without a file: labelled or not, a look tells
            kept = [thing for thing in record.objects if all(map(math.isfinite, thing.box))]
            kept.sort(key=lambda thing: thing.region)
            one.labels = Labels("done" if kept else "empty", numbered(kept), 0)

    def _replay(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take up what the journal says; the later line of an image counts."""
        for line in lines:
            if "image" not in line:
                continue
            one = self._by_name.get(line["image"])
            if one is None:
                self._orphans[line["image"]] = dict(line)
                continue
            objects = numbered([from_json(row) for row in line["objects"]])
            one.labels = Labels(line["state"], objects, line["revision"])
            one.place = line.get("place")
            one.size = tuple(line["size"]) if line.get("size") else None
        if self._orphans:
            gone = counted(len(self._orphans), "image")
            logger.warning(
                "%s: %s labelled earlier %s not among these photos (the first: %s); the labels "
                "stay",
                self.out,
                gone,
                "is" if len(self._orphans) == 1 else "are",
                next(iter(self._orphans)),
            )

    def _lines(self) -> list[dict[str, Any]]:
        """Return the journal of all that is known, in as few lines as can be."""
        for one in self.known.values():
            if one.place is not None:
                self.folder.place_for(one.photo.name, one.photo.split, earlier=one.place)
        for line in self._orphans.values():
            if line.get("place"):
                self.folder.place_for(line["image"], line["split"], earlier=line["place"])
        for one in self.known.values():
            self._settle(one)
        header = {
            "detkit_label": VERSION,
            "format": self.form,
            "photos": str(self.photos.root),
            "classes": self.class_names,
        }
        touched = (one for one in self.known.values() if one.labels != Labels())
        return [header, *self._orphans.values(), *map(line_of, touched)]

    def _settle(self, one: Known) -> None:
        """Give an image that is to be in the folder its place and size.

        A labelled image that cannot be read keeps its labels, and waits outside.
        """
        if not one.labels.is_in_folder:
            return
        if one.size is None:
            self._measure(one)
        if one.size is not None and one.place is None:
            one.place = self.folder.place_for(one.photo.name, one.photo.split)

    def _restore(self, progress: Callable[[int, int], None] | None) -> None:
        """Make the folder what the journal says."""
        self.folder.class_names = tuple(self.class_names)
        for one in self.known.values():
            if one.labels.is_in_folder and one.size is not None and one.place is not None:
                self.folder.members[one.photo.name] = self._member(one, one.labels)
            elif one.place is not None:
                self._forget_files(one)
        for line in self._orphans.values():
            if line.get("place") and line.get("size") and line["state"] in ("done", "empty"):
                height, width = line["size"]
                objects = tuple(from_json(row) for row in line["objects"])
                self.folder.members[line["image"]] = Member(
                    line["place"], line["split"], (height, width), objects
                )
        sources = {one.photo.name: one.photo.path for one in self.known.values()}
        self.folder.restore(sources, progress)

    def _forget_files(self, one: Known) -> None:
        """Remove an image's files that a kill left where it was just taken out."""
        if one.size is not None:
            self.folder.members[one.photo.name] = self._member(one, one.labels)
            self.folder.remove(one.photo.name)

    def _member(self, one: Known, labels: Labels) -> Member:
        assert one.place is not None and one.size is not None
        return Member(one.place, one.photo.split, one.size, labels.objects)

    # Asking

    @property
    def num_labelled(self) -> int:
        """How many images are labelled or marked as empty."""
        return sum(one.labels.is_in_folder for one in self.known.values())

    def has(self, number: int) -> bool:
        """Return whether there is an image of this number."""
        return number in self.known

    def rows(self) -> list[list[Any]]:
        """Return a row of the page's list for each image."""
        with self.lock:
            return [
                [
                    number,
                    one.photo.name,
                    one.size[1] if one.size else None,
                    one.size[0] if one.size else None,
                    one.labels.state,
                    sum(not thing.region for thing in one.labels.objects),
                    len(one.findings) + bool(one.problem),
                ]
                for number, one in self.known.items()
            ]

    def record(self, number: int) -> dict[str, Any]:
        """Return what the page is told of one image; its file is looked at if it was not yet."""
        one = self.known[number]
        if one.size is None and not one.problem:
            self._measure(one)
        with self.lock:
            size = one.size
            return {
                "number": number,
                "name": one.photo.name,
                "split": one.photo.split,
                "width": size[1] if size else None,
                "height": size[0] if size else None,
                "revision": one.labels.revision,
                "state": one.labels.state,
                "objects": [to_json(thing) for thing in one.labels.objects if not thing.region],
                "findings": one.told(),
            }

    def _measure(self, one: Known) -> None:
        """Look at an image's file: its size, or why it cannot be read."""
        file, _ = read_image_file(one.photo.path, header=True)
        with self.lock:
            if one.size is None or file.problem:
                one.size, one.problem = file.size, file.problem
                one.findings = one.judged(one.labels, self.folder.form)
                self.changes += 1

    def _look(self) -> None:
        """Look at all images, and let `check` look at the data set: in a thread."""
        for one in list(self.known.values()):
            if self._ending:
                return
            if one.size is None and not one.problem:
                self._measure(one)
                time.sleep(0)
        for one in self.known.values():
            with self.lock:
                one.findings = one.judged(one.labels, self.folder.form)
        if self.photos.dataset is not None:
            try:
                found = list(source_findings(self.photos.dataset, self._by_name))
            except DetkitError as error:
                logger.warning("%s", error)
                found = []
            with self.lock:
                for one, finding in found:
                    one.findings += (finding,)
        self.note_change()

    # Changing

    def put(self, number: int, body: Mapping[str, Any]) -> int:
        """Return the new revision of an image whose labels are as `body` says, once on disk.

        Raises Refused: 400 for labels that make no sense, 409 where they are based on an older
        revision, 423 where another page holds the folder, 507 where the disk is full.
        """
        one = self.known[number]
        if one.size is None and not one.problem:
            self._measure(one)
        with self.lock:
            self._require_editor(body.get("editor"))
            revision = body.get("revision")
            if isinstance(revision, bool) or not isinstance(revision, int):
                raise Refused(400, "revision: expected a whole number")
            if revision != one.labels.revision:
                raise Refused(
                    409, "the image was changed elsewhere meanwhile", now=self.record(number)
                )
            try:
                labels = labels_of(body, set(self.class_names), one.size, one.labels)
            except BadLabels as error:
                raise Refused(400, str(error)) from error
            self._write(one, labels)
            self.changes += 1
            is_new = labels.is_in_folder and not one.labels.is_in_folder
            one.labels = labels
            one.findings = one.judged(labels, self.folder.form)
            if is_new:
                self.on_labelled(self.num_labelled)
            return labels.revision

    def add_class(self, editor: object, name: object) -> list[str]:
        """Return the classes with a new one, on disk. Raises Refused as `put` does."""
        with self.lock:
            self._require_editor(editor)
            if not isinstance(name, str):
                raise Refused(400, "name: expected a text")
            name = name.strip()
            if why := bad_class_name(name, self.class_names):
                raise Refused(400, why)
            if refusal := self.folder.form.refusal([*self.class_names, name]):
                raise Refused(400, refusal)
            self._append({"classes": [*self.class_names, name]})
            self._know_classes([name])
            return list(self.class_names)

    def offer_classes(self, names: Sequence[str]) -> None:
        """Add a model's classes to the list, those that it lacks; on disk with the next change."""
        with self.lock:
            new = [name for name in names if not bad_class_name(name, self.class_names)]
            if new:
                with suppress(Refused):
                    self._append({"classes": [*self.class_names, *new]})
                    self._know_classes(new)

    def _know_classes(self, new: Sequence[str]) -> None:
        self.class_names += new
        self.folder.class_names = tuple(self.class_names)
        self.changes += 1
        self._dirty.set()

    def note_change(self) -> None:
        """Count a change of something else: a training's end, a model that is ready."""
        with self.lock:
            self.changes += 1

    def _require_editor(self, editor: object) -> None:
        """Raise Refused unless this page may write."""
        if not isinstance(editor, str) or not 0 < len(editor) <= 64:
            raise Refused(400, "editor: expected the page's name, which POST editor gives")
        if not self.editors.may_write(editor):
            raise Refused(423, "another page labels this folder; take it over to go on here")

    def _write(self, one: Known, labels: Labels) -> None:
        """Put an image's new labels into the journal and the folder; raise Refused, 507 or 500."""
        name = one.photo.name
        prepared = None
        try:
            if labels.is_in_folder:
                if one.place is None:
                    one.place = self.folder.place_for(name, one.photo.split)
                prepared = self.folder.prepare(name, self._member(one, labels), one.photo.path)
            self._append(line_of(replace(one, labels=labels)))
        except DetkitError as error:
            raise Refused(_status_of(error), str(error)) from error
        except Refused:
            if prepared is not None:
                prepared.discard()
            raise
        try:
            if prepared is not None:
                prepared.commit()
            else:
                self.folder.remove(name)
        except (DetkitError, OSError) as error:  # the journal has it: the next start makes it
            self.trouble = str(error)
        self._dirty.set()

    def _append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the journal; Refused, 507 where the disk is full."""
        try:
            self._journal.append(line)
        except OSError as error:
            message = not_written(self._journal.path, error)
            if is_full(error):
                message = "the disk is full: this change is not saved; free some space"
            raise Refused(507 if is_full(error) else 500, message) from error

    # The files of the set

    def flush(self) -> None:
        """Write the files that tell of all images now. Raises DetkitError where they cannot be."""
        with self.lock:
            self.folder.write_set()

    def _write_sets(self) -> None:
        """Write the files of the set soon after changes, and seldom where they take long."""
        pause = SOON
        while not self._ending:
            self._dirty.wait()
            self._dirty.clear()
            until = time.monotonic() + pause
            while not self._ending and time.monotonic() < until:
                time.sleep(0.05)
            began = time.monotonic()
            try:
                self.flush()
                self.trouble = ""
            except DetkitError as error:
                if not self.trouble:
                    logger.warning("%s", error)
                self.trouble = str(error)
                if not self._ending:
                    self._dirty.set()  # tried again
            pause = max(SOON, 5 * (time.monotonic() - began))


def _status_of(error: DetkitError) -> int:
    """Return the HTTP status of a file that could not be written."""
    cause = error.__cause__
    return 507 if isinstance(cause, OSError) and is_full(cause) else 500
