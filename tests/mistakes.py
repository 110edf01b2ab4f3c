"""One made-up folder for each label format and mistake, and what is to be found in it.

Each folder holds a.png and b.png (40 x 20 pixels), a car on a.png at (4, 2, 20, 12) and nothing on
b.png, but for the mistake. `docs/data-formats.md` has the same table.
"""

from __future__ import annotations

import json

from labelled_folders import xml

Files = dict[str, str | bytes | None]

IMAGES: Files = {"images/a.png": None, "images/b.png": None}
YOLO = "0 .3 .35 .4 .5\n"
YAML = "names: [car]\ntrain: images\n"
CSV = "filename,width,height,class,xmin,ymin,xmax,ymax"
OPEN = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"
NO_3D = "-1 -1 -1 -1000 -1000 -1000 -10"
FACE = "0 0 0 0 0 0"

# What may be wrong, and the words of the page.
MISTAKES = {
    "broken": "a file or row that cannot be read",
    "number": "a box of no numbers",
    "class": "no class, or one without a name",
    "missing": "an image that is not there",
    "outside": "a path out of the folder",
    "twins": "two images that may be meant",
    "flag": "a mark that is no mark",
    "encoded": "a percent-encoded name",
    "unlabelled": "an image without labels",
    "twice": "two label files that differ",
    "border": "a box over the border",
    "swapped": "swapped corners",
    "area": "a point: no extent",
}


def coco(
    box: object = (4, 2, 16, 10), image: str = "a.png", images: int = 2, **more: object
) -> str:
    """Return a COCO document with the car of a.png."""
    names = [image, "b.png"][:images]
    return json.dumps(
        {
            "images": [{"id": place, "file_name": name} for place, name in enumerate(names, 1)],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, **more}],
            "categories": [{"id": 1, "name": "car"}],
        }
    )


def hf(
    box: object = (4, 2, 16, 10), image: str = "a.png", category: object = "car", **more: object
) -> str:
    """Return Hugging Face's rows with the car of a.png."""
    first = {"file_name": image, "objects": {"bbox": [box], "category": [category], **more}}
    second = {"file_name": "b.png", "objects": {"bbox": [], "category": []}}
    return "".join(f"{json.dumps(row)}\n" for row in (first, second))


def voc(*objects: object) -> Files:
    """Return VOC files of a.png's objects."""
    return {**IMAGES, "Annotations/a.xml": xml(*objects), "Annotations/b.xml": xml()}


def yolo(rows: str) -> Files:
    """Return YOLO files with rows of a.png."""
    return {
        **IMAGES,
        "labels/a.txt": rows,
        "labels/b.txt": "",
        "data.yaml": f"{YAML}train: images\n",
    }


def csv(rows: str) -> Files:
    """Return a table with rows of a.png."""
    return {**IMAGES, "labels.csv": f"{CSV},difficult\n{rows}b.png,40,20,,,,,,\n"}


def openimages(rows: str) -> Files:
    """Return OpenImages' files with rows of a.png."""
    return {
        **IMAGES,
        "annotations/train-annotations-bbox.csv": f"{OPEN}\n{rows}",
        "annotations/class-descriptions.csv": "/m/1,car\n",
        "annotations/image_ids_and_rotation.csv": "ImageID,Subset\na,train\nb,train\n",
    }


def kitti(rows: str) -> Files:
    """Return KITTI's files with rows of a.png beside a sound one of c.png."""
    sound = f"car 0 0 -10 1 1 9 9 {NO_3D}\n"
    images = {f"image_2/{name}.png": None for name in "abc"}
    return {**images, "label_2/a.txt": rows, "label_2/b.txt": "", "label_2/c.txt": sound}


def dota(rows: str) -> Files:
    """Return DOTA's files with rows of a.png."""
    return {**IMAGES, "labelTxt/a.txt": f"imagesource:x\ngsd:1\n{rows}", "labelTxt/b.txt": ""}


def wider(rows: str, image: str = "a.png") -> Files:
    """Return WIDER FACE's files with rows of a.png."""
    text = f"{image}\n{rows}b.png\n0\n0 0 0 0 {FACE}\n"
    return {
        **{f"WIDER_train/{name}": None for name in IMAGES},
        "wider_face_split/wider_face_train_bbx_gt.txt": text,
    }


def mot(rows: str) -> Files:
    """Return a sequence of two frames with rows of the first."""
    frames: Files = {"img1/000001.png": None, "img1/000002.png": None}
    return {**frames, "gt/gt.txt": rows, "seqinfo.ini": "[Sequence]\nimDir=img1\nimExt=.png\n"}


def without(files: Files, *names: str) -> Files:
    """Return files without some of them."""
    return {name: content for name, content in files.items() if name not in names}


CAR = "a.png,40,20,car,5,3,20,12,0\n"
OI = "a,xclick,/m/1,1,.1,.5,.1,.6,0\n"
META = "images/metadata.jsonl"
KITTI = f"car 0 0 -10 4 2 20 12 {NO_3D}\n"
DOTA = "4 2 20 2 20 12 4 12 car 0\n"
ONE_FACE = f"1\n4 2 16 10 {FACE}\n"
FRAME = "1,1,5,3,16,10,1,1,1\n"
TWINS: Files = {"x/a.png": None, "y/a.png": None, "images/b.png": None}
JPG: Files = {"images/a.jpg": None}

# By format and mistake: the folder, and the code of what is found; "read": it is no mistake here.
Case = tuple[Files, str]
TABLE: dict[str, dict[str, Case]] = {
    "voc": {
        "broken": ({**voc(), "Annotations/a.xml": "<annotation>"}, "bad-xml"),
        "number": (voc(("car", "x", 3, 20, 12)), "bad-number"),
        "class": (voc(("", 5, 3, 20, 12)), "no-class"),
        "missing": (without(voc(("car", 5, 3, 20, 12)), "images/a.png"), "missing-image"),
        "outside": (
            {**voc(), "Annotations/c.xml": xml(("car", 5, 3, 20, 12), filename="../../c.png")},
            "path-outside",
        ),
        "twins": ({**voc(("car", 5, 3, 20, 12)), **JPG}, "ambiguous-image"),
        "flag": (voc(("car", 5, 3, 20, 12, "<difficult>maybe</difficult>")), "bad-number"),
        "encoded": (
            {
                "images/a b.png": None,
                "images/b.png": None,
                "Annotations/a%20b.xml": xml(("car", 5, 3, 20, 12)),
                "Annotations/b.xml": xml(),
            },
            "read",
        ),
        "unlabelled": (without(voc(("car", 5, 3, 20, 12)), "Annotations/b.xml"), "missing-label"),
        "twice": (
            {**voc(("car", 5, 3, 20, 12)), "images/a.xml": xml(("car", 1, 1, 9, 9))},
            "two-labels",
        ),
        "border": (voc(("car", 5, 3, 60, 12)), "outside-image"),
        "swapped": (voc(("car", 20, 3, 5, 12)), "swapped-box"),
        "area": (voc(("car", 5, 3, 5, 3)), "one-pixel"),
    },
    "coco": {
        "broken": ({**IMAGES, "coco.json": coco()[:-9] + ' "images'}, "bad-json"),
        "number": ({**IMAGES, "coco.json": coco(("x", 2, 16, 10))}, "bad-number"),
        "class": ({**IMAGES, "coco.json": coco(category_id=7)}, "unknown-class"),
        "missing": ({"images/b.png": None, "coco.json": coco()}, "missing-image"),
        "outside": ({**IMAGES, "coco.json": coco(image="../../c.png")}, "path-outside"),
        "twins": ({**TWINS, "coco.json": coco()}, "ambiguous-image"),
        "flag": ({**IMAGES, "coco.json": coco(iscrowd="maybe")}, "bad-number"),
        "encoded": (
            {**IMAGES, "images/a b.png": None, "coco.json": coco(image="a%20b.png")},
            "read",
        ),
        "unlabelled": ({**IMAGES, "coco.json": coco(images=1)}, "unlisted-image"),
        "twice": (
            {**IMAGES, "one.json": coco(), "two.json": coco((1, 1, 9, 9))},
            "image-twice",
        ),
        "border": ({**IMAGES, "coco.json": coco((4, 2, 99, 10))}, "outside-image"),
        "swapped": ({**IMAGES, "coco.json": coco((20, 2, -16, 10))}, "swapped-box"),
        "area": ({**IMAGES, "coco.json": coco((4, 2, 0, 0))}, "zero-area"),
    },
    "yolo": {
        "broken": (yolo(f"{YOLO}0 .5\n"), "bad-row"),
        "number": (yolo("0 x .35 .4 .5\n"), "bad-row"),
        "class": (yolo("7 .3 .35 .4 .5\n"), "unknown-class"),
        "missing": (without(yolo(YOLO), "images/a.png"), "missing-image"),
        "outside": (
            {**yolo(YOLO), "data.yaml": f"{YAML}val: ../../other\n"},
            "path-outside",
        ),
        "twins": ({**yolo(YOLO), **JPG}, "ambiguous-image"),
        "encoded": (
            {
                "images/a b.png": None,
                "images/b.png": None,
                "labels/a%20b.txt": YOLO,
                "labels/b.txt": "",
                "data.yaml": YAML,
            },
            "read",
        ),
        "unlabelled": (without(yolo(YOLO), "labels/b.txt"), "missing-label"),
        "twice": ({**yolo(YOLO), "images/a.txt": "0 .5 .5 .5 .5\n"}, "two-labels"),
        "border": (yolo("0 .9 .35 .4 .5\n"), "outside-image"),
        "swapped": (yolo("0 .3 .35 -.4 .5\n"), "swapped-box"),
        "area": (yolo("0 .3 .35 0 0\n"), "zero-area"),
    },
    "csv": {
        "broken": (csv("a.png,40,20,car\n"), "bad-row"),
        "number": (csv("a.png,40,20,car,x,3,20,12,0\n"), "bad-number"),
        "class": (csv("a.png,40,20,,5,3,20,12,0\n"), "no-class"),
        "missing": (without(csv(CAR), "images/a.png"), "missing-image"),
        "outside": (csv(f"../../z{CAR}"), "path-outside"),
        "twins": ({**without(csv(CAR), "images/a.png"), **TWINS}, "ambiguous-image"),
        "flag": (csv("a.png,40,20,car,5,3,20,12,maybe\n"), "bad-number"),
        "encoded": ({**csv(f"a%20{CAR}"), "images/a a.png": None}, "read"),
        "unlabelled": ({**csv(CAR), "images/c.png": None}, "unlisted-image"),
        "twice": (
            {**csv(CAR), "more.csv": f"{CSV}\na.png,40,20,car,1,1,9,9\n"},
            "image-twice",
        ),
        "border": (csv("a.png,40,20,car,5,3,60,12,0\n"), "outside-image"),
        "swapped": (csv("a.png,40,20,car,20,3,5,12,0\n"), "swapped-box"),
        "area": (csv("a.png,40,20,car,5,3,5,3,0\n"), "one-pixel"),
    },
    "openimages": {
        "broken": (openimages(f"{OI}a,xclick,/m/1\n"), "bad-row"),
        "number": (openimages("a,xclick,/m/1,1,x,.5,.1,.6,0\n"), "bad-number"),
        "class": (openimages("a,xclick,,1,.1,.5,.1,.6,0\n"), "no-class"),
        "missing": (without(openimages(OI), "images/a.png"), "missing-image"),
        "outside": (openimages(f"../../z{OI}"), "path-outside"),
        "twins": ({**openimages(OI), **JPG}, "ambiguous-image"),
        "flag": (openimages("a,xclick,/m/1,1,.1,.5,.1,.6,maybe\n"), "bad-number"),
        "encoded": ({**openimages(f"a%20{OI}"), "images/a a.png": None}, "read"),
        "unlabelled": ({**openimages(OI), "images/c.png": None}, "unlisted-image"),
        "twice": (
            {
                **openimages(OI),
                "annotations/train-2-annotations-bbox.csv": f"{OPEN}\na,x,/m/1,1,.2,.3,.2,.3,0\n",
            },
            "image-twice",
        ),
        "border": (openimages("a,xclick,/m/1,1,.1,1.5,.1,.6,0\n"), "outside-image"),
        "swapped": (openimages("a,xclick,/m/1,1,.5,.1,.1,.6,0\n"), "swapped-box"),
        "area": (openimages("a,xclick,/m/1,1,.1,.1,.1,.1,0\n"), "zero-area"),
    },
    "kitti": {
        "broken": (kitti(f"{KITTI}car 0 0\n"), "bad-row"),
        "number": (kitti(f"car 0 0 -10 x 2 20 12 {NO_3D}\n"), "bad-row"),
        "missing": (without(kitti(KITTI), "image_2/a.png"), "missing-image"),
        "twins": ({**kitti(KITTI), "image_2/a.jpg": None}, "ambiguous-image"),
        "encoded": (
            {
                **without(kitti(""), "label_2/a.txt", "image_2/a.png"),
                "image_2/a b.png": None,
                "label_2/a%20b.txt": KITTI,
            },
            "read",
        ),
        "unlabelled": (without(kitti(KITTI), "label_2/b.txt"), "missing-label"),
        "twice": (
            {**kitti(KITTI), "more/label_2/a.txt": f"car 0 0 -10 1 1 9 9 {NO_3D}\n"},
            "image-twice",
        ),
        "border": (kitti(f"car 0 0 -10 4 2 60 12 {NO_3D}\n"), "outside-image"),
        "swapped": (kitti(f"car 0 0 -10 20 2 4 12 {NO_3D}\n"), "swapped-box"),
        "area": (kitti(f"car 0 0 -10 4 2 4 2 {NO_3D}\n"), "zero-area"),
    },
    "dota": {
        "broken": (dota(f"{DOTA}4 2 20\n"), "bad-row"),
        "number": (dota("x 2 20 2 20 12 4 12 car 0\n"), "bad-row"),
        "missing": (without(dota(DOTA), "images/a.png"), "missing-image"),
        "twins": ({**dota(DOTA), **JPG}, "ambiguous-image"),
        "flag": (dota("4 2 20 2 20 12 4 12 car 7\n"), "bad-number"),
        "encoded": (
            {
                "images/a b.png": None,
                "images/b.png": None,
                "labelTxt/a%20b.txt": DOTA,
                "labelTxt/b.txt": "",
            },
            "read",
        ),
        "unlabelled": (without(dota(DOTA), "labelTxt/b.txt"), "missing-label"),
        "twice": ({**dota(DOTA), "labelTxt-v1.5/a.txt": "1 1 9 1 9 9 1 9 car 0\n"}, "image-twice"),
        "border": (dota("4 2 60 2 60 12 4 12 car 0\n"), "outside-image"),
        "area": (dota("4 2 4 2 4 2 4 2 car 0\n"), "zero-area"),
    },
    "wider": {
        "broken": (wider(f"2\n4 2 16 10 {FACE}\n1 2\n"), "bad-row"),
        "number": (wider(f"1\nx 2 16 10 {FACE}\n"), "bad-row"),
        "missing": (without(wider(ONE_FACE), "WIDER_train/images/a.png"), "missing-image"),
        "outside": (wider(ONE_FACE, "../../../c.png"), "path-outside"),
        "twins": (
            {
                **without(wider(ONE_FACE), "WIDER_train/images/a.png"),
                "x/a.png": None,
                "y/a.png": None,
            },
            "ambiguous-image",
        ),
        "flag": (wider("1\n4 2 16 10 0 0 0 7 0 0\n"), "bad-number"),
        "encoded": ({**wider(ONE_FACE, "a%20a.png"), "WIDER_train/images/a a.png": None}, "read"),
        "unlabelled": ({**wider(ONE_FACE), "WIDER_train/images/c.png": None}, "unlisted-image"),
        "twice": (
            {**wider(ONE_FACE), "more_train.txt": f"a.png\n1\n1 1 9 9 {FACE}\n"},
            "image-twice",
        ),
        "border": (wider(f"1\n4 2 99 10 {FACE}\n"), "outside-image"),
        "swapped": (wider(f"1\n20 2 -16 10 {FACE}\n"), "swapped-box"),
        "area": (wider(f"1\n4 2 0 0 {FACE}\n"), "zero-area"),
    },
    "mot": {
        "broken": (mot(f"{FRAME}1,2,5\n"), "bad-row"),
        "number": (mot("1,2,x,3,16,10,1,1,1\n"), "bad-number"),
        "class": (mot("1,1,5,3,16,10,1,77,1\n"), "unknown-class"),
        "missing": (without(mot(FRAME), "img1/000001.png"), "missing-image"),
        "twins": ({**mot(FRAME), "img1/000001.jpg": None}, "ambiguous-image"),
        "flag": (mot("1,1,5,3,16,10,maybe,1,1\n"), "bad-number"),
        "twice": ({**mot(FRAME), "gt.txt": "1,1,2,2,9,9,1,1,1\n"}, "image-twice"),
        "border": (mot("1,1,5,3,99,10,1,1,1\n"), "outside-image"),
        "swapped": (mot("1,1,20,3,-16,10,1,1,1\n"), "swapped-box"),
        "area": (mot("1,1,5,3,0,0,1,1,1\n"), "zero-area"),
    },
    "huggingface": {
        "broken": ({**IMAGES, META: hf() + "{\n"}, "bad-json"),
        "number": ({**IMAGES, META: hf(("x", 2, 16, 10))}, "bad-number"),
        "class": ({**IMAGES, META: hf(category=None)}, "no-class"),
        "missing": ({"images/b.png": None, META: hf()}, "missing-image"),
        "outside": ({**IMAGES, META: hf(image="../../c.png")}, "path-outside"),
        "twins": ({**TWINS, "metadata.jsonl": hf()}, "ambiguous-image"),
        "flag": ({**IMAGES, META: hf(iscrowd=["maybe"])}, "bad-number"),
        "encoded": (
            {**IMAGES, "images/a a.png": None, META: hf(image="a%20a.png")},
            "read",
        ),
        "unlabelled": (
            {**IMAGES, "images/c.png": None, META: hf()},
            "unlisted-image",
        ),
        "twice": (
            {
                **IMAGES,
                META: hf(),
                "metadata.jsonl": hf((1, 1, 9, 9), "images/a.png"),
            },
            "image-twice",
        ),
        "border": ({**IMAGES, META: hf((4, 2, 99, 99))}, "outside-image"),
        "swapped": ({**IMAGES, META: hf((20, 2, -16, 10))}, "swapped-box"),
        "area": ({**IMAGES, META: hf((4, 2, 0, 0))}, "zero-area"),
    },
}
