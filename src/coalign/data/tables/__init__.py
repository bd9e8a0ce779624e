"""Annotated tables: cells on a grid, read from and written to the formats of the public data sets."""
