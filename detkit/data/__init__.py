"""Labelled folders as people have them: found, read, judged, converted. No torch here."""
