"""Checks of the systems of `coalign.curation`."""
