"""Texts to numbers: lengths, quality, similarity, languages, translations."""
