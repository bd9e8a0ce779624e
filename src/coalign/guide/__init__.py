"""The surveys as a queryable catalogue and an advisor."""
