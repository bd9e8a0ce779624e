"""Methods one after the other, each a run of its own whose result the next ones take by name."""
