"""Properties of speech recognisers to optimise for."""
