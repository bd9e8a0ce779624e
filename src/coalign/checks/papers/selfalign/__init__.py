"""Checks of the systems of `coalign.selfalign`."""
