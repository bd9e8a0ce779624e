"""Verifiers of answers that are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coalign.core.errors import MissingExtraError
from coalign.judging.verifiers.registry import ConstraintError, NotScorableError, Text, verifier
from coalign.measures import answers, symbolic


def _readable(args: Mapping[str, Any]) -> None:
    known = answers.parse_answer(args["answer"])
    if known is None:
        raise ConstraintError("answer", f"{args['answer']!r} says nothing", "a number, an expression, a word")
    if known.kind == "expression" and not symbolic.is_available():
        raise MissingExtraError(
            f"The answer {args['answer']!r} is a formula, which the extra 'math' compares.",
            hint="pip install 'coalign[math]'",
        )


@verifier("final_answer", classification="response", describe="comes to {answer}", check=_readable)
def final_answer(response: str, *, answer: Text) -> float:
    """The final answer (in a box, behind `####` or "the answer is", else the last number) is this one, as numbers, units, lists and formulas are compared.

    Raises:
        NotScorableError: nobody can tell whether they are the same (`coalign.measures.answers.same_answer`).
    """
    known, found = answers.parse_answer(answer), answers.final_answer(response)
    if known is None or found is None:
        return 0.0
    same = answers.same_answer(known, found)
    if same is None:
        raise NotScorableError(f"{found.text!r} cannot be compared with {answer!r}.")
    return float(same)
