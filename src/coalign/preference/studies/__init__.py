"""Grids of objectives, start points, sizes, constants and seeds."""
