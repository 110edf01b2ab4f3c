"""Count the objects in images from what `detkit detect` writes; needs only Python itself.

    detkit detect run/best.safetensors photos/ | python examples/count_objects.py [MIN_SCORE]

Prints a tab-separated table: image, then the number of objects of each class.
"""

import json
import sys
from collections import Counter


def main(min_score: float) -> int:
    """Turn JSON Lines on stdin into a table on stdout; return 3 if an image was unreadable."""
    rows: list[tuple[str, Counter[str]]] = []
    unreadable = 0
    for line in sys.stdin:
        image = json.loads(line)
        if "error" in image:
            print(f"{image['image']}: {image['error']}", file=sys.stderr)
            unreadable += 1
            continue
        labels = [one["label"] for one in image["detections"] if one["score"] >= min_score]
        rows.append((image["image"], Counter(labels)))
    classes = sorted({label for _, counts in rows for label in counts})
    print("image", *classes, sep="\t")
    for name, counts in rows:
        print(name, *(counts[label] for label in classes), sep="\t")
    return 3 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.5))
