"""Rounds in which a model writes its own training data and the base model, never the last one, is trained on it.

A system says how a round's records come about (a pipeline over requests), and what is measured of its model::

    build      the pipeline's folder `tasks/`; `kept.jsonl` in it are demonstrations
    fit        the base model trained on the records of this round alone (and on what is trained on in every round)
    evaluate   what is measured of the model that came of it; `baseline` of the base model before round 1
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError
from coalign.core.files import write_json
from coalign.core.options import Count, Fraction, option, required
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Messages
from coalign.loops.pipeline import Curated
from coalign.loops.readings import tell
from coalign.loops.rounds import Round, run_rounds
from coalign.loops.rows import Row
from coalign.loops.scoring import scored_logps
from coalign.models.backends.open import policy_server
from coalign.models.backends.options import PolicyBackendOptions
from coalign.report.model import ComparisonRow
from coalign.report.parts import paired
from coalign.selfalign.synthesis.tasks import SeedTask, draw_tasks, joined, numbered_blocks
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.objective import get_objective

if TYPE_CHECKING:
    from coalign.core.runs import Run
    from coalign.models.options import ModelOptions

NLL = "seed nll"
"""What `seed_nll` is told under: nats a token of the seeds' answers, over all of them."""


@dataclass(kw_only=True)
class SynthesisOptions(PolicyBackendOptions):
    """Rounds of tasks that the model writes."""

    __group__ = "Rounds"
    __may_change__ = ("rounds",)

    data: str = required(
        "seed tasks: instruction with input and output, Self-Instruct's form, or demonstrations"
    )
    rounds: Count = option(1, "rounds; may be raised later in the same run folder")
    tasks: Count = option(1000, "new tasks that a round writes, before answers are filtered")
    requests: Count | None = option(
        None,
        "most requests for tasks in a round; by default as many as `tasks`, each of which may give several",
    )
    shown: Count = option(5, "seed tasks in a request")
    novelty: Fraction = option(0.7, "largest ROUGE-L F of a new instruction with a seed or an earlier one")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(["eval_fraction", "eval_steps"], "here: nothing is held out of what is trained on")


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What a system brings.

    Attributes:
        config: `SynthesisOptions`, model and training options; a vLLM server may write and answer.
        make: (round, model that the round starts with) to the records that it made.
        measure: (round, model) to what is measured of a model; round 0 is the base model's.
        always: records that every round trains on beside its own.
    """

    config: Any
    make: Callable[[Round, ModelOptions], Curated]
    measure: Callable[[Round, ModelOptions], dict[str, float | None]]
    always: Sequence[Demonstration] = ()

    def model(self, after: Round | None) -> ModelOptions:
        """The model after a round; the base model after None and after round 0."""
        return self.config.at(after.folder / "model") if after is not None and after.number else self.config


def made(round: Round) -> Curated:
    """The records that a round made."""
    return Curated(round.folder / "tasks")


def run_synthesis(run: Run, loop: Synthesis) -> list[Round]:
    """Run every stage that is not done; put the last model into `run.model`, list all, and name the last records.

    Raises:
        CoalignError: a round of which no record is left.
        RunError: the folder has begun more rounds.
    """
    first = Round(run, 0)

    def baseline(round: Round) -> None:
        tell(first, loop.measure(first, loop.config))

    def build(round: Round) -> None:
        before = round.previous if round.number > 1 else None
        curated = loop.make(round, loop.model(before))
        if not curated.manifest["kept"]:
            told = curated.most_reasons() or "no request gave a task"
            raise CoalignError(
                f"Round {round.number}: no record is left to train on. Most fell for: {told}.",
                hint=f"All are in {curated.rejects}. Use a stronger model, more tasks, or other rules or thresholds; "
                "the report of the steps is manifest.json beside it.",
            )

    def fit(round: Round) -> None:
        own = read_records(made(round).kept, kind="demonstration").records
        job = Job(
            objective=get_objective("sft"),
            options=loop.config,
            run=run,
            records=[*own, *loop.always],
            name=f"round-{round.number}/train",
        )
        round.write("history", train(job, round.folder / "model").history)
        tell(round, {"trained on": len(own) + len(loop.always)})

    def evaluate(round: Round) -> None:
        tell(round, loop.measure(round, loop.model(round)))

    stages = {"build": build, "fit": fit, "evaluate": evaluate}
    with policy_server(loop.config):
        if not first.is_done("baseline"):
            run_rounds(run, {"baseline": baseline}, first=0, rounds=0)
        rounds = run_rounds(run, stages, rounds=loop.config.rounds)
    path = run.artefacts / "checkpoints.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = {f"M{after.number if after else 0}": loop.model(after).model for after in (None, *rounds)}
    run.publish_model(rounds[-1].folder / "model", replace=[*before] != [*names])
    run.publish_records(made(rounds[-1]).kept)
    write_json(path, names)
    return rounds


class Requests:
    """Requests for tasks: a brief, some seeds as numbered blocks, the number of the next. The same at every iteration.

    Args:
        brief: what stands before the blocks.
        weights: of the seeds when they are drawn, by their order; a seed that was drawn waits until all were.
    """

    def __init__(
        self,
        seeds: Sequence[SeedTask],
        config: SynthesisOptions,
        round: Round,
        *,
        brief: str,
        seed: int,
        weights: Callable[[Sequence[bool]], Sequence[float]] | None = None,
    ) -> None:
        self._seeds, self._config, self._weights = seeds, config, weights
        self._brief, self._name = brief, f"{seed}/{round.number}"

    def __len__(self) -> int:
        return self._config.requests or self._config.tasks

    def __iter__(self) -> Iterator[Row]:
        draw = random.Random(self._name)
        places = {one.id: place for place, one in enumerate(self._seeds)}
        used = [False] * len(self._seeds)
        for number in range(len(self)):
            if used.count(False) < min(self._config.shown, len(used)):
                used = [False] * len(used)
            weights = None if self._weights is None else self._weights(used)
            chosen = draw_tasks(self._seeds, self._config.shown, draw, weights)
            for one in chosen:
                used[places[one.id]] = self._weights is not None
            yield {
                "id": f"request-{number}",
                "seeds": [one.id for one in chosen],
                "request": f"{self._brief}\n{numbered_blocks(chosen)}",
            }


def seed_nll(round: Round, model: ModelOptions, seeds: Sequence[SeedTask], limits: Any) -> list[float | None]:
    """For each seed with an answer, nats a token of that answer under a model; None where it does not fit. Kept in
    `seeds.jsonl` of the round.
    """
    rows = _answered(seeds)
    found = scored_logps(round.path("seeds"), rows, model, limits, label="Scoring the seeds' answers")
    pairs = zip(found.sums, found.tokens, strict=True)
    return [None if sum_ != sum_ or not n else -sum_ / n for ((sum_,), (n,)) in pairs]


def compared_nll(run: Run, last: Round, config: Any, seeds: Sequence[SeedTask]) -> ComparisonRow | None:
    """`seed_nll` of the base model and of the last one, paired by seed; None where no seed has an answer that fits."""
    first = seed_nll(Round(run, 0), config, seeds, config)
    found = zip(first, seed_nll(last, config, seeds, config), strict=True)
    pairs = [(one, other) for one, other in found if one is not None and other is not None]
    if not pairs:
        return None
    before, after = map(list, zip(*pairs, strict=True))
    return paired(
        "Nats a token of the seeds' answers", before, after, unit="number", better="lower", emphasis=True
    )


def _answered(seeds: Sequence[SeedTask]) -> list[Row]:
    return [
        {"id": one.id, "prompt": user(joined(one.instruction, one.input)), "responses": [one.output]}
        for one in seeds
        if one.output
    ]


def user(text: str) -> Messages:
    """A prompt of one message."""
    return [{"role": "user", "content": text}]


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that there are."""
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if known else None
