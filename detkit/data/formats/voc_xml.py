"""One Pascal VOC annotation, read and written.

Boxes in these files are 1-based and inclusive: `<xmin>1</xmin><xmax>1</xmax>` is the first
column of pixels, (0, 1) here. Fractions are accepted. A missing `<difficult>` is 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.sax.saxutils import escape

from detkit.data.formats.format import flag, made_by, number
from detkit.data.formats.voc_layout import usual_annotation
from detkit.data.records import Finding, ObjectRecord, object_record

MAX_XML_BYTES = 16 << 20  # ours: a million objects; more is no annotation of one image

_TAG = re.compile(rb"[A-Za-z_][\w.:-]*")
_MACHINE_MADE = "machine_made"  # detkit's own, as VOC has no mark and no score
_TEXTS = frozenset(["name", "difficult", _MACHINE_MADE, "score"])
# What begins the files of all tools: in these encodings "<!" can be written in no other way.
_PLAIN_START = re.compile(
    rb"""(?:<\?xml\s+version=["']1\.0["'](?:\s+encoding=["'](?:utf-8|us-ascii)["'])?"""
    rb"""(?:\s+standalone=["'](?:yes|no)["'])?\s*\?>\s*)?<annotation[\s>]""",
    re.IGNORECASE,
)
_OBJECT = re.compile(rb"<object[\s/>]")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(slots=True)
class Annotation:
    """One XML file as it stands, sound objects only."""

    root: str = ""  # the outermost tag: "annotation"
    filename: str = ""
    width: int | None = None
    height: int | None = None
    objects: list[ObjectRecord] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    file: Path | None = None


@dataclass(slots=True)
class _Object:
    """The texts of one `<object>` while it is parsed."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)
    box: dict[str, str] | None = None
    num_boxes: int = 0


class _Target:
    """What the parser calls: gathers the few texts that matter, with their lines.

    Only elements at their proper depth count: the `<bndbox>` of a `<part>` is not that of
    its object.
    """

    def __init__(self) -> None:
        self.expat: Any = None
        self.root = ""
        self.texts: dict[str, str] = {}
        self.size: dict[str, str] = {}
        self.objects: list[_Object] = []
        self._above: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        above = self._above
        if not above:
            self.root = tag
        elif len(above) == 1 and tag == "object":
            self.objects.append(_Object(self.expat.CurrentLineNumber))
        elif len(above) == 2 and tag == "bndbox" and above[1] == "object":
            self.objects[-1].box = {}
            self.objects[-1].num_boxes += 1
        above.append(tag)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        above = self._above
        above.pop()
        depth = len(above)
        if depth == 1:
            self.texts.setdefault(tag, "".join(self._text).strip())
        elif depth == 2 and above[1] == "object":
            self.objects[-1].texts.setdefault(tag, "".join(self._text).strip())
        elif depth == 2 and above[1] == "size":
            self.size.setdefault(tag, "".join(self._text).strip())
        elif depth == 3 and above[1] == "object" and above[2] == "bndbox":
            box = self.objects[-1].box
            if box is not None:
                box.setdefault(tag, "".join(self._text).strip())
        self._text.clear()

    def close(self) -> None:
        """Do nothing: the parser asks for this."""


def parse(data: bytes, file: Path) -> Annotation:
    """Return what the bytes of an annotation say; what they get wrong is in its findings.

    Broken XML, and XML that declares entities or a foreign DTD, gives one error finding and
    no objects; an object without a name, a box or a number gives an error and is left out.
    """
    import defusedxml.ElementTree  # noqa: F401 - that it is missing is told of any file, odd or not

    if usual := usual_annotation(data, file):
        return Annotation("annotation", *usual)
    return _plain_annotation(data, file) or _careful_annotation(data, file)


def _plain_annotation(data: bytes, file: Path) -> Annotation | None:
    """Return the annotation of bytes in which nothing is odd; None of all others.

    Without "<!" there is no document type, and so there are no entities to expand, in the
    encodings that are looked at here: ElementTree's own parser then does, five times as fast.
    """
    start = _PLAIN_START.match(data)
    if start is None or len(data) > MAX_XML_BYTES or b"<!" in data or b"<?" in data[start.end() :]:
        return None
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        return None  # lines that end in "\r" alone
    try:
        root = fromstring(data)
    except (ParseError, ValueError, LookupError):
        return None
    if root.tag != "annotation":
        return None
    found = Annotation("annotation")
    names: list[str] = []
    size: dict[str, str] = {}
    objects = []
    for child in root:
        if child.tag == "object":
            objects.append(child)
        elif child.tag == "filename":
            if len(child):
                return None
            names.append((child.text or "").strip())
        elif child.tag == "size":
            for side in child:
                if len(side):
                    return None
                size.setdefault(side.tag, (side.text or "").strip())
    found.filename = names[0] if names else ""
    found.width, found.height = _pixels(size.get("width")), _pixels(size.get("height"))
    lines = _lines_of_objects(data)
    if len(lines) != len(objects):
        return None  # some lie deeper, or in an instruction
    for place, (one, line) in enumerate(zip(objects, lines), 1):
        record = _plain_object(one, file, line, place)
        if record is None:
            return None
        found.objects.append(record)
    return found


def _lines_of_objects(data: bytes) -> list[int]:
    """Return the line of each tag <object> in bytes, whatever its depth."""
    lines, line, position = [], 1, 0
    for match in _OBJECT.finditer(data):
        line += data.count(b"\n", position, match.start())
        position = match.start()
        lines.append(line)
    return lines


def _plain_object(element: Element, file: Path, line: int, place: int) -> ObjectRecord | None:
    """Return the object of an element in which nothing is odd; None of all others."""
    texts: dict[str, str] = {}
    box: dict[str, str] | None = None
    for child in element:
        if child.tag != "bndbox":
            if child.tag in _TEXTS:
                if len(child):
                    return None
                texts.setdefault(child.tag, (child.text or "").strip())
        elif box is None:
            box = {}
            for side in child:
                if len(side):
                    return None
                box.setdefault(side.tag, (side.text or "").strip())
        else:
            return None
    name = texts.get("name")
    mark = flag(texts.get("difficult"))
    if not name or box is None or mark is None:
        return None
    try:
        xmin, ymin, xmax, ymax = sides = [box[side] for side in _SIDES]
        x1, y1, x2, y2 = map(float, sides)
    except (KeyError, ValueError):
        return None
    if not math.isfinite(x1 + y1 + x2 + y2):
        return None
    stated = f"xmin={xmin} ymin={ymin} xmax={xmax} ymax={ymax}"
    corners = (x1 - 1.0, y1 - 1.0, x2, y2)
    if _MACHINE_MADE not in texts and "score" not in texts:
        return object_record(name, corners, mark, file, line, place, stated)
    made = made_by(texts.get(_MACHINE_MADE), texts.get("score"))
    return object_record(name, corners, mark, file, line, place, stated, False, None, False, *made)


def _careful_annotation(data: bytes, file: Path) -> Annotation:
    """Return what `parse` does, of any bytes."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    target = _Target()
    parser = DefusedXMLParser(target=target)
    target.expat = parser.parser
    code, message, line = "bad-xml", "", None
    try:
        if len(data) <= MAX_XML_BYTES:
            parser.feed(data)
            parser.close()
        else:
            code = "too-large"
            message = f"{len(data)} bytes are too many for one image's labels; not read"
    except ParseError as error:
        line = error.position[0]
        reason = str(error).partition(": line")[0]
        message = f"not well-formed XML ({reason}); mend or remove the file"
        if not data.strip():
            message = "the file is empty; an image without objects needs <annotation></annotation>"
    except DefusedXmlException:
        code = "unsafe-xml"
        message = "it declares entities or an external document; labels need neither: not read"
    except (ValueError, LookupError) as error:
        message = f"not readable as XML ({error}); save it as UTF-8"
    if not message:
        return _annotation(target, file)
    return Annotation(findings=[Finding("error", code, message, file=file, line=line)])


def _annotation(target: _Target, file: Path) -> Annotation:
    """Return the annotation made of the gathered texts."""
    found = Annotation(target.root, target.texts.get("filename", ""))
    found.width, found.height = (_pixels(target.size.get(name)) for name in ("width", "height"))
    for place, texts in enumerate(target.objects, 1):
        _add_object(found, texts, place, file)
    return found


def _add_object(found: Annotation, texts: _Object, place: int, file: Path) -> None:
    """Add one object, or the finding that says why it is none."""
    name = texts.texts.get("name", "")

    def finding(severity: str, code: str, message: str) -> None:
        found.findings.append(
            Finding(severity, code, message, file, texts.line, place, name or None)
        )

    if not name:
        finding("error", "no-class", "no <name>; name the object's class")
        return
    if texts.box is None:
        finding("error", "no-box", "no <bndbox>; draw the box or remove the object")
        return
    if texts.num_boxes > 1:
        message = f"{texts.num_boxes} <bndbox> in one object; make each an object of its own"
        finding("error", "two-boxes", message)
        return
    missing = [side for side in _SIDES if not texts.box.get(side)]
    if missing:
        finding("error", "no-box", f"<bndbox> without {', '.join(missing)}; draw the box again")
        return
    stated = " ".join(f"{side}={texts.box[side]}" for side in _SIDES)
    values = [_finite(texts.box[side]) for side in _SIDES]
    if None in values:
        finding("error", "bad-number", f"not a number ({stated}); write plain numbers")
        return
    xmin, ymin, xmax, ymax = (value for value in values if value is not None)
    difficult = texts.texts.get("difficult") or "0"
    mark = flag(difficult)
    if mark is None:
        finding("warning", "bad-number", f"<difficult>{difficult}</difficult> is read as 0")
    box = (xmin - 1.0, ymin - 1.0, xmax, ymax)
    made, score = made_by(texts.texts.get(_MACHINE_MADE), texts.texts.get("score"))
    found.objects.append(
        ObjectRecord(
            *(name, box, bool(mark), file, texts.line, place, stated),
            machine_made=made,
            score=score,
        )
    )


def root_tag(start: bytes) -> str:
    """Return the outermost tag of an XML file, of its first bytes; "" where none is in them."""
    rest = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    while rest.startswith((b"<?", b"<!")):
        end = b"?>" if rest[1:2] == b"?" else b">"
        if rest.startswith(b"<!--"):
            end = b"-->"
        elif b"[" in rest.partition(b">")[0]:  # a document type with declarations
            end = b"]>" if b"]>" in rest else b"]"
        rest = rest.partition(end)[2].lstrip().removeprefix(b">").lstrip()
    found = _TAG.match(rest, 1) if rest.startswith(b"<") else None
    return found[0].decode("ascii") if found else ""


def _finite(text: str) -> float | None:
    """Return the finite number that a text spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _pixels(text: str | None) -> int | None:
    """Return the whole number of pixels that a text spells, or None."""
    value = _finite(text or "")
    return None if value is None else round(value)


def xml_text(
    filename: str,
    width: int,
    height: int,
    objects: Iterable[ObjectRecord],
    *,
    database: str = "Unknown",
) -> str:
    """Return a Pascal VOC annotation: boxes 1-based and inclusive, fractions kept."""
    lines = [
        "<annotation>",
        f"\t<filename>{escape(filename)}</filename>",
        f"\t<source><database>{escape(database)}</database></source>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    for one in objects:
        x1, y1, x2, y2 = one.box
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(one.name)}</name>",
            f"\t\t<difficult>{int(one.difficult or one.crowd)}</difficult>",
            *([f"\t\t<{_MACHINE_MADE}>1</{_MACHINE_MADE}>"] if one.machine_made else []),
            *([] if one.score is None else [f"\t\t<score>{one.score!r}</score>"]),
            "\t\t<bndbox>",
            f"\t\t\t<xmin>{number(x1 + 1)}</xmin>",
            f"\t\t\t<ymin>{number(y1 + 1)}</ymin>",
            f"\t\t\t<xmax>{number(x2)}</xmax>",
            f"\t\t\t<ymax>{number(y2)}</ymax>",
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
