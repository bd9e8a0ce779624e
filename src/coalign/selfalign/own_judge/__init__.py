"""The model in training as the judge of its own pairs: prompts that ask for a letter, and what both internal rewards say."""
