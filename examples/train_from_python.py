"""Train, score and use a detector from Python, as the shell's commands do.

    python examples/train_from_python.py DATA RUN_DIR [STEPS]

DATA is a labelled folder in any format that `detkit check` reads; `detkit demo DATA` writes one.
"""

import sys
from functools import partial
from pathlib import Path

import detkit


def main(data: Path, run_dir: Path, max_steps: int) -> None:
    """Train for a number of steps, then print mAP and what is in one test image."""
    dataset = detkit.open_dataset(data, val=0.2)  # sets a fifth of the training images apart
    detector, recipe = detkit.new_model(
        "ssd", dataset.class_names, settings={"batch_size": 8, "nms_thresh": 0.5}
    )
    options = detkit.RunOptions(
        max_steps=max_steps,
        validation=partial(detkit.evaluate, dataset=dataset, split="val"),
    )
    # A generator of steps: stop whenever you have seen enough.
    for step in detkit.train(detector, dataset.splits["train"], recipe, run_dir, options):
        if step.step % 20 == 0 or step.step == step.total_steps:
            print(f"step {step.step}: loss {sum(step.losses.values()):.3f}")

    best = detkit.open_model(run_dir)
    split = "test" if "test" in dataset.splits else "val"
    scores = detkit.evaluate(best, dataset, split)
    print(f"mAP {scores.mean} ({scores.protocol})")

    for found in detkit.predict(best, [dataset.splits[split][0].path]):
        for label, score, box in zip(found.labels, found.scores, found.boxes):
            print(label, round(float(score), 3), box.round(1).tolist())


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    steps = int(sys.argv[3]) if len(sys.argv) == 4 else 500
    main(Path(sys.argv[1]), Path(sys.argv[2]), steps)
