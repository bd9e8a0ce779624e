"""Checks of the systems of `coalign.tables`."""
