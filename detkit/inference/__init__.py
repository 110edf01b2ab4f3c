"""Models opened and run on images."""
