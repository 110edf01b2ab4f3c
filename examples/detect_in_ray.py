"""Find objects in many images on a Ray cluster, with detkit as a library.

    python examples/detect_in_ray.py MODEL FOLDER [WORKERS] > found.jsonl

Every worker opens the model once and gets one batch of paths after the other; the lines come in
the order of the paths, as `detkit detect` writes them, so that `detkit eval --predictions
found.jsonl DATA` scores them. All machines have to see FOLDER by the same path. With GPUs add
`num_gpus=1` to `map_batches`. In Spark the same class serves in `mapInPandas`.

Needs: pip install "ray[data]". `FindObjects` itself needs no Ray.
"""

import json
import sys
from pathlib import Path
from typing import Any

import detkit

BATCH_SIZE = 64  # paths that a worker gets at once; of the network: detkit's own


class FindObjects:
    """What a worker does: a map from a batch of paths to a batch of lines."""

    def __init__(self, model: str) -> None:
        """Open the model: once a worker, not once a batch."""
        self.detector = detkit.open_model(model, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Return a line of JSON for each of the paths in `batch["path"]`."""
        paths = [str(path) for path in batch["path"]]
        return {"line": [line_of(one) for one in detkit.predict(self.detector, paths)]}


def line_of(found: Any) -> str:
    """Return what was found in an image as a line of JSON; "error" says why nothing was."""
    if found.error is not None:
        return json.dumps({"image": found.image, "error": found.error})
    rows = zip(found.labels, found.scores.tolist(), found.boxes.tolist(), strict=True)
    detections = [{"label": label, "score": score, "box": box} for label, score, box in rows]
    size = {"width": found.width, "height": found.height}
    return json.dumps({"image": found.image, **size, "detections": detections})


def main(model: str, folder: str, workers: int) -> None:
    """Write a line an image to stdout."""
    import ray

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    paths = sorted(str(path.absolute()) for path in Path(folder).rglob("*.jpg"))
    images = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=workers)
    found = images.map_batches(
        FindObjects,
        fn_constructor_args=(str(Path(model).absolute()),),
        batch_size=BATCH_SIZE,
        concurrency=workers,
    )
    for row in found.iter_rows():
        print(row["line"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 2)
