"""Attacks on refusals that try several times, what they come to, and training against them."""
