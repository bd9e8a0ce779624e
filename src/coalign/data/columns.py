"""From the columns of a file to records: which kind the file holds, and each row as a record or as its problems.

A *layout* says which column plays which part. It is chosen once a file, from the columns that most of its first rows
have, so that one odd row is a bad record and not another kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import DataError
from coalign.data.messages import is_transcript
from coalign.data.records import KINDS, Kind

PARTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations"),
    "prompt": ("prompt", "instruction", "question", "query"),
    "system": ("system", "system_prompt"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "chosen_score": ("score_chosen", "chosen_score", "chosen-rating", "chosen_rating"),
    "rejected_score": ("score_rejected", "rejected_score", "rejected-rating", "rejected_rating"),
    "responses": ("responses", "completions"),
    "scores": ("scores", "rewards", "ratings"),
    "ranks": ("ranks",),
    "completion": ("completion", "response", "output", "answer"),
    "label": ("label",),
    "judgment": ("judgment", "judgement", "critique"),
    "text": ("text",),
}
"""Part of a record to the column names that may hold it, the first that is there counts."""

_NEEDS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen", "rejected"),),
    "ranking": (("prompt", "responses", "scores"), ("prompt", "responses", "ranks")),
    "judgment": (("prompt", "completion", "judgment"), ("messages", "judgment")),
    "feedback": (("prompt", "completion", "label"), ("messages", "label")),
    "demonstration": (("prompt", "completion"), ("messages",), ("text",)),
    "prompt": (("prompt",), ("messages",)),
}
"""Kind to the sets of parts that make it, the most specific kind first."""

_OPTIONAL: dict[Kind, tuple[str, ...]] = {
    "preference": ("prompt", "input", "system", "chosen_score", "rejected_score"),
    "ranking": ("input", "system"),
    "judgment": ("input", "system", "label"),
    "feedback": ("input", "system"),
    "demonstration": ("input", "system"),
    "prompt": ("input", "system"),
}

_HALF: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("chosen", ("rejected",), "a preference needs both chosen and rejected"),
    ("rejected", ("chosen",), "a preference needs both chosen and rejected"),
    ("responses", ("scores", "ranks"), "a ranking needs also scores, rewards or ranks (one a response)"),
    ("completion", ("prompt", "messages"), "a completion needs also a prompt"),
    ("judgment", ("completion", "messages"), "a judgment needs also a prompt and a completion"),
)
"""Part, the parts of which one must stand beside it, what to say when none does."""

RESPONSE_TEXT = ("response", "text", "content", "completion", "output")
RESPONSE_SCORE = ("score", "overall_score", "rating", "reward")


@dataclass(frozen=True)
class Layout:
    """What a file holds: its kind, which column plays which part, and why, in one sentence.

    `scored_dicts`: the responses are mappings that carry their own score (as in UltraFeedback).
    """

    kind: Kind
    columns: Mapping[str, str]
    recognised: str
    scored_dicts: bool = False

    @property
    def claimed(self) -> frozenset[str]:
        return frozenset(self.columns.values())


def usual_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that more than half of `rows` have and that are not null in all of them, in order of appearance."""
    counts = Counter(name for row in rows for name in row)
    filled = {name for row in rows for name, value in row.items() if value is not None}
    return [name for name, count in counts.items() if 2 * count > len(rows) and name in filled]


def recognise(rows: Sequence[Mapping[str, Any]], source: str, kind: Kind | None = None) -> Layout:
    """The layout of a file, from its first rows.

    Args:
        rows: the first rows of the file.
        source: the file, for messages.
        kind: what the caller wants. `prompt` is had from every kind, others only where their columns are.

    Raises:
        DataError: no kind (or not the wanted one) fits; it names the columns found and the ones needed.
    """
    columns = usual_columns(rows)
    parts = _parts(columns)
    if not parts.keys() & {"completion", "scores", "ranks"} and are_single(rows, parts.get("responses", "")):
        parts["completion"] = parts.pop("responses")
    scored_dicts = _are_scored_dicts(row.get(parts.get("responses", "")) for row in rows)
    layout = _match(kind, parts, scored_dicts, rows)
    missing = "" if kind is not None else _missing(layout, parts, scored_dicts)
    if layout is None or missing:
        raise DataError(
            f"{source}: no {kind or 'known kind of record'} in the columns {', '.join(columns) or '(none)'}"
            + (f": {missing}." if missing else "."),
            hint=f"Needed: {_wanted(kind)}." + (" Or choose another kind with --kind." if layout else ""),
        )
    used, how = layout.columns, _manner(layout, rows)
    rest = [name for name in columns if name not in layout.claimed]
    sentence = f"{_PLURALS[layout.kind]}, from {_listed(list(used.values()))}{how}"
    sentence += f"; kept beside them: {', '.join(rest)}" if rest else ""
    return Layout(layout.kind, used, sentence, layout.scored_dicts)


def are_single(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column of responses has just one in every row, as a list: the completion."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(
        isinstance(one, list) and len(one) == 1 and isinstance(one[0], str) for one in values
    )


_PLURALS: dict[Kind, str] = {
    "prompt": "prompts",
    "demonstration": "demonstrations",
    "preference": "preference pairs",
    "ranking": "rankings",
    "feedback": "feedback (thumbs up or down)",
    "judgment": "judgments",
}


def _parts(columns: Sequence[str]) -> dict[str, str]:
    parts = {
        part: name
        for part, names in PARTS.items()
        if (name := next((n for n in names if n in columns), None))
    }
    if parts.get("prompt") == "instruction" and "input" in columns:
        parts["input"] = "input"
    return parts


def _match(
    kind: Kind | None, parts: Mapping[str, str], scored_dicts: bool, rows: Sequence[Mapping[str, Any]]
) -> Layout | None:
    have = set(parts) | ({"scores"} if scored_dicts else set())
    for candidate, alternatives in _NEEDS.items():
        for needs in alternatives:
            if kind not in (None, candidate) or not have.issuperset(needs):
                continue
            if (
                kind is None
                and candidate == "demonstration"
                and needs == ("messages",)
                and _ends_with_user(rows, parts)
            ):
                continue
            beside = [part for part in _OPTIONAL[candidate] if part != "input" or "messages" not in needs]
            names = {part: parts[part] for part in (*needs, *beside) if part in parts}
            return Layout(
                candidate, names, "", candidate == "ranking" and scored_dicts and "scores" not in parts
            )
    if kind == "prompt" and have.issuperset(("chosen", "rejected")):
        return Layout("prompt", {part: parts[part] for part in ("chosen", "rejected")}, "")
    return None


def _missing(layout: Layout | None, parts: Mapping[str, str], scored_dicts: bool) -> str:
    """What is missing beside a column that only makes sense with another; empty when nothing is."""
    if layout is not None and layout.kind not in ("prompt", "demonstration"):
        return ""
    for part, beside, message in _HALF:
        complete = any(one in parts for one in beside) or (part == "responses" and scored_dicts)
        if part in parts and not complete:
            return f"{message}, found only {parts[part]}"
    return ""


def _are_scored_dicts(values: Iterable[Any]) -> bool:
    lists = [value for value in values if isinstance(value, list) and value]
    scored = [
        value
        for value in lists
        if all(isinstance(one, dict) and any(key in one for key in RESPONSE_SCORE) for one in value)
    ]
    return 2 * len(scored) > len(lists) > 0


def _ends_with_user(rows: Sequence[Mapping[str, Any]], parts: Mapping[str, str]) -> bool:
    """Whether most conversations stop at the user's turn: then they are prompts."""
    lists = [value for row in rows if isinstance(value := row.get(parts["messages"]), list) and value]
    last = [value[-1] for value in lists if isinstance(value[-1], dict)]
    ends = sum(one.get("role", one.get("from")) in ("user", "human", "tool") for one in last)
    return 2 * ends > len(last)


def _manner(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> str:
    """How the values of the deciding column are written."""
    part = next((one for one in ("chosen", "messages", "prompt", "text") if one in layout.columns), None)
    values = [row.get(layout.columns[part]) for row in rows] if part else []
    values = [value for value in values if value is not None]
    if part == "chosen" and 2 * sum(map(is_transcript, values)) > len(values):
        return " (whole dialogues in the Anthropic HH form; the prompt is what both share)"
    if part == "chosen" and "prompt" not in layout.columns:
        return " (no prompt column: the prompt is what both share)"
    if 2 * sum(isinstance(value, list) for value in values) > len(values):
        return " (messages)"
    return " (text)" if values else ""


def _wanted(kind: Kind | None) -> str:
    kinds = (kind,) if kind else KINDS
    return "; ".join(f"{one}: " + " or ".join(" + ".join(needs) for needs in _NEEDS[one]) for one in kinds)


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the column {names[0]}"
    return f"the columns {', '.join(names[:-1])} and {names[-1]}"
