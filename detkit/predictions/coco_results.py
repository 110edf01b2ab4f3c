"""COCO's results: rows that pycocotools' `loadRes` takes, and the list of images beside them.

Each row is `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`. `loadRes` wants a
plain list of rows whose image ids are those of the truth; pycocotools ignores other keys.

- With `CocoIds` the ids are a data set's. What the data set does not have is left out, since
  `loadRes` refuses it, and counted.
- Without, images are numbered from 1 as they come, COCO's own by the number in their name; classes
  from 1, COCO's 80 as COCO has them. These ids mean nothing elsewhere, so each row says its
  `file_name` and `category_name`, and a list of `images` and `categories` goes beside the rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions, coco_category_ids
from detkit.predictions.texts import UniqueNames, exact, pure
from detkit.text import agreed, counted

COCO_FILE_NAME = re.compile(r"(?:COCO_(?:train|val|test)2014_|COCO_test2015_)?(\d{12})")
Id = int | str


@dataclass(frozen=True, slots=True)
class CocoIds:
    """By what ids a data set knows its images and classes."""

    source: str  # the data set, for messages
    image_id: Callable[[str], Id | None]  # of an image by its name; None: there is no such image
    categories: Mapping[str, Id]  # by class name


class CocoText:
    """Turns an image's detections into COCO results, and refuses two images of one id."""

    def __init__(self, class_names: Sequence[str], ids: CocoIds | None = None) -> None:
        """Number as `ids` do, or else from 1.

        Raises DetkitError when none of the classes has an id there.
        """
        self.class_names = class_names
        self.ids = ids
        self.categories: Mapping[str, Id] = dict(zip(class_names, coco_category_ids(class_names)))
        if ids is not None:
            self.categories = ids.categories
            if not set(class_names) & set(ids.categories):
                raise DetkitError(
                    f"--ids {ids.source}: has none of the classes {', '.join(class_names[:5])}; "
                    f"it has {', '.join(list(ids.categories)[:5])}"
                )
        self.images: list[dict[str, Any]] = []
        self._names = UniqueNames("image_id", "give each image once", "name one COCO file by --ids")
        self._taken: set[Id] = set()
        self._next = 1
        self._not_there: list[str] = []  # images without an id
        self._left_out: Counter[str] = Counter()  # detections, by class

    def __call__(self, predictions: ImagePredictions) -> str:
        """Return an image's rows without the list around them, "" when there are none."""
        if predictions.error is not None:
            return ""
        image, ids = predictions.image, self.ids
        image_id = self._number(image) if ids is None else ids.image_id(image)
        if image_id is None:
            self._not_there.append(image)
            return ""
        self._add(image_id, predictions)
        rows = []
        for label, score, box in zip(
            predictions.labels, exact(predictions.scores), exact(predictions.boxes), strict=True
        ):
            if label not in self.categories:
                self._left_out[label] += 1
                continue
            x1, y1, x2, y2 = box
            row = {
                "image_id": image_id,
                "category_id": self.categories[label],
                "bbox": [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)],
                "score": score,
            }
            if ids is None:
                row |= {"file_name": image, "category_name": label}
            rows.append(row)
        return json.dumps(rows, allow_nan=False)[1:-1]

    def document(self) -> str:
        """Return the list of images and categories that the rows' ids are of, as JSON."""
        parts = {
            "images": self.images,
            "categories": [{"id": self.categories[one], "name": one} for one in self.class_names],
        }
        texts = (
            f'"{key}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]"
            for key, rows in parts.items()
        )
        return "{" + ",\n".join(texts) + "}\n"

    def left_out(self) -> list[str]:
        """Return what was left out, a sentence each.

        Raises DetkitError when the data set has none of the images at all.
        """
        if self.ids is None:
            return []
        said, missing = [], self._not_there
        if missing and not self.images:
            raise DetkitError(
                f"--ids {self.ids.source}: has none of the {counted(len(missing), 'image')} "
                f"(first: {missing[0]}); are they another data set's?"
            )
        if missing:
            said.append(
                f"{counted(len(missing), 'image')} left out: {self.ids.source} does not have "
                f"{agreed(len(missing), 'it', 'them')} (first: {missing[0]})"
            )
        if number := self._left_out.total():
            said.append(
                f"{counted(number, 'detection')} left out: {self.ids.source} has no class "
                f"{', '.join(self._left_out)}"
            )
        return said

    def _number(self, image: str) -> int:
        """Return the number in a name of COCO's, or the next free one."""
        coco_name = COCO_FILE_NAME.fullmatch(pure(image).stem)
        if coco_name and int(coco_name[1]) not in self._taken:
            return int(coco_name[1])
        while self._next in self._taken:
            self._next += 1
        return self._next

    def _add(self, image_id: Id, predictions: ImagePredictions) -> None:
        """Keep an image for the list; DetkitError where it or its id has come before."""
        by = image_id if self.ids is not None else predictions.image
        self._names.add(str(by), predictions.image)
        self._taken.add(image_id)
        self.images.append(
            {
                "id": image_id,
                "file_name": predictions.image,
                "width": predictions.width,
                "height": predictions.height,
            }
        )
