"""The order in which a session's images are labelled: `queue`'s, kept up to date in a thread.

At first by name. Once the images are looked at, by novelty; as a model's detections arrive, by its
doubt and the need of classes, too. Ranked anew after every few labelled images, never at once: the
list would jump under one's hands.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.labelling.session import Session

if TYPE_CHECKING:
    from detkit.labelling.pool import Pool
    from detkit.labelling.queue import LabelQueue

logger = logging.getLogger(__name__)

# Ours: what makes the list be ranked anew, ...
MANY_LABELLED = 10  # ... images labelled since, or ...
MANY_FOUND = 50  # ... images that the model has looked at since
RANKED = 500  # images that are ranked; the others follow by name
PAUSE = 2.0  # seconds between two looks at what has changed


class LabelOrder:
    """What to label next, of one session; used by several threads at once."""

    def __init__(self, session: Session) -> None:
        """Begin to look at the images in a thread."""
        self.times = 0  # the images were ranked
        self._session = session
        self._lock = threading.Lock()
        self._ranked: list[int] = []
        self._reasons: dict[int, str] = {}
        self._found: dict[int, tuple[Sequence[str], Sequence[float]]] = {}  # of the present model
        self._num_heard = 0  # detections that have arrived, of all models
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="LabelOrder")
        self._thread.start()

    def close(self) -> None:
        """Rank nothing more."""
        self._ending.set()

    def order(self) -> list[int]:
        """Return all images' numbers: those to do, what to label next first, then the others."""
        with self._session.lock:
            known = self._session.known
            to_do = {number for number, one in known.items() if one.labels.state == "todo"}
            others = sorted(set(known) - to_do)
        with self._lock:
            ranked = [number for number in self._ranked if number in to_do]
        return [*ranked, *sorted(to_do - set(ranked)), *others]

    def reasons(self) -> dict[int, str]:
        """Return why images stand where they do, by number."""
        with self._lock:
            return dict(self._reasons)

    def hear(self, number: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Take what the model has found in an image."""
        with self._lock:
            self._found[number] = (
                [one["label"] for one in found],
                [one["score"] for one in found],
            )
            self._num_heard += 1

    def forget(self) -> None:
        """Forget what an earlier model has found."""
        with self._lock:
            self._found.clear()

    def _work(self) -> None:
        """Look at all images once, and then rank them whenever enough has changed."""
        try:
            self._keep_ranked()
        except Exception as error:  # labelling goes on, in the order that there is
            logger.warning("what to label next: %s: %s", type(error).__name__, error)

    def _keep_ranked(self) -> None:
        from detkit.labelling.pool import look_at_pool

        paths = {str(one.photo.path): number for number, one in self._session.known.items()}
        pool = look_at_pool(list(paths))
        numbers = [paths[name] for name in pool.names]
        ranked_at: tuple[int, int] | None = None
        while not self._ending.is_set():
            now = self._session.num_labelled, self._num_heard
            if ranked_at is None or (
                abs(now[0] - ranked_at[0]) >= MANY_LABELLED or now[1] - ranked_at[1] >= MANY_FOUND
            ):
                self._rank(pool, numbers)
                ranked_at = now
                self.times += 1
                self._session.note_change()
            self._ending.wait(PAUSE)

    def _rank(self, pool: Pool, numbers: Sequence[int]) -> None:
        """Rank the images to do beside those that are labelled by now."""
        with self._session.lock:
            states = {number: one.labels.state for number, one in self._session.known.items()}
            class_names = list(self._session.class_names)
            counts = Counter(
                thing.name
                for one in self._session.known.values()
                for thing in one.labels.objects
                if one.labels.is_in_folder and not thing.region
            )
            names = {number: one.photo.name for number, one in self._session.known.items()}
        with self._lock:
            found = dict(self._found)
        to_do = [place for place, number in enumerate(numbers) if states[number] == "todo"]
        done = [
            place for place, number in enumerate(numbers) if states[number] in ("done", "empty")
        ]
        queue = queue_of(pool, to_do, done, class_names, counts if found else None)
        for place, at in enumerate(to_do):
            if numbers[at] in found:
                queue.add(place, *found[numbers[at]])

        def name(place: int, is_labelled: bool) -> str:
            return Path(names[numbers[(done if is_labelled else to_do)[place]]]).name

        ranked = queue.ranked(RANKED)
        with self._lock:
            self._ranked = [numbers[to_do[one.place]] for one in ranked]
            self._reasons = {
                numbers[to_do[one.place]]: ", ".join(queue.reasons(one, name)) for one in ranked
            }


def queue_of(
    pool: Pool,
    to_do: Sequence[int],
    done: Sequence[int],
    class_names: Sequence[str],
    counts: Mapping[str, int] | None,
) -> LabelQueue:
    """Return the queue of some images of a pool, beside others of it that are labelled by now.

    Both are places in the pool; `counts` are the labelled objects of each class, where a model's
    doubt is to be weighed by them.
    """
    from detkit.labelling.doubt import class_needs

    new = {old: place for place, old in enumerate(to_do)}
    of_done = {old: place for place, old in enumerate(done)}
    both = [*pool.copies, *[(two, one) for one, two in pool.copies]]
    rest = replace(
        pool,
        features=pool.features[list(to_do)],
        labelled_features=pool.features[list(done)],
        copies=[(new[one], new[two]) for one, two in pool.copies if one in new and two in new],
        seen={new[one]: of_done[two] for one, two in both if one in new and two in of_done},
    )
    needs = {} if counts is None else class_needs(class_names, counts)
    return rest.queue(needs=needs, counts=counts)
