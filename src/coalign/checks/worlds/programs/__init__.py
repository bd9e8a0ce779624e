"""Worlds of small programs."""
