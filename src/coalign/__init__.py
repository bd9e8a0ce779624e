"""Bring a model into line with what people want from it, and prove it."""

__version__ = "0.1.0"
