"""Factual consistency: the pair classifier, its data, scorers, report."""
