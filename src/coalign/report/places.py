"""Texts that others read, without the folders of the disk that they were written on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coalign.core.names import name_of_place

_PART = r"(?:\\[^\w\s]|[^\s/\\\"'`,;:()<>|\[\]{}])+"
"""A name in a path, in which Markdown may have escaped marks."""
_ABSOLUTE = re.compile(
    rf"(?<![\w/:.~<>\\-])(?:~/|(?:[A-Za-z]:)?[/\\]{_PART}[/\\])(?:{_PART}[/\\])*(?:{_PART})?"
)
"""An absolute path of two parts at least: one is as likely an address of a server."""


def is_place(text: str) -> bool:
    """Whether a text names a file or a folder of this disk: an absolute path, or one with several parts that is there."""
    if text.startswith(("/", "~/")) or re.match(r"[A-Za-z]:[/\\]", text):
        return True
    try:
        return bool(re.search(r"[/\\]", text)) and "://" not in text and Path(text).exists()
    except (OSError, ValueError):  # too long, or a null character
        return False


def with_names(value: Any) -> Any:
    """A nested value in which every place is its name: lists, mappings, texts, paths."""
    if isinstance(value, Mapping):
        return {key: with_names(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [with_names(one) for one in value]
    if isinstance(value, Path):
        return name_of_place(str(value))
    if isinstance(value, str):
        place, comma, more = value.partition(",")  # a source of a mix and its settings
        return f"{name_of_place(place)}{comma}{more}" if is_place(place) else value
    return value


def without_folders(text: str) -> str:
    """A text in which absolute paths are their last parts."""
    return _ABSOLUTE.sub(lambda found: name_of_place(re.sub(r"\\(?=[^\w\s])", "", found[0])), text)
