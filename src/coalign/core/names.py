"""Near names for names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean ...?` with up to three known names near `name`, or `otherwise`."""
    near = difflib.get_close_matches(name, [*dict.fromkeys(known)], n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise
