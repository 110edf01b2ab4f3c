"""What backends can find of a labelled folder: for `check --model`, and on the page of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.model_choice import load_plugins
from detkit.cli.options import nearest
from detkit.errors import DetkitError, is_installed, need_of, require_installed

if TYPE_CHECKING:
    from detkit.cli.console import Console
    from detkit.config import DetectorConfig
    from detkit.data.records import Dataset, Finding
    from detkit.detector import Detector
    from detkit.report.network_sizes import NetworkSizes
    from detkit.structures import Truth
    from detkit.training.reach import Reach

Backend = tuple["type[Detector]", "DetectorConfig"]


def backend_config(
    model: str, settings: Sequence[str], plugin: Sequence[str] | None = None
) -> Backend:
    """Return the backend of `--model` and its config with `--set` put in.

    Raises UsageError for a backend or setting there is not.
    """
    require_installed("torch", "torchvision")
    from detkit.config import override, parse_settings
    from detkit.detectors import backend_names, load_backend

    load_plugins(plugin)
    backend = load_backend(nearest("--model", model, backend_names()))
    parsed = parse_settings(settings)
    return backend, override(backend.config_class(), backend.short_recipe, parsed)[0]


def find_reach_of(
    dataset: Dataset, backend: type[Detector], config: DetectorConfig, *, read_images: bool
) -> Reach:
    """Return how many of the objects a backend can find; of a large folder a spread sample."""
    from detkit.training.reach import find_reach

    labelled = list(_labelled(dataset, read_images=read_images))
    return find_reach(_weightless(dataset, backend, config, labelled), labelled)


def network_sizes(
    dataset: Dataset, own: Backend | None, *, read_images: bool
) -> tuple[list[NetworkSizes], list[str]]:
    """Return the objects as each backend sees them, and why one sees none, in words.

    `own` is the backend of `--model` with its settings, instead of its defaults.
    """
    import numpy as np
    import torch

    from detkit.detectors import backend_names
    from detkit.report.network_sizes import NetworkSizes
    from detkit.training.reach import find_reach, in_reach, reach_in_words, sound_boxes
    from detkit.transforms.preparation import scale_between

    labelled = [sound_boxes(one) for one in _labelled(dataset, read_images=read_images)]
    labelled = [one for one in labelled if len(one[0].boxes)]
    by_id = {one.image_id: one.path for part in dataset.splits.values() for one in part}
    found: list[NetworkSizes] = []
    notes: list[str] = []
    if not labelled:
        return found, notes
    for name in backend_names():
        backend, config = (
            own if own is not None and own[0].name == name else backend_config(name, ())
        )
        try:
            twin = _weightless(dataset, backend, config, labelled)
            reach = find_reach(twin, labelled)
        except DetkitError as error:
            notes.append(f"Not among the sizes: {error}")
            continue
        rule = twin.network_size()
        sides, reached = [], []
        for truth, size in labelled:
            boxes = torch.from_numpy(truth.boxes)
            scaled = boxes * scale_between(size, rule(*size))
            sides.append((scaled[:, 2:] - scaled[:, :2]).numpy())
            reached.append(in_reach(twin, boxes, size).numpy())
        found.append(
            NetworkSizes(
                name,
                _resized([rule(*size) for _, size in labelled]),
                np.concatenate([truth.labels for truth, _ in labelled]),
                dataset.class_names,
                tuple(by_id[truth.image_id] for truth, _ in labelled for _ in truth.labels),
                np.concatenate(sides),
                np.concatenate(reached),
                reach_in_words(reach),
            )
        )
    return found, notes


def _resized(sizes: Sequence[tuple[int, int]]) -> str:
    """Return the (height, width) of network images in words."""
    (least_h, least_w), (most_h, most_w) = (
        (one(height for height, _ in sizes), one(width for _, width in sizes)) for one in (min, max)
    )
    width = str(most_w) if least_w == most_w else f"{least_w} to {most_w}"
    height = str(most_h) if least_h == most_h else f"{least_h} to {most_h}"
    return f"{width} x {height}"


def _weightless(
    dataset: Dataset,
    backend: type[Detector],
    config: DetectorConfig,
    labelled: Sequence[tuple[Truth, tuple[int, int]]],
) -> Detector:
    """Return a detector of which no weight is ever looked at."""
    import torch

    config = backend.suited_config(config, labelled)
    with torch.device("meta"):
        return backend(config, dataset.class_names).eval()


def _labelled(dataset: Dataset, *, read_images: bool) -> Iterator[tuple[Truth, tuple[int, int]]]:
    """Yield the objects and the (height, width) of the images to judge, those without one left out.

    The size is that of the file; where it cannot be read, or is not to be, what the labels say.
    """
    from detkit.data.images import image_size
    from detkit.data.records import truth_of
    from detkit.training.dataset import spread
    from detkit.training.reach import MOST_JUDGED

    index = {name: number for number, name in enumerate(dataset.class_names)}
    by_path = {one.path: one for members in dataset.splits.values() for one in members}
    records = list(by_path.values())
    truths = [truth_of(record, index) for record in records]
    for place in spread([len(truth.boxes) for truth in truths], MOST_JUDGED):
        record = records[place]
        size = (record.height or 0, record.width or 0)
        if read_images:
            with suppress(DetkitError):
                size = image_size(record.path)
        if min(size) > 0:
            yield truths[place], size


def write_page(
    path: Path,
    dataset: Dataset,
    findings: Sequence[Finding],
    own: Backend | None,
    console: Console,
    *,
    read_images: bool,
) -> None:
    """Write the page of `check --report`; without torch there are no sizes on networks' images.

    Raises DetkitError when it cannot be written.
    """
    from detkit.machine import num_cores
    from detkit.report.data_page import write_data_page

    sizes: list[NetworkSizes] = []
    if is_installed("torch") and is_installed("torchvision"):
        sizes, notes = network_sizes(dataset, own, read_images=read_images)
    else:
        notes = [f"How large networks see the objects {need_of('torch')}"]
    with console.counting("taking pictures") as progress:
        write_data_page(
            path,
            dataset,
            findings,
            sizes=sizes,
            notes=notes,
            read_images=read_images,
            threads=num_cores(),
            progress=progress,
        )
    console.note(f"report: {path}")
