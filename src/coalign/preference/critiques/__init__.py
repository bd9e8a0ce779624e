"""Judgments in words: critics, rounds, report."""
