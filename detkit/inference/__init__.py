"""Inference: models opened and run on images."""
