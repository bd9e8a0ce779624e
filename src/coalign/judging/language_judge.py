"""A language model as judge, over any generation back end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Unpack

from coalign.core.errors import ConfigError
from coalign.data.records import Messages
from coalign.judging import parsing, protocol
from coalign.judging.prompts import JudgeTemplate, load_template
from coalign.judging.store import Reply, ReplyStore, ask
from coalign.models.types import Generator, Sampling

GREEDY = Sampling(max_new_tokens=512, temperature=0.0)
"""With room for reasons and a verdict."""
TOP_LOGPROBS = 20
"""First tokens whose probabilities are read; what endpoints give at most."""

Readout = Literal["text", "logprobs"]
"""Where the verdict is: in what the judge writes, or in the probabilities of the first token of its reply, which suits
small models that seldom keep to a form."""


@dataclass(eq=False)
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
            of the first token; there are no reasons then, and comparisons have the form `relation` or `choice`.
        calibrate: with `logprobs`, take off what the judge says of two empty answers to the same request, which is
            its bare preference for a letter; there are no ties then but of equal margins.
        first_tokens: with `logprobs`, tokens within which the verdict comes: 2 for a model that writes a space token before it.
        scale: of scores.
        template: file of the user's own template, for comparisons or ratings, whichever is asked.
        sampling: how replies are decoded; greedy by default (temperature 0 in the papers on judging).
        read: a written rating to its score, as `parsing.read_rating`, for a template that asks for another form.

    Raises:
        ConfigError: a form or a scale that the readout cannot have.
    """

    generator: Generator
    _: KW_ONLY
    name: str = "language model"
    identity: Mapping[str, Any] = field(default_factory=dict)
    store: ReplyStore = field(default_factory=ReplyStore)
    form: parsing.Form = "relation"
    explain: bool = True
    readout: Readout = "text"
    calibrate: bool = False
    first_tokens: int = 1
    scale: protocol.Scale = field(default_factory=protocol.Scale)
    template: Path | None = None
    sampling: Sampling = GREEDY
    read: Callable[..., parsing.Read] = parsing.read_rating

    def __post_init__(self) -> None:
        if self.calibrate and self.readout != "logprobs":
            raise ConfigError("Only the readout logprobs can be calibrated.")
        if self.readout == "logprobs":
            if self.form not in ("relation", "choice"):
                raise ConfigError(
                    f"The readout logprobs reads one letter, so the form {self.form!r} cannot be had."
                )
            self.sampling = Sampling(
                max_new_tokens=self.first_tokens, temperature=0.0, top_logprobs=TOP_LOGPROBS
            )
        self._templates: dict[str, JudgeTemplate] = {}

    def rate(
        self, items: Sequence[protocol.JudgeItem], **terms: Unpack[protocol.RatingTerms]
    ) -> list[protocol.Rating]:
        """See `coalign.judging.protocol.Judge.rate`."""
        rubric, scale, label = protocol.rating_terms(**terms)
        scale = scale or self.scale
        if self.readout == "logprobs" and not (scale.low >= 0 and scale.high <= 9):
            raise ConfigError(
                f"The readout logprobs reads one digit, so a scale from {scale.low:g} to {scale.high:g} cannot be had.",
                hint="Give a scale within 0 to 9 (--scale-low, --scale-high).",
            )
        prompts = self.prompts(items, "rate", rubric=rubric, scale=scale)
        replies = self._ask(prompts, label)
        found = zip(items, replies, [self._read_rating(one, scale) for one in replies], strict=True)
        return [
            protocol.Rating(
                id=item.id,
                score=read.scores[0] if read.scores else None,
                failure=read.failure,
                **reply.record,
            )
            for item, reply, read in found
        ]

    def compare(
        self, items: Sequence[protocol.JudgeItem], **terms: Unpack[protocol.ComparingTerms]
    ) -> list[protocol.PairVerdict]:
        """See `coalign.judging.protocol.Judge.compare`. Both orders are asked in one batch."""
        rubric, orders, label = protocol.comparing_terms(**terms)
        orders_of = 2 if orders == "both" else 1
        shown = [item for one in items for item in (one, one.swapped())[:orders_of]]
        blank = [_emptied(one) for one in items] if self.calibrate else []
        replies = self._ask(self.prompts([*shown, *blank], "pair", rubric=rubric), label)
        opinions = [self._opinion(reply) for reply in replies[: len(shown)]]
        if self.calibrate:
            priors = [self._opinion(reply) for reply in replies[len(shown) :]]
            opinions = [_calibrated(one, priors[place // orders_of]) for place, one in enumerate(opinions)]
        if orders == "both":
            opinions[1::2] = [one.mirrored() for one in opinions[1::2]]
        return [
            protocol.PairVerdict(id=item.id, opinions=tuple(opinions[orders_of * place :][:orders_of]))
            for place, item in enumerate(items)
        ]

    def prompts(
        self,
        items: Sequence[protocol.JudgeItem],
        kind: Literal["pair", "rate"],
        *,
        rubric: protocol.Rubric | None = None,
        scale: protocol.Scale | None = None,
    ) -> list[Messages]:
        """What the model is asked about each item, in the order in which its responses stand.

        Raises:
            ConfigError: the template cannot be filled, or shows no parts where an item has some.
        """
        template = self._template(kind)
        if "parts" not in template.names and any(item.parts for item in items):
            raise ConfigError(
                f"{self.template}: the template does not show answers in parts (the variable `parts`).",
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
            self._templates[kind] = load_template(kind, self.template)
        return self._templates[kind]

    def _ask(self, prompts: Sequence[Messages], label: str) -> list[Reply]:
        identity = {"name": self.name, **self.identity}
        return ask(self.generator, prompts, self.sampling, store=self.store, identity=identity, label=label)

    def _read_rating(self, reply: Reply, scale: protocol.Scale) -> parsing.Read:
        if reply.failed:
            return parsing.Read(failure="error")
        if self.readout == "logprobs":
            return parsing.read_expected_score(reply.top or [], scale)
        return self.read(reply.text, scale, truncated=reply.truncated)

    def _read_comparison(self, reply: Reply) -> parsing.Read:
        if reply.failed:
            return parsing.Read(failure="error")
        if self.readout == "logprobs":
            return parsing.read_letter_odds(reply.top or [], ties=self.form == "relation")
        return parsing.read_comparison(reply.text, self.form, self.scale, truncated=reply.truncated)

    def _opinion(self, reply: Reply) -> protocol.Opinion:
        read = self._read_comparison(reply)
        return protocol.Opinion(
            choice=read.choice,
            failure=read.failure,
            scores=(read.scores[0], read.scores[1]) if read.scores else None,
            margin=read.margin,
            **reply.record,
        )


def _emptied(item: protocol.JudgeItem) -> protocol.JudgeItem:
    return replace(item, responses=("", ""), parts=tuple(("",) * len(one) for one in item.parts))


def _calibrated(opinion: protocol.Opinion, prior: protocol.Opinion) -> protocol.Opinion:
    """The opinion, in the order shown, less what the judge says of empty answers."""
    cost = opinion.cost + prior.cost
    if opinion.margin is None or prior.margin is None:
        return replace(opinion, choice=None, margin=None, failure=opinion.failure or prior.failure, cost=cost)
    margin = opinion.margin - prior.margin
    return replace(opinion, choice=parsing.choice_of(margin), margin=margin, cost=cost)
