"""Moments of sentences in long videos: records, the aligner and its training, steps out of transcripts, page and report."""
