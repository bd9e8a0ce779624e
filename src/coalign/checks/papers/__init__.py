"""Checks of the claims of papers, one a system, in a folder for each room."""
