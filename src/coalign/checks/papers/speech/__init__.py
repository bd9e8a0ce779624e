"""Checks of the systems of `coalign.speech`."""
