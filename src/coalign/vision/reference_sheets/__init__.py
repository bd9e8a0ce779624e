"""Sheets of reference pictures around an empty tile, which an in-painting model fills."""
