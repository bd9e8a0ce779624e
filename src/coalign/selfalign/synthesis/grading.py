"""Grades from 1 to 10 that a model gives its own answers: for quality, and for following the instruction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from coalign.judging.completion_judge import CompletionJudge
from coalign.judging.store import Deferred
from coalign.loops.steps.usual import Above
from coalign.models.backends.open import open_policy

if TYPE_CHECKING:
    from coalign.judging.store import ReplyStore
    from coalign.models.options import ModelOptions
    from coalign.models.types import Sampling
    from coalign.selfalign.synthesis.rounds import SynthesisOptions

GRADES = {
    "quality": "A reply of 1 is wrong, long-winded, unclear or full of repetition; one of 10 is right, brief, clear "
    "and without repetition. Grade how good the reply is",
    "following": "A reply of 1 goes on with the instruction, or lacks the form that it asks for, or the instruction is "
    "ambiguous; one of 10 answers a clear instruction directly and in the form that it asks for. Grade how well the "
    "reply follows the instruction",
}
GRADE = """Here are an instruction and a reply to it.
Instruction: {question}
Reply: {answer}

{grades}, from 1 to 10, in the form '<score>||<explanation>'. As a strict expert I give the score: """
"""What a grader is asked."""
_LEAD = re.compile(r"^\s*\W*")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def read_score(reply: str, low: int = 1, high: int = 10) -> int | None:
    """The score at the beginning of a grader's reply, else at the beginning of what stands before `||`.

    Leading characters that are no word are passed over, a minus too; decimals are rounded half to even. None for a
    reply without a number there, or with one outside of the scale.
    """
    text = _LEAD.sub("", reply, count=1)
    found = _NUMBER.match(text)
    if found is None and "||" in text:
        found = _NUMBER.match(text.split("||", 1)[0].strip())
    score = round(float(found[0])) if found else None
    return score if score is not None and low <= score <= high else None


def above(threshold: float) -> list[Above]:
    """The steps that keep what both graders give strictly more."""
    return [Above(f"{name} above {threshold:g}", f"{name}_score", threshold) for name in GRADES]


def grader(
    name: str,
    config: SynthesisOptions,
    model: ModelOptions,
    sampling: Sampling,
    store: ReplyStore,
    *,
    who: str,
    round: int,
    chat: bool,
) -> CompletionJudge:
    """A model that grades.

    Args:
        name: of the grade, one of `GRADES`.
        config: says where the model answers.
        who: grades, for the report.
        round: whose replies are not those of another one.
        chat: ask through the chat template.
    """
    return CompletionJudge(
        Deferred(lambda: open_policy(model, config)),
        GRADE.replace("{grades}", GRADES[name]),
        read_score,
        sampling,
        chat=chat,
        name=f"{name} by {who}",
        identity={"model": model.model, "revision": model.revision, "round": round},
        store=store,
    )
