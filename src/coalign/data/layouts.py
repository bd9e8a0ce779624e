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
        uses: column to what is done with it; all of them must be there.
        usual: a row to the usual columns; raises FieldError.
    """

    name: str
    uses: Mapping[str, str]
    usual: Rewrite

    def rewrite(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row in the usual columns.

        Raises:
            FieldError: a column is missing, or holds what cannot be used.
        """
        try:
            return self.usual(row)
        except KeyError as error:
            raise FieldError("missing", "a value", str(error.args[0])) from error


def known_layout(columns: Collection[str]) -> KnownLayout | None:
    """The known layout that these columns have, or None."""
    return next((one for one in _KNOWN if one.uses.keys() <= set(columns)), None)


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


def _two(
    prompt: str,
    first: str,
    second: str,
    scores: Callable[[Mapping[str, Any]], Sequence[float]],
    part: str = "question",
) -> Rewrite:
    """A prompt and two responses in columns of their own, and what scores them."""
    return lambda row: {"scores": scores(row), part: row[prompt], "responses": [row[first], row[second]]}


def _numbered(row: Mapping[str, Any]) -> list[float]:
    return _choice(row, "overall_response", {1: _FIRST_WINS, 2: _SECOND_WINS})


def _webgpt(row: Mapping[str, Any]) -> dict[str, Any]:
    question = row["question"]
    text = question.get("full_text") if isinstance(question, dict) else question
    usual = _two("question", "answer_0", "answer_1", lambda row: [row["score_0"], row["score_1"]])
    return {**usual(row), "question": text}


def _margin(row: Mapping[str, Any]) -> list[float]:
    preference = row["overall_preference"]
    if isinstance(preference, bool) or not isinstance(preference, int | float):
        raise FieldError(describe(preference), "a number from -3 to 3", "overall_preference")
    return [-preference, preference]


def _arena(row: Mapping[str, Any]) -> dict[str, Any]:
    winners = {"model_a": _FIRST_WINS, "model_b": _SECOND_WINS, "tie": _TIE, "tie (bothbad)": _TIE}
    ours, theirs = row["conversation_a"], row["conversation_b"]
    if not (isinstance(ours, list) and isinstance(theirs, list) and ours and ours[:-1] == theirs[:-1]):
        raise FieldError(
            "the two conversations part before their last replies", "one prompt", "conversation_b"
        )
    replies = [[ours[-1]], [theirs[-1]]]
    return {"prompt": ours[:-1], "responses": replies, "scores": _choice(row, "winner", winners)}


_FIRST_WINS, _SECOND_WINS, _TIE = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)
_PROMPT, _FIRST, _SECOND, _BETTER = (
    "the prompt",
    "the first response",
    "the second response",
    "which is better",
)

_KNOWN: Sequence[KnownLayout] = (
    KnownLayout(
        "SHP",
        {
            "history": _PROMPT,
            "human_ref_A": _FIRST,
            "human_ref_B": _SECOND,
            "labels": f"{_BETTER} (1: the first)",
        },
        _two(
            "history",
            "human_ref_A",
            "human_ref_B",
            lambda row: _choice(row, "labels", {1: _FIRST_WINS, 0: _SECOND_WINS}),
        ),
    ),
    KnownLayout(
        "WebGPT comparisons",
        {
            "question": f"{_PROMPT} (its full_text)",
            **{"answer_0": _FIRST, "answer_1": _SECOND},
            **{"score_0": "the score of the first", "score_1": "the score of the second"},
        },
        _webgpt,
    ),
    KnownLayout(
        "PKU-SafeRLHF",
        {"prompt": _PROMPT, "response_0": _FIRST, "response_1": _SECOND, "better_response_id": _BETTER},
        _two(
            "prompt",
            "response_0",
            "response_1",
            lambda row: _choice(row, "better_response_id", {0: _FIRST_WINS, 1: _SECOND_WINS}),
        ),
    ),
    *(
        KnownLayout(
            "align-anything",
            {
                asked: _PROMPT,
                "response_1": _FIRST,
                "response_2": _SECOND,
                "overall_response": f"{_BETTER} (1 or 2)",
            },
            _two(asked, "response_1", "response_2", _numbered),
        )
        for asked in ("question", "prompt")
    ),
    KnownLayout(
        "HelpSteer3",
        {
            "context": _PROMPT,
            **{"response1": _FIRST, "response2": _SECOND},
            "overall_preference": f"{_BETTER} (below 0: the first)",
        },
        _two("context", "response1", "response2", _margin, part="prompt"),
    ),
    KnownLayout(
        "Chatbot Arena",
        {
            "conversation_a": "the prompt and the first response",
            "conversation_b": _SECOND,
            "winner": _BETTER,
        },
        _arena,
    ),
)

_REPLY_TREES = (
    "(OpenAssistant); write one row a reply with `messages` from the root to it, or rankings with `prompt`, `responses` "
    "and `ranks`"
)
_REFUSED: Sequence[tuple[frozenset[str], str]] = (
    (
        frozenset(("message_id", "parent_id", "text", "role")),
        f"these are single messages of reply trees {_REPLY_TREES}",
    ),
    (frozenset(("message_tree_id", "prompt")), f"these are reply trees {_REPLY_TREES}"),
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
