"""Words, questions and statements that worlds are made of: JSON files beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"


def read_texts(name: str) -> Any:
    """What the file holds: a list of texts, or a text to a list."""
    return json.loads((ASSETS / f"{name}.json").read_text(encoding="utf-8"))
