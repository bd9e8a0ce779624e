"""Checks of the systems of `coalign.rewards`."""
