"""Train, score and use a detector from Python, as the shell's commands do.

    python examples/train_from_python.py DATA RUN_DIR [STEPS]

DATA is a labelled folder in any format that `detkit check` reads; `detkit demo DATA` writes one.
"""

import sys
from functools import partial
from pathlib import Path

from detkit.config import override, parse_settings
from detkit.data import open_dataset
from detkit.data.splits import training_splits
from detkit.detectors import load_backend
from detkit.evaluation.evaluate import evaluate
from detkit.inference.models import load_model
from detkit.inference.predict import predict
from detkit.training.options import RunOptions
from detkit.training.train import train


def main(data: Path, run_dir: Path, max_steps: int) -> None:
    """Train for a number of steps, then print mAP and what is in one test image."""
    dataset = open_dataset(data)
    records, held_out, _ = training_splits(dataset, val=None, seed=0)

    backend = load_backend("ssd")
    config, recipe = override(
        backend.config_class(backbone="tiny"),
        backend.short_recipe,
        parse_settings(["batch_size=8", "nms_thresh=.5"]),
    )
    detector = backend(config, dataset.class_names)

    options = RunOptions(
        validation=partial(evaluate, dataset=dataset.with_splits({"val": held_out}), split="val"),
        max_steps=max_steps,
    )
    # A generator of steps: stop whenever you have seen enough.
    for step in train(detector, records, recipe, run_dir, options):
        if step.step % 20 == 0 or step.step == step.total_steps:
            print(f"step {step.step}: loss {sum(step.losses.values()):.3f}")

    best = load_model(run_dir / "best.safetensors")
    split = "test" if "test" in dataset.splits else next(iter(dataset.splits))
    scores = evaluate(best, dataset, split)
    print(f"mAP {scores.mean} ({scores.protocol})")

    for found in predict(best, [dataset.splits[split][0].path]):
        for label, score, box in zip(found.labels, found.scores, found.boxes):
            print(label, round(float(score), 3), box.round(1).tolist())


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    steps = int(sys.argv[3]) if len(sys.argv) == 4 else 500
    main(Path(sys.argv[1]), Path(sys.argv[2]), steps)
