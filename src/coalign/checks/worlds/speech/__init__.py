"""Worlds of speech: streams of tokens, and synthetic voices."""
