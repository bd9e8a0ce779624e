"""Near names for names that nobody knows, and the names of what lies at a place."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any


def suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean ...?` with up to three known names near `name`, or `otherwise`."""
    near = difflib.get_close_matches(name, [*dict.fromkeys(known)], n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise


def near_path(path: str) -> str:
    """What is said of a path where nothing is: that its folder is not there either, or names beside it that are nearly its own;
    nothing where there are none.
    """
    folder, name = os.path.split(path)
    try:
        there = os.listdir(os.path.expanduser(folder) or ".")
    except FileNotFoundError:
        return f"There is no folder {folder}."
    except OSError:
        return ""
    return suggest(name, [one for one in there if not one.startswith(".")], "")


def name_of_place(place: str) -> str:
    """The last part of a folder, a file or a hub id; of a run folder's model the run."""
    parts = [one for one in re.split(r"[/\\]", place) if one]
    parts = parts[:-1] if parts[-1:] == ["model"] and len(parts) > 1 else parts
    return parts[-1] if parts else place


def spelt_alike(name: Any, texts: Mapping[str, str]) -> str:
    """The text of a name, whatever its case and however its words are joined; an empty one of a name without."""
    plain = {_plain(one): text for one, text in texts.items()}
    return plain.get(_plain(name), "") if isinstance(name, str) else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
