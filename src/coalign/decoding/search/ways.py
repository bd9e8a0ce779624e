"""The same prompts answered in several ways, each answer measured by rewards and by how natural it is to the model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError
from coalign.core.files import write_json, write_rows
from coalign.core.runs import Run
from coalign.data.frame import Frame
from coalign.data.readers import read_records
from coalign.data.records import Messages
from coalign.data.usable import repeated_ids
from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.decoding.search.generator import Found, SearchGenerator, SearchOptions, with_instruction
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.judging.rewards.specs import RewardOptions, parse_reward
from coalign.judging.verifiers.constraints import Constraint, ConstraintError, parse_constraints
from coalign.loops.rows import Keep, Row, answer_rows, fill_rows, kept_rows, read_answers, row_of
from coalign.models.fluency import text_logps
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generator, Sampling


@dataclass(frozen=True)
class RewardedPrompt:
    """A prompt with the constraints of its own column, if any."""

    id: str
    prompt: Messages
    constraints: tuple[Constraint, ...] = ()


def read_prompts(
    source: Path, options: RewardOptions, *, limit: int | None = None
) -> tuple[list[RewardedPrompt], RewardOptions]:
    """Prompts, and the rewards to use: the column `constraints` where none is named.

    Raises:
        DataError: constraints that cannot be used, prompts without any although they are rewarded, or an id that
            occurs twice.
    """
    records = read_records(source, kind="prompt", limit=limit).records
    own = any("constraints" in one.extra for one in records)
    if not options.reward and own:
        options = replace(options, reward=["constraints"])
    wanted = any(parse_reward(one).kind == "constraints" for one in options.reward)
    tasks, problems = [], repeated_ids(records)
    for record in records:
        constraints: tuple[Constraint, ...] = ()
        if wanted:
            try:
                constraints = parse_constraints(record.extra.get("constraints"))
            except ConstraintError as error:
                problems.append(record.problem(error.field, error.problem, error.expected))
        tasks.append(RewardedPrompt(record.id, record.prompt, constraints))
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} prompts cannot be used.", problems)
    return tasks, options


class Arms:
    """Ways to answer, by name. Every answer is a row of `artefacts/<name>.jsonl` as soon as its batch is there; an arm
    that was cut off goes on at its first missing batch.

    Args:
        base: the model, which also says how natural an answer is.
        rewards: what answers are measured by.
        sampling: how many tokens, where to stop, the seed; greedy.
    """

    def __init__(
        self,
        run: Run,
        base: TransformersGenerator,
        rewards: RewardMix,
        tasks: Sequence[RewardedPrompt],
        sampling: Sampling,
    ) -> None:
        self.base, self.rewards, self.tasks, self.sampling = base, rewards, tasks, sampling
        self.names: list[str] = []
        self._run = run

    def plain(self, name: str, instruction: str | None) -> None:
        """Greedy decoding, with an instruction in the system's turn or without."""
        self._generate(name, self.base, self.sampling, instruction)

    def best_of(self, name: str, count: int, instruction: str | None) -> None:
        """The best of samples at temperature 1."""
        generator = BestOfGenerator(self.base, self.rewards, count)
        self._generate(name, generator, replace(self.sampling, temperature=1.0), instruction)

    def search(self, name: str, options: SearchOptions) -> None:
        """Search by the rewards."""
        if self._is_done(name):
            return
        generator = SearchGenerator(self.base, self.rewards, options)
        started = time.monotonic()

        def work(done: list[int], keep: Keep) -> None:
            def on_found(found: dict[int, list[Found]]) -> None:
                keep(
                    {
                        index: {"prompt": self.tasks[index].prompt, **row_of([texts[0].generation])}
                        for index, texts in found.items()
                    }
                )

            prompts = [task.prompt for task in self.tasks]
            label = f"Answering: {name}"
            generator.search(prompts, self.sampling, done=done, on_found=on_found, label=label)

        fill_rows(self._path(name), [task.id for task in self.tasks], work)
        cost = generator.last_cost
        self._finish(
            name,
            seconds=time.monotonic() - started,
            forwards=cost.forwards,
            tokens_tried=cost.tokens,
            judged=cost.judged,
        )

    def rows(self, name: str) -> list[Row]:
        """Measured answers in the order of the prompts: rows of `coalign.loops.rows` with values (by reward), reward,
        logp (mean over tokens under the model)."""
        path = self._run.artefacts / f"{_file(name)}.measured.jsonl"
        if not path.exists():
            self._measure(name, path)
        return read_answers(path)

    def facts(self, name: str) -> dict[str, Any]:
        """What `finish` kept: seconds (of the session that finished the arm), and what the search cost."""

        return json.loads(self._done_path(name).read_text(encoding="utf-8"))

    def _generate(self, name: str, generator: Generator, sampling: Sampling, instruction: str | None) -> None:
        if self._is_done(name):
            return
        frame = Frame(self.base.tokenizer)
        prompts: list[Messages | str] = [
            task.prompt if instruction is None else with_instruction(task.prompt, instruction, frame)
            for task in self.tasks
        ]
        started = time.monotonic()
        label = f"Answering: {name}"
        answer_rows(self._path(name), self.tasks, lambda: generator, sampling, label=label, asked=prompts)
        self._finish(name, seconds=time.monotonic() - started)

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

    def _is_done(self, name: str) -> bool:
        self.names.append(name)
        return self._done_path(name).exists()

    def _finish(self, name: str, **facts: float) -> None:
        write_json(self._done_path(name), {key: round(value, 3) for key, value in facts.items()})

    def _path(self, name: str) -> Path:
        return self._run.artefacts / f"{_file(name)}.jsonl"

    def _done_path(self, name: str) -> Path:
        return self._run.artefacts / f"{_file(name)}.done.json"


def _file(name: str) -> str:
    return name.replace(" ", "-")
