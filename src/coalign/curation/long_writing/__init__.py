"""Long writing: lengths that a request names and a text has, what keeps to them, and how a model's answers do."""
