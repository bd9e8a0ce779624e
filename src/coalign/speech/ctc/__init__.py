"""Connectionist temporal classification: recognisers, alignment, decoding, training."""
