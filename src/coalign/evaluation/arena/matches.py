"""Matches between outputs of models, judged in batches: brackets round by round, all pairs, or each against a reference."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import combinations

import numpy as np

from coalign.evaluation.arena.outputs import Outputs
from coalign.evaluation.arena.tournament import bracket
from coalign.judging.protocol import Judge, JudgeItem, Orders, PairVerdict, Rubric, check_failures


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two outputs to a prompt.

    Attributes:
        prompt: place of the prompt.
        first, second: places of the models, in the order in which their outputs are shown.
        round: of the tournament, from 1.
    """

    prompt: int
    first: int
    second: int
    round: int = 1


@dataclass(frozen=True, kw_only=True)
class Played:
    """A match that was judged.

    Attributes:
        share: the first model's share of the win in the ratings; None where there is no verdict, and the match then
            counts for nobody.
        winner: who goes on: the better one, after a tie or without a verdict by a fair coin.
        how: `judge`; `empty`, an empty output loses, or `same`, equal outputs tie, both without a question.
        comparison: what the judge said.
    """

    match: Match
    share: float | None
    winner: int
    how: str
    comparison: PairVerdict | None = None


@dataclass(eq=False)
class Arena:
    """Judges matches over the outputs.

    Args:
        seed: of brackets, places and coins. Each prompt and match has a stream of its own, so that a resumed run and a
            run with further prompts meet the same questions again.
        orders: `given` asks once a match, places drawn by a coin; `both` asks twice, and orders that disagree tie.
        max_failures: share of verdicts that may be missing, looked at after every round.
    """

    outputs: Outputs
    judge: Judge
    _: KW_ONLY
    seed: int = 0
    orders: Orders = "given"
    rubric: Rubric | None = None
    max_failures: float = 0.05
    missing_is_failure: bool = True
    _asked: list[PairVerdict] = field(default_factory=list, init=False)

    def tournaments(self) -> list[Played]:
        """Every prompt's bracket; independent matches of all prompts are judged together, round by round."""
        nodes = bracket(len(self.outputs.models))
        orders = [self._shuffled(place) for place in range(len(self.outputs.ids))]
        winners: list[dict[int, int]] = [{} for _ in orders]
        played: list[Played] = []

        def who(prompt: int, reference: int) -> int:
            return orders[prompt][reference] if reference >= 0 else winners[prompt][-1 - reference]

        for number in range(1, max((node.round for node in nodes), default=0) + 1):
            here = [
                (prompt, index)
                for prompt in range(len(orders))
                for index, node in enumerate(nodes)
                if node.round == number
            ]
            matches = [
                self._placed(prompt, who(prompt, nodes[index].left), who(prompt, nodes[index].right), number)
                for prompt, index in here
            ]
            found = self.play(matches, label=f"Round {number}")
            for (prompt, index), one in zip(here, found, strict=True):
                winners[prompt][index] = one.winner
            played += found
        return played

    def all_pairs(self) -> list[Played]:
        """Every two models on every prompt."""
        return self._everywhere(list(combinations(range(len(self.outputs.models)), 2)), "All pairs")

    def anchored(self, reference: int) -> list[Played]:
        """Every other model against one, on every prompt: the usual way."""
        pairs = [(one, reference) for one in range(len(self.outputs.models)) if one != reference]
        return self._everywhere(pairs, "Against the reference")

    def play(self, matches: Sequence[Match], *, label: str) -> list[Played]:
        """Judge matches that do not depend on each other.

        Raises:
            CoalignError: too many verdicts are missing.
        """
        asked = [one for one in matches if self._without_asking(one) is None]
        comparisons = self.judge.compare(
            [self.item(one) for one in asked], rubric=self.rubric, orders=self.orders, label=label
        )
        self._asked += comparisons
        counted = [
            one
            for one in self._asked
            if self.missing_is_failure or all(each.failure != "missing" for each in one.opinions)
        ]
        check_failures(counted, limit=self.max_failures)
        said = dict(zip(asked, comparisons, strict=True))
        return [self._played(one, said.get(one)) for one in matches]

    def _everywhere(self, pairs: Sequence[tuple[int, int]], label: str) -> list[Played]:
        prompts = range(len(self.outputs.ids))
        return self.play([self._placed(one, *pair, 1) for one in prompts for pair in pairs], label=label)

    def item(self, match: Match) -> JudgeItem:
        """What the judge gets: the first model's output first."""
        outputs = self.outputs
        names = sorted((match.first, match.second))
        return JudgeItem(
            id=f"{outputs.ids[match.prompt]}/{outputs.models[names[0]]}/{outputs.models[names[1]]}",
            prompt=outputs.prompts[match.prompt],
            responses=(outputs.texts[match.prompt][match.first], outputs.texts[match.prompt][match.second]),
            reference=outputs.references[match.prompt] if outputs.references else None,
            extra=outputs.extras[match.prompt] if outputs.extras else {},
        )

    def _played(self, match: Match, comparison: PairVerdict | None) -> Played:
        if comparison is None:
            share, how = self._without_asking(match) or (0.5, "same")
        else:
            share, how = comparison.credit, "judge"
        if share is None or share == 0.5:
            winner = match.first if self._stream("coin", match).random() < 0.5 else match.second
        else:
            winner = match.first if share > 0.5 else match.second
        return Played(match=match, share=share, winner=winner, how=how, comparison=comparison)

    def _without_asking(self, match: Match) -> tuple[float, str] | None:
        first, second = (self.outputs.texts[match.prompt][one].strip() for one in (match.first, match.second))
        if first == second:
            return 0.5, "same"
        if not first or not second:
            return (1.0 if first else 0.0), "empty"
        return None

    def _placed(self, prompt: int, one: int, other: int, round: int) -> Match:
        """The match with places drawn: whoever comes first in the bracket must not always be shown first."""
        low, high = sorted((one, other))
        match = Match(prompt=prompt, first=low, second=high, round=round)
        turned = self._stream("place", match).random() < 0.5
        return replace(match, first=high, second=low) if turned else match

    def _shuffled(self, prompt: int) -> list[int]:
        order = list(range(len(self.outputs.models)))
        _stream(self.seed, "bracket", self.outputs.ids[prompt]).shuffle(order)
        return order

    def _stream(self, purpose: str, match: Match) -> random.Random:
        names = sorted(self.outputs.models[one] for one in (match.first, match.second))
        return _stream(self.seed, purpose, self.outputs.ids[match.prompt], *names)


def tables_of(played: Sequence[Played], outputs: Outputs) -> np.ndarray:
    """[prompts, models, models] wins of the row over the column; matches without a verdict count for nobody."""
    tables = np.zeros((len(outputs.ids), len(outputs.models), len(outputs.models)))
    for one in played:
        if one.share is not None:
            tables[one.match.prompt, one.match.first, one.match.second] += one.share
            tables[one.match.prompt, one.match.second, one.match.first] += 1 - one.share
    return tables


def _stream(seed: int, *names: str) -> random.Random:
    return random.Random(
        hashlib.sha256("\0".join([str(seed), *names]).encode("utf-8", "surrogatepass")).digest()
    )
