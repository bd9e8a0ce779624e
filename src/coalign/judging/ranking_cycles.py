"""Rankings asked for again and again, while what a model and its judge agree on becomes a demonstration for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coalign.judging.demonstrations import Demonstration, DemonstrationQueue
from coalign.judging.protocol import Cost, JudgeItem
from coalign.judging.ranking import Ranked, Ranker, order_of


def agreed_order(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """A longest common subsequence of two orders: what both accept, as far as it goes.

    Of several longest ones it is the one that is found from the end by stepping back in `first` on equal length.
    """
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            longest = max(lengths[i][j + 1], lengths[i + 1][j])
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if one == other else longest
    common: list[int] = []
    i, j = len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            common.append(first[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] >= lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common[::-1]


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """How a judge is asked.

    Attributes:
        fixed: demonstrations that are always shown, before the queue's.
        interactions: how often an item is asked about at most.
        min_agreement: responses that model and judge must agree on for a demonstration; by default all but one, and 2
            at least.
        ends_only: a demonstration holds the best and the worst of them alone.
        budget: requests in all; none is begun beyond it (the repetition of one that could not be read is).
        seed: of the order in which responses are shown.
    """

    fixed: Sequence[Demonstration] = ()
    interactions: int = 1
    min_agreement: int | None = None
    ends_only: bool = False
    budget: int | None = None
    seed: int = 0

    def demonstration(self, item: JudgeItem, agreed: Sequence[int]) -> Demonstration | None:
        """What an agreement shows, if it is one."""
        if len(agreed) < (self.min_agreement or max(2, len(item.responses) - 1)):
            return None
        texts = tuple(item.responses[place] for place in agreed)
        return Demonstration(item.prompt, (texts[0], texts[-1]) if self.ends_only else texts)


@dataclass(frozen=True, kw_only=True)
class Cycled:
    """What came of an item that was to be ranked.

    Attributes:
        belief: the model's own order, places best first.
        ranked: the last verdict of the judge that could be read; without one its last failure; None where it was not
            asked, for want of budget.
        agreed: what of the belief the judge accepts; empty without a verdict.
        shown: keys of the demonstrations that each request about it had.
        cost: of all requests.
    """

    belief: tuple[int, ...]
    ranked: Ranked | None = None
    agreed: tuple[int, ...] = ()
    shown: tuple[tuple[str, ...], ...] = ()
    cost: Cost = field(default_factory=Cost)

    @property
    def values(self) -> tuple[float, ...] | None:
        """Of each response by the judge's last verdict; None without one."""
        return self.ranked.values if self.ranked else None

    def asked(self, one: Ranked, shown: tuple[str, ...]) -> Cycled:
        """After another request; a reply that cannot be read leaves an earlier verdict as it is."""
        again = replace(self, shown=(*self.shown, shown), cost=self.cost + one.cost)
        if one.order is None and self.values is not None:
            return again
        agreed = () if one.order is None else tuple(agreed_order(self.belief, one.order))
        return replace(again, ranked=one, agreed=agreed)


def rank_in_cycles(
    items: Sequence[JudgeItem],
    topics: Sequence[str],
    beliefs: Sequence[Sequence[float]],
    ranker: Ranker,
    queue: DemonstrationQueue,
    how: Cycles,
) -> list[Cycled]:
    """Let a judge rank, add what both agree on to the queue, and ask again with the queue as it then is.

    All items of a pass are asked with the same queue. Those whose verdict is not the belief are asked again while the
    demonstrations for them change; an item is no demonstration for its own prompt.

    Args:
        topics: of the items; each has a queue of its own.
        beliefs: `[items][responses]` what the model itself thinks of them, higher is better.
        queue: changed in place.
    """
    found = [Cycled(belief=order_of(one)) for one in beliefs]
    left, spent = list(range(len(items))), 0
    for number in range(how.interactions if ranker.reads_demonstrations else 1):
        beside = {place: [*how.fixed, *_others(queue, topics[place], items[place])] for place in left}
        keys = {place: tuple(one.key for one in those) for place, those in beside.items()}
        left = [place for place in left if found[place].shown[-1:] != (keys[place],)]
        left = left if how.budget is None else left[: max(0, how.budget - spent)]
        if not left:
            break
        verdicts = ranker.rank(
            [items[place] for place in left],
            [beside[place] for place in left],
            seed=how.seed * how.interactions + number,
            label="Ranking" if number == 0 else f"Ranking again ({number + 1} of {how.interactions})",
        )
        for place, one in zip(left, verdicts, strict=True):
            spent += one.cost.calls
            found[place] = found[place].asked(one, keys[place])
            shown = how.demonstration(items[place], found[place].agreed) if one.order is not None else None
            if shown is not None:
                queue.push(topics[place], shown)
        left = [place for place in left if _order(found[place]) != found[place].belief]
    return found


def _others(queue: DemonstrationQueue, topic: str, item: JudgeItem) -> list[Demonstration]:
    own = Demonstration(item.prompt, ()).prompt_key
    return [one for one in queue.of(topic) if one.prompt_key != own]


def _order(one: Cycled) -> tuple[int, ...] | None:
    return one.ranked.order if one.ranked else None
