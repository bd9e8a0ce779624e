"""The stages of a run on coding preferences: answers, ratings, pairs, training, measures before and after."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError, ConfigError
from coalign.curation.code.benchmark import SCALE, BenchmarkItem, grade, read_benchmark
from coalign.curation.code.feedback import Execute, RateTogether, Turn, instruction_rows, pair_of
from coalign.curation.code.judges import open_grader, open_list_rater
from coalign.curation.code.preferences import read_preferences
from coalign.curation.code.programs import sound_tasks, write_programs
from coalign.data.readers import read_records
from coalign.judging.asked.options import asked_model
from coalign.judging.verifiers.programs import CodeTask, read_code_tasks
from coalign.loops.pipeline import Curated, run_pipeline
from coalign.loops.rounds import Round, Stage
from coalign.loops.rows import Row
from coalign.loops.seeds import seed_stage
from coalign.loops.steps.usual import Rewrite
from coalign.models.backends.open import open_generator
from coalign.models.backends.options import is_address
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.objective import get_objective

if TYPE_CHECKING:
    from coalign.core.runs import Run
    from coalign.data.records import Record
    from coalign.judging.store import ReplyStore
    from coalign.models.options import ModelOptions


class CodeFeedback:
    """The stages, and what they share.

    Args:
        config: of `coalign.curation.codeultrafeedback`.
    """

    def __init__(self, config: Any, run: Run, store: ReplyStore) -> None:
        self.config, self.run, self.store = config, run, store
        self.preferences = read_preferences(config.preferences)
        self.seed = seed_stage(config, get_objective("sft"))
        self.items: list[BenchmarkItem] = []
        self.tasks: list[CodeTask] = []
        self.left_out: dict[str, str] = {}
        if config.benchmark is not None:
            self.items = read_benchmark(config.benchmark, self.preferences)
        if config.code_tasks is not None:
            self.tasks, self.left_out = sound_tasks(read_code_tasks(config.code_tasks), config)
            if not self.tasks:
                raise ConfigError(f"{config.code_tasks}: no task has tests that its own solution passes.")

    def stages(self) -> dict[str, Stage]:
        """Measures, answers with ratings, pairs, training, measures."""
        made: dict[str, Stage] = {"generate": self.rate, "build": self.pair}
        if self.config.learn:
            made |= {"baseline": self.measure_before, "fit": self.fit, "evaluate": self.measure_after}
        return made

    def rate(self, round: Round) -> None:
        """Each model answers its instructions; the judge rates all answers to one together."""
        from coalign.loops.steps.models import Ask

        config = self.config
        records = read_records(config.data, kind="prompt").records
        rows = instruction_rows(
            records, self.preferences, config.generators, responses=config.responses, limit=config.instructions,
            drop_cjk=config.drop_cjk, seed=config.seed,
        )  # fmt: skip
        steps: list[Any] = []
        for name in config.generators:
            for number in range(-(-config.responses // len(config.generators))):
                turn = Turn(name, number, self._in_system(name))
                title = f"answers of {name}" + (f", {number + 1}" if number else "")
                ask = Ask(
                    title, functools.partial(_open, name, config.device), turn.prompt, turn.read,
                    config.sampling(seed=config.seed + number), only=turn.asks, model=name,
                )  # fmt: skip
                steps.append(ask)
        if any("tests" in row for row in rows):
            steps.append(Execute(config))
        judge = open_list_rater(config, records, self.store, layout=config.layout, device=config.device)
        steps.append(RateTogether(judge, self.preferences, config.seed))
        done = run_pipeline(feedback_folder(round), rows, steps, total=len(rows))
        failed = sum(done.manifest["steps"][-1]["rejected"].values())
        if failed > config.max_failures * len(rows):
            raise CoalignError(
                f"{failed} of {len(rows)} replies of the judge cannot be read, more than the accepted share of "
                f"{config.max_failures:g} (max_failures).",
                hint="All replies are kept: look at rejects.jsonl. Use a stronger judge, or more --judge-max-new-tokens.",
            )

    def _in_system(self, name: str) -> bool:
        where = self.config.principle
        return where == "system" or (where == "auto" and is_address(name.rpartition("@")[2]))

    def pair(self, round: Round) -> None:
        """Pairs of the rated rows; a share of each preference is held out."""
        config = self.config
        make = functools.partial(
            pair_of, min_gap=config.min_gap, keep_ties=config.keep_ties, tests=config.tests, seed=config.seed
        )
        rated = [*Curated(feedback_folder(round)).rows()]
        steps: list[Any] = [Rewrite("pairs", make)]
        pairs = [*run_pipeline(pairs_folder(round), rated, steps).rows()]
        if not pairs:
            why = ", ".join(f"{one} ({n})" for one, n in Curated(pairs_folder(round)).reasons().items())
            raise CoalignError(
                f"No pair is left of {len(rated)} rated instructions: {why or 'none was rated'}.",
                hint="Use a judge that tells answers apart, models that differ, or a smaller --min-gap.",
            )
        sides = held_out(pairs, config.eval_fraction if config.learn else 0.0)
        round.write("build", sides[0])
        round.write("held-out", sides[1])
        self.run.publish_records(round.path("build"))

    def fit(self, round: Round) -> None:
        """Fine-tune on the seed data, where there is some; then DPO, with the model that it starts from as reference."""
        start: Any = self.config
        if self.seed is not None:
            job = Job(
                objective=self.seed.objective, options=self.seed.options, run=self.run, records=self.seed.records,
                name="sft",
            )  # fmt: skip
            train(job, round.folder / "sft")
            start = self.config.at(round.folder / "sft")
        records, evaluation = (_pairs(round.path(name)) for name in ("build", "held-out"))
        job = Job(
            objective=get_objective("dpo"), options=start, run=self.run, records=records, held_out=evaluation
        )
        round.write("history", train(job, self.run.model).history)

    def measure_before(self, round: Round) -> None:
        """Of the model as it is."""
        self._measure(round, "before", self.config)

    def measure_after(self, round: Round) -> None:
        """Of the fine-tuned model, where there is one, and of the last one."""
        if self.seed is not None:
            self._measure(round, "sft", self.config.at(round.folder / "sft"))
        self._measure(round, "after", self.config.at(self.run.model))

    def _measure(self, round: Round, name: str, model: ModelOptions) -> None:
        config, opened = self.config, functools.cache(lambda: open_generator(model))
        folder = round.folder / f"measured-{name}"
        if self.items:
            records = read_records(str(config.benchmark), kind="prompt").records
            judge, scale = open_grader(config, records, self.store, SCALE, device=config.device)
            sampling = config.sampling(temperature=0.0, top_p=1.0, max_new_tokens=config.benchmark_tokens)
            rows = grade(
                folder, self.items, self.preferences, opened, judge, sampling,
                system=config.principle == "system", scale=scale, max_failures=config.max_failures,
            )  # fmt: skip
            round.write(f"benchmark-{name}", rows)
        if self.tasks:
            round.write(
                f"programs-{name}", write_programs(folder, self.tasks, opened, config, seed=config.seed)
            )


def feedback_folder(round: Round) -> Path:
    """Of the pipeline of answers and ratings."""
    return round.folder / "feedback"


def pairs_folder(round: Round) -> Path:
    """Of the pipeline of pairs."""
    return round.folder / "pairs"


def held_out(pairs: Sequence[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """(to train on, held out): of each preference the last share, rounded; the pairs stand in a shuffled order."""
    counts: dict[str, int] = {}
    for one in pairs:
        counts[one["preference"]] = counts.get(one["preference"], 0) + 1
    train_on = {name: count - round(fraction * count) for name, count in counts.items()}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for one in pairs:
        train_on[one["preference"]] -= 1
        sides[train_on[one["preference"]] < 0].append(one)
    return sides


def _pairs(path: Path) -> Sequence[Record]:
    return read_records(str(path), kind="preference").records if path.stat().st_size else []


def _open(name: str, device: str) -> Any:
    served, _, address = name.rpartition("@")
    if served and is_address(address):
        return asked_model(address, served, device=device).generator
    return asked_model(name, device=device).generator
