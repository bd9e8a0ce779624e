"""Configuration, run folders, event log, progress, errors, catalogue. Imports no torch."""
