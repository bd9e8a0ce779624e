"""Loading, adapters, the scoring engine (response log-probabilities) and the generation back ends."""
