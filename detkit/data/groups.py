"""Images that belong together: of one recording, one burst, one source, or copies of each other.

A detector that is judged on frames of a recording it was trained on knows them already. So what
belongs together goes into one split, and one draw of the bootstrap. `find_groups` finds it out,
or takes it from an expression or a file of the user's.
"""

from __future__ import annotations

import csv
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import numpy as np

from detkit.data.image_files import ImageFiles, open_images
from detkit.data.looks import NUM_BITS, Looks
from detkit.data.near_duplicates import find_copies, num_differing
from detkit.data.paths import fold, split_name, stem_of
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError, UsageError
from detkit.text import counted, cut

logger = logging.getLogger(__name__)

SAME_BYTES = "files of the same bytes"  # the rule that holds always
BURST_SECONDS = 10.0  # ours: pictures one camera took no further apart are of one burst
MOST_LOOKED_AT = 20_000  # images; to look at more takes more than a minute: names alone then
# Ours: consecutive numbers of one recording differ in at most this part of the bits in which
# images of different ones do. Asked for only where a name alone does not tell of a recording.
ALIKE_RATIO = 0.75
FEWEST_FRAMES = 8  # ours: images of one name for all, of which fewer tell nothing of a recording
# Folders that say nothing of what is in them; and words, or any digit, that a recording's has.
_CONTAINERS = frozenset(
    ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "data", "dataset", "obj")
)
_RECORDING = re.compile(
    r"\d|rec|clip|vid|cam|seq|scene|drive|session|track|flight|trip|mov|film|gopr|dji",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:voc)?(?:19|20)\d\d", re.IGNORECASE)
_FRAME = re.compile(r"(.*?)(?:[-_. ]*(?:frame|frm|img|image|f))?[-_. ]*(\d+)", re.IGNORECASE)
# Roboflow's exports: one picture, several times augmented, as NAME_jpg.rf.HASH.jpg.
_EXPORTED = re.compile(r"[_.](?:jpe?g|png|bmp|webp)\.rf\.[0-9a-f]{8,}$", re.IGNORECASE)


@dataclass(frozen=True)
class Groups:
    """Which images belong together."""

    number_of: Mapping[Path, int]  # of each image's group, from 0 on
    rules: tuple[str, ...]  # what they were told by, in words; () when each image is alone

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return len(set(self.number_of.values()))

    def in_words(self) -> str:
        """Return `200 images are 12 groups (stems before a number: 12)`."""
        images = counted(len(self.number_of), "image")
        if self.num_groups == len(self.number_of):
            return f"{images}, none of which belong together"
        return f"{images} in {counted(self.num_groups, 'group')} ({'; '.join(self.rules)})"


class _Union:
    """Images joined into groups, by their places."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, place: int) -> int:
        """Return the place that stands for an image's group."""
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place

    def join(self, places: Sequence[int]) -> None:
        """Put these images into one group."""
        for place in places[1:]:
            first, second = sorted((self.root(places[0]), self.root(place)))
            self._parent[second] = first


def find_groups(
    records: Sequence[ImageRecord],
    rule: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    needed: Collection[Path] | None = None,
    files: ImageFiles | None = None,
) -> Groups:
    """Return which images belong together.

    `rule` is "auto"; "none": only files of the same bytes; an expression, of which the first
    group, else all that it matches of an image's path, names the group; or the path of a `.csv`
    file of image and group. "auto" joins images of a folder below the splits', of a stem before a
    number (rec3_000123), of a burst by EXIF times, and copies of each other; where only a name
    that need not be of a recording (`apple_12`, `2008_000003`) tells, consecutive ones must also
    look more alike than others. `progress` hears (images looked at, in all). Where images are
    `needed`, a file may lack the others: each of those is one of its own, and it is said. `files`
    are the images where they are open already; "auto" opens them itself.
    Raises UsageError for a rule that is none of these or matches no image; DetkitError for a file
    that cannot be read or lacks an image.
    """
    paths = [record.path for record in records]
    together = _Union(len(records))
    place_of = {path: place for place, path in enumerate(paths)}
    word = rule.strip().lower()
    is_auto = word == "auto"
    if files is None or is_auto:
        looked_at = paths if is_auto and len(paths) <= MOST_LOOKED_AT else ()
        dated = paths if is_auto else ()
        files = open_images(paths, dated=dated, looked_at=looked_at, progress=progress)
    same = files.identical(paths)
    for group in same:
        together.join([place_of[path] for path in group])
    rules = [f"{SAME_BYTES}: {len(same)}"] if same else []
    if is_auto:
        rules += _by_names_and_times(records, together, files)
        copies = find_copies(files.looks_of(paths)) if files.looked_at else []
        for copy in copies:
            together.join([copy.image, copy.other])
        if copies:
            rules.append(f"near copies: {len({copy.image for copy in copies})}")
    elif word != "none":
        is_file = word.endswith(".csv")
        keys = _from_file(records, Path(rule), needed) if is_file else _match(records, rule)
        _join(together, keys)
        rules.append(cut(rule))
    return _groups(paths, together, rules)


def recordings(records: Sequence[ImageRecord], files: ImageFiles) -> Groups:
    """Return the groups that names, folders and times tell, copies apart: see `find_groups`.

    `files` are those of the records, dated; where none was looked at, names and times alone tell.
    """
    together = _Union(len(records))
    rules = _by_names_and_times(records, together, files)
    return _groups([record.path for record in records], together, rules)


def _groups(paths: Sequence[Path], together: _Union, rules: Sequence[str]) -> Groups:
    """Return the groups, numbered in the order of their first images."""
    roots = [together.root(place) for place in range(len(paths))]
    numbers = {root: number for number, root in enumerate(dict.fromkeys(roots))}
    return Groups({path: numbers[root] for path, root in zip(paths, roots)}, tuple(rules))


def _by_names_and_times(
    records: Sequence[ImageRecord], together: _Union, files: ImageFiles
) -> list[str]:
    """Join images by folder, stem, export and burst; return the rules that told."""
    rules = []
    looks = files.looks_of(record.path for record in records) if files.looked_at else None
    classes = {fold(one.name) for record in records for one in record.counted}
    for name, key_of in (("folders", _folder), ("stems before a number", _stem)):
        keys = [key_of(record.image_id) for record in records]
        if _tells(keys, records, classes, looks):
            _join(together, keys)
            rules.append(f"{name}: {len(set(filter(None, keys)))}")
    sources = [_source(record.image_id) for record in records]
    if num := sum(count > 1 for count in Counter(filter(None, sources)).values()):
        _join(together, sources)
        rules.append(f"pictures exported several times: {num}")
    bursts = [burst for burst in _bursts([one.path for one in records], files) if len(burst) > 1]
    for burst in bursts:
        together.join(burst)
    return [*rules, f"bursts by EXIF times: {len(bursts)}"] if bursts else rules


def _join(together: _Union, keys: Sequence[str | None]) -> None:
    """Join the images of each key; those of None stay as they are."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is not None:
            members[key].append(place)
    for places in members.values():
        together.join(places)


def _folder(image_id: str) -> str | None:
    """Return the folders of an image apart from splits' and the like, None when there are none."""
    parts = PurePosixPath(image_id).parts[:-1]
    own = [
        part
        for part in parts
        if fold(part) not in _CONTAINERS and split_name(part) is None and not _YEAR.fullmatch(part)
    ]
    return "/".join(own) or None


def _stem(image_id: str) -> str | None:
    """Return an image's folders and its stem before a frame's number, None when there is none."""
    match = _FRAME.fullmatch(_EXPORTED.sub("", stem_of(image_id)))
    if match is None:
        return None
    words = [word for word in re.split(r"[-_. ]+", match[1]) if word and split_name(word) is None]
    return "/".join([_folder(image_id) or "", "_".join(words)]) if words else None


def _source(image_id: str) -> str | None:
    """Return the picture that Roboflow exported as this image, None for others."""
    stem = stem_of(image_id)
    source = _EXPORTED.sub("", stem)
    return None if source == stem else source


def _tells(
    keys: Sequence[str | None],
    records: Sequence[ImageRecord],
    classes: set[str],
    looks: Looks | None,
) -> bool:
    """Return whether images of one key are of one recording, as far as one can tell.

    A key that is spelt like a recording's tells; any other, and those of years and classes, only
    when consecutive images of it look alike. So does one key for all, since a camera names all
    its pictures in one way.
    """
    counts = Counter(filter(None, keys))
    if not counts or max(counts.values()) < 2:
        return False
    if len(counts) == 1:
        enough = max(counts.values()) >= FEWEST_FRAMES
        return enough and looks is not None and _consecutive_alike(keys, records, looks)
    names = [key.rpartition("/")[2] or key for key in counts]
    spelt = [
        bool(_RECORDING.search(name))
        and not _YEAR.fullmatch(name)
        and not name.isdecimal()
        and not any(word in classes or word.rstrip("s") in classes for word in _words(name))
        for name in names
    ]
    return all(spelt) or (looks is not None and _consecutive_alike(keys, records, looks))


def _words(name: str) -> list[str]:
    """Return the words of a name without digits, folded."""
    return [word for word in re.split(r"[^a-z]+", fold(name)) if word]


def _consecutive_alike(
    keys: Sequence[str | None], records: Sequence[ImageRecord], looks: Looks
) -> bool:
    """Return whether neighbours by number in one group look more alike than images of two.

    Where there is but one, more than images of it that are far from each other.
    """
    order = sorted(
        (place for place, key in enumerate(keys) if key is not None and looks.shows[place]),
        key=lambda place: (str(keys[place]), _number(records[place].image_id)),
    )
    within, across = [], []
    shift = max(1, len(order) // 2)
    for index, place in enumerate(order[:-1]):
        following = order[index + 1]
        if keys[place] == keys[following]:
            within.append(_differing(looks, place, following))
        far = order[(index + shift) % len(order)]
        if keys[place] != keys[far] or keys[order[0]] == keys[order[-1]]:
            across.append(_differing(looks, place, far))
    if not within or not across:
        return False
    return float(np.median(within)) <= ALIKE_RATIO * float(np.median(across))


def _number(image_id: str) -> int:
    """Return the number at the end of an image's stem, 0 when there is none."""
    match = _FRAME.fullmatch(_EXPORTED.sub("", stem_of(image_id)))
    return int(match[2]) if match else 0


def _differing(looks: Looks, image: int, other: int) -> float:
    """Return in which part of their bits the hashes of two images differ."""
    return float(num_differing(looks.hashes[[image]], looks.hashes[[other]])[0, 0]) / NUM_BITS


def _bursts(paths: Sequence[Path], files: ImageFiles) -> list[list[int]]:
    """Return the images of each camera's bursts, by their places; those without a time not."""
    taken: defaultdict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for place, path in enumerate(paths):
        if (when := files[path].taken) is not None:
            taken[when.camera].append((when.time, place))
    bursts: list[list[int]] = []
    for of_camera in taken.values():
        before: datetime | None = None
        for time, place in sorted(of_camera):
            if before is None or (time - before).total_seconds() > BURST_SECONDS:
                bursts.append([])
            bursts[-1].append(place)
            before = time
    return bursts


def _match(records: Sequence[ImageRecord], pattern: str) -> list[str | None]:
    """Return what an expression matches of each image's path; raise UsageError where nothing."""
    if not pattern.strip():
        raise UsageError("--group: an empty rule; auto, none, a .csv file or an expression")
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--group {pattern}: neither auto, none, a .csv file nor an expression ({error})"
        ) from error
    matches = [expression.search(record.image_id) for record in records]
    if not any(matches):
        example = f", like {records[0].image_id}" if records else ""
        raise UsageError(f"--group {pattern}: matches no image's path{example}")
    return [
        None
        if match is None
        else next((one for one in match.groups() if one is not None), match[0])
        for match in matches
    ]


def _from_file(
    records: Sequence[ImageRecord], path: Path, needed: Collection[Path] | None = None
) -> list[str | None]:
    """Return each image's group from a file of `image,group` rows, with a header or without.

    Images are told by path from the data set's root, name, or stem. Raises DetkitError for a file
    that cannot be read, a row of another form, and images that no row names, if they are `needed`
    (None: all are).
    """
    group_of: dict[str, tuple[str, int]] = {}
    for number, row in _rows(path):
        if len(row) < 2 or not row[0] or not row[1]:
            raise DetkitError(f"{path}:{number}: expected image,group, found {','.join(row)!r}")
        image, group = row[0].removeprefix("./").replace("\\", "/"), row[1]
        before, line = group_of.setdefault(_composed(image), (group, number))
        if before != group:
            raise DetkitError(
                f"{path}:{number}: {image} is in {group}, and in {before} by line {line}; keep one"
            )
    images_of: defaultdict[str, list[str]] = defaultdict(list)
    keys: list[str | None] = []
    for record in records:
        name = next((one for one in _names(record.image_id) if one in group_of), None)
        keys.append(None if name is None else group_of[name][0])
        images_of[name or ""].append(record.image_id)
    images_of.pop("", None)
    without = [record for record, key in zip(records, keys) if key is None]
    missing = [one for one in without if needed is None or one.path in needed]
    if missing:
        what, first = counted(len(missing), "image"), missing[0].image_id
        raise DetkitError(f"{path}: no group for {what}, the first {first}; add a row")
    if without:
        logger.info(
            "%s: no group for %s that are not judged, the first %s: what else belongs to them is "
            "not known",
            path,
            counted(len(without), "image"),
            without[0].image_id,
        )
    for name, images in images_of.items():
        if len(images) > 1:
            raise DetkitError(
                f"{path}:{group_of[name][1]}: {name} may be {images[0]} or {images[1]}; write "
                "paths from the data set's folder"
            )
    return keys


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file of commas, semicolons or tabs with their lines, empty ones not.

    Raises DetkitError where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DetkitError(f"--group {path}: not text in UTF-8; save it so") from error
    except OSError as error:
        raise DetkitError(f"--group {path}: cannot be read: {error.strerror or error}") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    between = next((sign for sign in ",;\t" if sign in first), ",")
    reader = csv.reader(text.splitlines(keepends=True), delimiter=between)
    try:
        rows = [(reader.line_num, [word.strip() for word in row]) for row in reader]
    except csv.Error as error:
        raise DetkitError(f"{path}:{reader.line_num}: not CSV ({error})") from error
    return [(line, row) for line, row in rows if any(row)]


def _names(image_id: str) -> Iterable[str]:
    """Yield the names by which a row may mean an image."""
    own = _composed(image_id)
    return (own, PurePosixPath(own).name, stem_of(own))


def _composed(name: str) -> str:
    """Return a name with its accents as signs of their own joined: macOS writes them apart."""
    return unicodedata.normalize("NFC", name)
