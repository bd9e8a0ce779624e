"""Sound: reading, synthesis, silence, error rates."""
