"""The same prompts answered in several ways, each answer measured by rewards and by how natural it is to the model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coalign.core.files import write_json, write_rows
from coalign.core.runs import Run
from coalign.data.frame import Frame
from coalign.data.readers import read_records
from coalign.data.records import Messages, Record
from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.decoding.search.generator import SearchGenerator, SearchOptions, with_instruction
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.judging.rewards.specs import RewardOptions, parse_reward
from coalign.judging.verifiers.following import constraints_of, has_constraints
from coalign.judging.verifiers.tasks import ConstraintTask, make_tasks
from coalign.loops.rows import Row, answer_rows, kept_rows, read_answers
from coalign.models.fluency import text_logps
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generator, Sampling


def read_prompts(
    source: Path, options: RewardOptions, *, limit: int | None = None
) -> tuple[list[ConstraintTask], RewardOptions]:
    """Prompts, and the rewards to use: the column `constraints` where none is named.

    Raises:
        DataError: constraints that cannot be used, prompts without any although they are rewarded, or an id that
            occurs twice.
    """
    records = read_records(source, kind="prompt", limit=limit).records
    own = any(has_constraints(one.extra) for one in records)
    if not options.reward and own:
        options = replace(options, reward=["constraints"])
    wanted = any(parse_reward(one).kind == "constraints" for one in options.reward)

    def task(record: Record) -> ConstraintTask:
        own = constraints_of(record.extra) if wanted else ()
        return ConstraintTask(record.id, record.prompt, own)

    return make_tasks(records, task), options


@dataclass(eq=False)
class Arms:
    """Ways to answer, by name. Every answer is a row of `artefacts/<name>.jsonl` as soon as its batch is there; an arm
    that was cut off goes on at its first missing batch.

    Args:
        base: the model, which also says how natural an answer is.
        rewards: what answers are measured by.
        sampling: how many tokens, where to stop, the seed; greedy.
    """

    run: Run
    base: TransformersGenerator
    rewards: RewardMix
    tasks: Sequence[ConstraintTask]
    sampling: Sampling
    names: list[str] = field(default_factory=list, init=False)

    def plain(self, name: str, instruction: str | None) -> None:
        """Greedy decoding, with an instruction in the system's turn or without."""
        self._generate(name, self.base, self.sampling, instruction)

    def best_of(self, name: str, count: int, instruction: str | None) -> None:
        """The best of samples at temperature 1."""
        generator = BestOfGenerator(self.base, self.rewards, count)
        self._generate(name, generator, replace(self.sampling, temperature=1.0), instruction)

    def search(self, name: str, options: SearchOptions) -> None:
        """Search by the rewards."""
        generator = SearchGenerator(self.base, self.rewards, options)

        def cost() -> dict[str, float]:
            spent = generator.last_cost
            return {"forwards": spent.forwards, "tokens_tried": spent.tokens, "judged": spent.judged}

        self._generate(name, generator, replace(self.sampling, logprobs=True), None, cost)

    def rows(self, name: str) -> list[Row]:
        """Measured answers in the order of the prompts: rows of `coalign.loops.rows` with values (by reward), reward,
        logp (mean over tokens under the model).
        """
        path = self.run.artefacts / f"{_file(name)}.measured.jsonl"
        if not path.exists():
            self._measure(name, path)
        return read_answers(path)

    def facts(self, name: str) -> dict[str, Any]:
        """What is kept of an arm that is finished: seconds (of the session that finished the arm), and what the search cost."""
        return json.loads(self._done_path(name).read_text(encoding="utf-8"))

    def _generate(
        self,
        name: str,
        generator: Generator,
        sampling: Sampling,
        instruction: str | None,
        cost: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.names.append(name)
        if self._done_path(name).exists():
            return
        frame = Frame(self.base.tokenizer)
        prompts: list[Messages | str] = [
            task.prompt if instruction is None else with_instruction(task.prompt, instruction, frame)
            for task in self.tasks
        ]
        started = time.monotonic()
        label = f"Answering: {name}"
        answer_rows(self._path(name), self.tasks, lambda: generator, sampling, label=label, asked=prompts)
        facts = {"seconds": time.monotonic() - started, **cost()}
        write_json(self._done_path(name), {key: round(value, 3) for key, value in facts.items()})

    def _measure(self, name: str, path: Path) -> None:
        kept = kept_rows(read_answers(self._path(name)), [task.id for task in self.tasks])
        rows = [kept[place] for place in range(len(self.tasks))]
        self.rewards.forget()
        drafts = [
            Draft.of(index, task.prompt, row["responses"][0], row["finish_reasons"][0] == "stop")
            for index, (task, row) in enumerate(zip(self.tasks, rows, strict=True))
        ]
        values = self.rewards.values(drafts)
        logps = text_logps(
            self.base.model,
            self.base.tokenizer,
            [task.prompt for task in self.tasks],
            [row["responses"] for row in rows],
            label=f"Fluency: {name}",
        )

        write_rows(
            path,
            [
                {
                    **row,
                    "values": dict(zip(self.rewards.names, mine, strict=True)),
                    "reward": reward,
                    "logp": total / count if count else None,
                }
                for row, mine, reward, total, count in zip(
                    rows, values, self.rewards.combined(drafts, values), logps.sums, logps.tokens, strict=True
                )
            ],
        )

    def _path(self, name: str) -> Path:
        return self.run.artefacts / f"{_file(name)}.jsonl"

    def _done_path(self, name: str) -> Path:
        return self.run.artefacts / f"{_file(name)}.done.json"


def _file(name: str) -> str:
    return name.replace(" ", "-")
