"""Judges, verifiers and the reward language behind one protocol."""
