"""The training loop, what feeds it and what it keeps; it knows no backend."""
