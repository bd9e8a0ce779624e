"""Whole pipelines over several rooms."""
