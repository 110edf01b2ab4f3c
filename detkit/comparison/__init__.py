"""Comparison of several models, trained and measured alike, and the table of what came out."""
