"""Rounds in which a model learns from its own answers: prompts, n samples, scores, what to learn, training.

A system declares what is its own, and the engine does the rest: stages, rows, seeds, models of the rounds, going on
after a kill::

    loop = Labelling(
        config, get_objective("constraint_ranking"), training, held_out,
        evaluation=Sampling(...), score=satisfaction, pair=ranked, keep=telling, nothing=CoalignError(...),
    )
    rounds = run_labelling(run, loop)

Stages of a round, each an artefact under `artefacts/round-<n>/`:

    baseline     answers to the held-out prompts before the first round, scored in `heldout-before`
    propose      the prompts of the round
    generate     n answers to each (`coalign.loops.rows`)
    measure      the same rows with what `score` adds
    build        rows to learn from, in the columns of the objective's kind of data
    filter       those that are kept: a file that `coalign run OBJECTIVE --data` takes
    fit          `model/`, which the next round starts from; `history`; `model.json` says on how much was trained
    evaluate     answers to the held-out prompts after the round, scored in `heldout-after`

What a system keeps beyond these (a second judge, a memory for later rounds) it writes in its hooks under names of its
own and reads from `round.previous`. More `rounds` in the same folder go on after the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coalign.core.files import write_json
from coalign.data.readers import read_records
from coalign.loops.rounds import Round, run_rounds
from coalign.loops.rows import Prompted, Row, answer_rows
from coalign.models.backends.open import open_generator
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.processes import assert_one_process

if TYPE_CHECKING:
    from coalign.core.errors import CoalignError
    from coalign.core.runs import Run
    from coalign.models.options import ModelOptions
    from coalign.models.types import Sampling
    from coalign.training.objective import Objective

Task = TypeVar("Task", bound=Prompted)


def _all(rows: Sequence[Row], seed: int) -> Sequence[Row]:
    return rows


def _no_columns(task: Any) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Labelling(Generic[Task]):
    """What a system brings to its rounds.

    Attributes:
        config: model, training and sampling options, `seed` and `rounds`; the objective's constants where `constants`
            is not given.
        objective: learns from the kept rows, which have its kind of data.
        training: prompts to learn from; a round takes all of them, or with `fresh` its own share.
        held_out: prompts that are answered before the first and after every round; may be empty.
        evaluation: how these are answered.
        score: (round, tasks, their rows) to the rows with what is said of the responses. Rows keep their order.
        pair: (round, scored rows) to rows to learn from.
        nothing: raised where no row is left to learn from: at once, or with `may_skip` when no round had any.
        keep: (rows, seed of the round) to those that are trained on.
        compare: called after every round with the scored rows of the held-out prompts before and after.
        columns: of a task's row in `propose`, besides its id and prompt.
        samples: answers to each training prompt.
        fresh: each prompt is taken in one round, before any is taken again.
        may_skip: a round with nothing to learn from keeps its model.
    """

    config: Any
    objective: Objective
    training: Sequence[Task]
    held_out: Sequence[Task]
    evaluation: Sampling
    score: Callable[[Round, Sequence[Task], Sequence[Row]], list[Row]]
    pair: Callable[[Round, Sequence[Row]], Sequence[Row]]
    nothing: CoalignError
    keep: Callable[[Sequence[Row], int], Sequence[Row]] = _all
    compare: Callable[[Round, Sequence[Row], Sequence[Row]], None] | None = None
    columns: Callable[[Task], Mapping[str, Any]] = _no_columns
    constants: Any = None
    samples: int = 1
    fresh: bool = False
    may_skip: bool = False

    def policy(self, after: Round | None) -> ModelOptions:
        """The model as it is after a round, the start model after None: that of the last round that trained one."""
        while after is not None:
            if (after.folder / "model").exists():
                return self.config.at(after.folder / "model")
            after = after.previous
        return self.config

    def tasks(self, round: Round) -> list[Task]:
        """The prompts of a round, as `propose` keeps them."""
        by_id = {one.id: one for one in self.training}
        return [by_id[row["id"]] for row in round.read("propose")]

    def before(self, run: Run) -> list[Row]:
        """The scored rows of the held-out prompts before the first round; earlier versions kept all in one file."""
        first = Round(run, 1)
        return first.read("heldout-before") or first.read("baseline")

    def after(self, round: Round) -> list[Row]:
        """The same after a round."""
        return round.read("heldout-after") or round.read("evaluate")


def run_labelling(run: Run, loop: Labelling[Any]) -> list[Round]:
    """Run every stage that is not done and put the last model into `run.model`.

    Raises:
        CoalignError: `loop.nothing`.
        ConfigError: more than one process.
    """
    assert_one_process(f"{loop.objective.name} answers prompts")
    stages = {
        "baseline": _baseline,
        "propose": _propose,
        "generate": _generate,
        "measure": _measure,
        "build": _build,
        "filter": _filter,
        "fit": _fit,
        "evaluate": _evaluate,
    }
    bound = {name: lambda round, stage=stage: stage(loop, round) for name, stage in stages.items()}
    rounds = run_rounds(run, bound, rounds=loop.config.rounds)
    final = loop.policy(rounds[-1]).model
    if not run.model.exists():
        if final == loop.config.model:
            raise loop.nothing
        run.publish_model(final)
    return rounds


def _baseline(loop: Labelling[Any], round: Round) -> None:
    if round.number == 1:
        _answer_held_out(loop, round, "baseline", "before", None)


def _propose(loop: Labelling[Any], round: Round) -> None:
    tasks = _share(loop, round) if loop.fresh else loop.training
    round.write("propose", [{"id": one.id, "prompt": one.prompt, **loop.columns(one)} for one in tasks])


def _share(loop: Labelling[Any], round: Round) -> Sequence[Any]:
    """An equal share of the prompts that no earlier round took; of all, when none is left."""
    left = [*loop.training]
    for number in range(1, round.number):
        taken = {row["id"] for row in Round(round.run, number).read("propose")}
        left = [one for one in left if one.id not in taken] or [*loop.training]
    return left[: math.ceil(len(left) / (loop.config.rounds - round.number + 1))]


def _generate(loop: Labelling[Any], round: Round) -> None:
    sampling = loop.config.sampling(n=loop.samples, seed=loop.config.seed + round.number - 1)
    policy = loop.policy(round.previous)
    answer_rows(
        round.path("generate"),
        loop.tasks(round),
        lambda: open_generator(policy),
        sampling,
        label="Sampling responses",
    )


def _measure(loop: Labelling[Any], round: Round) -> None:
    round.write("measure", loop.score(round, loop.tasks(round), _rows(loop, round, "generate")))


def _build(loop: Labelling[Any], round: Round) -> None:
    round.write("build", loop.pair(round, _rows(loop, round, "measure")))


def _rows(loop: Labelling[Any], round: Round, stage: str) -> list[Row]:
    """The rows of a stage; those of earlier versions have no prompt of their own."""
    prompts = {one.id: one.prompt for one in loop.training}
    return [{"prompt": prompts[row["id"]], **row} for row in round.read(stage)]


def _filter(loop: Labelling[Any], round: Round) -> None:
    rows = round.read("build")
    kept = loop.keep(rows, loop.config.seed + round.number - 1)
    round.write("filter", kept)
    round.run.log("filtered", round=round.number, kept=len(kept), dropped=len(rows) - len(kept))


def _fit(loop: Labelling[Any], round: Round) -> None:
    start, folder = loop.policy(round.previous), round.folder / "model"
    rows = round.read("filter")
    if not rows and not loop.may_skip:
        raise loop.nothing
    if rows:
        records = read_records(str(round.path("filter")), kind=loop.objective.data).records
        job = Job(
            objective=loop.objective,
            options=replace(loop.config, model=start.model, revision=start.revision),
            run=round.run,
            records=records,
            constants=loop.constants,
            name=f"round-{round.number}/train",
        )
        round.write("history", train(job, folder).history)
    write_json(
        round.folder / "model.json", {"model": str(folder) if rows else start.model, "trained": len(rows)}
    )


def _evaluate(loop: Labelling[Any], round: Round) -> None:
    _answer_held_out(loop, round, "evaluate", "after", round)
    if loop.compare is None or not loop.held_out:
        return
    first = Round(round.run, 1)
    if not first.path("heldout-before").exists():  # earlier versions scored both sides here
        first.write("heldout-before", loop.score(first, loop.held_out, first.read("baseline")))
    loop.compare(round, loop.before(round.run), loop.after(round))


def _answer_held_out(loop: Labelling[Any], round: Round, stage: str, side: str, after: Round | None) -> None:
    if not loop.held_out:
        return
    label = f"Answering held-out prompts ({side})"
    rows = answer_rows(
        round.path(stage),
        loop.held_out,
        lambda: open_generator(loop.policy(after)),
        loop.evaluation,
        label=label,
    )
    round.write(f"heldout-{side}", loop.score(round, loop.held_out, rows))


__all__ = ["Labelling", "run_labelling"]
