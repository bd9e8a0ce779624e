"""Kills at random: a few for every run of the tests, many behind `-m slow`."""
