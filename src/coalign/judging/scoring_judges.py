"""Judges that need no language model: functions, verifiers, reward models and verdicts that are already there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Unpack

from coalign.core.errors import CoalignError, ConfigError
from coalign.data.records import Messages
from coalign.judging.parsing import choice_of
from coalign.judging.protocol import (
    Choice,
    ComparingTerms,
    JudgeItem,
    Opinion,
    Orders,
    PairVerdict,
    Rating,
    RatingTerms,
    Rubric,
    Scale,
    comparing_terms,
    rating_terms,
)

ScoreItems = Callable[[Sequence[JudgeItem]], Sequence[float]]


@dataclass(eq=False)
class ScoringJudge:
    """A judge that scores every response by itself: a program, a verifier, a reward model.

    The higher score wins and equal scores tie, so its verdicts cannot depend on the order.

    Args:
        score: items with one response each to one number each, higher is better.
        bounds: lowest and highest possible score; needed to rate on a scale.
        tie_margin: scores that differ by no more than this tie.
    """

    score: ScoreItems
    _: KW_ONLY
    name: str
    bounds: tuple[float, float] | None = None
    tie_margin: float = 0.0

    def rate(self, items: Sequence[JudgeItem], **terms: Unpack[RatingTerms]) -> list[Rating]:
        """The score of every response, stretched from the judge's bounds to `scale` where one is given.

        Raises:
            ConfigError: a rubric, which it cannot follow, or a scale for scores without bounds.
        """
        rubric, scale, _ = rating_terms(**terms)
        self._refuse(rubric)
        if scale is not None and self.bounds is None:
            raise ConfigError(
                f"{self.name} gives scores without bounds, which cannot be put on a scale from {scale.low:g} to "
                f"{scale.high:g}.",
                hint="Leave the scale out.",
            )
        return [
            Rating(id=item.id, score=_stretched(score, self.bounds, scale))
            for item, score in zip(items, self._scores(items), strict=True)
        ]

    def compare(self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]) -> list[PairVerdict]:
        """Score both responses of every item, equal texts to the same prompt once, and let the higher score win."""
        rubric, orders, _ = comparing_terms(**terms)
        self._refuse(rubric)
        singles = [_single(item, place) for item in items for place in (0, 1)]
        scores = self._scores(singles)
        found = []
        for place, item in enumerate(items):
            pair = (scores[2 * place], scores[2 * place + 1])
            margin = pair[0] - pair[1]
            choice: Choice = "tie" if abs(margin) <= self.tie_margin else choice_of(margin)
            opinion = Opinion(choice=choice, scores=pair, margin=margin)
            opinions = (opinion, Opinion(choice=choice, scores=pair, margin=margin, swapped=True))
            found.append(PairVerdict(id=item.id, opinions=opinions if orders == "both" else opinions[:1]))
        return found

    def _scores(self, items: Sequence[JudgeItem]) -> list[float]:
        keys = [(repr(item.prompt), item.responses[0], item.reference, repr(item.extra)) for item in items]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        order = sorted(first.values())
        values = [float(one) for one in self.score([items[place] for place in order])] if order else []
        if len(values) != len(order):
            raise ValueError(f"{self.name} gave {len(values)} scores to {len(order)} responses")
        for place, value in zip(order, values, strict=True):
            if not math.isfinite(value):
                raise CoalignError(
                    f"{self.name}: the score of item {items[place].id} is {value}, expected a finite number."
                )
        by_key = {keys[place]: value for place, value in zip(order, values, strict=True)}
        return [by_key[key] for key in keys]

    def _refuse(self, rubric: Rubric | None) -> None:
        if rubric is not None:
            raise ConfigError(f"{self.name} scores by its own rule and cannot follow a rubric.")


class ComparingJudge:
    """What judges share that only compare.

    Attributes:
        name: of the judge.
    """

    name: str

    def rate(self, items: Sequence[JudgeItem], **terms: Unpack[RatingTerms]) -> list[Rating]:
        """Refused.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name}: only compares and cannot rate.")

    def compare(self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]) -> list[PairVerdict]:
        """See `coalign.judging.protocol.Judge.compare`."""
        rubric, orders, _ = comparing_terms(**terms)
        return [PairVerdict(id=item.id, opinions=self._opinions(item, rubric, orders)) for item in items]

    def _opinions(self, item: JudgeItem, rubric: Rubric | None, orders: Orders) -> tuple[Opinion, ...]:
        raise NotImplementedError


class FunctionJudge(ComparingJudge):
    """A judge that is a function of two responses as they are shown: for rules on pairs, and for tests.

    It refuses a rubric. None from the function counts as a malformed verdict.

    Args:
        compare: an item to the better one of its responses, by place; it is called for each order.
    """

    def __init__(self, compare: Callable[[JudgeItem], Choice | None], *, name: str) -> None:
        self.name = name
        self._compare = compare

    def _opinions(self, item: JudgeItem, rubric: Rubric | None, orders: Orders) -> tuple[Opinion, ...]:
        if rubric is not None:
            raise ConfigError(f"{self.name} compares by its own rule and cannot follow a rubric.")
        if orders == "given":
            return (self._opinion(item),)
        return self._opinion(item), self._opinion(item.swapped()).mirrored()

    def _opinion(self, item: JudgeItem) -> Opinion:
        choice = self._compare(item)
        return Opinion(choice=choice, failure=None if choice else "malformed")


class StoredJudge(ComparingJudge):
    """Verdicts that are already there, of people or of an earlier run, found by prompt and responses.

    One that is not there has the failure `missing`. The order in which the responses were shown is not part of a stored
    verdict, so there is one opinion an item whatever `orders` says.

    Args:
        verdicts: (item, better response); the same pair in either order is the same question, and several verdicts on
            it are settled by majority, no majority being a tie.
    """

    def __init__(
        self, verdicts: Iterable[tuple[JudgeItem, Choice]], *, name: str = "stored verdicts"
    ) -> None:
        self.name = name
        self._credits: dict[tuple[str, str, str], list[float]] = {}
        for item, choice in verdicts:
            key, turned = _pair_key(item)
            value = {"first": 1.0, "second": -1.0, "tie": 0.0}[choice]
            self._credits.setdefault(key, []).append(-value if turned else value)

    def __len__(self) -> int:
        return len(self._credits)

    def _opinions(self, item: JudgeItem, rubric: Rubric | None, orders: Orders) -> tuple[Opinion, ...]:
        key, turned = _pair_key(item)
        if key not in self._credits:
            return (Opinion(choice=None, failure="missing"),)
        total = sum(self._credits[key])
        return (Opinion(choice=choice_of(-total if turned else total)),)


def function_judge(code: str, *, tie_margin: float = 0.0) -> ScoringJudge:
    """A judge by a function of the user, `file.py:name`, of the form of a reward (`rewards.functions.FunctionReward`): it is
    given `prompts`, `completions`, `references` and the items' further columns.

    Raises:
        ConfigError: there is no such function.
    """
    from coalign.data.records import PromptRecord
    from coalign.judging.rewards.functions import FunctionReward, load_function
    from coalign.judging.rewards.mix import Draft

    function = load_function(code)

    def score(items: Sequence[JudgeItem]) -> list[float]:
        columns = {
            number: PromptRecord(prompt=item.prompt, extra={**item.extra, "references": item.reference})
            for number, item in enumerate(items)
        }
        drafts = [Draft.of(number, item.prompt, item.responses[0], True) for number, item in enumerate(items)]
        return FunctionReward(function, code, columns).score(drafts)

    return ScoringJudge(score, name=code, tie_margin=tie_margin)


def reward_judge(
    score: Callable[[Sequence[Messages], Sequence[str]], Sequence[float]],
    *,
    name: str,
    tie_margin: float = 0.0,
) -> ScoringJudge:
    """A reward model as judge.

    Args:
        score: prompts and responses, [B] each, to [B] rewards (`coalign.models.reward_model.RewardModel.score`).
    """

    def of_items(items: Sequence[JudgeItem]) -> Sequence[float]:
        return score([item.prompt for item in items], [item.responses[0] for item in items])

    return ScoringJudge(of_items, name=name, tie_margin=tie_margin)


def verifier_judge(constraints: Sequence[Mapping[str, Any]] | None = None) -> ScoringJudge:
    """The share of constraints that a response satisfies (`coalign.judging.verifiers.constraints`), in [0, 1].

    Args:
        constraints: for every item; by default those in the item's `constraints` column.

    Raises:
        ConfigError: an item without constraints (while judging).
    """
    from coalign.judging.prompts import question_text
    from coalign.judging.verifiers.constraints import (
        ConstraintError,
        constraint_satisfaction,
        parse_constraints,
    )
    from coalign.judging.verifiers.following import constraints_of

    def of_items(items: Sequence[JudgeItem]) -> list[float]:
        found = []
        for item in items:
            try:
                parsed = constraints_of(item.extra) if constraints is None else parse_constraints(constraints)
            except ConstraintError as error:
                raise ConfigError(
                    f"item {item.id}: {error}", hint="The verifiers read a column `constraints`."
                ) from error
            found.append(constraint_satisfaction(question_text(item.prompt), item.responses[0], parsed)[0])
        return found

    return ScoringJudge(of_items, name="verifiers", bounds=(0.0, 1.0))


def _single(item: JudgeItem, place: int) -> JudgeItem:
    return replace(item, responses=(item.responses[place],), parts=())


def _stretched(score: float, bounds: tuple[float, float] | None, scale: Scale | None) -> float:
    if scale is None or bounds is None:
        return score
    return scale.low + (score - bounds[0]) / (bounds[1] - bounds[0]) * (scale.high - scale.low)


def _pair_key(item: JudgeItem) -> tuple[tuple[str, str, str], bool]:
    """What identifies the question whatever the order, and whether the item has the other order."""
    prompt = repr([(one["role"], one["content"]) for one in item.prompt])
    first, second = item.responses
    turned = second < first
    return (prompt, second, first) if turned else (prompt, first, second), turned
