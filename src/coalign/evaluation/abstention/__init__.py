"""Questions that a model should answer or decline: data, prompts, report."""
