"""Pairs of a picture and a text: what people say of them, a reward that learns it, scores and cuts of a corpus."""
