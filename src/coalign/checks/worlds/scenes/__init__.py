"""Scenes of coloured squares, and models that draw them."""
