"""Learning from rewards that are compared with what the base model reaches."""
