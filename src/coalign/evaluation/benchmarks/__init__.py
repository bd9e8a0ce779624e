"""Standard tasks of lm-evaluation-harness and inspect_ai on one or several models, in one table."""
