"""Checks of the systems of `coalign.preference`."""
