"""The scoring engine: log-probabilities of responses without padding."""
