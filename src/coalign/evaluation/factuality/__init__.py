"""Factual consistency: the alignment model, its data, scorers, report."""
