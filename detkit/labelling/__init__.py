"""Labelling images in a browser on this machine: `detkit label`."""
