"""Judges under examination: what their verdicts depend on, and what people say of the same pairs."""
