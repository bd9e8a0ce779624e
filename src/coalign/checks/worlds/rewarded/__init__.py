"""Worlds in which responses have known rewards, for learning from a model's own samples."""
