"""From the columns of a file to records: which kind the file holds, and each row as a record or as its problems.

A *layout* says which column plays which part. It is chosen once a file, from the columns that most of its first rows
have, so that one odd row is a bad record and not another kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from coalign.core.errors import DataError
from coalign.data.layouts import KnownLayout, Rewrite, known_layout, refused_layout
from coalign.data.messages import FieldError, is_dialogue, shares_prompt
from coalign.data.records import KINDS, Kind

_PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "messages": ("the conversation", ("messages", "conversations", "conversation")),
    "prompt": ("the prompt", ("prompt", "instruction", "question", "query")),
    "system": ("the system message", ("system", "system_prompt")),
    "chosen": ("the preferred response", ("chosen",)),
    "rejected": ("the other response", ("rejected",)),
    "chosen_score": (
        "the score of the preferred response",
        ("score_chosen", "chosen_score", "chosen-rating", "chosen_rating", "rating_chosen"),
    ),
    "rejected_score": (
        "the score of the other response",
        ("score_rejected", "rejected_score", "rejected-rating", "rejected_rating", "rating_rejected"),
    ),
    "responses": ("the responses", ("responses", "completions")),
    "scores": ("their scores", ("scores", "rewards", "ratings")),
    "ranks": ("their ranks (1 is best)", ("ranks",)),
    "completion": ("the response", ("completion", "response", "output", "answer")),
    "label": ("thumbs up or down", ("label",)),
    "judgment": ("what a judge said", ("judgment", "judgement", "critique")),
    "text": ("the text", ("text",)),
    "history": ("earlier turns of the prompt", ("history",)),
    "tools": ("the tools that the chat template writes", ("tools",)),
    "template_kwargs": ("arguments of the chat template", ("chat_template_kwargs",)),
    "images": ("the pictures of the prompt", ("images", "image")),
    "input": ("the prompt's second part", ()),
}
"""Part of a record to what it is, and to the column names that may hold it, the first that is there counts."""
PARTS = {part: names for part, (_, names) in _PARTS.items()}
"""Part of a record to the column names that may hold it."""

_NEEDS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen", "rejected"),),
    "ranking": (("prompt", "responses", "scores"), ("prompt", "responses", "ranks")),
    "judgment": (("prompt", "completion", "judgment"), ("messages", "judgment")),
    "feedback": (("prompt", "completion", "label"), ("messages", "label")),
    "demonstration": (("prompt", "completion"), ("messages",), ("text",)),
    "prompt": (("prompt",), ("messages",)),
}
"""Kind to the sets of parts that make it, the most specific kind first."""

_AROUND = ("input", "system", "history", "tools", "template_kwargs", "images")
_OPTIONAL: dict[Kind, tuple[str, ...]] = {
    **dict.fromkeys(KINDS, _AROUND),
    "preference": ("prompt", "messages", "chosen_score", "rejected_score", *_AROUND),
    "judgment": (*_AROUND, "label"),
}

_LOOKS_LIKE = {
    "a prompt": r"prompt|instruction|question|query|input|context|passages?|document|dialogue|source_text",
    "a conversation": r"messages|conversations?|history|turns_before|previous",
    "tools": r"tools?|functions?",
    "a system message": r"system.*|persona",
    "scores": r".*(score|rating|reward|rank|vote)s?(_.*)?|helpfulness|correctness|coherence|complexity|verbosity|quality",
    "a label": r"labels?|winner|preferred|preference|(better|safer|best)_.*|overall_preference",
    "responses": r"answers?|responses?|completions?|outputs?|replies|reply",
}
"""What a column's name suggests that it holds."""

_HALF: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("chosen", ("rejected",), "a preference needs both chosen and rejected"),
    ("rejected", ("chosen",), "a preference needs both chosen and rejected"),
    ("responses", ("scores", "ranks"), "a ranking needs also scores, rewards or ranks (one a response)"),
    ("completion", ("prompt", "messages"), "a completion needs also a prompt"),
    ("judgment", ("completion", "messages"), "a judgment needs also a prompt and a completion"),
)
"""Part, the parts of which one must stand beside it, what to say when none does."""

BESIDE = ("input", "context", "answers", "id", "constraints", "group_id")
"""Columns with a meaning that are no part of their own."""

RESPONSE_TEXT = ("response", "text", "content", "completion", "output", "answer")
RESPONSE_SCORE = ("score", "overall_score", "rating", "reward", "rank")
"""Keys of a response that is a mapping; a `rank` counts down."""


@dataclass(frozen=True)
class Layout:
    """What a file holds: its kind, which column plays which part, and why, in one sentence.

    Attributes:
        columns: part to column; after `rewrite`, where there is one.
        scored_dicts: the responses are mappings that carry their own score (as in UltraFeedback).
        rewrite: makes a row of a known data set one of usual columns.
        mapping: names to the file's columns that bear other names; everywhere else a column has the name that it is
            mapped to.
        displaced: columns whose own names are those of the mapping; they are kept beside the record.
        uses: every column that the file has, and what is done with it.
        warnings: columns that are kept, and whose names say that they may have been meant.
    """

    kind: Kind
    columns: Mapping[str, str]
    recognised: str
    scored_dicts: bool = False
    rewrite: Rewrite | None = None
    uses: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    displaced: tuple[str, ...] = ()

    @cached_property
    def claimed(self) -> frozenset[str]:
        """The columns that a part, or a rewriting, uses."""
        return frozenset(name for name, use in self.uses.items() if use != KEPT) | set(self.columns.values())

    @property
    def uses_in_file(self) -> dict[str, str]:
        """Every column by the name that it has in the file, and what is done with it."""
        uses = {self.mapping.get(name, name): use for name, use in self.uses.items()}
        return uses | dict.fromkeys(self.displaced, KEPT)

    def in_file(self, field: str) -> str:
        """A field as the file calls it: `prompt[1]` is `question[1]` where that column is mapped."""
        name = next((one for one in self.mapping if re.match(rf"{re.escape(one)}(\W|$)", field)), None)
        return field if name is None else self.mapping[name] + field[len(name) :]


WORDS_OF_PROMPT = 3
"""So many words that both responses begin with are a prompt, where no column may hold one."""
KEPT = "kept beside the record"


def usual_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that more than half of `rows` have and that are not null in all of them, in order of appearance."""
    counts = Counter(name for row in rows for name in row)
    filled = {name for row in rows for name, value in row.items() if value is not None}
    return [name for name, count in counts.items() if 2 * count > len(rows) and name in filled]


def renamed(row: Mapping[str, Any], mapping: Mapping[str, str]) -> Mapping[str, Any]:
    """A row of a file with the names of a mapping in place of its own."""
    if not mapping:
        return row
    taken = {*mapping, *mapping.values()}
    rest = {name: value for name, value in row.items() if name not in taken}
    return {**rest, **{name: row[column] for name, column in mapping.items() if column in row}}


def recognise(
    rows: Sequence[Mapping[str, Any]],
    source: str,
    kind: Kind | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Layout:
    """The layout of a file, from its first rows.

    Args:
        rows: the first rows of the file.
        source: the file, for messages.
        kind: what the caller wants. `prompt` is had from every kind, others only where their columns are.
        mapping: names to columns of the file that are taken as if they had them (`coalign.data.sources.check_columns`). A column that had
            such a name itself is kept beside the record.

    Raises:
        DataError: no kind (or not the wanted one) fits; it names the columns found and the ones needed. A column of
            the mapping that is not there.
    """
    mapping = mapping or {}
    present = dict.fromkeys(name for row in rows for name in row)
    absent = next((one for one in mapping.items() if one[1] not in present), None)
    if absent is not None:
        name, column = absent
        raise DataError(
            f"{source}: there is no column {column} to take as {name} (--column {name}={column}).",
            hint=f"Its columns are: {', '.join(present)}. What holds for one source of several stands with it: "
            f"PATH,column.{name}={column}.",
        )
    layout = _recognised([renamed(row, mapping) for row in rows], source, kind, mapping)
    idle = [one for one in mapping if layout.uses.get(one, KEPT) == KEPT and one not in BESIDE]
    if idle and kind != "prompt":
        raise DataError(
            f"{source}: --column {idle[0]}={mapping[idle[0]]} has no effect: {_PLURALS[layout.kind]} do not use "
            f"{idle[0]} here.",
            hint=f"Read as {layout.recognised}. Leave the mapping out, or choose another kind with --kind.",
        )
    displaced = tuple(one for one in mapping if one in present and one not in mapping.values())
    return replace(layout, mapping=mapping, displaced=displaced)


def _recognised(
    rows: Sequence[Mapping[str, Any]], source: str, kind: Kind | None, mapping: Mapping[str, str]
) -> Layout:
    columns = usual_columns(rows)
    known = known_layout(columns) if kind in (None, "ranking", "prompt") else None
    if known is not None:
        return _known(known, columns, rows, kind, mapping)
    refused = refused_layout(columns) if kind is None else None
    if refused is not None:
        raise DataError(
            f"{source}: cannot be read as it is: {refused}.", hint=f"Needed: {needed_columns(None)}."
        )
    parts = _parts(columns, rows)
    if not parts.keys() & {"completion", "scores", "ranks"} and are_single(rows, parts.get("responses", "")):
        parts["completion"] = parts.pop("responses")
    scored_dicts = _are_scored_dicts(row.get(parts.get("responses", "")) for row in rows)
    layout = _match(kind, parts, scored_dicts, rows)
    missing = "" if kind is not None else _missing(layout, parts, scored_dicts)
    if layout is None or missing:
        raise DataError(
            f"{source}: no {kind or 'known kind of record'} in the columns {', '.join(columns) or '(none)'}"
            + (f": {missing}." if missing else "."),
            hint=f"Needed: {needed_columns(kind)}. Other names are told with --column NAME=COLUMN"
            + (", another kind with --kind." if layout else "."),
        )
    used, how = layout.columns, _manner(layout, rows)
    rest = [name for name in columns if name not in layout.claimed]
    if layout.kind == "preference" and not {"prompt", "messages"} & set(used):
        _assert_shared_prompts(rows, used, rest, source)
    if layout.kind == "demonstration" and kind is None:
        _assert_not_rated(rest, source)
    sentence = f"{_PLURALS[layout.kind]}, from {_listed(list(used.values()), mapping)}{how}"
    sentence += f"; kept beside them: {', '.join(rest)}" if rest else ""
    uses = {name: _PARTS[part][0] for part, name in used.items()} | dict.fromkeys(rest, KEPT)
    return replace(layout, recognised=sentence, uses=uses, warnings=_overlooked(rest, kind))


def _known(
    known: KnownLayout,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    kind: Kind | None,
    mapping: Mapping[str, str],
) -> Layout:
    rest = [name for name in columns if name not in known.uses]
    # A row that cannot be rewritten is a bad record of its own; the columns are the same for all.
    prompt = next(name for name in ("question", "prompt") if name in _rewritten_names(known, rows))
    parts = {"prompt": prompt, "responses": "responses", "scores": "scores"}
    wanted: Kind = "prompt" if kind == "prompt" else "ranking"
    columns_of = {"prompt": prompt} if wanted == "prompt" else parts
    sentence = f"{_PLURALS[wanted]}, from {_listed(list(known.uses), mapping)} (as in {known.name})"
    sentence += f"; kept beside them: {', '.join(rest)}" if rest else ""
    uses = {**known.uses, **dict.fromkeys(rest, KEPT)}
    return Layout(wanted, columns_of, sentence, False, known.rewrite, uses, _overlooked(rest, kind))


def _rewritten_names(known: KnownLayout, rows: Sequence[Mapping[str, Any]]) -> Collection[str]:
    for row in rows:
        try:
            return known.rewrite(row).keys()
        except FieldError:
            continue
    return ("prompt",)


def _overlooked(rest: Sequence[str], kind: Kind | None) -> tuple[str, ...]:
    """A sentence for every kept column whose name says that it may have been meant. Where prompts alone are wanted, responses
    and what is said of them are for those who ask for them by name (a reward).
    """
    beside = ("scores", "a label", "responses") if kind == "prompt" else ()
    meant = [one for one in _LOOKS_LIKE if one not in beside]
    found = [(name, what) for name in rest for what in meant if _looks_like(what, name)]
    return tuple(
        f"The column {name} looks like {what} and is not used; rename it if it belongs to the record, or give "
        f"--column NAME={name}."
        for name, what in dict(found).items()
    )


def _looks_like(what: str, name: str) -> bool:
    return re.fullmatch(_LOOKS_LIKE[what], name.lower()) is not None


def _assert_not_rated(rest: Sequence[str], source: str) -> None:
    """Refuse rated responses that would all be taken as examples, bad ones included."""
    rated = [name for name in rest if _looks_like("scores", name)]
    if len(rated) > 1:
        raise DataError(
            f"{source}: the columns {', '.join(rated)} look like ratings of the responses, which demonstrations have not.",
            hint="Write one row a prompt with `responses` and `scores`, or `chosen` and `rejected`, or say which columns "
            "hold them (--column scores=NAME); to learn from every response all the same give --kind demonstration.",
        )


def _may_be_prompt(name: str, values: Sequence[Any]) -> bool:
    named = _looks_like("a prompt", name) or _looks_like("a conversation", name)
    return named or 2 * sum(isinstance(value, str) and value.count(" ") > 2 for value in values) > len(values)


def _assert_shared_prompts(
    rows: Sequence[Mapping[str, Any]], used: Mapping[str, str], rest: Sequence[str], source: str
) -> None:
    """Refuse pairs without a prompt column whose responses share nothing that could be a prompt."""
    pairs = [(row.get(used["chosen"]), row.get(used["rejected"])) for row in rows]
    pairs = [(one, other) for one, other in pairs if one is not None and other is not None and one != other]
    likely = [name for name in rest if _may_be_prompt(name, [row.get(name) for row in rows])]
    words = None if likely else WORDS_OF_PROMPT
    if not pairs or 2 * sum(shares_prompt(one, other, words) for one, other in pairs) > len(pairs):
        return
    named = f"; {', '.join(likely)} may hold it" if likely else ""
    raise DataError(
        f"{source}: no prompt: there is no prompt column, and chosen and rejected do not begin with a prompt that both "
        f"share{named}.",
        hint=f"Rename {likely[0] if likely else 'the column that holds it'} to `prompt`, or give --column "
        f"prompt={likely[0] if likely else 'COLUMN'}.",
    )


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


def _parts(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    parts = {
        part: name
        for part, names in PARTS.items()
        if (name := next((n for n in names if n in columns), None))
    }
    second = next((name for name in ("input", "context") if name in columns), None)
    if parts.get("prompt") == "instruction" and second:
        parts["input"] = second
    if "chosen" in parts and "prompt" not in parts and "messages" not in parts and "input" in columns:
        parts["prompt"] = "input"
    if "answers" in columns and _are_scored_dicts(row.get("answers") for row in rows):
        parts.setdefault("responses", "answers")
    return parts


def _match(
    kind: Kind | None, parts: Mapping[str, str], scored_dicts: bool, rows: Sequence[Mapping[str, Any]]
) -> Layout | None:
    have = set(parts) | ({"scores"} if scored_dicts else set())
    for candidate, alternatives in _NEEDS.items():
        for needs in alternatives:
            if kind not in (None, candidate) or not have.issuperset(needs):
                continue
            said = kind is None and candidate == "demonstration" and needs == ("messages",)
            if said and _ends_with_user(rows, parts):
                continue
            beside = [part for part in _OPTIONAL[candidate] if part != "input" or "messages" not in needs]
            if "prompt" in parts and "messages" not in needs:
                beside = [part for part in beside if part != "messages"]
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
    scored = sum(
        all(isinstance(one, dict) and not one.keys().isdisjoint(RESPONSE_SCORE) for one in value)
        for value in lists
    )
    return 2 * scored > len(lists) > 0


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
    whole = part == "chosen" and "prompt" not in layout.columns
    if whole and 2 * sum(map(is_dialogue, values)) > len(values):
        return " (whole dialogues in the Anthropic HH form; the prompt is what both share)"
    if part == "chosen" and not {"prompt", "messages"} & set(layout.columns):
        return " (no prompt column: the prompt is what both share)"
    if 2 * sum(isinstance(value, list) for value in values) > len(values):
        return " (messages)"
    return " (text)" if values else ""


def needed_columns(kind: Kind | None) -> str:
    """The columns that a kind needs, or each kind."""
    kinds = (kind,) if kind else KINDS
    return "; ".join(f"{one}: " + " or ".join(" + ".join(needs) for needs in _NEEDS[one]) for one in kinds)


def _listed(names: Sequence[str], mapping: Mapping[str, str]) -> str:
    names = [f"{mapping[one]} (as {one})" if one in mapping else one for one in names]
    if len(names) == 1:
        return f"the column {names[0]}"
    return f"the columns {', '.join(names[:-1])} and {names[-1]}"
