"""All that a page is told: labels, pictures, what a model or a proposer finds, and the training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from detkit.labelling.ordering import LabelOrder
from detkit.labelling.previews import TILE, Previews
from detkit.labelling.retraining import Retraining
from detkit.labelling.session import Refused, Session
from detkit.labelling.suggestions import Drafts, Suggestions

THRESHOLD = 0.5  # ours: where the page's slider begins
AHEAD = 3  # images prepared beyond the open one: their pictures, ...
SUGGESTED_AHEAD = 8  # ... and what is found in them


class Desk:
    """What the server asks; used by several threads at once."""

    def __init__(
        self,
        session: Session,
        order: LabelOrder | None = None,
        *,
        drafts: Drafts | None = None,
        proposals: Suggestions | None = None,
        retraining: Retraining | None = None,
    ) -> None:
        """Serve a session in an order, with what is found in its images where something is."""
        self.session = session
        self._order = LabelOrder(session) if order is None else order
        self.previews = Previews()
        self._drafts, self._proposals, self._retraining = drafts, proposals, retraining

    def close(self) -> None:
        """End what works beside the server, the training first, then write what is left."""
        for one in (self._retraining, self._drafts, self._proposals, self._order):
            if one is not None:
                one.close()
        self.previews.close()
        self.session.close()

    def state(self) -> dict[str, Any]:
        """Return how the session stands."""
        session = self.session
        with session.lock:
            return {
                "photos": str(session.photos.root),
                "out": str(session.out),
                "format": session.form,
                "classes": list(session.class_names),
                "images": len(session.known),
                "done": session.num_labelled,
                "model": None if self._drafts is None else self._drafts.told(),
                "proposals": self._proposals is not None,
                "threshold": THRESHOLD,
                "training": None if self._retraining is None else self._retraining.told(),
                "changes": session.changes,
                "ranked": self._order.times,
                "editor": session.editors.holder,
                "zoom_tiles": TILE,
                "trouble": session.trouble,
            }

    def images(self) -> dict[str, Any]:
        """Return the list of all images, and the order to label them in, with reasons."""
        return {
            "images": self.session.rows(),
            "order": self._order.order(),
            "reason": self._order.reasons(),
        }

    def drafts(self, number: int) -> dict[str, Any]:
        """Return what the model finds in an image: pre-labels, those of classes in use."""
        if self._drafts is None or self._drafts.told() is None:
            return {"status": "none", "generation": 0, "detections": []}
        self._drafts.want(number, self._next_after(number, SUGGESTED_AHEAD))
        status, found, error = self._drafts.result(number)
        known = set(self.session.class_names)
        return {
            "status": status,
            "generation": self._drafts.generation,
            "detections": [one for one in found or () if one["label"] in known],
            **({"error": error} if error else {}),
        }

    def proposals(self, number: int) -> dict[str, Any]:
        """Return the best proposals of an image."""
        if self._proposals is None:
            return {"status": "none", "boxes": []}
        self._proposals.want(number, self._next_after(number, SUGGESTED_AHEAD))
        status, found, error = self._proposals.result(number)
        return {
            "status": status,
            "boxes": list(found or ()),
            **({"error": error} if error else {}),
        }

    def preview(self, number: int, side: int) -> bytes:
        """Return a preview, and make those of the next images ahead."""
        content = self.previews.preview(self.session.known[number].photo.path, side)
        if side > 256:
            for other in self._next_after(number, AHEAD):
                with contextlib.suppress(RuntimeError):  # the end has come
                    self.previews.prepare(self.session.known[other].photo.path, side)
        return content

    def tile(self, number: int, level: int, x: int, y: int) -> bytes:
        """Return a tile; Refused, 404, where the image has none there."""
        content = self.previews.tile(self.session.known[number].photo.path, level, x, y)
        if content is None:
            raise Refused(404, f"image {number} has no tile {x}, {y} at level {level}")
        return content

    def _next_after(self, number: int, count: int) -> Sequence[int]:
        """Return the images that are likely to be opened next."""
        order = self._order.order()
        place = order.index(number) + 1
        return (order[place:] + order[:place])[:count]
