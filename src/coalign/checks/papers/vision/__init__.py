"""Checks of the systems of `coalign.vision`."""
