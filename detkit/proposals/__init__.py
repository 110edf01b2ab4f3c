"""External region proposals: selective search, Edge Boxes, files, the cache."""
