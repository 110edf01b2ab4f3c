"""Samples changed before a network sees them: resized, normalised, augmented."""
