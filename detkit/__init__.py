"""detkit: train, run and judge the classic object detectors, from the shell or from Python.

    import detkit

    dataset = detkit.open_dataset("photos")
    detector = detkit.open_model("run")
    print(detkit.evaluate(detector, dataset, "test").mean)
    for found in detkit.predict(detector, ["street.jpg"]):
        print(found.labels, found.scores, found.boxes)

These names are found when they are first asked for, so that importing detkit, or opening a
labelled folder, does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detkit.data import open_dataset
    from detkit.evaluation.evaluate import evaluate
    from detkit.inference.models import new_model, open_model
    from detkit.inference.predict import predict
    from detkit.training.options import RunOptions
    from detkit.training.train import train

__version__ = "0.1.0"
__all__ = [
    "RunOptions",
    "evaluate",
    "new_model",
    "open_dataset",
    "open_model",
    "predict",
    "train",
]
_HOMES = {
    "RunOptions": "training.options",
    "evaluate": "evaluation.evaluate",
    "new_model": "inference.models",
    "open_dataset": "data",
    "open_model": "inference.models",
    "predict": "inference.predict",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Return one of the names above, imported now; MissingPackage where that needs an extra."""
    if name not in _HOMES:
        raise AttributeError(f"module 'detkit' has no attribute {name!r}")
    from detkit.errors import naming_extras

    with naming_extras(f"detkit.{name}"):
        return getattr(importlib.import_module(f"detkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names, those not imported yet included."""
    return sorted({*globals(), *__all__})
