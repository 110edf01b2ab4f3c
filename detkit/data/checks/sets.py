"""What can be wrong with a data set as a whole: its splits, class names, repeated images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from detkit.data.class_names import similar_names
from detkit.data.formats.reading import format_of
from detkit.data.image_files import ImageFile, ImageFiles
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord
from detkit.data.unused_content import UnusedContent
from detkit.text import agreed, counted


def _about(
    code: str, message: str, record: ImageRecord, split: str, others: Iterable[ImageRecord] = ()
) -> Finding:
    """Return a warning about one image of a split, and others that it has to do with."""
    return Finding(
        *("warning", code, message, record.path),
        image_id=record.image_id,
        split=split,
        others=tuple(other.image_id for other in others),
    )


def check_images(dataset: Dataset) -> Iterator[Finding]:
    """Yield the error that not one of several images is there: another folder was meant."""
    records = [record for members in dataset.splits.values() for record in members]
    if len(records) > 1 and not any(record.path.is_file() for record in records):
        message = (
            f"not one of the {len(records)} labelled images is here; name the folder that holds "
            "images and labels"
        )
        yield Finding("error", "all-missing", message)


def check_unlabelled(dataset: Dataset) -> Iterator[Finding]:
    """Yield one warning a split about images without a label file, where that says: no object."""
    if not format_of(dataset).unlabelled_is_empty:
        return
    for name, records in dataset.splits.items():
        bare = [one for one in records if one.label_file is None and one.path.is_file()]
        if bare:
            message = (
                f"{counted(len(bare), 'image')} without a label file, taken as without objects "
                "(the first); add empty files to say so"
            )
            first = bare[0]
            yield _about("missing-label", message, first, name)


def check_splits(dataset: Dataset) -> Iterator[Finding]:
    """Yield splits without objects, images listed in several splits or twice in one."""
    members = {name: {one.path for one in records} for name, records in dataset.splits.items()}
    for name, records in dataset.splits.items():
        if not any(record.counted for record in records):
            what = "holds no object" if records else "holds no image"
            yield Finding("warning", "empty-split", f'split "{name}" {what}', split=name)
        for path, count in Counter(record.path for record in records).items():
            if count > 1:
                record = next(one for one in records if one.path == path)
                message = f'listed {count} times in split "{name}"; list it once'
                yield _about("listed-twice", message, record, name)
    # "trainval" is train and val by design, so a split made up of two others leaks nothing.
    whole = {
        name
        for name, paths in members.items()
        if name == "trainval"
        or any(
            paths == members[first] | members[second]
            for first in members
            for second in members
            if len({name, first, second}) == 3 and members[first] and members[second]
        )
    }
    names = [name for name in members if name not in whole]
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            shared = members[first] & members[second]
            if shared:
                one = next(record for record in dataset.splits[first] if record.path in shared)
                message = (
                    f"{counted(len(shared), 'image')} {agreed(len(shared), 'is', 'are')} in "
                    f"{first} and in {second} (the first: "
                )
                message += f"{one.image_id}); a score on {second} would be too good"
                yield Finding(
                    "warning", "shared-image", message, split=second, others=(one.image_id,)
                )
    others = [name for name in names if name != "train"]
    train = _classes_in(dataset.splits.get("train", ())) if others else set()
    for name in others if train else ():
        if new := _classes_in(dataset.splits[name]) - train:
            listed = ", ".join(sorted(new))
            message = f"classes in {name} that train does not hold ({listed}); they have AP 0"
            yield Finding("warning", "unseen-class", message, split=name)


def _classes_in(records: Iterable[ImageRecord]) -> set[str]:
    """Return the classes of which images hold an object."""
    return {one.name for record in records for one in record.objects if not one.region}


def check_names(dataset: Dataset) -> Iterator[Finding]:
    """Yield pairs of class names that look like one name, and names that no object has."""
    records = [record for members in dataset.splits.values() for record in members]
    counts = Counter([one.name for record in records for one in record.objects if not one.region])
    pairs = similar_names([*dict.fromkeys([*dataset.class_names, *counts])])
    first: dict[str, tuple[ImageRecord, ObjectRecord]] = {}
    for record in reversed(records) if pairs else ():
        for one in reversed(record.objects):
            if not one.region:
                first[one.name] = record, one
    for name, other, how in pairs:
        common, rare = sorted((name, other), key=lambda word: -counts[word])
        noun = "object"
        message = (
            f'"{rare}" ({counted(counts[rare], noun)}) and '
            f'"{common}" ({counted(counts[common], noun)}) '
            f"differ only {how}; if they are one class, rename one"
        )
        where = first.get(rare)
        yield Finding(
            "warning",
            "similar-classes",
            message,
            file=where[1].file if where else None,
            line=where[1].line if where else None,
            class_name=rare,
            image_id=where[0].image_id if where else None,
        )
    unused = [name for name in dataset.class_names if not counts[name]]
    if unused and counts:
        message = f"no object has the class {', '.join(unused)}; nothing can be learnt of it"
        yield Finding("warning", "unused-class", message)


def check_unused_content(files: Mapping[Path, ImageFile]) -> Iterator[Finding]:
    """Yield what many images hold and reading them leaves out, a finding of each kind."""
    unused = UnusedContent()
    for path, file in files.items():
        if file.header is not None:
            unused.add_header(path, file.header)
    for code, message, first in unused.told():
        yield Finding("warning", code, message, file=first)


def check_duplicates(dataset: Dataset, files: ImageFiles) -> Iterator[Finding]:
    """Yield images with the same bytes, telling leaks between splits from mere repetition."""
    places: defaultdict[Path, list[tuple[str, ImageRecord]]] = defaultdict(list)
    for split, records in dataset.splits.items():
        if split != "trainval" or len(dataset.splits) == 1:
            for record in records:
                places[record.path].append((split, record))
    for group in files.identical(places):
        holders = [place for path in group for place in places[path][:1]]
        splits = list(dict.fromkeys(split for split, _ in holders))
        (_, first), *others = holders
        listed = ", ".join(record.image_id for _, record in others)
        if len(splits) > 1:
            code = "leaked-image"
            listed = ", ".join(f"{record.image_id} ({split})" for split, record in others)
            advice = "a score on one would be too good; keep it in one split"
        else:
            code, advice = "duplicate-image", "delete one of them"
        message = f"the same bytes as {listed}; {advice}"
        yield _about(code, message, first, holders[0][0], [record for _, record in others])
