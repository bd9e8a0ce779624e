"""Checks of the systems of `coalign.guide`."""
