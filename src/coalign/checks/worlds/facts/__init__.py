"""Worlds of facts that a tiny model reads or knows by heart."""
