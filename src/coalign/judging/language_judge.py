"""A language model as judge, over any generation back end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import ConfigError
from coalign.data.records import Messages
from coalign.judging.parsing import (
    Form,
    Read,
    choice_of,
    read_comparison,
    read_expected_score,
    read_letter_odds,
    read_rating,
)
from coalign.judging.prompts import JudgeTemplate, load_template
from coalign.judging.protocol import (
    JudgeItem,
    Opinion,
    Orders,
    PairVerdict,
    Rating,
    Rubric,
    Scale,
)
from coalign.judging.store import Reply, ReplyStore, ask
from coalign.models.types import Generator, Sampling

MAX_NEW_TOKENS = 512
"""Room for reasons and a verdict."""
TOP_LOGPROBS = 20
"""First tokens whose probabilities are read; what endpoints give at most."""

Readout = Literal["text", "logprobs"]
"""Where the verdict is: in what the judge writes, or in the probabilities of the first token of its reply, which suits
small models that seldom keep to a form."""


class LanguageModelJudge:
    """A judge that asks a language model and reads its replies.

    Args:
        generator: any back end.
        name: what reports call the judge, and part of what replies are kept under.
        identity: whatever else may change its replies (revision, weights).
        store: keeps replies; in memory by default.
        form: how a comparison is answered.
        explain: ask for reasons before the verdict; without, the verdict is all that is asked for.
        readout: `logprobs` asks for a bare letter (or, to rate, a whole number from 0 to 9) and reads the probabilities
            of the first token; there are no reasons then, and comparisons have the form `relation`.
        calibrate: with `logprobs`, take off what the judge says of two empty answers to the same request, which is
            its bare preference for a letter; there are no ties then but of equal margins.
        scale: of scores.
        template: file of the user's own template, for comparisons or ratings, whichever is asked.
        sampling: how replies are decoded; greedy by default (temperature 0 in the papers on judging).

    Raises:
        ConfigError: a form or a scale that the readout cannot have.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        name: str = "language model",
        identity: Mapping[str, Any] | None = None,
        store: ReplyStore | None = None,
        form: Form = "relation",
        explain: bool = True,
        readout: Readout = "text",
        calibrate: bool = False,
        scale: Scale | None = None,
        template: Path | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.name = name
        self.form: Form = form
        self.explain = explain
        self.scale = scale or Scale()
        self.store = store if store is not None else ReplyStore()
        self.readout: Readout = readout
        self.calibrate = calibrate
        self.sampling = sampling or Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
        if calibrate and readout != "logprobs":
            raise ConfigError("Only the readout logprobs can be calibrated.")
        if readout == "logprobs":
            if form != "relation":
                raise ConfigError(
                    f"The readout logprobs reads one letter, so the form {form!r} cannot be had."
                )
            self.sampling = Sampling(max_new_tokens=1, temperature=0.0, top_logprobs=TOP_LOGPROBS)
        self._generator = generator
        self._identity = {"name": name, **(identity or {})}
        self._file = template
        self._templates: dict[str, JudgeTemplate] = {}

    def rate(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        scale: Scale | None = None,
        label: str = "Rating",
    ) -> list[Rating]:
        """See `coalign.judging.protocol.Judge.rate`."""
        scale = scale or self.scale
        if self.readout == "logprobs" and not (scale.low >= 0 and scale.high <= 9):
            raise ConfigError(
                f"The readout logprobs reads one digit, so a scale from {scale.low:g} to {scale.high:g} cannot be had.",
                hint="Give a scale within 0 to 9 (--scale-low, --scale-high).",
            )
        prompts = self.prompts(items, "rate", rubric=rubric, scale=scale)
        return [
            _rating(item.id, reply, self._read_rating(reply, scale))
            for item, reply in zip(items, self._ask(prompts, label), strict=True)
        ]

    def compare(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        orders: Orders = "both",
        label: str = "Comparing",
    ) -> list[PairVerdict]:
        """See `coalign.judging.protocol.Judge.compare`. Both orders are asked in one batch."""
        shown = [item for one in items for item in ([one, one.swapped()] if orders == "both" else [one])]
        blank = [_emptied(one) for one in items] if self.calibrate else []
        replies = self._ask(self.prompts([*shown, *blank], "pair", rubric=rubric), label)
        opinions = [self._opinion(reply) for reply in replies[: len(shown)]]
        if self.calibrate:
            per = len(shown) // max(len(items), 1)
            priors = [self._opinion(reply) for reply in replies[len(shown) :]]
            opinions = [_calibrated(one, priors[place // per]) for place, one in enumerate(opinions)]
        if orders == "given":
            return [
                PairVerdict(id=item.id, opinions=(opinion,))
                for item, opinion in zip(items, opinions, strict=True)
            ]
        return [
            PairVerdict(id=item.id, opinions=(opinions[2 * place], opinions[2 * place + 1].mirrored()))
            for place, item in enumerate(items)
        ]

    def prompts(
        self,
        items: Sequence[JudgeItem],
        kind: Literal["pair", "rate"],
        *,
        rubric: Rubric | None = None,
        scale: Scale | None = None,
    ) -> list[Messages]:
        """What the model is asked about each item, in the order in which its responses stand.

        Raises:
            ConfigError: the template cannot be filled, or shows no parts where an item has some.
        """
        template = self._template(kind)
        if "parts" not in template.names and any(item.parts for item in items):
            raise ConfigError(
                f"{self._file}: the template does not show answers in parts (the variable `parts`).",
                hint="`coalign judge --print-template pair` shows one that does.",
            )
        return [
            template.render(
                item,
                rubric=rubric,
                scale=scale or self.scale,
                form=self.form,
                explain=self.explain,
                bare=self.readout == "logprobs",
            )
            for item in items
        ]

    def _template(self, kind: Literal["pair", "rate"]) -> JudgeTemplate:
        if kind not in self._templates:
            self._templates[kind] = load_template(kind, self._file)
        return self._templates[kind]

    def _ask(self, prompts: Sequence[Messages], label: str) -> list[Reply]:
        return ask(
            self._generator, prompts, self.sampling, store=self.store, identity=self._identity, label=label
        )

    def _read_rating(self, reply: Reply, scale: Scale) -> Read:
        if self.readout == "logprobs":
            return read_expected_score(reply.top or [], scale)
        return read_rating(reply.text, scale, truncated=reply.truncated)

    def _read_comparison(self, reply: Reply) -> Read:
        if self.readout == "logprobs":
            return read_letter_odds(reply.top or [])
        return read_comparison(reply.text, self.form, self.scale, truncated=reply.truncated)

    def _opinion(self, reply: Reply) -> Opinion:
        read = self._read_comparison(reply)
        return Opinion(
            choice=read.choice,
            failure=read.failure,
            scores=(read.scores[0], read.scores[1]) if read.scores else None,
            margin=read.margin,
            reply=reply.text,
            prompt_hash=reply.prompt_hash,
            cost=reply.cost,
        )


def _emptied(item: JudgeItem) -> JudgeItem:
    return replace(item, responses=("", ""), parts=tuple(("",) * len(one) for one in item.parts))


def _calibrated(opinion: Opinion, prior: Opinion) -> Opinion:
    """The opinion, in the order shown, less what the judge says of empty answers."""
    cost = opinion.cost + prior.cost
    if opinion.margin is None or prior.margin is None:
        return replace(opinion, choice=None, margin=None, failure=opinion.failure or prior.failure, cost=cost)
    margin = opinion.margin - prior.margin
    return replace(opinion, choice=choice_of(margin), margin=margin, cost=cost)


def _rating(name: str, reply: Reply, read: Read) -> Rating:
    return Rating(
        id=name,
        score=read.scores[0] if read.scores else None,
        failure=read.failure,
        reply=reply.text,
        prompt_hash=reply.prompt_hash,
        cost=reply.cost,
    )
