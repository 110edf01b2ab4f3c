"""Tables of labels that are known and not read, and what to export instead.

- Label Studio's CSV: a row a task, its regions as JSON in a cell; columns as in
  label-studio-sdk's converter (`annotator`, `annotation_id`, `lead_time`, `created_at`).
- The CSV that Google's AutoML Vision and Vertex AI import, without a header: `[SET,]PATH,LABEL` and
  four corners `x,y` in shares of the sides, of which two may be empty.
"""

from __future__ import annotations

from detkit.data.formats.tables import first_row, plain_name
from detkit.data.image_kinds import PICTURE_SUFFIXES
from detkit.data.paths import suffix_of
from detkit.data.tree import Tree

SUFFIX = ".csv"
_LABEL_STUDIO = frozenset(("annotator", "annotationid", "leadtime", "createdat", "updatedat"))
_SETS = frozenset(("train", "training", "validate", "validation", "test", "unassigned"))
_CLOUD = "gs://"


def unread_table(tree: Tree, only: str | None = None) -> str:
    """Return what a folder's table is, and what to do instead; "" where none is known.

    `only` names the one file to look at.
    """
    for file in [only] if only else tree.with_suffix(SUFFIX):
        cells = first_row(tree, file)
        if len(_LABEL_STUDIO & {plain_name(cell) for cell in cells}) >= 2:
            return (
                f"{file} is Label Studio's CSV, which is not read: export JSON there (Export > "
                "JSON), and put it beside the images"
            )
        if _is_google(cells):
            return (
                f"{file} is a CSV for Google's AutoML or Vertex AI, which is not read: write "
                "filename,class,xmin,ymin,xmax,ymax with pixels for its shares of the sides, or "
                "export COCO JSON from the tool that made it, and put it beside the images"
            )
    return ""


def _is_google(cells: list[str]) -> bool:
    """Return whether a first row is one of Google's tables."""
    if cells and cells[0].lower() in _SETS:
        cells = cells[1:]
    if len(cells) < 8:  # a path, a label, and both coordinates of two corners across
        return False
    path = cells[0]
    if not path.lower().startswith(_CLOUD) and suffix_of(path) not in PICTURE_SUFFIXES:
        return False
    corners = cells[2:10]
    if not (corners[0] and corners[1] and corners[4] and corners[5]):
        return not any(cells[1:])  # an image without objects
    try:
        return all(0.0 <= float(cell) <= 1.0 for cell in corners if cell)
    except ValueError:
        return False
