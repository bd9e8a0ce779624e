"""Commands over the folders of runs: list, show, compare."""
