"""Rules against tasks and answers that a model wrote: a name each, so that they can be chosen.

They are those of the official code of I-SHEEP, made for English and for its models; `copied`, `repetitive` and
`unfinished` are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from coalign.core.names import suggest
from coalign.loops.rows import Row
from coalign.measures.texts.text_units import folded_words, ngrams

_SPEAKER = re.compile(r"\n(?:assistant|system|human|question|output|user)[:\n]", re.IGNORECASE)
_QUESTION = re.compile(r"answer\schoices:|no ?input|\ncan you|do you .|\n\n.{1,100}\?", re.IGNORECASE)
_OPTION = re.compile(r"\b[A-Ea-e]\.|\([A-Ea-e]\)")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_PLACEHOLDER = re.compile(r"no ?input|<.{1,20}>|none", re.IGNORECASE)
_LEAD = re.compile(r"(?:答案[:：]\s?)+")


def without_lead(output: str) -> str:
    """An answer without the Chinese words for "answer:" before it."""
    return _LEAD.sub("", output, count=1) if _LEAD.match(output) else output


def _repetitive(row: Row) -> bool:
    """More than half of an answer's word triples occur before in it."""
    triples = ngrams(folded_words(row["output"]), 3)
    return len(triples) >= 10 and len(set(triples)) < len(triples) / 2


RULES: dict[str, tuple[str, Callable[[Row], object]]] = {
    "empty": ("empty answer", lambda row: not row["output"].strip()),
    "speakers": ("a speaker's or a field's name begins a line", lambda row: _SPEAKER.search(row["output"])),
    "questions": ("the answer asks back", lambda row: _QUESTION.search(row["output"])),
    "options": ("letters of a choice", lambda row: _OPTION.search(row["output"])),
    "chinese": ("Chinese characters", lambda row: _CHINESE.search(row["output"])),
    "placeholders": (
        "a placeholder in the task",
        lambda row: _PLACEHOLDER.search(row["input"]) or _PLACEHOLDER.search(row["instruction"]),
    ),
    "repeated-input": (
        "the input is in the instruction",
        lambda row: row["input"].strip() and row["input"] in row["instruction"],
    ),
    "copied": (
        "the answer is the task",
        lambda row: row["output"].strip() in (row["instruction"].strip(), row["input"].strip()),
    ),
    "repetitive": ("the answer repeats itself", _repetitive),
    "unfinished": ("ran out of tokens", lambda row: row.get("finish_reason") == "length"),
}
"""Name to what is said of a row that breaks the rule, and whether it does. Rows have `instruction`, `input`, `output`."""
OFFICIAL = ["empty", "speakers", "questions", "options", "chinese", "placeholders", "repeated-input"]


def assert_rules(names: Sequence[str]) -> None:
    """Refuse names that no rule has.

    Raises:
        ValueError: one of them; the nearest known name is given.
    """
    for name in names:
        if name not in RULES:
            advice = suggest(name, RULES, f"Known: {', '.join(RULES)}.")
            raise ValueError(f"rules: {name!r} is no rule. {advice}")


def broken_rule(row: Row, names: Sequence[str] = OFFICIAL) -> str:
    """What is said of the first rule that a row breaks; empty where it breaks none."""
    return next((said for said, breaks in (RULES[name] for name in names) if breaks(row)), "")
