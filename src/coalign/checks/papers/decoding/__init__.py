"""Checks of the systems of `coalign.decoding`."""
