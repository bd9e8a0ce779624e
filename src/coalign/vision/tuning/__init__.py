"""Classifiers from an image-text model and a few pictures of each class."""
