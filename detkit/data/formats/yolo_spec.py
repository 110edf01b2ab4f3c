"""What a YOLO data set says of itself: data.yaml, darknet's obj.data, or a list of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detkit.data.formats.format import flag
from detkit.data.formats.yolo_rows import parse_row
from detkit.data.paths import folder_of, name_of, split_name, stem_of, suffix_of
from detkit.data.records import Finding
from detkit.data.tree import Tree
from detkit.text import short

MAX_SPEC_BYTES = 1 << 20  # ours: names and paths; more is something else
MACHINE_MADE = "machine_made"  # a key of detkit's own, which other tools pass over
MAX_DIGITS = 9  # ours: of a class's index; Python refuses thousands

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels", "classes.names")


@dataclass(slots=True)
class Spec:
    """The names of the classes and where each split's images are said to be."""

    file: str | None = None
    names: dict[int, str] | None = None  # by index; None: nothing names them
    parts: dict[str, list[str]] = field(default_factory=dict)  # folders or lists, by split
    keypoints: bool = False  # rows hold key points after the box
    machine_made: bool = False  # all objects are a detector's
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_spec(tree: Tree, only: str | None = None) -> Spec:
    """Return what the folder's description says; an empty one where there is none.

    `only` names the one file to read. The description nearest to the root counts, one
    called data.yaml first.
    """
    files = [only] if only else _candidates(tree)
    spec = Spec()
    for file in files:
        read = _read_data_file if suffix_of(file) == ".data" else _read_yaml
        found = read(tree, file)
        if found.file is not None:
            spec = found
            break
        spec.findings += found.findings
    _read_names(tree, spec)
    return spec


def spec_files(tree: Tree) -> list[str]:
    """Return the files of a folder that describe a YOLO data set."""
    readers = {".data": _read_data_file}
    return [
        file
        for file in _candidates(tree)
        if readers.get(suffix_of(file), _read_yaml)(tree, file).file is not None
    ]


def _candidates(tree: Tree) -> list[str]:
    """Return the files that may describe a data set, the likeliest first."""
    files = tree.with_suffix(".yaml", ".yml", ".data")

    def rank(file: str) -> tuple[int, bool, bool, str]:
        known = stem_of(file).lower() in ("data", "dataset", "obj")
        return file.count("/"), suffix_of(file) == ".data", not known, file

    return sorted(files, key=rank)


def _read_yaml(tree: Tree, file: str) -> Spec:
    """Return what a data.yaml says, or an empty spec when it describes no data set."""
    import yaml

    spec = Spec()
    where = tree.path(file)

    def refuse(message: str, line: int | None = None) -> None:
        spec.findings.append(Finding("error", "bad-yaml", message, file=where, line=line))

    if tree.size(file) > MAX_SPEC_BYTES:
        return spec
    try:
        # The base loader makes texts of all scalars: a class called `no` stays one, and
        # nothing in the file can name a type to build.
        content = yaml.load(where.read_bytes(), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        if tree.path(file).name.lower() in ("data.yaml", "data.yml", "dataset.yaml"):
            mark = getattr(error, "problem_mark", None)
            reason = getattr(error, "problem", None) or type(error).__name__
            refuse(f"not YAML ({reason}); mend it", None if mark is None else mark.line + 1)
        return spec
    if not isinstance(content, dict) or not {"names", "nc", "train", "val"} & set(content):
        return spec
    if "names" not in content and "train" not in content:
        return spec
    spec.file = file
    spec.names = _names(content.get("names"), refuse)
    spec.keypoints = "kpt_shape" in content
    spec.machine_made = bool(flag(content.get(MACHINE_MADE)))
    count = content.get("nc")
    if isinstance(count, str) and spec.names is not None and count.strip() != str(len(spec.names)):
        message = f"nc is {count}, but names holds {len(spec.names)}; names counts"
        spec.findings.append(Finding("warning", "class-count", message, file=where))
    base = content.get("path")
    for key, value in content.items():
        split = split_name(str(key))
        if split is None or value in ("", None, "null", "~"):
            continue
        entries = value if isinstance(value, list) else [value]
        entries = [entry for entry in entries if isinstance(entry, str) and entry.strip()]
        if isinstance(base, str) and base.strip(" ."):
            entries = [
                entry if _is_absolute(entry) else f"{base.rstrip('/')}/{entry}" for entry in entries
            ]
        spec.parts.setdefault(split, []).extend(entries)
    return spec


def _is_absolute(entry: str) -> bool:
    """Return whether a path is absolute on any system."""
    return entry.startswith(("/", "\\")) or entry[1:2] == ":"


def _names(value: Any, refuse: Any) -> dict[int, str] | None:
    """Return class names by index from a list, a map or a text of them."""
    if value is None or value in ("", "null", "~"):
        return None
    if isinstance(value, str):
        value = [part.strip().strip("'\"") for part in value.strip("[]").split(",")]
    pairs: Iterable[tuple[Any, Any]]
    pairs = enumerate(value) if isinstance(value, list) else value.items()
    names: dict[int, str] = {}
    taken: set[str] = set()
    for key, name in pairs:
        index = str(key).strip()
        if not (index.isdecimal() and len(index) <= MAX_DIGITS) or not _is_name(name):
            refuse(f"names: {short(key)}: {short(name)} is no class; write a list, or index: name")
        elif name.strip() in taken:
            refuse(f"names: {name.strip()} is given twice; rename one")
        else:
            names[int(index)] = name.strip()
            taken.add(name.strip())
    return names


def _is_name(value: Any) -> bool:
    """Return whether a YAML value can name a class."""
    return isinstance(value, str) and bool(value.strip())


def _read_data_file(tree: Tree, file: str) -> Spec:
    """Return what a darknet `.data` file ("names = data/obj.names") says."""
    spec = Spec()
    if tree.size(file) > MAX_SPEC_BYTES:
        return spec
    text = tree.text(file)
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            values[key.strip().lower()] = value.strip()
    if "names" not in values or not {"train", "valid", "val", "test"} & set(values):
        return spec
    spec.file = file
    listed = tree.find(values["names"], file)
    if listed is None:
        message = f"names = {values['names']}: no such file in the data folder"
        spec.findings.append(Finding("error", "missing-file", message, file=tree.path(file)))
    else:
        spec.names = _lines(tree, listed)
    for key, value in values.items():
        if (split := split_name(key)) and value:
            spec.parts.setdefault(split, []).append(value)
    return spec


def _read_names(tree: Tree, spec: Spec) -> None:
    """Take the class names from files of names, one a line, where the spec has none.

    Labelling tools write such a file into each folder of labels, so that two may disagree:
    what one calls 0 the other calls 1, and the labels of one of the folders would be wrong.
    """
    files = [
        file
        for file in tree.with_suffix(".txt", ".labels", ".names")
        if (name := name_of(file).lower()) in _NAME_FILES or name.endswith(".names")
    ]
    used = None if spec.names is None else spec.file
    for file in sorted(files, key=lambda one: (one.count("/"), one)):
        if tree.size(file) > MAX_SPEC_BYTES or not (names := _lines(tree, file)):
            continue
        if any(parse_row(name.split(), keypoints=False) for name in names.values()):
            continue  # the labels of an image called "classes"
        if used is None or spec.names is None:
            used, spec.names = file, names
            spec.notes.append(f"class names from {file}")
        elif name_of(file).lower() in ("classes.txt", name_of(used).lower()):
            _compare_names(tree, spec, used, file, names)


def _compare_names(tree: Tree, spec: Spec, used: str, file: str, names: dict[int, str]) -> None:
    """Add the names that only the second file has, or the finding that the two disagree."""
    known = spec.names or {}
    clash = [index for index, name in names.items() if known.get(index, name) != name]
    if not clash:
        spec.names = known if used == spec.file else known | names
        return
    first = clash[0]
    message = (
        f"class {first} is {names[first]} here and {known[first]} in {used}, which is used for "
        "all labels; number the classes alike"
    )
    beside = [text for text in tree.with_suffix(".txt") if folder_of(text) == folder_of(file)]
    severity = "error" if used != spec.file and set(beside) - {file} else "warning"
    spec.findings.append(Finding(severity, "names-differ", message, tree.path(file), first + 1))


def _lines(tree: Tree, file: str) -> dict[int, str]:
    """Return the lines of a file of names by their index; empty lines at the end do not count."""
    text = tree.text(file)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    return {index: name for index, name in enumerate(lines) if name}


def is_name_file(file: str) -> bool:
    """Return whether a .txt file is by its name a list of class names or of words, not of boxes."""
    name = name_of(file).lower()
    return name in _NAME_FILES or name.partition(".")[0] in ("readme", "license", "licence")


def spec_text(
    folders: Mapping[str, str], class_names: Sequence[str], *, machine_made: bool = False
) -> str:
    """Return YOLO's data.yaml: the folder of each split's images, and the class names by index.

    `machine_made` marks all objects as a detector's: the rows of YOLO have no place for that.
    """
    import yaml

    content = {
        "path": ".",
        **folders,
        "nc": len(class_names),
        "names": dict(enumerate(class_names)),
    }
    text: str = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000)
    if machine_made:
        text += "# By a detector; remove the next line when a person has corrected all.\n"
        text += f"{MACHINE_MADE}: true\n"
    return text
