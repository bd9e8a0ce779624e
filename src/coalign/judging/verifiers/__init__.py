"""Constraints that a program can check, and the registry of their verifiers."""
