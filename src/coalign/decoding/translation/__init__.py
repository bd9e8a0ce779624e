"""Translation with examples: files, memory, prompts, report."""
