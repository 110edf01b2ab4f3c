"""JSON files of labels: looked at for the keys they hold, and read whole, with limits.

JSON has no line numbers here; findings name what they are about by its place in the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from detkit.data.records import Finding
from detkit.data.tree import Tree

MAX_JSON_BYTES = 2 << 30  # ours: COCO's own largest file is 0.45 GB
_WHOLE_BYTES = 64 << 20  # ours: up to here all keys of a file are looked for, ...
_START_BYTES = 1 << 20  # ... of a larger one those at its start
MOST = 1e300  # ours: what a number of a label file is less than
_KEY = re.compile(rb'"([^"\\\r\n]{1,48})"\s*:')


def json_keys(tree: Tree, file: str) -> Collection[str]:
    """Return the keys that a JSON file holds at any depth, found without parsing it.

    Of a file beyond 64 MiB those in its first MiB; of one that cannot be opened none. They are
    found once a file, whichever formats ask.
    """
    known = tree.json_keys.get(file)
    if known is None:
        try:
            most = None if tree.size(file) <= _WHOLE_BYTES else _START_BYTES
            with tree.path(file).open("rb") as opened:
                found = set(_KEY.findall(opened.read(most)))
        except OSError:
            found = set()
        known = frozenset(one.decode("utf-8", "replace") for one in found)
        tree.json_keys[file] = known
    return known


def json_files(tree: Tree) -> Iterator[tuple[str, Collection[str]]]:
    """Yield the JSON files of a folder with the keys that each holds."""
    for file in tree.with_suffix(".json"):
        yield file, json_keys(tree, file)


def load_json(
    tree: Tree,
    file: str,
    findings: list[Finding],
    *,
    most: int = MAX_JSON_BYTES,
    hook: Callable[[dict[str, Any]], Any] | None = None,
) -> tuple[Any, bool]:
    """Return a JSON file's content and True; None and False with a finding that says why not.

    `most` is how many bytes it may have. `hook` gives what stands for an object of the file.
    """
    path = tree.path(file)
    code, line = "bad-json", None
    try:
        if tree.size(file) > most:
            code, message = "too-large", f"larger than {most >> 20} MiB; not read"
        else:
            return json.loads(path.read_bytes().decode("utf-8-sig"), object_hook=hook), True
    except json.JSONDecodeError as error:
        message, line = f"not JSON ({error.msg}); mend or remove the file", error.lineno
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text ({error.reason} at byte {error.start})"
    except RecursionError:
        message = "nested too deeply for a label file; not read"
    except (OSError, ValueError) as error:  # ValueError: a number of thousands of digits
        message = f"cannot be read ({error})"
    findings.append(Finding("error", code, message, file=path, line=line))
    return None, False


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number of sense: no flag, no text."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and bool(abs(value) < MOST)
    )


def numbers(*values: Any) -> tuple[float, ...] | None:
    """Return finite numbers, of numbers or of texts that spell them; None where one is none."""
    found = []
    for value in values:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return None
        if not is_number(value) or not math.isfinite(value):
            return None
        found.append(float(value))
    return tuple(found)


def whole(value: Any) -> int | None:
    """Return a stated size as whole pixels, or None when it is no number of any image."""
    return round(value) if is_number(value) else None


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def json_text(value: Any) -> str:
    """Return a JSON value as a file holds it: readable, letters as they are."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
