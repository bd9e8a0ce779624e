"""Alignment of images with text."""
