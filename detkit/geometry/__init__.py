"""Boxes as numbers: their arithmetic, reference boxes, matching, non-maximum suppression."""
