"""Labelling images in a browser on this machine, and what to label next."""
