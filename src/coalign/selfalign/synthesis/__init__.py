"""Tasks that a model writes itself from a few seeds: seeds, requests, parsing, rules, rounds from the base model, reports."""
