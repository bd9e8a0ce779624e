"""Alignment of video with text."""
