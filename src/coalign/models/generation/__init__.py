"""Generation with Transformers: the decode loop, sampling, endings."""
