"""Coding preferences: what they are, how several models' answers are rated by them, and a benchmark of them."""
