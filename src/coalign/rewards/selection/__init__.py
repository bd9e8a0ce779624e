"""Answers that rewards choose, to learn from."""
