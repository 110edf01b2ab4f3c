"""Boxes: IoU and encoding, anchors and default boxes, matching, non-maximum suppression."""
