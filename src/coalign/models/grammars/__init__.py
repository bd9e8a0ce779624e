"""Grammars that sampled texts follow: what a JSON schema allows, token by token."""
