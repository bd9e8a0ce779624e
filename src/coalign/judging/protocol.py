"""What judges take and return: the protocol behind which language models, programs, reward models and people sit.

A judge *rates* one response or *compares* two. A comparison is asked in both orders, because verdicts that turn with
the order are not verdicts; what is reported of each order is mapped back to the order of the item::

    judge = LanguageModelJudge(generator, store=ReplyStore(run.artefacts / "replies.jsonl"))
    comparisons = judge.compare(items)
    summary = summarise(comparisons)
    check_failures(comparisons, limit=0.05)

A reply that cannot be read is a failure of its own kind. It is counted and never guessed, and it is not a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypedDict, Unpack

from coalign.core.errors import CoalignError
from coalign.data.records import Messages

Choice = Literal["first", "second", "tie"]
"""Which of two responses is better."""
Failure = Literal["malformed", "refusal", "truncated", "missing", "error"]
"""Why there is no verdict: a reply that does not have the form, one that declines to judge, one cut off before its
verdict, no stored verdict for the item, or a request that failed, then the reply says why."""
Orders = Literal["both", "given"]
"""Ask with the responses as given and swapped, or only as given."""
PairOutcome = Literal["first", "second", "tie", "inconsistent", "failed"]
"""What a comparison came to: the verdict on which both orders agree, `inconsistent` where they do not, `failed` where
an order has none."""

MIRRORED: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """What to judge by.

    Attributes:
        criteria: in words.
        levels: what single scores mean, where that is spelled out.
    """

    criteria: str
    levels: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scores a rating may have, both ends included."""

    low: float = 1
    high: float = 10

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a scale from {self.low} to {self.high} has no room, expected low < high")


@dataclass(frozen=True, kw_only=True)
class JudgeItem:
    """Something to judge.

    Attributes:
        id: names the item in results and messages.
        prompt: the conversation up to the response; its messages hold their pictures
            (`coalign.data.media.conversations.showing`).
        responses: one to rate, two to compare, several to rank.
        reference: an answer that is known to be good.
        rubric: what to judge this item by; it goes before the judge's own.
        parts: each response cut into as many parts as the other one, to be shown in turn; empty to show it whole.
        extra: columns that single judges read (`constraints`).
    """

    id: str
    prompt: Messages
    responses: tuple[str, ...]
    reference: str | None = None
    rubric: Rubric | None = None
    parts: tuple[tuple[str, ...], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def swapped(self) -> JudgeItem:
        """The same with the two responses, and their parts, in the other order."""
        return replace(self, responses=self.responses[::-1], parts=self.parts[::-1])


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a verdict cost.

    Attributes:
        calls: requests to the judge; 0 where nobody was asked (a stored or derived verdict).
        cached: requests among them whose reply was there already.
        prompt_tokens: of the requests; None where the back end does not count them.
        tokens: that the judge wrote.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int | None = None
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        known = [one for one in (self.prompt_tokens, other.prompt_tokens) if one is not None]
        return Cost(
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            prompt_tokens=sum(known) if known else None,
            tokens=self.tokens + other.tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A score for one response.

    Attributes:
        score: None where there is no verdict, then `failure` says why.
        reply: what the judge wrote; empty for judges that do not write.
        prompt_hash: of the request, as the store of replies has it.
    """

    id: str
    score: float | None
    failure: Failure | None = None
    reply: str = ""
    prompt_hash: str = ""
    cost: Cost = Cost()


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a judge said of two responses shown in one order.

    Attributes:
        choice: in the order of the item, not of the showing; None where there is no verdict.
        swapped: the responses were shown the other way round.
        scores: of the first and the second response of the item, where the judge scores.
        margin: how much better the first response of the item is, in the judge's own unit, where it tells.
    """

    choice: Choice | None
    swapped: bool = False
    failure: Failure | None = None
    scores: tuple[float, float] | None = None
    margin: float | None = None
    reply: str = ""
    prompt_hash: str = ""
    cost: Cost = Cost()

    @property
    def shown_choice(self) -> Choice | None:
        """The verdict by place: `first` is the response that was shown first."""
        return MIRRORED[self.choice] if self.choice and self.swapped else self.choice

    def mirrored(self) -> Opinion:
        """The same opinion about the item with its responses exchanged."""
        return replace(
            self,
            choice=MIRRORED[self.choice] if self.choice else None,
            swapped=not self.swapped,
            scores=self.scores[::-1] if self.scores else None,
            margin=None if self.margin is None else -self.margin,
        )


@dataclass(frozen=True, kw_only=True)
class PairVerdict:
    """The opinions on a pair, one for each order that was asked."""

    id: str
    opinions: tuple[Opinion, ...]

    @property
    def outcome(self) -> PairOutcome:
        choices: list[Choice] = [one.choice for one in self.opinions if one.choice]
        if not choices or len(choices) < len(self.opinions):
            return "failed"
        return choices[0] if len(set(choices)) == 1 else "inconsistent"

    @property
    def consistent(self) -> bool | None:
        """Whether both orders agree; None where only one was asked or an order failed."""
        if len(self.opinions) < 2 or self.outcome == "failed":
            return None
        return self.outcome != "inconsistent"

    @property
    def choice(self) -> Choice | None:
        """The verdict on which all orders agree."""
        return self.opinions[0].choice if self.outcome in MIRRORED else None

    @property
    def credit(self) -> float | None:
        """The first response's share of the win: 1, 0, or 1/2 for a tie and for orders that disagree."""
        values: dict[PairOutcome, float] = {"first": 1.0, "second": 0.0, "tie": 0.5, "inconsistent": 0.5}
        return values.get(self.outcome)

    @property
    def cost(self) -> Cost:
        return sum((one.cost for one in self.opinions), Cost())


class Terms(TypedDict, total=False):
    """What a judge is told beside the items; every key may be left out.

    Attributes:
        rubric: for items that bring none.
        label: text of the progress bar.
    """

    rubric: Rubric | None
    label: str


class RatingTerms(Terms, total=False):
    """What `Judge.rate` takes.

    Attributes:
        scale: of the scores; None takes the judge's own.
    """

    scale: Scale | None


class ComparingTerms(Terms, total=False):
    """What `Judge.compare` takes.

    Attributes:
        orders: in which the responses are shown, both by default.
    """

    orders: Orders


def rating_terms(
    *, rubric: Rubric | None = None, scale: Scale | None = None, label: str = "Rating"
) -> tuple[Rubric | None, Scale | None, str]:
    """Rubric, scale and label, of the terms that are given."""
    return rubric, scale, label


def comparing_terms(
    *, rubric: Rubric | None = None, orders: Orders = "both", label: str = "Comparing"
) -> tuple[Rubric | None, Orders, str]:
    """Rubric, orders and label, of the terms that are given."""
    return rubric, orders, label


class Judge(Protocol):
    """A judge."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def rate(self, items: Sequence[JudgeItem], **terms: Unpack[RatingTerms]) -> list[Rating]:
        """Rate the only response of every item.

        Raises:
            ConfigError: the judge cannot rate, or not on this scale.
        """
        ...

    def compare(self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]) -> list[PairVerdict]:
        """Compare the two responses of every item.

        Raises:
            ConfigError: the judge cannot compare.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of many comparisons.

    Attributes:
        n: comparisons.
        outcomes: how many came to what.
        judged: opinions that are verdicts; the denominator of `first_shown`, ties included.
        first_shown: share of verdicts for the response that was shown first; one half, less half the ties, where
            the order does not matter.
        ties: share of verdicts that are ties.
        failures: opinions without a verdict, by kind.
        cost: of all opinions.
    """

    n: int
    outcomes: Mapping[PairOutcome, int]
    judged: int
    first_shown: float | None
    second_shown: float | None
    ties: float | None
    failures: Mapping[Failure, int]
    cost: Cost

    @property
    def consistency(self) -> float | None:
        """Share of pairs on which both orders agree, ties included; a pair with a failed order does not agree."""
        agreed = sum(self.outcomes.get(one, 0) for one in MIRRORED)
        return agreed / self.n if self.n else None


def summarise(comparisons: Iterable[PairVerdict]) -> Summary:
    """Count what came of comparisons, in one pass. Pairs asked in one order only have no consistency to speak of."""
    outcomes: Counter[PairOutcome] = Counter()
    shown: Counter[Choice] = Counter()
    failures: Counter[Failure] = Counter()
    cost = Cost()
    for comparison in comparisons:
        outcomes[comparison.outcome] += 1
        for one in comparison.opinions:
            cost += one.cost
            if one.shown_choice:
                shown[one.shown_choice] += 1
            if one.failure:
                failures[one.failure] += 1
    judged = shown.total()

    def share(choice: Choice) -> float | None:
        return shown[choice] / judged if judged else None

    return Summary(
        n=outcomes.total(),
        outcomes=outcomes,
        judged=judged,
        first_shown=share("first"),
        second_shown=share("second"),
        ties=share("tie"),
        failures=failures,
        cost=cost,
    )


class Verdict(Protocol):
    """One verdict on an item, or why there is none."""

    @property
    def id(self) -> str: ...

    @property
    def failure(self) -> Failure | None: ...

    @property
    def reply(self) -> str: ...


def check_failures(results: Iterable[Verdict | PairVerdict], *, limit: float) -> None:
    """Refuse results of which too many have no verdict.

    Args:
        results: comparisons, or whatever else has one verdict an item.
        limit: largest share of requests without a verdict that is accepted.

    Raises:
        CoalignError: the share is above `limit`; it counts the kinds and shows the first reply that could not be read.
    """
    asked = 0
    kinds: Counter[str] = Counter()
    first: tuple[str, str] | None = None
    for result in results:
        for one in result.opinions if isinstance(result, PairVerdict) else (result,):
            asked += 1
            if one.failure:
                kinds[one.failure] += 1
                first = first or (result.id, one.reply)
    if first is None or kinds.total() <= limit * asked:
        return
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    shown = f" The first one, to item {first[0]}: {first[1][:200]!r}." if first[1] else ""
    raise CoalignError(
        f"{kinds.total()} of {asked} verdicts are missing ({told}), more than the accepted share of "
        f"{limit:g}.{shown}",
        hint="All replies are kept. Use a stronger judge, a simpler template or another readout, or accept a larger "
        "share; the same command then asks only for what is missing.",
    )
