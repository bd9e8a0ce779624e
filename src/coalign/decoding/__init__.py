"""Alignment at inference time."""
