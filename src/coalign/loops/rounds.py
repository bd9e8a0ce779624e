"""The loop engine: rounds of named stages whose artefacts lie in the run folder.

A system passes the stages it has; a run restarted with the same folder continues at the first stage that is not
done, and inside a stage at the first missing row::

    def generate(round: Round) -> None:
        answer_rows(round.path("generate"), tasks, open_model, sampling, label="Sampling")

    run_rounds(run, rounds=1, stages={"propose": propose, "generate": generate, ...})

Artefacts are JSON Lines or JSON under `artefacts/round-<n>/`; `<stage>.done.json` marks a finished stage and keeps
its time and memory. What travels from round to round (a queue of demonstrations) is a round's `memory`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import RunError
from coalign.core.files import append_rows, read_rows, write_json, write_rows
from coalign.core.machine.measure import measure
from coalign.core.runs import Run
from coalign.loops.rows import read_answers
from coalign.training.processes import assert_one_process

STAGES = ("baseline", "propose", "generate", "measure", "build", "filter", "fit", "evaluate")
"""Stage names in the order in which a round runs them."""


@dataclass
class Round:
    """One round: where its artefacts lie, and what earlier stages keep in memory for later ones.

    Attributes:
        run: the run folder.
        number: 1, 2, ...; 0 is what comes before the rounds, where a loop has such a stage.
        state: objects that are not artefacts (a loaded model); empty after a restart, so a stage that needs one
            must be able to make it.
    """

    run: Run
    number: int
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def previous(self) -> Round | None:
        """The round before; None for the first. Round 0 is one where it has left something."""
        before = Round(self.run, self.number - 1)
        return before if self.number > 1 or (self.number == 1 and before.folder.is_dir()) else None

    @property
    def folder(self) -> Path:
        return self.run.artefacts / f"round-{self.number}"

    def path(self, stage: str, suffix: str = ".jsonl") -> Path:
        return self.folder / f"{stage}{suffix}"

    def read(self, stage: str) -> list[dict[str, Any]]:
        """The rows that `stage` wrote so far; answers in the schema of `coalign.loops.rows`."""
        return read_answers(self.path(stage))

    def write(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all rows of a stage at once, atomically."""
        write_rows(self.path(stage), rows)

    def append(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of a stage that works row by row."""
        append_rows(self.path(stage), rows)

    @property
    def memory(self) -> list[dict[str, Any]]:
        """Rows that travel between the rounds: as this round left them, else as an earlier one did, else none."""
        one: Round | None = self
        while one is not None and not one.path("memory").exists():
            one = one.previous
        return [] if one is None else read_rows(one.path("memory"))

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Hand rows over to the rounds that follow. A stage that is begun anew after a kill must start from
        `previous.memory`, not from what it left itself.
        """
        self.write("memory", rows)

    def is_done(self, stage: str) -> bool:
        return self.path(stage, ".done.json").exists()

    def finish(self, stage: str, **facts: Any) -> None:
        write_json(self.path(stage, ".done.json"), facts)

    def facts(self, stage: str) -> dict[str, Any]:
        """What `finish` kept of a stage: `seconds`, `peak_mb`."""
        return json.loads(self.path(stage, ".done.json").read_text(encoding="utf-8"))


Stage = Callable[[Round], None]


def run_rounds(run: Run, stages: Mapping[str, Stage], *, rounds: int = 1, first: int = 1) -> list[Round]:
    """Run every stage of every round that is not done yet.

    Args:
        run: the run folder.
        stages: stage name to function, a subset of `STAGES` in any order.
        rounds: number of the last round.
        first: number of the first.

    Returns:
        The rounds, for what comes after (the report).

    Raises:
        RunError: an unknown stage name, or the folder has begun more rounds.
        ConfigError: several processes, none of which leads (`coalign.training.distributed.leading`).
    """
    assert_one_process(f"{run.status()['method']} works")
    if Round(run, rounds + 1).folder.exists() and first > 0:
        run.put_back_config()
        raise RunError(
            f"{run.path} has begun more than {rounds} rounds.", hint="Give as many --rounds, or more."
        )
    unknown = [name for name in stages if name not in STAGES]
    if unknown:
        raise RunError(f"unknown stages: {', '.join(unknown)}; known: {', '.join(STAGES)}")
    done: list[Round] = []
    state: dict[str, Any] = {}
    for number in range(first, rounds + 1):
        one = Round(run, number, state)
        for name in STAGES:
            if name in stages and not one.is_done(name):
                run_stage(one, name, stages[name])
        done.append(one)
    return done


def run_stage(one: Round, name: str, work: Stage) -> None:
    """Run one stage, measure it and mark it done."""
    one.run.log("stage", stage=name, round=one.number, state="started")
    with measure() as spent:
        work(one)
    facts = {key: round(value, 3) for key, value in asdict(spent).items()}
    one.finish(name, **facts)
    one.run.log("stage", stage=name, round=one.number, state="done", seconds=facts["seconds"])


def timings(rounds: Iterable[Round], stages: Iterable[str]) -> list[dict[str, Any]]:
    """Rows for the report: stage, seconds and peak memory (of the session that finished the stage)."""
    rows = []
    for one in rounds:
        for name in stages:
            if one.is_done(name):
                rows.append({"round": one.number, "stage": name, **one.facts(name)})
    return rows
