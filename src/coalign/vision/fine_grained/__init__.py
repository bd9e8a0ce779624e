"""How well pictures show what their prompts ask for: overall, and element by element."""
