"""Worlds of words: texts made from patterns, and language models over their words."""
