"""Pairs out of a model's own answers."""
