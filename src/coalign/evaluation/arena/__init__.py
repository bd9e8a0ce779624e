"""Tournaments of models: matches, outputs, ratings, pages."""
