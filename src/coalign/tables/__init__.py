"""Alignment of table structure with text."""
