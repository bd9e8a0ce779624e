"""Rounds of named stages and the rows that they write."""
