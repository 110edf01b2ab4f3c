"""Images that are too small for a network: a map of it would have no place left."""

from __future__ import annotations

# What torch says of a map that a pooling or a convolution would leave without a place.
NO_PLACE = ("Output size is too small", "Kernel size can't be greater than actual input size")


def leaves_no_map(error: Exception) -> bool:
    """Return whether torch could not run a network since its images are too small for it."""
    return any(words in str(error) for words in NO_PLACE)


def too_few_pixels(name: str, size: str) -> str:
    """Return the line about the network's images, of `size`, that are too small for it."""
    return (
        f"{name}: {size} pixels are too few for this network, of which a map has no place left; "
        "raise --set size="
    )
