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
    measure      the same rows with what `score` adds; before that what each of several `judges` adds, in
                 `measure-<judge>`
    build        rows to learn from, in the columns of the objective's kind of data
    filter       those that are kept: a file that `coalign run OBJECTIVE --data` takes
    fit          `model/`, which the next round starts from; `history`; `model.json` says on how much was trained
    evaluate     answers to the held-out prompts after the round, scored in `heldout-after`

Before round 1 a loop may have a training of its own (`seed`): it is round 0, with `baseline`, `fit` and `evaluate`. The
models are M0 (where everything starts), M1, ... as `checkpoints.json` lists them.

What a round measures about its labels it tells (`coalign.loops.readings`); with a `probe` the engine tells how many of
them are right. What travels from round to round is its `memory`. What a system keeps beyond these it writes in its hooks
under names of its own and reads from `round.previous`. More `rounds` in the same folder go on after the last one.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coalign.core.files import write_json
from coalign.data.readers import read_records
from coalign.loops.readings import LABEL_ACCURACY, label_accuracy, tell
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.loops.rows import Prompted, Row, answer_rows, with_column
from coalign.models.backends.open import open_policy, policy_server
from coalign.training.job import Job
from coalign.training.learning import train

if TYPE_CHECKING:
    from coalign.core.errors import CoalignError
    from coalign.core.runs import Run
    from coalign.data.records import Record
    from coalign.models.options import ModelOptions
    from coalign.models.types import Sampling
    from coalign.training.objective import Objective

Task = TypeVar("Task", bound=Prompted)


def _all(rows: Sequence[Row], seed: int) -> Sequence[Row]:
    return rows


def _no_columns(task: Any) -> Mapping[str, Any]:
    return {}


Judge = Callable[[Round, Sequence[Any], Sequence[Row]], list[Row]]
"""(round, tasks, their rows) to the rows with what the judge says of the responses. Rows keep their order."""


@dataclass(frozen=True, kw_only=True)
class SeedStage:
    """A training before round 1: supervised fine-tuning, or preferences on a few labelled pairs.

    Attributes:
        objective: learns from the records.
        records: of its kind of data.
        options: model and training options.
        constants: of the objective; by default `options` has them.
    """

    objective: Objective
    records: Sequence[Record]
    options: Any
    constants: Any = None


@dataclass(frozen=True, kw_only=True)
class Labelling(Generic[Task]):
    """What a system brings to its rounds.

    Attributes:
        config: model, training and sampling options, `seed` and `rounds`; the objective's constants where `constants`
            is not given; with `PolicyBackendOptions` the policy may answer on a vLLM server.
        constants: of the objective, or (round) to them where they follow a schedule.
        objective: learns from the kept rows, which have its kind of data.
        training: prompts to learn from; a round takes all of them, or with `fresh` its own share.
        held_out: prompts that are answered before the first and after every round; may be empty.
        evaluation: how these are answered.
        score: a `Judge`; also of the held-out rows where `assess` is not given.
        pair: (round, scored rows) to rows to learn from.
        nothing: raised where no row is left to learn from: at once, or with `may_skip` when no round had any.
        keep: (rows, seed of the round) to those that are trained on.
        compare: called after every round with the scored rows of the held-out prompts before and after.
        columns: of a task's row in `propose`, besides its id and prompt.
        samples: answers to each training prompt.
        fresh: each prompt is taken in one round, before any is taken again.
        per_round: so many prompts a fresh round, in place of an equal share over `rounds`; then more rounds later are
            what as many at once are.
        may_skip: a round with nothing to learn from keeps its model.
        seed: what is trained before round 1.
        base: the model that `config.model` was made from by others, in place of a `seed`: M0 then, and `config.model` M1.
        judges: name to a judge that is asked before `score`, in this order; each has its own file of rows, so that
            none is asked again after a kill.
        assess: says of held-out rows what `score` says of the others.
        unlabelled: the order of the rows to learn from says nothing, because the objective finds it out.
        learned: called when a round has been trained.
        reference: model that the objective compares with; by default, and where it gives None, the round's start model.
        probe: `[prompts][responses]` how good the responses truly are. Nothing is learned from it: it tells how many
            labels are right, and how good held-out answers are.
    """

    config: Any
    objective: Objective
    training: Sequence[Task]
    held_out: Sequence[Task]
    evaluation: Sampling
    score: Judge
    pair: Callable[[Round, Sequence[Row]], Sequence[Row]]
    nothing: CoalignError
    keep: Callable[[Sequence[Row], int], Sequence[Row]] = _all
    compare: Callable[[Round, Sequence[Row], Sequence[Row]], None] | None = None
    columns: Callable[[Task], Mapping[str, Any]] = _no_columns
    constants: Any = None
    samples: int = 1
    fresh: bool = False
    per_round: int | None = None
    may_skip: bool = False
    seed: SeedStage | None = None
    base: ModelOptions | None = None
    judges: Mapping[str, Judge] = field(default_factory=dict)
    assess: Judge | None = None
    unlabelled: bool = False
    learned: Callable[[Round], None] | None = None
    reference: Callable[[Round], ModelOptions | None] | None = None
    probe: Callable[[Sequence[Task], Sequence[Row]], list[list[float]]] | None = None

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
        first = self.first(run)
        return first.read("heldout-before") or first.read("baseline")

    def first(self, run: Run) -> Round:
        """Round 0 where something is trained before the rounds, else round 1."""
        return Round(run, 1 if self.seed is None else 0)

    def index(self, after: Round | None) -> int:
        """n of Mn: the model after a round (None: that of `config`)."""
        if after is None:
            return 0 if self.base is None else 1
        return after.number + (self.seed is not None or self.base is not None)

    def model(self, run: Run, index: int) -> ModelOptions:
        """Mn, which must have been made."""
        number = index - self.index(Round(run, 0))
        if index == 0 and self.base is not None:
            return self.base
        return self.policy(Round(run, number) if number >= self.first(run).number else None)

    def after(self, round: Round) -> list[Row]:
        """The same after a round."""
        return round.read("heldout-after") or round.read("evaluate")


def run_labelling(run: Run, loop: Labelling[Any]) -> list[Round]:
    """Run every stage that is not done and put the last model into `run.model`.

    Raises:
        CoalignError: `loop.nothing`.
        RunError: the folder has begun more rounds.
    """
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
    seed_stages = {"baseline": _baseline, "fit": _fit_seed, "evaluate": _evaluate}

    def bound(of: Mapping[str, Callable[[Labelling[Any], Round], None]]) -> dict[str, Stage]:
        return {name: lambda round, stage=stage: stage(loop, round) for name, stage in of.items()}

    with policy_server(loop.config):
        if loop.seed is not None:
            run_rounds(run, bound(seed_stages), first=0, rounds=0)
        rounds = run_rounds(run, bound(stages), rounds=loop.config.rounds)
    _publish(loop, run, rounds)
    return rounds


def _publish(loop: Labelling[Any], run: Run, rounds: Sequence[Round]) -> None:
    """Put the last model into `run.model`, over that of fewer rounds, and list all models."""
    final = loop.policy(rounds[-1]).model
    if final == loop.config.model:
        raise loop.nothing
    path = run.artefacts / "checkpoints.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = {f"M{n}": loop.model(run, n).model for n in range(loop.index(rounds[-1]) + 1)}
    run.publish_model(final, replace=[*before] != [*names])
    write_json(path, names)


def _baseline(loop: Labelling[Any], round: Round) -> None:
    if round.previous is None:
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
    if loop.per_round is not None:
        return left[: loop.per_round]
    return left[: math.ceil(len(left) / (loop.config.rounds - round.number + 1))]


def _generate(loop: Labelling[Any], round: Round) -> None:
    sampling = loop.config.sampling(n=loop.samples, seed=loop.config.seed + round.number - 1)
    policy = loop.policy(round.previous)
    answer_rows(
        round.path("generate"),
        loop.tasks(round),
        lambda: open_policy(policy, loop.config),
        sampling,
        label="Sampling responses",
    )


def _measure(loop: Labelling[Any], round: Round) -> None:
    tasks, rows = loop.tasks(round), _rows(loop, round, "generate")
    tell(round, _lengths(rows, ""))
    for name, judge in loop.judges.items():
        stage = f"measure-{name}"
        if not round.path(stage).exists():
            round.write(stage, judge(round, tasks, rows))
        rows = round.read(stage)
    rows = loop.score(round, tasks, rows)
    round.write("measure", _probed(loop, tasks, rows))


def _probed(loop: Labelling[Any], tasks: Sequence[Any], rows: Sequence[Row]) -> Sequence[Row]:
    return rows if loop.probe is None else with_column(rows, "truth", loop.probe(tasks, rows))


def _lengths(rows: Sequence[Row], of: str) -> dict[str, float | None]:
    """Mean tokens of responses, where they are known, and the share of those that ran out of them."""
    tokens = [n for row in rows for n in row.get("tokens", ()) if n is not None]
    ends = [one == "length" for row in rows for one in row.get("finish_reasons", ()) if one is not None]
    return {
        f"{of}length": statistics.fmean(tokens) if tokens else None,
        f"{of}unfinished": statistics.fmean(ends) if ends else None,
    }


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
    facts: dict[str, float | None] = {"built": len(rows), "kept": len(kept)}
    if loop.probe is not None and not loop.unlabelled:
        truths = {
            row["id"]: dict(zip(row["responses"], row["truth"], strict=True)) for row in round.read("measure")
        }
        facts[LABEL_ACCURACY] = label_accuracy(kept, truths)
    tell(round, facts)


def _fit(loop: Labelling[Any], round: Round) -> None:
    start = loop.policy(round.previous)
    rows = round.read("filter")
    if not rows and not loop.may_skip:
        raise loop.nothing
    if rows:
        records = read_records(str(round.path("filter")), kind=loop.objective.data).records
        options = replace(loop.config, model=start.model, revision=start.revision)
        reference = loop.reference(round) if loop.reference else None
        constants = loop.constants(round) if callable(loop.constants) else loop.constants
        _train(round, loop.objective, records, options, constants, reference)
    model = str(round.folder / "model") if rows else start.model
    write_json(round.folder / "model.json", {"model": model, "trained": len(rows)})
    if rows and loop.learned is not None:
        loop.learned(round)


def _fit_seed(loop: Labelling[Any], round: Round) -> None:
    seed = loop.seed
    assert seed is not None
    _train(round, seed.objective, seed.records, seed.options, seed.constants)
    facts = {"model": str(round.folder / "model"), "trained": len(seed.records)}
    write_json(round.folder / "model.json", facts)


def _train(
    round: Round,
    objective: Objective,
    records: Sequence[Record],
    options: Any,
    constants: Any,
    reference: ModelOptions | None = None,
) -> None:
    """Train from the model of `options`. An adapter folder is merged into its base first, so that under a new adapter
    the reference is the round's start model, and never the model below all adapters.
    """
    job = Job(
        objective=objective,
        options=options,
        run=round.run,
        records=records,
        constants=constants,
        name=f"round-{round.number}/train",
    )
    round.write("history", train(job, round.folder / "model", reference_from=reference).history)


def _evaluate(loop: Labelling[Any], round: Round) -> None:
    _answer_held_out(loop, round, "evaluate", "after", round)
    if loop.compare is None or not loop.held_out:
        return
    first = loop.first(round.run)
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
        lambda: open_policy(loop.policy(after), loop.config),
        loop.evaluation,
        label=label,
    )
    scored = _probed(loop, loop.held_out, (loop.assess or loop.score)(round, loop.held_out, rows))
    round.write(f"heldout-{side}", scored)
    before = "before: " if after is None else ""
    facts = _lengths(rows, f"{before}held-out ")
    if loop.probe is not None:
        known = [one for row in scored for one in row["truth"] if one is not None]
        facts[f"{before}held-out measure"] = statistics.fmean(known) if known else None
    tell(round, facts)


__all__ = ["Labelling", "SeedStage", "run_labelling"]
