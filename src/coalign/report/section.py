"""What every section of a report has."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Section:
    """What every section has; `note` is a short explanation below the title."""

    title: str
    _: KW_ONLY
    note: str = ""
