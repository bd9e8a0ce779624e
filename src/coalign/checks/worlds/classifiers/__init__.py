"""Worlds of classifiers, in which an item stands for a token."""
