"""The other side of proposals.py: opencv-contrib's region proposals, asked for line by line.

Runs in an environment of its own, which has OpenCV's contrib build and NumPy but not detkit.
Each line of stdin is `METHOD<tab>INPUT.npz<tab>OUTPUT.npz`; INPUT holds `image` (RGB) and, for
Edge Boxes, `edges` and `orientation`; OUTPUT gets `boxes` (P, 4) xyxy and `seconds`. Each answer
is a line of stdout.
"""

import sys
import time

import cv2
import numpy as np

NUM_BOXES = 2000


def selective_search(mode):
    """Return a function from inputs to (x, y, w, h) boxes."""

    def run(inputs):
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(inputs["bgr"])
        if mode == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
        return search.process()

    return run


def edge_boxes(inputs):
    """Return the (x, y, w, h) boxes of a given edge map, with OpenCV's defaults but the number."""
    finder = cv2.ximgproc.createEdgeBoxes(maxBoxes=NUM_BOXES)
    return finder.getBoundingBoxes(inputs["edges"], inputs["orientation"])[0]


METHODS = {
    "selective-search": selective_search("fast"),
    "selective-search-quality": selective_search("quality"),
    "edge-boxes": edge_boxes,
}


def main():
    cv2.setNumThreads(1)
    print("ready", cv2.__version__, flush=True)
    for line in sys.stdin:
        method, source, target = line.rstrip("\n").split("\t")
        with np.load(source) as stored:
            inputs = dict(stored)
        inputs["bgr"] = np.ascontiguousarray(inputs["image"][:, :, ::-1])
        started = time.perf_counter()
        found = METHODS[method](inputs)
        seconds = time.perf_counter() - started
        boxes = np.asarray(found, np.float32).reshape(-1, 4)[:NUM_BOXES]
        boxes[:, 2:] += boxes[:, :2]
        np.savez(target, boxes=boxes, seconds=seconds)
        print("done", flush=True)


if __name__ == "__main__":
    main()
