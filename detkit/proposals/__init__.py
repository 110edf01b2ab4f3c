"""Boxes that may hold an object, whatever it is: methods, files, the cache."""
