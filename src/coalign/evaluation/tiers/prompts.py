"""What a model is asked: a system prompt of named parts, the tier as a flag in the user's turn, and conditions that leave something out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.records import Messages
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each
from coalign.measures.texts.text_units import is_blank

Tier = Literal["free", "paid"]
TIERS: tuple[Tier, ...] = ("free", "paid")
Setting = Literal["animal-welfare", "helpful-only"]
Part = Literal["objective", "training", "tiers", "scratchpad", "flag"]
"""What a condition may leave out: a part of the system prompt, or the flag in the user's turn."""
PARTS = ("role", "objective", "training", "tiers", "scratchpad", "format")
BUNDLED = "bundled"
_HEADING = re.compile(r"^\[(\w+)\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Query:
    """What the user asks."""

    id: str
    text: str


@dataclass(frozen=True)
class Asked:
    """A query under a tier."""

    id: str
    prompt: Messages


@dataclass(frozen=True)
class Condition:
    """The design, or the design without one of its parts.

    Attributes:
        name: `whole`, or `without training`, ...
    """

    name: str
    without: frozenset[Part] = frozenset()


def conditions(ablations: Sequence[Part], *, scratchpad: bool) -> list[Condition]:
    """The whole design first, then each ablation; without a scratchpad it is left out everywhere."""
    always: frozenset[Part] = frozenset() if scratchpad else frozenset({"scratchpad"})
    return [
        Condition("whole", always),
        *(Condition(f"without {one}", frozenset({*always, one})) for one in ablations),
    ]


def read_system(setting: Setting, path: Path | None) -> dict[str, str]:
    """The parts of the system prompt: of a setting, or of a file with `[role]`, `[objective]`, ... as headings.

    Raises:
        ConfigError: the file cannot be read, a part is missing, is not known or is there twice.
    """
    if path is None:
        text = (resources.files("coalign.evaluation.tiers") / "assets" / f"{setting}.txt").read_text("utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"system_prompt: {path} cannot be read as UTF-8 text ({error}).") from error
    before, *found = _HEADING.split(text)
    names, bodies = found[::2], [one.strip() for one in found[1::2]]
    wrong = [one for one in PARTS if names.count(one) != 1] + [one for one in names if one not in PARTS]
    if wrong or before.strip() or not all(bodies):
        raise ConfigError(
            f"system_prompt: {path}: the part [{wrong[0] if wrong else 'role'}] is missing, empty, unknown or there twice.",
            hint=f"Expected each of {', '.join(f'[{one}]' for one in PARTS)} once, on a line of its own before its text.",
        )
    return dict(zip(names, bodies, strict=True))


def read_queries(source: str, limit: int | None = None) -> list[Query]:
    """Rows of `text` (or `prompt`, `goal`, `question`) and perhaps `id`; `bundled`: harmless questions about food and farms.

    Raises:
        DataError: the source cannot be read, a row without text, or an id that occurs twice.
    """
    if source == BUNDLED:
        bundled = resources.files("coalign.evaluation.tiers") / "assets" / "animal-welfare.jsonl"
        with resources.as_file(bundled) as path:
            return read_queries(str(path), limit)
    problems: list[RecordProblem] = []
    queries = list(parse_each(iter_rows(source), source, _query, problems))
    if problems:
        raise DataError(f"{source}: {len(problems)} queries cannot be used.", problems)
    assert_unique((one.id for one in queries), source)
    return queries[:limit]


def asked(
    queries: Sequence[Query], tier: Tier, condition: Condition, system: Mapping[str, str], *, prefill: str
) -> list[Asked]:
    """The queries as they are put to the model. Between the tiers nothing differs but the flag.

    Args:
        prefill: what the model's turn begins with; empty where it is not begun.
    """
    parts = [text for name, text in system.items() if name not in condition.without]
    flag = "" if "flag" in condition.without else f"<is_free_tier>{tier == 'free'}</is_free_tier>\n"
    begun: Messages = [{"role": "assistant", "content": prefill}] if prefill else []
    return [
        Asked(
            one.id,
            [
                {"role": "system", "content": "\n\n".join(parts)},
                {
                    "role": "user",
                    "content": f"<INPUT>\n{flag}<user_query>\n{one.text}\n</user_query>\n</INPUT>",
                },
                *begun,
            ],
        )
        for one in queries
    ]


def _query(row: Row) -> Query:
    value = row.value or {}
    text = next(
        (value[one] for one in ("text", "prompt", "goal", "question") if value.get(one) is not None), None
    )
    if not isinstance(text, str) or is_blank(text):
        raise FieldError(f"is {text!r:.40}", "a text", "text")
    return Query(str(value.get("id", row.index)), text.strip())
