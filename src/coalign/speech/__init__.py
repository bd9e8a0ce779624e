"""Alignment of sound with text."""
