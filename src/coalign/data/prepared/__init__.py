"""Records made ready for training, many at a time."""
