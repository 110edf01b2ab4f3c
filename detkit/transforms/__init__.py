"""Augmentation and preprocessing: samples changed before a network sees them."""
