"""Training a grader on a model's own answers: examples, and the report."""
