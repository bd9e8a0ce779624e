"""Checks of the systems of `coalign.video`."""
