"""The made-up folders of `mistakes` for the formats of labelling tools, and two mistakes more."""

from __future__ import annotations

import json

import mistakes
from labelled_folders import xml
from mistakes import CAR, DOTA, FACE, FRAME, IMAGES, KITTI, OI, TWINS, YOLO, Case, Files

BOX = (4, 2, 20, 12)

MISTAKES = {
    **mistakes.MISTAKES,
    "size": "a stated size that is not the image's",
    "again": "one box twice",
}


def labelme(
    *boxes: object, image: str = "a.png", label: object = "car", size: int = 40, **more: object
) -> str:
    """Return labelme's file of an image."""
    shapes = [
        {"label": label, "points": [one[:2], one[2:]], "shape_type": "rectangle", **more}
        for one in boxes
    ]
    return json.dumps({"shapes": shapes, "imagePath": image, "imageHeight": 20, "imageWidth": size})


def of_labelme(text: str, name: str = "images/a.json") -> Files:
    """Return labelme's files with that of a.png."""
    return {**IMAGES, name: text, "images/b.json": labelme(image="b.png")}


def cvat(*boxes: object, image: str = "a.png", label: str = "car", size: int = 40) -> str:
    """Return CVAT's file with the boxes of a.png."""
    names = ("xtl", "ytl", "xbr", "ybr")
    shapes = []
    for one in boxes:
        corners = " ".join(f'{name}="{value}"' for name, value in zip(names, one))
        shapes.append(f'<box label="{label}" {corners}></box>')
    head = "<annotations><meta><task><labels><label><name>car</name></label></labels></task></meta>"
    first = f'<image id="0" name="{image}" width="{size}" height="20">'
    last = '</image>\n<image id="1" name="b.png" width="40" height="20"/>'
    return "\n".join([head, first, *shapes, last, "</annotations>"])


def of_cvat(text: str) -> Files:
    """Return CVAT's files."""
    return {**IMAGES, "annotations.xml": text}


def label_studio(
    *boxes: object, image: str = "a.png", label: object = "car", size: int = 40, second: bool = True
) -> str:
    """Return Label Studio's tasks with the boxes of a.png, given in pixels."""
    results = []
    for one in boxes:
        x1, y1, x2, y2 = one
        value = {"x": x1, "y": y1, "width": x2, "height": y2}
        if not isinstance(x1, str):
            value = {"x": x1 * 100 / size, "y": y1 * 5}
            value |= {"width": (x2 - x1) * 100 / size, "height": (y2 - y1) * 5}
        value["rectanglelabels"] = [label] if label else []
        head = {"original_width": size, "original_height": 20, "type": "rectanglelabels"}
        results.append({**head, "id": f"r{len(results)}", "value": value})
    tasks = [{"data": {"image": image}, "annotations": [{"result": results}], "predictions": []}]
    empty = {"data": {"image": "b.png"}, "annotations": [{"result": []}], "predictions": []}
    return json.dumps([*tasks, *[empty] * second])


def createml(
    *boxes: object, image: str = "a.png", label: object = "car", second: bool = True
) -> str:
    """Return Create ML's file with the boxes of a.png."""
    things = []
    for one in boxes:
        x1, y1, x2, y2 = one
        sides = {"x": x1, "y": y1, "width": x2, "height": y2}
        if not isinstance(x1, str):
            sides = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1}
        things.append({"label": label, "coordinates": sides})
    entries = [{"image": image, "annotations": things}]
    return json.dumps([*entries, *[{"image": "b.png", "annotations": []}] * second])


def via(
    *boxes: object, image: str = "a.png", label: str = "car", second: bool = True, **more: object
) -> str:
    """Return VIA's file with the boxes of a.png, after a sound one of b.png."""
    regions = []
    for one in boxes:
        x1, y1, x2, y2 = one
        shape = {"name": "rect", "x": x1, "y": y1, "width": x2, "height": y2}
        if not isinstance(x1, str):
            shape |= {"width": x2 - x1, "height": y2 - y1}
        regions.append({"shape_attributes": shape, "region_attributes": {"kind": label, **more}})
    content = {"1": {"filename": image, "size": 1, "regions": regions, "file_attributes": {}}}
    if second:
        shape = {"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5}
        sound = [{"shape_attributes": shape, "region_attributes": {"kind": "car"}}]
        content["2"] = {**content["1"], "filename": "b.png", "regions": sound}
    return json.dumps(content)


def supervisely(*boxes: object, label: object = "car", size: int = 40) -> str:
    """Return Supervisely's annotation of an image."""
    objects = [
        {
            "classTitle": label,
            "geometryType": "rectangle",
            "points": {"exterior": [one[:2], one[2:]], "interior": []},
        }
        for one in boxes
    ]
    return json.dumps({"tags": [], "size": {"height": 20, "width": size}, "objects": objects})


def of_supervisely(text: str, name: str = "a.png") -> Files:
    """Return a project with the annotation of an image, and of b.png."""
    meta = json.dumps({"classes": [{"title": "car", "shape": "rectangle"}], "tags": []})
    project: Files = {"meta.json": meta, "ds/img/a.png": None, "ds/img/b.png": None}
    return {**project, f"ds/ann/{name}.json": text, "ds/ann/b.png.json": supervisely()}


def vott(
    *boxes: object, image: str = "a.png", label: object = "car", size: int = 40, second: bool = True
) -> str:
    """Return VoTT's export with the boxes of a.png."""
    regions = []
    for one in boxes:
        x1, y1, x2, y2 = one
        sides = {"left": x1, "top": y1, "width": x2, "height": y2}
        if not isinstance(x1, str):
            sides |= {"width": x2 - x1, "height": y2 - y1}
        tags = [label] if label else []
        regions.append({"type": "RECTANGLE", "tags": tags, "boundingBox": sides})
    assets = {}
    for name, held in ((image, regions), *[("b.png", [])] * second):
        shape = {"width": size if held else 40, "height": 20}
        head = {"name": name, "path": name, "size": shape, "state": 2}
        assets[name] = {"asset": head, "regions": held}
    return json.dumps({"tags": [{"name": "car"}], "assets": assets})


NO_NUMBERS = ("x", 2, 16, 10)
OVER, SWAPPED, POINT = (4, 2, 99, 12), (20, 2, 4, 12), (4, 2, 4, 2)


def listing(name: str, make: object, *, flag: bool = False, size: bool = True) -> dict[str, Case]:
    """Return the cases of a format of one JSON or XML file, which `make` writes."""

    def of(text: str, **files: str | None) -> Files:
        return {**IMAGES, name: text, **files}

    other = f"other.{name.rpartition('.')[2]}"
    second = {} if name.endswith("xml") else {"second": False}
    differing = make((1, 1, 9, 9), **second)
    if name.endswith("xml"):
        differing = differing.replace('<image id="1" name="b.png" width="40" height="20"/>', "")
    cases: dict[str, Case] = {
        "broken": (of(make(BOX)[:-9]), "bad-xml" if name.endswith("xml") else "bad-json"),
        "number": (of(make(NO_NUMBERS)), "bad-number"),
        "class": (of(make(BOX, label="")), "no-class"),
        "missing": ({"images/b.png": None, name: make(BOX)}, "missing-image"),
        "outside": (of(make(BOX, image="../../c.png")), "path-outside"),
        "twins": ({**TWINS, name: make(BOX)}, "ambiguous-image"),
        "encoded": ({**of(make(BOX, image="a%20b.png")), "images/a b.png": None}, "read"),
        "unlabelled": ({**of(make(BOX)), "images/c.png": None}, "unlisted-image"),
        "twice": ({**of(make(BOX)), other: differing}, "image-twice"),
        "border": (of(make(OVER)), "outside-image"),
        "swapped": (of(make(SWAPPED)), "swapped-box"),
        "area": (of(make(POINT)), "zero-area"),
        "again": (of(make(BOX, BOX)), "duplicate-box"),
    }
    if size:
        cases["size"] = (of(make(BOX, size=41)), "size-mismatch")
    return cases


MARKED = cvat(BOX).replace("></box>", '><attribute name="difficult">maybe</attribute></box>')

TABLE: dict[str, dict[str, Case]] = {
    "labelme": {
        "broken": (of_labelme(labelme(BOX)[:-9]), "bad-json"),
        "number": (of_labelme(labelme(NO_NUMBERS)), "bad-number"),
        "class": (of_labelme(labelme(BOX, label="")), "no-class"),
        "missing": (
            {"images/b.png": None, "images/a.json": labelme(BOX), "images/b.json": labelme()},
            "missing-image",
        ),
        "outside": (of_labelme(labelme(BOX, image="../../c.png"), "images/c.json"), "path-outside"),
        "twins": ({**TWINS, "a.json": labelme(BOX)}, "ambiguous-image"),
        "flag": (of_labelme(labelme(BOX, flags={"difficult": "maybe"})), "bad-number"),
        "encoded": (
            {
                **of_labelme(labelme(BOX)),
                "images/a b.png": None,
                "images/c.json": labelme((1, 1, 9, 9), image="a%20b.png"),
            },
            "read",
        ),
        "unlabelled": ({**of_labelme(labelme(BOX)), "images/c.png": None}, "missing-label"),
        "twice": (
            {**of_labelme(labelme(BOX)), "images/copy.json": labelme((1, 1, 9, 9))},
            "image-twice",
        ),
        "border": (of_labelme(labelme(OVER)), "outside-image"),
        "area": (of_labelme(labelme(POINT)), "zero-area"),
        "size": (of_labelme(labelme(BOX, size=41)), "size-mismatch"),
        "again": (of_labelme(labelme(BOX, BOX)), "duplicate-box"),
    },
    "cvat": {**listing("annotations.xml", cvat), "flag": (of_cvat(MARKED), "bad-number")},
    "label-studio": listing("tasks.json", label_studio),
    "createml": listing("labels.json", createml, size=False),
    "via": {
        **listing("via.json", via, size=False),
        "flag": ({**IMAGES, "via.json": via(BOX, difficult="maybe")}, "bad-number"),
    },
    "supervisely": {
        "broken": (of_supervisely(supervisely(BOX)[:-9]), "bad-json"),
        "number": (of_supervisely(supervisely(NO_NUMBERS)), "bad-number"),
        "class": (of_supervisely(supervisely(BOX, label="")), "no-class"),
        "missing": (
            mistakes.without(of_supervisely(supervisely(BOX)), "ds/img/a.png"),
            "missing-image",
        ),
        "twins": (
            {**of_supervisely(supervisely(BOX), "a"), "ds/img/a.jpg": None},
            "ambiguous-image",
        ),
        "encoded": (
            {
                **of_supervisely(supervisely(BOX)),
                "ds/img/a b.png": None,
                "ds/ann/a%20b.png.json": supervisely((1, 1, 9, 9)),
            },
            "read",
        ),
        "unlabelled": ({**of_supervisely(supervisely(BOX)), "ds/img/c.png": None}, "missing-label"),
        "twice": (
            {**of_supervisely(supervisely(BOX)), "ds/ann/a.json": supervisely((1, 1, 9, 9))},
            "image-twice",
        ),
        "border": (of_supervisely(supervisely(OVER)), "outside-image"),
        "area": (of_supervisely(supervisely(POINT)), "zero-area"),
        "size": (of_supervisely(supervisely(BOX, size=41)), "size-mismatch"),
        "again": (of_supervisely(supervisely(BOX, BOX)), "duplicate-box"),
    },
    "vott": listing("p-export.json", vott),
}

# The two further mistakes in the formats of `mistakes`.
_COCO = json.loads(mistakes.coco())
_TWO = {**_COCO, "annotations": [*_COCO["annotations"], {**_COCO["annotations"][0], "id": 2}]}
_WIDE = {**_COCO, "images": [{**_COCO["images"][0], "width": 41, "height": 20}]}
_TWO_OF_HF = {
    "file_name": "a.png",
    "objects": {"bbox": [[4, 2, 16, 10]] * 2, "category": ["car"] * 2},
}
MORE: dict[str, dict[str, Case]] = {
    "voc": {
        "size": (
            {**IMAGES, "Annotations/a.xml": xml(("car", 5, 3, 20, 12), size=(41, 20))},
            "size-mismatch",
        ),
        "again": (mistakes.voc(("car", 5, 3, 20, 12), ("car", 5, 3, 20, 12)), "duplicate-box"),
    },
    "coco": {
        "size": ({**IMAGES, "coco.json": json.dumps(_WIDE)}, "size-mismatch"),
        "again": ({**IMAGES, "coco.json": json.dumps(_TWO)}, "duplicate-box"),
    },
    "yolo": {"again": (mistakes.yolo(YOLO * 2), "duplicate-box")},
    "csv": {
        "size": (mistakes.csv(CAR.replace("40", "41")), "size-mismatch"),
        "again": (mistakes.csv(CAR * 2), "duplicate-box"),
    },
    "openimages": {"again": (mistakes.openimages(OI * 2), "duplicate-box")},
    "kitti": {"again": (mistakes.kitti(KITTI * 2), "duplicate-box")},
    "dota": {"again": (mistakes.dota(DOTA * 2), "duplicate-box")},
    "wider": {
        "again": (mistakes.wider(f"2\n4 2 16 10 {FACE}\n4 2 16 10 {FACE}\n"), "duplicate-box")
    },
    "mot": {"again": (mistakes.mot(FRAME * 2), "duplicate-box")},
    "huggingface": {"again": ({**IMAGES, mistakes.META: json.dumps(_TWO_OF_HF)}, "duplicate-box")},
}
EVERY = {name: {**found, **MORE[name]} for name, found in mistakes.TABLE.items()} | TABLE
