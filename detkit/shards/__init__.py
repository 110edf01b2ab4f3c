"""A long run in n shares: which images are whose, the file of each, and how they become one.

Nothing is told from one process to another. Every process goes through all sources in the same
order and takes every n-th block of them, a block being what the network sees at once, so that an
image is computed beside the same others as in one run. A share is written to a file of JSON Lines:

    {"part": 2, "of": 8, "block": 8, "command": "detect", "asked": {...}}
    ... a line an image, as the command writes it without --shard ...
    {"part": 2, "of": 8, "images": 1250, "sources": 10000, "names": "6f1c..."}

The first line says what was asked for, the last that nothing is cut off and, by a digest of all
sources' names, among which images the share was taken. `merge` compares these lines and puts the
others together in the order of the sources: byte for byte the file of one run.
"""
