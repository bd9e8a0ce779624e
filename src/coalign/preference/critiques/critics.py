"""Critics: who says in words what is wrong with an answer, or that nothing is.

Programs criticise answers to prompts with constraints; a language model criticises any answer, by rating it with its
reasons (`coalign.judging.protocol`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coalign.core.options import Fraction, OptionGroup, option
from coalign.data.records import Messages
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.protocol import Judge, JudgeItem, Rubric, Scale, check_failures
from coalign.judging.store import Deferred, ReplyStore
from coalign.judging.verifiers.constraints import Constraint
from coalign.models.backends.open import open_named
from coalign.models.backends.options import is_address
from coalign.models.options import ModelOptions

SCALE = Scale(low=1, high=10)
_VERDICT = re.compile(r"\[\[[^\[\]]*\]\]")
_WORD = re.compile(r"\w")


@dataclass(kw_only=True)
class CriticOptions(OptionGroup):
    """Who criticises answers."""

    __group__ = "Critic"

    critic: str | None = option(
        None,
        "a language model that judges in words: `default`, a hub id, a folder, or the address of an OpenAI-compatible "
        "server; by default programs check the prompts' `constraints` column",
    )
    critic_served: str | None = option(
        None, "the model's name on that server; by default its only one", only_with="critic"
    )
    criteria: str | None = option(
        None, "what the critic judges by, in words; by default its own", only_with="critic"
    )
    fine_from: float = option(
        7.0, "score on the critic's scale from 1 to 10 from which an answer is fine", source="official code"
    )
    max_failures: Fraction = option(0.05, "share of verdicts that may be missing before the run stops")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not SCALE.low < self.fine_from <= SCALE.high:
            raise ValueError(f"fine_from: {self.fine_from:g} is not usable, expected above 1 and at most 10")
        if self.critic_served is not None and not is_address(self.critic or ""):
            raise ValueError("critic_served names a model of a server: give its address as critic")


@dataclass(frozen=True)
class Criticism:
    """What a critic says of an answer.

    Attributes:
        text: what is wrong; empty where nothing is said.
        fine: whether the answer is.
        score: from 0 or the critic's lowest score up; None where the critic has none.
    """

    text: str
    fine: bool
    score: float | None = None


@dataclass(frozen=True)
class Answered:
    """A prompt and the answer to criticise."""

    id: str
    prompt: Messages
    answer: str


class Critic(Protocol):
    """A critic: for each answer what it says, None where it gave no usable verdict."""

    def __call__(self, answers: Sequence[Answered]) -> list[Criticism | None]: ...


@dataclass(frozen=True)
class ConstraintCritic:
    """Names the constraints that an answer does not satisfy.

    Attributes:
        constraints: of each prompt, by id. Constraints that compare with other answers are not supported.
    """

    constraints: Mapping[str, Sequence[Constraint]]

    def __call__(self, answers: Sequence[Answered]) -> list[Criticism | None]:
        return [self._of(one) for one in answers]

    def _of(self, one: Answered) -> Criticism:
        constraints = self.constraints[one.id]
        values = [each.verify(one.prompt[-1]["content"], one.answer) for each in constraints]
        broken = [each.describe() for each, value in zip(constraints, values, strict=True) if value < 1]
        text = f"The reply does not keep to this: {'; '.join(broken)}." if broken else ""
        return Criticism(text, not broken, sum(values) / len(values))


@dataclass(frozen=True)
class JudgeCritic:
    """A judge that rates with reasons; the reasons are the criticism.

    Attributes:
        judge: makes one over a store of replies, of the protocol of `coalign.judging.protocol`; its ratings have replies
            in words.
        replies: file of the store, open while the judge is asked; None keeps them in memory.
        fine_from: score from which an answer is fine.
        rubric: what to judge by.
        max_failures: share of verdicts that may be missing.
    """

    judge: Callable[[ReplyStore], Judge]
    replies: Path | None
    fine_from: float
    rubric: Rubric | None = None
    max_failures: float = 0.05

    def __call__(self, answers: Sequence[Answered]) -> list[Criticism | None]:
        """Ask the judge.

        Raises:
            CoalignError: too many verdicts are missing.
        """
        items = [JudgeItem(id=one.id, prompt=one.prompt, responses=(one.answer,)) for one in answers]
        with ReplyStore(self.replies) as store:
            ratings = self.judge(store).rate(items, rubric=self.rubric, scale=SCALE, label="Judging")
        check_failures(ratings, limit=self.max_failures)
        return [
            None
            if one.score is None
            else Criticism(without_verdict(one.reply), one.score >= self.fine_from, one.score)
            for one in ratings
        ]


def without_verdict(reply: str) -> str:
    """The reasons of a reply: the score in double brackets, and lines that hold nothing besides, are left out."""
    lines = [_VERDICT.sub("", line).strip() for line in reply.splitlines()]
    return "\n".join(line for line in lines if _WORD.search(line)).strip()


def open_critic(
    options: CriticOptions, constraints: Mapping[str, Sequence[Constraint]], replies: Path, device: str
) -> Critic:
    """The critic that the options name.

    Args:
        constraints: of the prompts, by id.
        replies: file that keeps what a language model says, so that nobody is asked twice.
        device: of a local model.
    """
    if options.critic is None:
        return ConstraintCritic(constraints)
    server = options.critic if is_address(options.critic) else None
    name = options.critic_served if server else options.critic
    generator = Deferred(lambda: open_named(name, endpoint=server, device=device))

    def judge(store: ReplyStore) -> Judge:
        return LanguageModelJudge(
            generator,
            name=options.critic_served or options.critic or "",
            identity=_identity(name, server),
            store=store,
            scale=SCALE,
        )

    rubric = Rubric(criteria=options.criteria) if options.criteria else None
    return JudgeCritic(
        judge, replies, fine_from=options.fine_from, rubric=rubric, max_failures=options.max_failures
    )


def _identity(name: str | None, server: str | None) -> dict[str, Any]:
    """Who it is whose replies are kept: the model on its server, or what a model here is under its name."""
    from coalign.models.files.identity import model_identity

    if server:
        return {"endpoint": server, "model": name}
    return {"model": name, "identity": model_identity(ModelOptions(model=name or "default"))}
