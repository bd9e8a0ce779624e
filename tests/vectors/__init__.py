"""Numeric cores against stored inputs and outputs: `python -m tests.vectors FILE...`.

A file holds `slug` and `cases`, each with `name`, `inputs`, `params` and `outputs`; a function of `losses.py` or
`adapters/<slug>.py` (dashes as underscores) computes the outputs with the library, in float64.
"""
