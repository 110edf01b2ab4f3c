"""Label Studio JSON: tasks with annotations of regions, or JSON-MIN, one record an annotation.

Places and lengths are percent of the image's width and height. A rectangle is turned clockwise
about its top left corner (x, y), an ellipse about its centre, both in pixels. Regions of one id
are one region: a rectangle, its labels, its text. Of several annotations of a task the one that
is marked as ground truth counts, else the first; cancelled ones and predictions do not. A file in
which nobody has annotated a task yet is read by detkit's own predictions: machine-made objects.
Source: Label Studio's export and label-studio-sdk/converter.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import quoteattr

import numpy as np

from detkit.data.formats.format import Format, Labelled, Splits, made_by
from detkit.data.formats.json_file import (
    json_files,
    json_keys,
    json_text,
    load_json,
    numbers,
    objects_in,
    whole,
)
from detkit.data.formats.label_set import (
    CROWD,
    DIFFICULT,
    MACHINE_MADE,
    LabelledImage,
    LabelSet,
    is_set,
    marks_of,
    path_of,
)
from detkit.data.formats.shapes import (
    MAX_MASK_PIXELS,
    Box,
    around_ellipse,
    around_pixels,
    around_points,
    around_turned,
    is_turned,
    mask_of_png,
    points_of,
    tidy,
)
from detkit.data.formats.voc_xml import root_tag
from detkit.data.image_kinds import PICTURE_SUFFIXES
from detkit.data.images import image_size
from detkit.data.paths import name_of, posix, suffix_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.errors import DetkitError
from detkit.text import agreed, counted, short

_ANNOTATIONS = ("annotations", "completions")  # the second until 2020
_TASK_KEYS = frozenset({"predictions", "drafts", "file_upload", "total_annotations", "result"})
_REGION_KEYS = frozenset(
    {"rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "original_width"}
)
_IMAGE_KEYS = ("image", "img", "image_url", "imageUrl", "photo", "picture", "ocr", "url")
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)", re.DOTALL)  # what the server puts before a name
_MODEL = "detkit"  # the model_version of predictions made here
_LABEL = re.compile(r"\w*labels", re.IGNORECASE)
_MAX_CONFIG_BYTES = 1 << 20
_NOT_IN_AN_IMAGE = frozenset({"sequence", "start", "startOffset", "globalOffsets"})

Size = tuple[int, int]  # (width, height)


def label_studio_files(tree: Tree) -> list[str]:
    """Return the JSON files of a folder that are Label Studio's, by the keys in them."""
    return [file for file, keys in json_files(tree) if _is_label_studio(keys)]


def _is_label_studio(keys: Collection[str]) -> bool:
    """Return whether a file with these keys is Label Studio's."""
    if not _REGION_KEYS.isdisjoint(keys):
        return True
    has_tasks = "data" in keys and not set(_ANNOTATIONS).isdisjoint(keys)
    return has_tasks and not _TASK_KEYS.isdisjoint(keys)


def read_label_studio(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's Label Studio files, or None where it has none.

    `only` names the one file to read.
    """
    files = label_studio_files(tree)
    if only is not None:
        files = [only] if _is_label_studio(json_keys(tree, only)) else []
    if not files:
        return None
    labels = LabelSet(tree)
    reader = _Reader(labels)
    for file in files:
        reader.read(file)
    reader.report()
    return labels.dataset(
        FORMAT, class_names=_configured(tree, labels), advice="label it, or leave it out"
    )


class _Reader:
    """Turns tasks into images and objects."""

    def __init__(self, labels: LabelSet) -> None:
        self._labels = labels
        self._several: list[str] = []  # tasks with several annotations
        self._left_out: Counter[str] = Counter()
        self._first_left_out = ""
        self._apart = 0  # results about the image as a whole
        self._is_begun = False  # whether somebody has annotated a task of the file

    def read(self, file: str) -> None:
        """Read the tasks of one file."""
        content, is_read = load_json(self._labels.tree, file, self._labels.findings)
        if not is_read:
            return
        if isinstance(content, dict):
            content = content["tasks"] if isinstance(content.get("tasks"), list) else [content]
        if not isinstance(content, list):
            self._labels.say("bad-json", "no Label Studio file: it holds no list of tasks", file)
            return
        seen: set[tuple[str, str]] = set()
        self._is_begun = any(isinstance(one, dict) and _annotations_of(one) for one in content)
        for place, task in enumerate(content, 1):
            if not isinstance(task, dict):
                message = f"task {place} is no object ({short(task)}); not read"
                self._labels.say("bad-annotation", message, file)
            elif _is_whole(task):
                self._read_task(file, place, task)
            else:
                self._read_minimal(file, place, task, seen)

    def report(self) -> None:
        """Say what was chosen and left out."""
        if self._several:
            self._labels.notes.append(
                f"{counted(len(self._several), 'task')} with several annotations (first: "
                f"{self._several[0]}): the ground truth is read, else the first annotation"
            )
        if self._apart:
            what = counted(self._apart, "result")
            self._labels.notes.append(f"{what} about a whole image (choices, texts) not read")
        if total := sum(self._left_out.values()):
            why = ", ".join(f"{count} {reason}" for reason, count in self._left_out.items())
            message = (
                f"{counted(total, 'task')} without annotations (first: {self._first_left_out}) "
                f"{agreed(total, 'is', 'are')} left out: {why}; submit an empty annotation where "
                "there is no object"
            )
            file = self._labels.images[0].file if self._labels.images else ""
            self._labels.say("unlabelled-task", message, file, severity="warning")

    def _read_task(self, file: str, place: int, task: dict[str, Any]) -> None:
        """Read a task of the full export."""
        data, annotations = task.get("data"), _annotations_of(task)
        if "result" in task and isinstance(task.get("task"), dict):  # an annotation by itself
            data, annotations = task["task"].get("data"), [task]
        what = f"task {short(task.get('id', place))}"
        image = self._image(file, what, data if isinstance(data, dict) else {}, task)
        if image is None:
            return
        kept = [one for one in annotations if not _is_cancelled(one)]
        own = [] if self._is_begun else _own_predictions(task)
        if not kept and own:
            self._read_regions(image, _merged(own[0]["result"]), are_made=True)
            return
        if not kept:
            reason = "not labelled yet"
            if annotations:
                reason = "skipped by the annotator"
            elif task.get("predictions"):
                reason = "with predictions alone"
            self._left_out[reason] += 1
            self._first_left_out = self._first_left_out or image.image_id
            image.is_labelled = False
            return
        if len(kept) > 1:
            self._several.append(image.image_id)
        chosen = next((one for one in kept if is_set(one.get("ground_truth"))), kept[0])
        results = chosen.get("result")
        if not isinstance(results, list):
            message = f'{what}: "result" is no list ({short(results)})'
            self._labels.say("bad-annotation", message, file, image=image.image_id)
            return
        self._read_regions(image, _merged(results))

    def _read_minimal(
        self, file: str, place: int, task: dict[str, Any], seen: set[tuple[str, str]]
    ) -> None:
        """Read a record of JSON-MIN: the data's keys and the regions by the name of their tag."""
        what = f"task {short(task.get('id', place))}"
        regions = [
            {"value": one, **one}
            for value in task.values()
            if isinstance(value, list)
            for one in value
            if isinstance(one, dict) and _is_region(one)
        ]
        data = {key: value for key, value in task.items() if isinstance(value, str | list)}
        image = self._image(file, what, data, task)
        if image is None:
            return
        key = image.image_id, str(task.get("id", ""))
        if key in seen:  # another annotator's
            self._labels.images.remove(image)
            self._several.append(image.image_id)
            return
        seen.add(key)
        self._read_regions(image, regions)

    def _image(
        self, file: str, what: str, data: Mapping[str, Any], task: Mapping[str, Any]
    ) -> LabelledImage | None:
        """Return the image that a task is about."""
        stated = _stated_image(data)
        upload = task.get("file_upload")
        names = _names(stated) if stated else []
        names += _names(upload) if isinstance(upload, str) and upload else []
        if not names:
            is_inside = bool(stated)
            message = f"{what}: its data name no image file ({short(dict(data))}); not used"
            if is_inside:
                message = f"{what}: its image is inside the file; save it as a file and name that"
            self._labels.say("bad-image", message, file)
            return None
        names.append(name_of(posix(unquote(names[0]))))
        if not any(self._labels.tree.find_images(one, file) for one in names):
            names[:0] = _uploaded_as(names, self._labels.tree.images)
        return self._labels.image(file, *names, what=f"{what}: image")

    def _read_regions(
        self, image: LabelledImage, regions: Sequence[dict[str, Any]], *, are_made: bool = False
    ) -> None:
        """Add the objects of an annotation, or of a prediction (`are_made`)."""
        for region in regions:
            value = region.get("value")
            if not isinstance(value, dict) or not (_is_region(region) or _is_region(value)):
                self._apart += 1
                continue
            size = self._size(image, region)
            if size is None:
                message = "no original_width and original_height, and no image to take them from"
                self._labels.refuse(image, "bad-number", f"{message}; put the image there")
                continue
            if image.width is None:
                image.width, image.height = size
            self._add(image, region, value, size, is_made=are_made)

    def _size(self, image: LabelledImage, region: dict[str, Any]) -> Size | None:
        """Return the image's size as a region states it, else as it is."""
        width, height = whole(region.get("original_width")), whole(region.get("original_height"))
        if width and height:
            return width, height
        try:
            real = image_size(self._labels.tree.path(image.image_id))
        except (DetkitError, OSError):
            return None
        return real[1], real[0]

    def _add(
        self,
        image: LabelledImage,
        region: dict[str, Any],
        value: dict[str, Any],
        size: Size,
        *,
        is_made: bool,
    ) -> None:
        """Add a region's object, one for each of its labels."""
        names = _labels_of(region) or [""]
        box, stated, shape = _box_of(value, size)
        if shape in ("point", "line"):
            self._labels.skip(image, shape, names[0], stated)
            return
        if shape == "other":
            message = f"{stated} is no part of a still image; not read"
            self._labels.refuse(image, "no-extent", message, severity="warning")
            return
        turned = numbers(region.get("image_rotation") or 0)
        if turned is None or is_turned(turned[0]):
            message = (
                f"labelled while the image was turned by {short(region['image_rotation'])} degrees "
                f"({stated}); turn it back in Label Studio, or turn the file"
            )
            self._labels.refuse(image, "turned-image", message, name=names[0] or None)
            return
        marks = _marks_of(region)
        for name in names:
            self._labels.add(
                image,
                name,
                box,
                stated=stated,
                shape=shape,
                difficult=DIFFICULT in marks,
                crowd=CROWD in marks,
                made=made_by(is_made or MACHINE_MADE in marks, region.get("score")),
            )


def _is_whole(task: dict[str, Any]) -> bool:
    """Return whether a record is a task of the full export, not of JSON-MIN."""
    return isinstance(task.get("data"), dict) or "result" in task


def _annotations_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of a task."""
    for key in _ANNOTATIONS:
        if isinstance(task.get(key), list):
            return [one for one in task[key] if isinstance(one, dict)]
    return []


def _own_predictions(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the predictions of a task that were made here, an image without objects included."""
    return [
        one
        for one in objects_in(task.get("predictions"))
        if one.get("model_version") == _MODEL and isinstance(one.get("result"), list)
    ]


def _is_cancelled(annotation: dict[str, Any]) -> bool:
    """Return whether an annotator skipped the task with this annotation."""
    return is_set(annotation.get("was_cancelled")) or is_set(annotation.get("skipped"))


def _is_region(value: Mapping[str, Any]) -> bool:
    """Return whether a value marks a part of an image, and is no choice or text about it."""
    inner = value.get("value")
    inner = inner if isinstance(inner, dict) else value
    kinds = {"x", "points", "vertices", "rle", "imageDataURL", "radiusX", *_NOT_IN_AN_IMAGE}
    return not kinds.isdisjoint(inner)


def _merged(results: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the regions of an annotation: results of one id are one region.

    But two of one tag and type are two: scripts that write tasks give many regions one id.
    """
    regions: dict[Any, dict[str, Any]] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for place, one in enumerate(results):
        if not isinstance(one, dict) or one.get("type") == "relation":
            continue
        key: Any = place
        if isinstance(one.get("id"), str):
            tag = one["id"], str(one.get("from_name")), str(one.get("type"))
            key = one["id"], seen[tag]
            seen[tag] += 1
        first = regions.setdefault(key, {**one, "value": {}})
        value = one.get("value")
        if isinstance(value, dict):
            first["value"] = {**value, **first["value"]}
        if one.get("meta") is not None:
            first["meta"] = one["meta"]
    return list(regions.values())


def _labels_of(region: dict[str, Any]) -> list[str]:
    """Return a region's labels; where the tag has none, the choices made for the region."""
    value = region["value"]
    found = [value[key] for key in value if _LABEL.fullmatch(key)]
    for labels in [*found, value.get("choices")]:
        if isinstance(labels, str) and labels.strip():
            return [labels]
        if isinstance(labels, list):
            names = [one for one in labels if isinstance(one, str) and one.strip()]
            if names:
                return names
    return []


def _marks_of(region: dict[str, Any]) -> set[str]:
    """Return the words of a region's note, where a mark that has no field stands."""
    meta = region.get("meta")
    text = meta.get("text") if isinstance(meta, dict) else None
    words = text if isinstance(text, list) else [text]
    return {one.strip().lower() for one in words if isinstance(one, str)}


def _box_of(value: dict[str, Any], size: Size) -> tuple[Box | None, str, str]:
    """Return the box in pixels, how the file states it, and what is read as a box.

    The last is "point" or "line" of what has no area, "other" of what is no part of an image.
    """
    width, height = size
    if found := sorted(_NOT_IN_AN_IMAGE & set(value)):
        return None, found[0], "other"
    if "rle" in value or "imageDataURL" in value:
        mask = _brush(value["rle"], size) if "rle" in value else _painted(value["imageDataURL"])
        return (None if mask is None else around_pixels(mask)), "mask", "mask"
    corners = value.get("points", value.get("vertices"))
    if corners is not None:
        points = points_of(corners)
        if points is None:
            return None, f"points={short(corners)}", "polygon"
        stated = f"{counted(len(points), 'point')} from {points[0]} on" if points else "no points"
        if len(points) < 3 or value.get("closed") is False:
            return None, stated, "line"
        pixels = [(x * width / 100, y * height / 100) for x, y in points]
        return tidy(around_points(pixels)), stated, "polygon"
    if "radiusX" in value:
        return _ellipse(value, size)
    keys = ("x", "y", "width", "height")
    stated = " ".join(f"{key}={short(value[key])}" for key in keys if key in value)
    if "height" not in value:
        return None, stated, "point"
    found_numbers = numbers(*(value.get(key) for key in keys))
    turn = numbers(value.get("rotation") or 0)
    if found_numbers is None or turn is None:
        return None, stated, ""
    x, y, w, h = found_numbers
    box = (x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100)
    if not is_turned(turn[0]):
        return tidy(box), stated, ""
    stated += f" rotation={turn[0]:g}"
    return around_turned(box, turn[0], box[:2]), stated, "rotated box"


def _ellipse(value: dict[str, Any], size: Size) -> tuple[Box | None, str, str]:
    """Return what `_box_of` does, of an ellipse."""
    keys = ("x", "y", "radiusX", "radiusY")
    stated = " ".join(f"{key}={short(value.get(key))}" for key in keys)
    found = numbers(*(value.get(key) for key in keys), value.get("rotation") or 0)
    if found is None:
        return None, stated, "ellipse"
    x, rx = (one * size[0] / 100 for one in (found[0], found[2]))
    y, ry = (one * size[1] / 100 for one in (found[1], found[3]))
    return around_ellipse(x, y, rx, ry, found[4]), stated, "ellipse"


def _painted(url: Any) -> np.ndarray[Any, Any] | None:
    """Return the mask of a PNG in a data URL, or None where it is none."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    try:
        return mask_of_png(base64.b64decode(url.partition(",")[2], validate=True))
    except (ValueError, binascii.Error):
        return None


def _brush(packed: Any, size: Size) -> np.ndarray[Any, Any] | None:
    """Return the mask (H, W) of a brush, or None where it cannot be unpacked.

    The bytes are those of thi.ng/rle-pack: 32 bits with the number of values, 5 with their width
    less 1, four times 4 with the widths of lengths less 1; then runs (1, which width, length less
    1, value) and stretches (0, which width, length less 1, values). Values are RGBA.
    """
    is_bytes = isinstance(packed, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 256 for one in packed
    )
    total = 4 * size[0] * size[1]
    if not is_bytes or not 0 < total <= 4 * MAX_MASK_PIXELS:
        return None
    bits = bytes(packed).hex()
    stream = format(int(bits, 16), f"0{len(packed) * 8}b") if bits else ""
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(stream[place - count : place], 2)

    values = np.zeros(total, np.uint8)
    try:
        length, word = take(32), take(5) + 1
        widths = [take(4) + 1 for _ in range(4)]
        if length != total:
            return None
        at = 0
        while at < total:
            is_run, count = take(1), take(widths[take(2)]) + 1
            if is_run:
                values[at : at + count] = take(word)
            else:
                for step in range(at, min(at + count, total)):
                    values[step] = take(word)
            at += count
    except (ValueError, OverflowError):  # the bits end before the mask does
        return None
    return values.reshape(size[1], size[0], 4)[..., 3]


def _stated_image(data: Mapping[str, Any]) -> str:
    """Return what a task's data name as its image, or ""."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    for key in _IMAGE_KEYS:
        if texts.get(key, "").strip():
            return texts[key].strip()
    named = [text.strip() for text in texts.values() if text.strip()]
    for text in named:
        if suffix_of(unquote(path_of(text).partition("?")[0])) in PICTURE_SUFFIXES:
            return text
    return ""


def _names(stated: str) -> list[str]:
    """Return the file names that an image's address may mean, the likeliest first.

    Addresses of local storage, of buckets and of the web, percent-encoded or not, and uploads,
    which the server keeps under a digest and their name.
    """
    if stated.startswith("data:"):
        return []
    path = stated
    if "?" in stated:
        query = parse_qs(stated.partition("?")[2].replace("+", "%2B"))
        if query.get("d"):
            path = query["d"][0]
        elif query.get("fileuri"):
            try:
                path = base64.b64decode(query["fileuri"][0]).decode()
            except (ValueError, UnicodeDecodeError):
                path = stated
    names = [path]
    if "://" in path:
        names = [path_of(path)]
    elif path is stated and "?" in path:
        names.append(path.partition("?")[0])
    names += [unquote(one) for one in names]
    for one in list(names):
        if upload := _UPLOAD.fullmatch(name_of(posix(one))):
            names.append(upload[1])
    return list(dict.fromkeys(one for one in names if one.strip()))


def _uploaded_as(names: Sequence[str], images: Iterable[str]) -> list[str]:
    """Return the one image that was uploaded under the first of the names that is an upload's.

    The server writes spaces as "_" and drops all but letters, digits, "_", "-" and dots.
    """
    for one in names:
        if upload := _UPLOAD.fullmatch(name_of(posix(one))):
            like = [image for image in images if _stored(name_of(image)) == _stored(upload[1])]
            return like if len(like) == 1 else []
    return []


def _stored(name: str) -> str:
    """Return the name under which the server stores an upload."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _configured(tree: Tree, labels: LabelSet) -> tuple[str, ...]:
    """Return the labels of the labelling interface, where its XML is there and has all in use."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    used = {thing.name for one in labels.images for thing in one.objects}
    for file in tree.with_suffix(".xml"):
        try:
            data = tree.path(file).read_bytes() if tree.size(file) <= _MAX_CONFIG_BYTES else b""
            if root_tag(data) != "View":
                continue
            root = fromstring(data)
        except (OSError, ValueError, ParseError, DefusedXmlException):
            continue
        names = [one.get("value", "").strip() for one in root.iter("Label")]
        if names and used <= set(names):
            labels.notes.append(f"classes in the order of {file}")
            return tuple(dict.fromkeys(name for name in names if name))
    return ()


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the tasks of each split, and the labelling interface that they need."""
    objects = [one for images in splits.values() for image in images for one in image.objects]
    are_made = bool(objects) and all(one.machine_made for one in objects)
    for split, images in splits.items():
        tasks = [
            _task(place, split, image, are_made=are_made) for place, image in enumerate(images, 1)
        ]
        yield "tasks.json" if split == "all" else f"{split}.json", json_text(tasks)
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    lines += ['  <RectangleLabels name="label" toName="image">']
    lines += [f"    <Label value={quoteattr(name)}/>" for name in class_names]
    yield "label_config.xml", "\n".join([*lines, "  </RectangleLabels>", "</View>", ""])


def _task(place: int, split: str, image: Labelled, *, are_made: bool) -> dict[str, Any]:
    """Return one image as a task whose image lies in local storage.

    Its objects are an annotation; where all of the set `are_made` by a machine, a prediction.
    """
    results = []
    for number, one in enumerate(image.objects, 1):
        x1, y1, x2, y2 = one.box
        marks = [mark for mark in marks_of(one) if not (are_made and mark == MACHINE_MADE)]
        results.append(
            {
                "id": f"{place}-{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "value": {
                    "x": x1 * 100 / image.width,
                    "y": y1 * 100 / image.height,
                    "width": (x2 - x1) * 100 / image.width,
                    "height": (y2 - y1) * 100 / image.height,
                    "rotation": 0,
                    "rectanglelabels": [one.name],
                },
                **({"meta": {"text": marks}} if marks else {}),
                **({} if one.score is None else {"score": one.score}),
            }
        )
    annotation = {"result": results, "was_cancelled": False, "ground_truth": False}
    path = quote(f"{FORMAT.place(split)}/{image.name}")
    return {
        "id": place,
        "data": {"image": f"/data/local-files/?d={path}"},
        "annotations": [] if are_made else [annotation],
        "predictions": [_prediction(image, results)] if are_made else [],
    }


def _prediction(image: Labelled, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a prediction of these results; its score, by which tasks are sorted, is their mean."""
    scores = [one.score for one in image.objects if one.score is not None]
    score = {"score": sum(scores) / len(scores)} if scores else {}
    return {"model_version": _MODEL, **score, "result": results}


FORMAT = Format(
    name="label-studio",
    title="Label Studio JSON",
    looked_for="Label Studio JSON",
    suffixes=(".json",),
    read=read_label_studio,
    write=_label_files,
    file_suffixes=(".json",),
    files=label_studio_files,
    by_split=True,
    keeps_crowds=True,
    keeps_machine_made=True,
    keeps_scores=True,
)
