"""Toy worlds in which a claim can be checked in minutes."""
