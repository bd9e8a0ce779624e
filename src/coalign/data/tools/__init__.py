"""Tools in conversations: a place for them in prompts, calls in what a model wrote, and what a template leaves out."""
