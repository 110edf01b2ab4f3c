"""What a model or a proposer finds in images, in a thread: the open image first, then the next.

Torch and numba are imported there, inside functions.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError
from detkit.labelling.ordering import LabelOrder

logger = logging.getLogger(__name__)

LEAST_SCORE = 0.05  # of pre-labels; the page's slider begins there
MAX_DRAFTS, MAX_PROPOSALS = 300, 300  # an image
KEPT = 256  # images whose findings are remembered

Found = Sequence[Any]  # JSON values
Find = Callable[[Path], Found]


class Suggestions:
    """Finds something in images, in the order in which it is wanted; used by several threads."""

    def __init__(
        self,
        paths: Mapping[int, Path],
        open_finder: Callable[[], Find],
        changed: Callable[[], None],
        heard: Callable[[int, Found], None] | None = None,
    ) -> None:
        """Begin a thread, which first calls `open_finder`; `changed` hears of all that is new.

        With `heard`, which hears what was found, it looks at all images in the end.
        """
        self._heard = heard
        self._later: deque[int] = deque()  # those that nobody has asked for yet
        self._paths, self._open, self._changed = paths, open_finder, changed
        self._lock = threading.Condition()
        self._wanted: list[int] = []
        self._results: OrderedDict[int, tuple[Found, str]] = OrderedDict()
        self._find: Find | None = None
        self._failure = ""
        self._ending = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=type(self).__name__)
        self._thread.start()

    def close(self) -> None:
        """Find nothing more; what is being found is not waited for."""
        with self._lock:
            self._ending = True
            self._lock.notify_all()

    def want(self, number: int, following: Sequence[int]) -> None:
        """Find what is in this image next, and then in those that follow."""
        with self._lock:
            self._wanted = [number, *following]
            self._lock.notify_all()

    def result(self, number: int) -> tuple[str, Found | None, str]:
        """Return "ready", "waiting" or "failed", what was found, and why it failed."""
        with self._lock:
            if self._failure:
                return "failed", None, self._failure
            if number not in self._results:
                return "waiting", None, ""
            self._results.move_to_end(number)
            found, error = self._results[number]
            return ("failed", None, error) if error else ("ready", found, "")

    def reopen(self, open_finder: Callable[[], Find]) -> None:
        """Find everything anew with another finder, once it is opened; until then with this one."""
        with self._lock:
            self._open = open_finder
            self._find, self._failure = None, ""
            self._lock.notify_all()

    def _work(self) -> None:
        """Find what is wanted, until the end."""
        while True:
            with self._lock:
                number = None
                while not self._ending and self._find is not None:
                    number = self._next()
                    if number is not None:
                        break
                    self._lock.wait()
                if self._ending:
                    return
                find, opener = self._find, self._open
            if find is None:
                self._open_with(opener)
            elif number is not None:
                self._find_in(number, find)

    def _open_with(self, opener: Callable[[], Find]) -> None:
        """Open a finder; one that fails is told once, and wanted images are told it, too."""
        failure = ""
        try:
            find = opener()
        except Exception as error:  # whatever a model's file does, labelling goes on
            failure = _line(error)
            logger.warning("%s", failure)
            find = _find_nothing
        with self._lock:
            if opener is self._open:
                self._find, self._failure = find, failure
                self._results.clear()
                self._later = deque(self._paths if self._heard is not None else ())
        self._changed()

    def _find_in(self, number: int, find: Find) -> None:
        """Find what is in one image."""
        found: Found = ()
        problem = ""
        try:
            found = find(self._paths[number])
        except Exception as error:  # a broken image, or memory that ran out
            problem = _line(error)
        with self._lock:
            if find is not self._find:
                return
            # What nobody has asked for must not drive out what somebody has.
            if number in self._wanted or len(self._results) < KEPT:
                self._results[number] = found, problem
            while len(self._results) > KEPT:
                self._results.popitem(last=False)
        if self._heard is not None and not problem:
            self._heard(number, found)

    def _next(self) -> int | None:
        """Return the first image that is wanted and not looked at yet, else one for later."""
        if self._failure:
            return None
        wanted = next((one for one in self._wanted if one not in self._results), None)
        while wanted is None and self._later:
            other = self._later.popleft()
            wanted = None if other in self._results else other
        return wanted


class Drafts(Suggestions):
    """Pre-labels of a model."""

    def __init__(
        self,
        model: str | None,
        paths: Mapping[int, Path],
        changed: Callable[[], None],
        know_classes: Callable[[Sequence[str]], None],
        order: LabelOrder,
    ) -> None:
        """Open a model by name, file or run folder; `know_classes` hears its class names.

        `order` hears what is found. None: there is no model yet, until `take` brings one.
        """
        self._order = order
        self.generation, self._name = 0, model
        self._map: float | None = None
        self._know_classes = know_classes
        opener = _no_model if model is None else self._opener(model, 1)
        super().__init__(paths, opener, changed, None if model is None else order.hear)

    def take(self, model: Path) -> None:
        """Use another model from now on."""
        self._heard = self._order.hear
        self.reopen(self._opener(str(model), self.generation + 1))

    def told(self) -> dict[str, Any] | None:
        """Return what the page is told of the model; None: there is none yet."""
        if self._name is None:
            return None
        values = {"name": self._name, "generation": self.generation, "map": self._map}
        return {**values, **({"error": self._failure} if self._failure else {})}

    def _opener(self, model: str, generation: int) -> Callable[[], Find]:
        """Return what opens a model, which then is of this generation."""

        def opened() -> Find:
            find, class_names, mean = open_detector(model)
            self._know_classes(class_names)
            self._order.forget()
            self._name, self.generation, self._map = model, generation, mean
            return find

        return opened


def open_detector(model: str) -> tuple[Find, Sequence[str], float | None]:
    """Return what finds a model's detections, its class names, and its mAP where it states one.

    Raises DetkitError for a model that cannot be opened.
    """
    from detkit.inference.models import model_of, open_model
    from detkit.inference.predict import predict

    detector = open_model(model)
    path = Path(model)
    mean = _stated_map(model_of(path)) if path.exists() else None

    def find(image: Path) -> Found:
        found = next(iter(predict(detector, [image], batch_size=1, score_thresh=LEAST_SCORE)))
        if found.error is not None:
            raise DetkitError(f"{image}: {found.error}")
        rows = zip(found.labels, found.scores.tolist(), found.boxes.tolist(), strict=True)
        return [
            {"label": label, "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for label, score, box in rows
            if box[0] < box[2] and box[1] < box[3]
        ][:MAX_DRAFTS]

    return find, detector.class_names, mean


def _stated_map(path: Path) -> float | None:
    """Return the mAP in [0, 1] that a model file states of itself; None: it does not."""
    if path.suffix != ".safetensors":
        return None
    from detkit.model_file import model_info

    scores = model_info(path).get("scores") or {}
    mean = scores.get("mAP", scores.get("mean")) if isinstance(scores, dict) else None
    return float(mean) if isinstance(mean, int | float) else None


def proposals_by(method: str) -> Callable[[], Find]:
    """Return what opens a method of proposals; boxes come best first, `MAX_PROPOSALS` of them."""

    def opened() -> Find:
        from detkit.config import ProposalConfig
        from detkit.data.images import read_image
        from detkit.proposals.source import open_source

        source = open_source(method, ProposalConfig(max_proposals=MAX_PROPOSALS))
        source.require([])

        def find(image: Path) -> Found:
            boxes: Found = source(str(image), read_image(image)).boxes.tolist()
            return boxes

        return find

    return opened


def _no_model() -> Find:
    """Return what stands for a model that is still to be trained."""
    return _find_nothing


def _find_nothing(_: Path) -> Found:
    """Return that nothing is found."""
    return ()


def _line(error: Exception) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, DetkitError) else f"{type(error).__name__}: {text}"
