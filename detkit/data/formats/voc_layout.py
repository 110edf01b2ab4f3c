"""A Pascal VOC annotation in the layout that tools write, read by a pattern instead of a parser.

The pattern takes elements without attributes that hold text or other elements, three deep below
the outermost one, in any order; of the XML besides only the declaration of UTF-8. Whatever it
takes is well-formed, and says to a parser what it says here (`voc_xml` has that parser, and the
tests hold the two against each other). It leaves everything else to the parser: entities, comments,
CDATA, document types, attributes, other encodings, control characters, what is given twice, numbers
that are not plain. It takes a third of the time of a parser in C with a walk through its tree.

No two ways of matching are open at any place, so that what does not match is given up in a time
that grows with its length, however hostile it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from detkit.data.formats.format import made_by
from detkit.data.records import ObjectRecord, object_record

MOST_BYTES = 1 << 20  # ours: 3,000 objects; a larger file is left to the parser

_SPACE = r"[ \t\n]*"
# Characters of XML 1.0, without those that mean something and those that few files hold.
_TEXT = r"[^<>&\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]*"
_TAG = r"[A-Za-z_][\w.-]*"
_NUMBER = r"(-?[0-9]{1,15}(?:\.[0-9]{1,15})?)"  # finite, whatever its digits


def _element(group: int, depth: int, names: str = "") -> str:
    """Return the pattern of an element but for some names, whose tags are groups from `group` on.

    It holds text or, `depth` times, at least one other element.
    """
    inside = _TEXT
    if depth:
        inside = rf"(?:{_TEXT}|{_SPACE}(?:{_element(group + 1, depth - 1)})+)"
    other = rf"(?!(?:{names})[/>])" if names else ""
    return rf"<{other}({_TAG})(?:/>|>{inside}</\{group}>){_SPACE}"


def _side(name: str, group: int) -> str:
    return rf"<{name}>(?({group})(?!)){_NUMBER}</{name}>{_SPACE}"


_START = re.compile(
    r"""(?:<\?xml[ ]version=(?:"1\.0"|'1\.0')(?:[ ]encoding=(?:"utf-8"|'utf-8'))?"""
    r"""(?:[ ]standalone=(?:"(?:yes|no)"|'(?:yes|no)'))?[ ]?\?>)?"""
    r"""[ \t\n]*<annotation(?:[ ]verified="\w*")?>[ \t\n]*""",
    re.ASCII,
)
# `(?(n)(?!))` fails where group n has matched already: what is given twice is not taken.
_OBJECT = re.compile(
    rf"<object>{_SPACE}(?:"
    rf"<name>(?(1)(?!))({_TEXT})</name>{_SPACE}"
    rf"|<difficult>(?(2)(?!))([01])</difficult>{_SPACE}"
    rf"|<bndbox>(?(3)(?!)){_SPACE}"
    rf"(?:{_side('xmin', 3)}|{_side('ymin', 4)}|{_side('xmax', 5)}|{_side('ymax', 6)}){{4}}"
    rf"</bndbox>{_SPACE}"
    rf"|<machine_made>(?(7)(?!))({_TEXT})</machine_made>{_SPACE}"
    rf"|<score>(?(8)(?!))({_TEXT})</score>{_SPACE}"
    rf"|{_element(9, 2, 'name|difficult|bndbox|machine_made|score')}"
    rf")*</object>{_SPACE}",
    re.ASCII,
)
_OTHERS = re.compile(
    rf"(?:<filename>(?(1)(?!))({_TEXT})</filename>{_SPACE}"
    rf"|<size>(?(5)(?!)){_SPACE}(?:"
    rf"<width>(?(2)(?!))([0-9]{{1,9}})</width>{_SPACE}"
    rf"|<height>(?(3)(?!))([0-9]{{1,9}})</height>{_SPACE}"
    rf"|{_element(4, 0, 'width|height')})*</(size)>{_SPACE}"
    rf"|{_element(6, 2, 'filename|size|object')})*",
    re.ASCII,
)
_END = re.compile(rf"</annotation>{_SPACE}", re.ASCII)


def usual_annotation(
    data: bytes, file: Path
) -> tuple[str, int | None, int | None, list[ObjectRecord]] | None:
    """Return (filename, width, height, objects) of bytes in the usual layout; None of all others.

    Width and height are pixels, None where they are not stated.
    """
    if len(data) > MOST_BYTES:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\r" in text:
        text = text.replace("\r\n", "\n")  # as a parser does; one that is left is not taken
    start = _START.match(text)
    if start is None:
        return None
    filename: str | None = None
    sides: tuple[str | None, str | None] | None = None
    objects: list[ObjectRecord] = []
    position, line, counted = start.end(), 1, 0
    while True:
        others = _OTHERS.match(text, position)
        if others is not None and others.end() > position:
            name, wide, high, _, has_size = others.groups()[:5]
            if filename is None and name is not None:
                filename = name.strip()
            if has_size:
                if sides is not None:
                    return None
                sides = wide, high
            position = others.end()
        if not text.startswith("<object>", position):
            break
        while text.startswith("<object>", position):
            line += text.count("\n", counted, position)
            counted = position
            found = _OBJECT.match(text, position)
            if found is None:
                return None
            record = _record(found, file, line, len(objects) + 1)
            if record is None:
                return None
            objects.append(record)
            position = found.end()
    if _END.fullmatch(text, position) is None:
        return None
    width, height = (None if side is None else int(side) for side in sides or (None, None))
    return filename or "", width, height, objects


def _record(found: re.Match[str], file: Path, line: int, place: int) -> ObjectRecord | None:
    """Return the object of a match, at a line and place in its file; None where it lacks a part."""
    name, difficult, xmin, ymin, xmax, ymax, mark, score = found.groups()[:8]
    if name is None or xmin is None or ymin is None or xmax is None or ymax is None:
        return None
    name = name.strip()
    if not name:
        return None
    box = (float(xmin) - 1.0, float(ymin) - 1.0, float(xmax), float(ymax))
    stated = f"xmin={xmin} ymin={ymin} xmax={xmax} ymax={ymax}"
    if mark is None and score is None:
        return object_record(name, box, difficult == "1", file, line, place, stated)
    made = made_by(mark and mark.strip(), score and score.strip())
    return object_record(
        name, box, difficult == "1", file, line, place, stated, False, None, False, *made
    )
