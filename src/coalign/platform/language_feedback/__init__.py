"""Preference pairs from language feedback: prompts, records, stages and report."""
