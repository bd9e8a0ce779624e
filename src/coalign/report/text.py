"""Text that a model wrote, made safe to show: nothing hidden, nothing executed."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

INVISIBLE: tuple[tuple[int, int], ...] = (
    (0x00, 0x08),  # C0 controls without tab and line feed
    (0x0B, 0x1F),
    (0x7F, 0x9F),  # delete and C1 controls
    (0x061C, 0x061C),  # bidirectional marks, embeddings, overrides and isolates
    (0x200B, 0x200B),
    (0x200E, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xD800, 0xDFFF),  # lone surrogates
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),  # tag characters, which can carry a hidden message
)
"""Code points that would be unseen or change how the rest is read; shown by their code instead.

The zero-width joiners are not among them: Persian, Indic scripts and emoji need them.
"""

_CLASS = "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in INVISIBLE)
_INVISIBLE = re.compile(f"[{_CLASS}]")
_UNSAFE_IN_SCRIPT = re.compile(f"[<>&{_CLASS}]")


def visible(text: str) -> str:
    """Plain text with every invisible character as `<U+202E>`; safe for a terminal."""
    return _INVISIBLE.sub(lambda found: f"<{_code(found[0])}>", _lines(text))


def visible_html(text: Any) -> Markup:
    """Escaped HTML with every invisible character as a labelled `<span class="ctl">`."""
    parts, position = [], 0
    text = _lines(str(text))
    for found in _INVISIBLE.finditer(text):
        parts += [escape(text[position : found.start()]), _chip(found[0])]
        position = found.end()
    return Markup("").join([*parts, escape(text[position:])])


def script_json(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: no character in it can end the element or hide."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE_IN_SCRIPT.sub(lambda found: _json_escape(found[0]), text))


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def _chip(character: str) -> Markup:
    name = unicodedata.name(character, "control character").lower()
    return Markup('<span class="ctl" title="{}">{}</span>').format(name, _code(character))


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")
