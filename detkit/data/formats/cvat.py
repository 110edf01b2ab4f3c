"""CVAT XML 1.1: `<image>`s with their shapes, or `<track>`s with a shape a frame.

Coordinates are continuous pixels: xtl, ytl, xbr, ybr are the half-open box as they stand. A
`rotation` is in degrees, clockwise about the centre. Frame N of a video is the image
`frame_%06d`. A track's shape is on its frame unless `outside`; CVAT writes the frames between
keyframes itself (keyframe="0"), and where a file has keyframes alone, the boxes between two of
them are interpolated, for the frames that are there. `source="auto"` is a shape that a model made
and nobody has changed; its score, for which CVAT has no place, is an attribute. Several files, of
jobs or tasks, are read together. Source: cvat/apps/dataset_manager/formats/cvat.py, CVAT 1 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import escape, quoteattr

from detkit.data.formats.format import Format, Labelled, Splits, made_by, number
from detkit.data.formats.json_file import numbers
from detkit.data.formats.label_set import (
    CROWD,
    DIFFICULT,
    SCORE,
    LabelledImage,
    LabelSet,
    is_set,
    quoted,
    stated_split,
)
from detkit.data.formats.shapes import (
    Box,
    around_ellipse,
    around_points,
    around_turned,
    is_turned,
    points_in,
)
from detkit.data.formats.voc_xml import root_tag
from detkit.data.paths import folder_of, stem_of
from detkit.data.records import Dataset, Finding
from detkit.data.tree import Tree
from detkit.text import counted

MAX_CVAT_BYTES = 1 << 30  # ours: some five million boxes
_CHUNK = 1 << 20
_SNIFF_BYTES = 1 << 12

_LINES = {"points": "point", "polyline": "polyline", "skeleton": "skeleton", "tag": "tag"}
_SHAPES = frozenset({"box", "polygon", "ellipse", "mask", "cuboid", *_LINES})
_NO_BOX_TYPES = frozenset({"points", "polyline", "skeleton", "tag"})  # of labels
_FACTS = ("id", "start_frame", "stop_frame", "frame_filter")
_STEP = re.compile(r"step=([1-9]\d{0,8})")
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_FRAME = re.compile(r"frame_(\d{6,})", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(slots=True)
class _Shape:
    """One shape as it stands."""

    tag: str
    line: int
    texts: dict[str, str]
    marks: dict[str, str] = field(default_factory=dict)  # its attributes by name


@dataclass(slots=True)
class _Group:
    """An `<image>` or a `<track>` with its shapes."""

    tag: str
    line: int
    texts: dict[str, str]
    shapes: list[_Shape] = field(default_factory=list)


@dataclass(slots=True)
class _Task:
    """What the head of a file says of a task or job."""

    start: int = 0
    stop: int | None = None
    step: int = 1  # every how many frames were taken
    width: str | None = None
    height: str | None = None


class _Target:
    """What the parser calls: gathers labels, tasks, images and tracks."""

    def __init__(self) -> None:
        self.expat: Any = None
        self.groups: list[_Group] = []
        self.labels: dict[str, str] = {}  # type by name
        self.tasks: dict[str, _Task] = {}
        self.size: tuple[str | None, str | None] = (None, None)
        self._above: list[str] = []
        self._text: list[str] = []
        self._label: dict[str, str] = {}
        self._task: dict[str, str] = {}
        self._mark = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        depth, line = len(self._above), self.expat.CurrentLineNumber
        if depth == 1 and tag in ("image", "track"):
            self.groups.append(_Group(tag, line, dict(attributes)))
        elif depth == 2 and self._above[1] in ("image", "track") and tag in _SHAPES:
            self.groups[-1].shapes.append(_Shape(tag, line, dict(attributes)))
        elif tag == "label":
            self._label = {}
        elif tag in ("task", "job"):
            self._task = {}
        elif tag == "attribute":
            self._mark = attributes.get("name", "")
        self._above.append(tag)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        above = self._above
        above.pop()
        text = "".join(self._text).strip()
        self._text.clear()
        inside = above[-1] if above else ""
        if len(above) == 3 and tag == "attribute" and above[1] in ("image", "track"):
            if self.groups[-1].shapes:
                self.groups[-1].shapes[-1].marks[self._mark] = text
        elif "meta" not in above:
            return
        elif inside == "label":
            self._label.setdefault(tag, text)
        elif tag == "label" and self._label.get("name") and not self._label.get("parent"):
            self.labels.setdefault(self._label["name"], self._label.get("type", ""))
        elif (
            inside == "original_size"
            or inside in ("task", "job")
            and tag in ("id", "start_frame", "stop_frame")
        ):
            self._task[tag] = text
        if tag in ("task", "job", "original_size"):
            self._end_task()

    def _end_task(self) -> None:
        """Keep what is known of the task by now; older files state the size inside it."""
        facts = self._task
        start, stop = (
            int(facts[key]) if facts.get(key, "").isdecimal() else None
            for key in ("start_frame", "stop_frame")
        )
        step = _STEP.search(facts.get("frame_filter", ""))
        self.size = facts.get("width"), facts.get("height")
        every = int(step[1]) if step else 1
        self.tasks[facts.get("id", "")] = _Task(start or 0, stop, every, *self.size)

    def close(self) -> None:
        """Do nothing: the parser asks for this."""


def cvat_files(tree: Tree) -> list[str]:
    """Return the XML files of a folder whose outermost tag is CVAT's."""
    found = []
    for file in tree.with_suffix(".xml"):
        try:
            if file not in tree.xml_roots:
                with tree.path(file).open("rb") as opened:
                    tree.xml_roots[file] = root_tag(opened.read(_SNIFF_BYTES))
            if tree.xml_roots[file] == "annotations":
                found.append(file)
        except OSError:
            continue  # the reader of VOC says so
    return found


def read_cvat(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's CVAT files, or None where it has none.

    `only` names the one file to read.
    """
    labels = LabelSet(tree)
    reader = _Reader(labels)
    for file in [one for one in cvat_files(tree) if only in (None, one)]:
        target = _parsed(labels, file)
        if target is not None:
            reader.read(file, target)
    if not reader.files and not labels.findings:
        return None
    if reader.drawn:
        labels.notes.append(f"{counted(reader.drawn, 'box')} interpolated between keyframes")
    return labels.dataset(FORMAT, class_names=reader.class_names())


def _parsed(labels: LabelSet, file: str) -> _Target | None:
    """Return what a file holds; None, with a finding unless it is merely no file of CVAT's."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    target = _Target()
    parser = DefusedXMLParser(target=target)
    target.expat = parser.parser
    code, message, line = "bad-xml", "", None
    try:
        if labels.tree.size(file) > MAX_CVAT_BYTES:
            code, message = "too-large", f"larger than {MAX_CVAT_BYTES >> 20} MiB; not read"
        else:
            with labels.tree.path(file).open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    parser.feed(chunk)
            parser.close()
    except ParseError as error:
        line = error.position[0]
        message = f"not well-formed XML ({str(error).partition(': line')[0]}); export it again"
    except DefusedXmlException:
        code = "unsafe-xml"
        message = "it declares entities or an external document; labels need neither: not read"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    except (ValueError, LookupError) as error:
        message = f"not readable as XML ({error}); save it as UTF-8"
    if not message:
        return target if target.groups or target.labels or target.tasks else None
    labels.findings.append(Finding("error", code, message, labels.tree.path(file), line))
    return None


class _Reader:
    """Turns the files, one after the other, into images and objects."""

    def __init__(self, labels: LabelSet) -> None:
        self.files: list[str] = []
        self.drawn = 0  # boxes interpolated
        self._labels = labels
        self._tree = labels.tree
        self._types: dict[str, str] = {}
        self._without_box: set[str] = set()
        self._images: dict[int, str] = {}  # by frame, of the file that is read

    def class_names(self) -> tuple[str, ...]:
        """Return the labels in their order, without those that only mark points and lines."""
        used = {thing.name for one in self._labels.images for thing in one.objects}
        left = [
            name
            for name, kind in self._types.items()
            if name not in used and (kind in _NO_BOX_TYPES or name in self._without_box)
        ]
        if left:
            text = ", ".join(left)
            self._labels.notes.append(f"no class, as it has points or lines and no box: {text}")
        return tuple(name for name in self._types if name not in left)

    def read(self, file: str, target: _Target) -> None:
        """Read one file."""
        self.files.append(file)
        self._types |= {
            name: kind for name, kind in target.labels.items() if name not in self._types
        }
        frames: dict[tuple[str, int], LabelledImage | None] = {}
        before = len(self._labels.images)
        if any(group.tag == "track" for group in target.groups):
            self._images = self._frames_of(file, target)
        for group in target.groups:
            if group.tag == "image":
                self._read_image(file, group)
            else:
                self._read_track(file, group, target, frames)
        if any(group.tag == "track" for group in target.groups):
            self._add_empty_frames(file, target, frames)
            new = self._labels.images[before:]
            new.sort(key=lambda one: one.image_id)
            self._labels.images[before:] = new
        if target.labels:
            self._labels.unknown(tuple(target.labels), file, "the file's <labels>")

    def _read_image(self, file: str, group: _Group) -> None:
        """Read an `<image>`."""
        texts = group.texts
        name = texts.get("name", "").strip()
        if not name:
            self._labels.say("bad-image", "<image> without a name; not used", file, line=group.line)
            return
        image = self._labels.image(
            file,
            name,
            what="image name",
            split=stated_split(texts.get("subset")),
            size=(texts.get("width"), texts.get("height")),
            line=group.line,
        )
        for shape in group.shapes if image is not None else ():
            self._add(image, shape, shape.texts.get("label"), shape.texts.get("source"))

    def _read_track(
        self,
        file: str,
        group: _Group,
        target: _Target,
        frames: dict[tuple[str, int], LabelledImage | None],
    ) -> None:
        """Read a `<track>`."""
        task, name = group.texts.get("task_id", ""), group.texts.get("label")
        split = stated_split(group.texts.get("subset"))
        size = target.size
        if task in target.tasks:
            size = target.tasks[task].width, target.tasks[task].height

        def image_at(frame: int) -> LabelledImage | None:
            key = (task, frame)
            if key not in frames:
                frames[key] = self._frame(file, frame, split, size, group.line)
            return frames[key]

        for shape in self._on_frames(group, file):
            image = image_at(int(shape.texts["frame"]))
            if image is not None:
                self._add(image, shape, name, group.texts.get("source"))

    def _on_frames(self, group: _Group, file: str) -> Iterator[_Shape]:
        """Yield the shapes of a track that are on a frame, with those between keyframes."""
        sound = []
        for shape in group.shapes:
            if not shape.texts.get("frame", "").strip().isdecimal():
                message = f"frame={shape.texts.get('frame')!r} is no frame's number; not used"
                self._labels.say(
                    "bad-number", message, file, line=shape.line, name=group.texts.get("label")
                )
            else:
                sound.append(shape)
        sound.sort(key=lambda one: int(one.texts["frame"]))
        # Where CVAT wrote the frames between, one that is not listed was deleted.
        is_whole = any(shape.texts.get("keyframe") == "0" for shape in sound)
        for place, shape in enumerate(sound):
            if is_set(shape.texts.get("outside", "0")):
                continue
            yield shape
            if not is_whole and place + 1 < len(sound):
                yield from self._between(shape, sound[place + 1])

    def _between(self, first: _Shape, last: _Shape) -> Iterator[_Shape]:
        """Yield the boxes of the frames between two keyframes that have an image."""
        start, stop = int(first.texts["frame"]), int(last.texts["frame"])
        if first.tag != "box" or last.tag != "box":
            return
        keys = [*_CORNERS, "rotation"]
        one, two = (
            numbers(*(shape.texts.get(key, "0") for key in keys)) for shape in (first, last)
        )
        if one is None or two is None:
            return
        if is_set(last.texts.get("outside", "0")):
            two = one  # it stays where it was until it leaves
        turn = (two[4] - one[4] + 180) % 360 - 180  # the shorter way round
        two = (*two[:4], one[4] + turn)
        for frame in sorted(one for one in self._images if start < one < stop):
            share = (frame - start) / (stop - start)
            values = (a + (b - a) * share for a, b in zip(one, two))
            texts = {**first.texts, "frame": str(frame)}
            texts |= {key: number(value) for key, value in zip(keys, values)}
            self.drawn += 1
            yield _Shape("box", first.line, texts, first.marks)

    def _frame(
        self,
        file: str,
        frame: int,
        split: str | None,
        size: tuple[str | None, str | None],
        line: int,
    ) -> LabelledImage | None:
        """Return the image of a frame: called `frame_000012`, else ending in its number."""
        name = f"frame_{frame:06d}"
        names = [name]
        if not self._tree.find_images(name, file, split) and frame in self._images:
            names.append(self._images[frame])
        folder = "images/" if "images" in self._tree.folders else ""
        return self._labels.image(
            file, *names, f"{folder}{name}.png", what="frame", split=split, size=size, line=line
        )

    def _frames_of(self, file: str, target: _Target) -> dict[int, str]:
        """Return the images of a video's frames by their number.

        They are called `frame_000012`. Where none is, the numbers at the ends of the names count
        if all are frames of the task; else the images in their order, if they are as many.
        """
        near = f"{folder_of(file)}/".removeprefix("/")
        images = [image for image in self._tree.images if image.startswith(near)]
        named = {image: _FRAME.fullmatch(stem_of(image)) for image in images}
        if found := {int(one[1]): image for image, one in named.items() if one}:
            return found
        if len(target.tasks) > 1:
            return {}
        task = next(iter(target.tasks.values()), _Task())
        ends = [_LAST_NUMBER.search(stem_of(image)) for image in images]
        numbered = {int(end[1]): image for end, image in zip(ends, images) if end}
        if len(numbered) == len(images) > 0 and all(
            task.start <= frame and (task.stop is None or frame <= task.stop) for frame in numbered
        ):
            self._labels.notes.append("frames are found by the numbers at the ends of the names")
            return numbered
        if task.stop is not None and len(images) == (task.stop - task.start) // task.step + 1:
            self._labels.notes.append("frames are the images in the order of their names")
            return {task.start + place * task.step: one for place, one in enumerate(images)}
        return {}

    def _add_empty_frames(
        self, file: str, target: _Target, frames: dict[tuple[str, int], LabelledImage | None]
    ) -> None:
        """Add the frames of a video's task that are there and hold no object."""
        if len(target.tasks) > 1:
            return
        task = next(iter(target.tasks.values()), _Task())
        used = {one.image_id for one in self._labels.images}
        known = {frame for _, frame in frames}
        for frame, image in self._images.items():
            if image in used or frame in known:
                continue
            if task.start <= frame and (task.stop is None or frame <= task.stop):
                self._labels.image(file, image, what="frame", size=target.size)
        if (
            self._tree.videos
            and frames
            and not any(one is not None and one.image_id in self._tree for one in frames.values())
        ):
            video = self._tree.videos[0]
            message = (
                f"the frames of {video} are not here as images; write them: "
                f"ffmpeg -i {video} -start_number 0 frame_%06d.png"
            )
            self._labels.say("missing-frames", message, file)

    def _add(
        self, image: LabelledImage | None, shape: _Shape, name: Any, source: str | None
    ) -> None:
        """Add one shape's object; `source` is the shape's, or its track's."""
        if image is None:
            return
        tag, texts = shape.tag, shape.texts
        if tag in _LINES:
            if isinstance(name, str):
                self._without_box.add(name)
            points = points_in(texts.get("points", ""))
            stated = quoted(points) if points else tag
            self._labels.skip(image, _LINES[tag], name, stated, shape.line)
            return
        box, stated, kind = _READERS[tag](texts)
        self._labels.add(
            image,
            name,
            box,
            stated=stated,
            shape=kind,
            line=shape.line,
            difficult=self._labels.is_marked(
                image, [shape.marks.get(DIFFICULT)], DIFFICULT, shape.line
            ),
            crowd=self._labels.is_marked(image, [shape.marks.get(CROWD)], CROWD, shape.line),
            made=made_by(source == "auto", shape.marks.get(SCORE)),
        )


_Read = tuple[Box | None, str, str]  # the box, what the file states, what it is called


def _stated(texts: dict[str, str], keys: Sequence[str]) -> tuple[tuple[float, ...] | None, str]:
    """Return the numbers of these keys, and how the file states them."""
    stated = " ".join(f"{key}={texts.get(key, '')}" for key in keys)
    return numbers(*(texts.get(key, "") for key in keys)), stated


def _rotation(texts: dict[str, str]) -> float | None:
    """Return by how many degrees a shape is turned, or None where that is no number."""
    found = numbers(texts.get("rotation") or "0")
    return None if found is None else found[0]


def _box(texts: dict[str, str]) -> _Read:
    values, stated = _stated(texts, _CORNERS)
    degrees = _rotation(texts)
    if values is None or degrees is None:
        return None, f"{stated} rotation={texts.get('rotation', '0')}", ""
    x1, y1, x2, y2 = values
    if not is_turned(degrees):
        return (x1, y1, x2, y2), stated, ""
    stated += f" rotation={texts['rotation']}"
    return around_turned((x1, y1, x2, y2), degrees), stated, "rotated box"


def _ellipse(texts: dict[str, str]) -> _Read:
    values, stated = _stated(texts, ("cx", "cy", "rx", "ry"))
    degrees = _rotation(texts)
    if values is None or degrees is None:
        return None, stated, ""
    x, y, rx, ry = values
    return around_ellipse(x, y, abs(rx), abs(ry), degrees), stated, "ellipse"


def _mask(texts: dict[str, str]) -> _Read:
    values, stated = _stated(texts, ("left", "top", "width", "height"))
    if values is None:
        return None, stated, ""
    left, top, width, height = values
    return (left, top, left + width, top + height), stated, "mask"


def _polygon(texts: dict[str, str]) -> _Read:
    points = points_in(texts.get("points", ""))
    if not points:
        return None, f"points={texts.get('points', '')[:60]}", ""
    return around_points(points), f"polygon {quoted(points)}", "polygon"


def _cuboid(texts: dict[str, str]) -> _Read:
    if "points" in texts:
        box, stated, _ = _polygon(texts)
        return box, stated.replace("polygon", "cuboid"), "cuboid"
    corners = [f"{corner}{face}" for face in "12" for corner in ("tl", "bl", "tr", "br")]
    values, stated = _stated(texts, [f"{axis}{corner}" for corner in corners for axis in "xy"])
    if values is None:
        return None, stated, ""
    return around_points(list(zip(values[0::2], values[1::2]))), f"cuboid {stated}", "cuboid"


_READERS: dict[str, Callable[[dict[str, str]], _Read]] = {
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
    "polygon": _polygon,
    "cuboid": _cuboid,
}


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield one file of all images, their splits as CVAT's subsets."""
    images = [(split, image) for split, members in splits.items() for image in members]
    marks = [
        mark
        for mark in (DIFFICULT, CROWD)
        if any(getattr(one, mark) for _, image in images for one in image.objects)
    ]
    has_scores = any(one.score is not None for _, image in images for one in image.objects)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta>", "    <task>", f"      <size>{len(images)}</size>", "      <labels>"]
    for name in class_names:
        lines += ["        <label>", f"          <name>{escape(name)}</name>"]
        lines += ["          <type>rectangle</type>", "          <attributes>"]
        lines += [
            f"            <attribute><name>{mark}</name><mutable>False</mutable>"
            "<input_type>checkbox</input_type><default_value>false</default_value>"
            "<values>false</values></attribute>"
            for mark in marks
        ]
        if has_scores:
            lines.append(
                f"            <attribute><name>{SCORE}</name><mutable>False</mutable>"
                "<input_type>text</input_type><default_value></default_value>"
                "<values></values></attribute>"
            )
        lines += ["          </attributes>", "        </label>"]
    lines += ["      </labels>", "    </task>", "  </meta>"]
    for place, (split, image) in enumerate(images):
        lines += _image_lines(place, split, image)
    yield "annotations.xml", "\n".join([*lines, "</annotations>", ""])


def _image_lines(place: int, split: str, image: Labelled) -> Iterator[str]:
    """Yield the lines of one `<image>`."""
    subset = "" if split == "all" else f" subset={quoteattr(split)}"
    yield (
        f'  <image id="{place}" name={quoteattr(image.name)}{subset} '
        f'width="{image.width}" height="{image.height}">'
    )
    for one in image.objects:
        corners = " ".join(f'{key}="{number(value)}"' for key, value in zip(_CORNERS, one.box))
        label = quoteattr(one.name)
        source = "auto" if one.machine_made else "file"
        yield f'    <box label={label} source="{source}" occluded="0" {corners} z_order="0">'
        for mark in (DIFFICULT, CROWD):
            if getattr(one, mark):
                yield f'      <attribute name="{mark}">true</attribute>'
        if one.score is not None:
            yield f'      <attribute name="{SCORE}">{one.score!r}</attribute>'
        yield "    </box>"
    yield "  </image>"


FORMAT = Format(
    name="cvat",
    title="CVAT XML",
    looked_for="CVAT XML",
    suffixes=(".xml",),
    read=read_cvat,
    write=_label_files,
    file_suffixes=(".xml",),
    files=cvat_files,
    by_split=True,
    keeps_crowds=True,
    keeps_machine_made=True,
    keeps_scores=True,
)
