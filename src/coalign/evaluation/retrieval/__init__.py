"""Answers that rest on retrieved passages: preference pairs of them, how they are made, and who prefers rightly."""
