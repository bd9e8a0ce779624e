"""Making, filtering, selecting and mixing data."""
