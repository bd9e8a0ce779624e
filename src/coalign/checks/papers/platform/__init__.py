"""Checks of the systems of `coalign.platform`."""
