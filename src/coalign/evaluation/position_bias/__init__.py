"""Answers in parts, so that a judge's preference for a position cancels."""
