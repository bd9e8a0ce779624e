"""Checks of the systems of `coalign.evaluation`."""
