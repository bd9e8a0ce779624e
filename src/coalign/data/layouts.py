"""Well-known data sets of the hub whose columns no rule of names can read: each row is rewritten, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.data.messages import FieldError, describe

Rewrite = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class KnownLayout:
    """Columns of a known data set, and how a row of it becomes one of usual columns.

    Attributes:
        name: of the data set, for messages.
        columns: all of them must be there.
        rewrite: a row to the usual columns; raises FieldError.
        uses: column to what is done with it.
    """

    name: str
    columns: frozenset[str]
    rewrite: Rewrite
    uses: Mapping[str, str]


def known_layout(columns: Collection[str]) -> KnownLayout | None:
    """The known layout that these columns have, or None."""
    return next((one for one in _KNOWN if one.columns <= set(columns)), None)


def refused_layout(columns: Collection[str]) -> str | None:
    """Why a file of these columns is not read and what would be, where it is one of a known kind; else None."""
    return next((why for needed, why in _REFUSED if needed <= set(columns)), None)


def _choice(row: Mapping[str, Any], column: str, scores: Mapping[Any, tuple[float, float]]) -> list[float]:
    value = row.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = scores.get(value) if isinstance(value, int | str) else None
    if found is None:
        raise FieldError(describe(row.get(column)), "one of: " + ", ".join(map(str, scores)), column)
    return list(found)


def _shp(row: Mapping[str, Any]) -> dict[str, Any]:
    scores = _choice(row, "labels", {1: (1.0, 0.0), 0: (0.0, 1.0)})
    return {
        "question": row["history"],
        "responses": [row["human_ref_A"], row["human_ref_B"]],
        "scores": scores,
    }


def _webgpt(row: Mapping[str, Any]) -> dict[str, Any]:
    question = row["question"]
    text = question.get("full_text") if isinstance(question, dict) else question
    scores = [row["score_0"], row["score_1"]]
    return {"question": text, "responses": [row["answer_0"], row["answer_1"]], "scores": scores}


def _safe_rlhf(row: Mapping[str, Any]) -> dict[str, Any]:
    scores = _choice(row, "better_response_id", {0: (1.0, 0.0), 1: (0.0, 1.0)})
    return {"question": row["prompt"], "responses": [row["response_0"], row["response_1"]], "scores": scores}


def _helpsteer3(row: Mapping[str, Any]) -> dict[str, Any]:
    preference = row["overall_preference"]
    if isinstance(preference, bool) or not isinstance(preference, int | float):
        raise FieldError(describe(preference), "a number from -3 to 3", "overall_preference")
    responses = [row["response1"], row["response2"]]
    return {"prompt": row["context"], "responses": responses, "scores": [-preference, preference]}


def _arena(row: Mapping[str, Any]) -> dict[str, Any]:
    tie = (0.5, 0.5)
    winners = {"model_a": (1.0, 0.0), "model_b": (0.0, 1.0), "tie": tie, "tie (bothbad)": tie}
    ours, theirs = row["conversation_a"], row["conversation_b"]
    if not (isinstance(ours, list) and isinstance(theirs, list) and ours and ours[:-1] == theirs[:-1]):
        raise FieldError(
            "the two conversations part before their last replies", "one prompt", "conversation_b"
        )
    replies = [[ours[-1]], [theirs[-1]]]
    return {"prompt": ours[:-1], "responses": replies, "scores": _choice(row, "winner", winners)}


_KNOWN: Sequence[KnownLayout] = (
    KnownLayout(
        "SHP",
        frozenset(("history", "human_ref_A", "human_ref_B", "labels")),
        _shp,
        {
            "history": "the prompt",
            "human_ref_A": "the first response",
            "human_ref_B": "the second response",
            "labels": "which is better (1: the first)",
        },
    ),
    KnownLayout(
        "WebGPT comparisons",
        frozenset(("question", "answer_0", "answer_1", "score_0", "score_1")),
        _webgpt,
        {
            "question": "the prompt (its full_text)",
            "answer_0": "the first response",
            "answer_1": "the second response",
            "score_0": "the score of the first",
            "score_1": "the score of the second",
        },
    ),
    KnownLayout(
        "PKU-SafeRLHF",
        frozenset(("prompt", "response_0", "response_1", "better_response_id")),
        _safe_rlhf,
        {
            "prompt": "the prompt",
            "response_0": "the first response",
            "response_1": "the second response",
            "better_response_id": "which is better",
        },
    ),
    KnownLayout(
        "HelpSteer3",
        frozenset(("context", "response1", "response2", "overall_preference")),
        _helpsteer3,
        {
            "context": "the prompt",
            "response1": "the first response",
            "response2": "the second response",
            "overall_preference": "which is better (below 0: the first)",
        },
    ),
    KnownLayout(
        "Chatbot Arena",
        frozenset(("conversation_a", "conversation_b", "winner")),
        _arena,
        {
            "conversation_a": "the prompt and the first response",
            "conversation_b": "the second response",
            "winner": "which is better",
        },
    ),
)

_REFUSED: Sequence[tuple[frozenset[str], str]] = (
    (
        frozenset(("message_id", "parent_id", "text", "role")),
        (
            "these are single messages of reply trees (OpenAssistant); write one row a reply with `messages` from the "
            "root to it, or rankings with `prompt`, `responses` and `ranks`"
        ),
    ),
    (
        frozenset(("message_tree_id", "prompt")),
        (
            "these are reply trees (OpenAssistant); write one row a reply with `messages` from the root to it, or "
            "rankings with `prompt`, `responses` and `ranks`"
        ),
    ),
    (
        frozenset(("query", "answers", "tools")),
        "these are function calls as text; write `messages` whose last one has `tool_calls`, and `tools`",
    ),
    (
        frozenset(("question", "thinking_trajectories", "attempt")),
        (
            "these are reasoning traces; rename thinking_trajectories and attempt to one `messages` column whose reply "
            "has `reasoning_content`"
        ),
    ),
)
