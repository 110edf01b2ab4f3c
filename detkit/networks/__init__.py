"""The parts that detectors are built of: backbones, necks, heads, and their weights."""
