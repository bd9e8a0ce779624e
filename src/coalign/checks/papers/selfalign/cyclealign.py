"""Check of `cyclealign`: a ranker that knows its demonstrations alone, in the world of classes and replies."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from torch import nn

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.starts import Start, start_with
from coalign.checks.steps import example, frozen_logps, trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.replies.replies import Replies, ReplyWorld
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Messages
from coalign.judging.demonstrations import Demonstration, DemonstrationQueue
from coalign.judging.protocol import JudgeItem
from coalign.judging.ranking import Ranked, Ranker
from coalign.judging.ranking_cycles import Cycled, Cycles, rank_in_cycles
from coalign.models.types import Responses
from coalign.training.losses.ranking_distillation import Constants
from coalign.training.objective import get_objective

CYCLES, PROMPTS, SAMPLES, BATCH, QUEUE = 4, 200, 4, 16, 40


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Rankings of a judge that knows a few demonstrations make the replies better than rankings at random.

    CycleAlign is compared with the untrained model, with a judge that ranks at random over the same steps, and with a
    queue that stays empty, so that the judge keeps to its fixed demonstrations; the last is reported and has no part in
    the rule.

    Rule:
        Seen: in at least 4 of 5 seeds the quality of CycleAlign's replies is above that of the untrained model's by
        0.05 or more and above that of the random judge's. Otherwise not seen. That demonstrations agreed on the way
        help is not claimed.

    Setting:
        Classes and replies: GRU of 2 layers and width 96, 8 classes, 36 symbols, replies of 8; quality is the share of
        the class's 6 good symbols that a reply shows. The judge scores a reply by the places of the replies in its
        demonstrations of the class, weighted by exp(4 Jaccard) of the symbols, with noise of 0.1; 2 pairs of a good and
        a random reply a class are fixed. 4 cycles of 200 prompts, 4 samples at temperature 0.8, agreement on all 4,
        queues of 40 best and worst replies a class, 2 passes in batches of 16, Adam 1e-3, ranking weight 0.2. 300
        prompts, 2 samples each.
    """
    arms: dict[str, Callable[[Start[ReplyWorld]], Measures]] = {
        "untrained": partial(_untrained, samples=2),
        "CycleAlign": partial(_cycles, size=QUEUE),
        "empty queue": partial(_cycles, size=0),
        "random judge": partial(_cycles, size=QUEUE, knows=False),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    over_base = rows.gaps("quality", "CycleAlign", "untrained")
    over_random = rows.gaps("quality", "CycleAlign", "random judge")
    hits = {seed: over_base[seed] >= 0.05 and over_random[seed] > 0 for seed in over_base}
    last = f"accuracy of the judge, cycle {CYCLES}"
    return rows.verdict(
        check,
        outcome=decide(seen=most_seeds(hits)),
        summary={
            "seeds that hit": sum(hits.values()),
            "quality, CycleAlign - untrained": mean_of(over_base),
            "quality, CycleAlign - random judge": mean_of(over_random),
            "quality, CycleAlign - empty queue": rows.gap("quality", "CycleAlign", "empty queue"),
            f"{last}, CycleAlign - empty queue": rows.gap(last, "CycleAlign", "empty queue"),
        },
    )


@dataclass
class _NearestNeighbours:
    """Ranks by likeness to the replies in its demonstrations of the same class; or at random, knowing nothing."""

    random: random.Random
    knows: bool = True
    name: str = "nearest neighbours"
    reads_demonstrations: bool = field(default=True, init=False)

    def rank(
        self,
        items: Sequence[JudgeItem],
        demonstrations: Sequence[Sequence[Demonstration]],
        *,
        seed: int = 0,
        label: str = "",
    ) -> list[Ranked]:
        return [
            Ranked(id=one.id, values=tuple(self._score(text, one, beside) for text in one.responses))
            for one, beside in zip(items, demonstrations, strict=True)
        ]

    def _score(self, text: str, item: JudgeItem, beside: Sequence[Demonstration]) -> float:
        noise = self.random.gauss(0, 0.1)
        if not self.knows:
            return noise
        weights, total = 0.0, 0.0
        mine = set(text.split())
        for one in beside:
            if _class_of(one.prompt) != _class_of(item.prompt):
                continue
            for place, reply in enumerate(one.responses):
                other = set(reply.split())
                weight = math.exp(4 * len(mine & other) / len(mine | other))
                weights += weight
                total += weight * (1 - place / (len(one.responses) - 1))
        return total / weights + noise


def _start(seed: int) -> Start[ReplyWorld]:
    world = ReplyWorld(seed)
    return start_with(world, world.base_model(), {}, compared=())


def _untrained(material: Start[ReplyWorld], *, samples: int) -> Measures:
    return {"quality": _quality(material.world, material.base, samples)}


def _cycles(material: Start[ReplyWorld], *, size: int, knows: bool = True) -> Measures:
    """Cycles of sampling, ranking and training, and how right the judge was in each."""
    world, model = material.world, material.base
    ranker: Ranker = _NearestNeighbours(random.Random(world.seed), knows)
    queue, fixed = DemonstrationQueue(size), _fixed(world)
    measures: Measures = {}
    for number in range(1, CYCLES + 1):
        prompts = world.prompts(PROMPTS, f"cycle {number}")
        replies = world.replies(model, prompts, SAMPLES, f"cycle {number}")
        cycled = rank_in_cycles(
            [
                _item(f"{number}-{place}", prompt[0], row)
                for place, (prompt, row) in enumerate(zip(prompts, replies, strict=True))
            ],
            [str(prompt[0]) for prompt in prompts],
            _beliefs(model, prompts, replies),
            ranker,
            queue,
            Cycles(fixed=fixed, min_agreement=SAMPLES, ends_only=True),
        )
        measures[f"accuracy of the judge, cycle {number}"] = _accuracy(world, prompts, replies, cycled)
        measures[f"agreed responses, cycle {number}"] = fmean(len(one.agreed) for one in cycled)
        model = trained(
            model,
            [
                example(prompt, row, one.values)
                for prompt, row, one in zip(prompts, replies, cycled, strict=True)
            ],
            get_objective("ranking_distillation"),
            Constants(rank_weight=0.2),
            steps=2 * PROMPTS // BATCH,
            batch_size=BATCH,
            learning_rate=1e-3,
            generator=stream(world.seed, f"cycle {number}/order"),
        )
    return {"quality": _quality(world, model, 2), **measures}


def _item(name: str, cls: int, row: Sequence[Sequence[int]]) -> JudgeItem:
    """Replies to a prompt, which is a class and a name of its own."""
    texts = tuple(" ".join(map(str, one)) for one in row)
    return JudgeItem(id=name, prompt=[{"role": "user", "content": f"{cls} {name}"}], responses=texts)


def _class_of(prompt: Messages) -> str:
    return prompt[0]["content"].split()[0]


def _fixed(world: ReplyWorld, pairs: int = 2) -> list[Demonstration]:
    """Of every class pairs of a reply of good symbols and one of any."""
    generator = random.Random(world.seed)
    found = []
    for cls, order in enumerate(world.order.tolist(), start=1):
        for number in range(pairs):
            drawn = [
                [generator.choice(those) + 1 + world.classes for _ in range(world.length)]
                for those in (order[: world.good], order)
            ]
            shown = _item(f"fixed-{number}", cls, drawn)
            found.append(Demonstration(shown.prompt, shown.responses))
    return found


def _beliefs(model: nn.Module, prompts: list[list[int]], replies: Replies) -> list[list[float]]:
    flat = Responses(
        prompts,
        [one for row in replies for one in row],
        [place for place, row in enumerate(replies) for _ in row],
    )
    return frozen_logps(model, flat).means().view(len(prompts), -1).tolist()


def _accuracy(
    world: ReplyWorld, prompts: list[list[int]], replies: Replies, cycled: Sequence[Cycled]
) -> float:
    """Share of pairs of different quality that the judge orders rightly."""
    right = [
        (one.values[i] > one.values[j]) == (row[i] > row[j])
        for row, one in zip(world.task_scores(prompts, replies).tolist(), cycled, strict=True)
        if one.values is not None
        for i in range(len(row))
        for j in range(i)
        if row[i] != row[j]
    ]
    return fmean(right)


def _quality(world: ReplyWorld, model: nn.Module, samples: int) -> float:
    return world.measure(model, samples=samples)["task score"]
