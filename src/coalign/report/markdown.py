"""Text of a card: Markdown in which nothing of the text itself is read as a mark."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coalign.report.text import visible


def inline(text: str) -> str:
    """Text on one line in which no character is read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", " ".join(visible(text).split()))


def cells(texts: Sequence[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(inline(one).replace("|", "\\|") for one in texts) + " |"


def fence(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"
