"""Alignment by a prompt of examples, and the analysis of token shift."""
