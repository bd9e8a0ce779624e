"""Question and answer in the words of the model that will learn them: rewritten without the picture, guarded, reviewed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import DataError
from coalign.curation.visual_instructions.conversations import PLACEHOLDER
from coalign.curation.visual_instructions.guard import Facts, compare_facts
from coalign.curation.visual_instructions.selection import rewriting_wins
from coalign.data.records import Message
from coalign.data.values import user
from coalign.judging.protocol import JudgeItem, Orders, Rubric, check_failures
from coalign.judging.store import Deferred, content_hash
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.judging.protocol import Judge
    from coalign.models.types import Generation, Generator, Sampling

Sides = Literal["both", "question", "answer"]
BRIEF = """Say this question about a picture and its answer in your own words. You cannot see the picture: keep every fact, number, \
name, colour and place, and add nothing. Reply with two lines, as here: the question, then the answer.

Question: {question}
Answer: {answer}"""
"""Our wording: the paper's is not public."""
EXAMPLES = (
    ("What is the dog doing?", "The dog is asleep on a sofa.",
     "Can you tell me what the dog is doing?", "It is a dog that is asleep on a sofa."),
    ("How many people wear a hat?", "Three people wear a hat.",
     "How many of the people have a hat on?", "There are three people who wear a hat."),
)  # fmt: skip
"""Shown as earlier turns where no template of the user's is given: small models do not keep to a form that is only described."""
CRITERIA = "The question and the answer fit each other, sound natural, and are complete."
"""Of the review. Source: the paper's figure, in our words."""
ASKED = "Which of two versions of a question about a picture and its answer is better to learn from?"
_FORM = re.compile(
    r"\s*\**Question:\**[ \t]*(?P<question>\S.*?)\s*\n\s*\**Answer:\**[ \t]*(?P<answer>\S.*?)\s*", re.DOTALL
)
_LABEL = re.compile(r"\**(?:Question|Answer):", re.IGNORECASE)
_ECHOES = ("in your own words", "two lines", "you cannot see")

UNREADABLE, CUT, SAME, ECHO, TOO_LONG = (
    "not in the form", "cut off", "unchanged", "repeats the request", "too long for the model",
)  # fmt: skip


def pair_text(question: str, answer: str) -> str:
    """A pair as the review reads it."""
    return f"Question: {question}\nAnswer: {answer}"


def parse_rewriting(reply: str) -> tuple[str, str] | str:
    """(question, answer) of a reply, or why it cannot be used. Strict: two labels, each once, nothing before the first."""
    found = _FORM.fullmatch(reply)
    if found is None or len(_LABEL.findall(reply)) != 2:
        return UNREADABLE
    question, answer = found["question"].strip(), found["answer"].strip()
    if any(one in reply.lower() for one in _ECHOES) or "{" in reply or PLACEHOLDER in reply:
        return ECHO
    return question, answer


@dataclass(frozen=True)
class Rewriting:
    """What became of a pair.

    Attributes:
        pair: the new question and answer; None where the original stays.
        why: why it stays; empty for a new pair.
        kept: share of the answer's facts that a reply in the form had; None without such a reply.
    """

    pair: tuple[str, str] | None
    why: str = ""
    kept: float | None = None


def rewriting_of(
    question: str,
    answer: str,
    reply: str,
    *,
    finished: bool = True,
    sides: Sides = "both",
    facts: Collection[str] = (),
) -> Rewriting:
    """What a reply makes of a pair, before any review.

    Args:
        finished: whether the reply ended by itself.
        sides: which side may change; the other stays as it is.
        facts: words that are facts besides (`guard.facts_of`).
    """
    parsed = parse_rewriting(reply)
    if not finished:
        return Rewriting(None, CUT)
    if isinstance(parsed, str):
        return Rewriting(None, parsed)
    new = (
        parsed[0] if sides in ("both", "question") else question,
        parsed[1] if sides in ("both", "answer") else answer,
    )
    answered = compare_facts(answer, new[1], beside=question, more=facts)
    if new == (question, answer):
        return Rewriting(None, SAME, answered.kept)
    asked: Facts = compare_facts(question, new[0], more=facts)
    reason = (
        f"the answer {answered.reason}"
        if answered.reason
        else f"the question {asked.reason}"
        if asked.reason
        else ""
    )
    return Rewriting(None if reason else new, reason and f"facts: {reason}", answered.kept)


class RewriteTurns:
    """A step that has a model say every turn in its own words; what passes form and guard is a turn's `proposal`, and `why`
    says of the others what was wrong.

    Args:
        open_model: opens what writes.
        template: with `{question}` and `{answer}`; None takes ours and shows examples.
        batch: conversations at a time; what a kill may cost.
    """

    alone = True
    needs = ("turns",)

    def __init__(
        self,
        name: str,
        open_model: Callable[[], Generator],
        sampling: Sampling,
        *,
        template: str | None = None,
        sides: Sides = "both",
        facts: Collection[str] = (),
        batch: int = 16,
    ) -> None:
        self.name, self.batch = name, batch
        self._model = Deferred(open_model)
        self._sampling, self._template, self._facts = sampling, template, facts
        self._sides: Sides = sides

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        turns = [turn for row in rows for turn in row["turns"]]
        prompts = [self.request(turn["question"], turn["answers"][0]) for turn in turns]
        seed = zlib.crc32(f"{self._sampling.seed}/{self.name}/{rows[0]['id']}".encode()) if rows else 0
        replies = self._replies(prompts, replace(self._sampling, seed=seed))
        made = iter([self._proposed(turn, reply) for turn, reply in zip(turns, replies, strict=True)])
        written = iter([0 if reply is None else reply.length or 0 for reply in replies])
        return [
            [
                Kept(
                    {**row, "turns": [next(made) for _ in row["turns"]]},
                    {
                        "prompt_hash": content_hash(self.request("", "")),
                        "tokens": sum(next(written) for _ in row["turns"]),
                    },
                )
            ]
            for row in rows
        ]

    def request(self, question: str, answer: str) -> Messages:
        """What is asked about a pair."""

        def filled(template: str, *pair: str) -> str:
            return template.replace("{question}", pair[0]).replace("{answer}", pair[1])

        if self._template is not None:
            return user(filled(self._template, question, answer))
        said = []
        for asked, told, *new in EXAMPLES:
            said += [
                Message(role="user", content=filled(BRIEF, asked, told)),
                Message(role="assistant", content=pair_text(*new)),
            ]
        return [*said, Message(role="user", content=filled(BRIEF, question, answer))]

    def _replies(self, prompts: Sequence[Messages], sampling: Sampling) -> list[Generation | None]:
        """A reply to each request; None to one that the model cannot take, being too long for it."""
        if not prompts:
            return []
        try:
            return [one[0] for one in self._model.generate(prompts, sampling, label=self.name)]
        except DataError:
            if len(prompts) == 1:
                return [None]
            return [reply for one in prompts for reply in self._replies([one], sampling)]

    def _proposed(self, turn: Row, reply: Generation | None) -> Row:
        if reply is None:
            return {**turn, "why": TOO_LONG, "reply": ""}
        found = rewriting_of(
            turn["question"], turn["answers"][0], reply.text, finished=reply.finish_reason != "length",
            sides=self._sides, facts=self._facts,
        )  # fmt: skip
        told = {**turn, "why": found.why, "reply": reply.text}
        if found.kept is not None:
            told["facts_kept"] = round(found.kept, 4)
        return told if found.pair is None else {**told, "proposal": list(found.pair)}

    def close(self) -> None:
        self._model.close()


class ReviewTurns:
    """A step that takes a proposal where the judge prefers it to the original, in every order that is asked; without a judge it
    takes them all. What was before stands in `original`.
    """

    alone = True
    needs = ("turns",)

    def __init__(
        self,
        name: str,
        judge: Judge | None,
        *,
        orders: Orders = "both",
        max_failures: float = 1.0,
        batch: int = 16,
    ) -> None:
        self.name, self.batch = name, batch
        self._judge, self._max_failures = judge, max_failures
        self._orders: Orders = orders

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        places = [
            (row["id"], number)
            for row in rows
            for number, turn in enumerate(row["turns"])
            if "proposal" in turn
        ]
        turns = {(row["id"], number): turn for row in rows for number, turn in enumerate(row["turns"])}
        items = [
            JudgeItem(
                id=f"{name}#{number}",
                prompt=user(ASKED),
                responses=(
                    pair_text(turns[name, number]["question"], turns[name, number]["answers"][0]),
                    pair_text(*turns[name, number]["proposal"]),
                ),
            )
            for name, number in places
        ]
        taken = dict.fromkeys(places, "")
        if self._judge is not None and items:
            verdicts = self._judge.compare(
                items, rubric=Rubric(criteria=CRITERIA), orders=self._orders, label=self.name
            )
            check_failures(verdicts, limit=self._max_failures)
            for place, verdict in zip(places, verdicts, strict=True):
                taken[place] = "" if rewriting_wins(verdict) else f"review: {verdict.outcome}"
        return [
            [
                Kept(
                    {
                        **row,
                        "turns": [
                            _settled(turn, taken.get((row["id"], at))) for at, turn in enumerate(row["turns"])
                        ],
                    }
                )
            ]
            for row in rows
        ]

    def close(self) -> None:
        close: Any = getattr(getattr(self._judge, "generator", None), "close", None)
        if close is not None:
            close()


def _settled(turn: Row, why: str | None) -> Row:
    """A turn after its review: None for one without a proposal, else why it was not taken."""
    rest = {name: value for name, value in turn.items() if name != "proposal"}
    if why is None:
        return {**rest, "rewritten": False}
    if why:
        names = {
            "review: first": "review: the original is better",
            "review: tie": "review: as good as the original",
        }
        known = {
            **names,
            "review: inconsistent": "review: by their order",
            "review: failed": "review: no verdict",
        }
        return {**rest, "rewritten": False, "why": known[why]}
    question, answer = turn["proposal"]
    return {
        **rest, "rewritten": True, "question": question, "answers": [answer],
        "original": {"question": turn["question"], "answers": turn["answers"]},
    }  # fmt: skip
