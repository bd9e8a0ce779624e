"""Tests of a model on demonstrations, after some examples or none: the same examples for every model."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coalign.core.errors import DataError
from coalign.data.checking.usable import repeated_ids
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Messages
from coalign.loops.rounds import Round
from coalign.loops.rows import Row, answer_rows
from coalign.measures.short_answers import answer_f1, has_match
from coalign.measures.texts.text_metrics import rouge_l
from coalign.models.backends.open import open_policy
from coalign.report import model as doc
from coalign.report.parts import paired
from coalign.selfalign.synthesis.tasks import SeedTask, draw_tasks, joined

if TYPE_CHECKING:
    from coalign.models.options import ModelOptions
    from coalign.models.types import Sampling
    from coalign.selfalign.synthesis.rounds import SynthesisOptions

Metric = Literal["f1", "rouge-l", "exact"]
METRICS: dict[str, Callable[[str, str], float]] = {
    "f1": answer_f1,
    "rouge-l": rouge_l,
    "exact": lambda prediction, gold: float(has_match(prediction, [gold], "exact")),
}
SET_COLUMNS = ("set", "dataset", "task")
"""Columns that may say which data set an item is of; figures are then given for each."""


@dataclass(frozen=True)
class _Item:
    id: str
    prompt: Messages


@dataclass(frozen=True)
class Exam:
    """Items to be answered.

    Attributes:
        name: of the exam, in figures and files.
        items: with the answers that are right.
        sets: the data set of each item, all alike where no column says so.
        seeds: examples are drawn from them, for each item its own.
        shots: how many examples, one test each.
    """

    name: str
    items: Sequence[Demonstration]
    sets: Sequence[str]
    seeds: Sequence[SeedTask]
    shots: Sequence[int]
    metric: Metric

    def take(
        self, round: Round, model: ModelOptions, sampling: Sampling, config: SynthesisOptions
    ) -> dict[str, float | None]:
        """Answer all items after every number of examples, where `config` says; gives the mean scores. Rows lie in the round's
        folder.
        """
        told: dict[str, float | None] = {}
        for shots in self.shots:
            answer_rows(
                round.path(f"{self.name}-{shots}"),
                [_Item(one.id, self.prompt(one, shots)) for one in self.items],
                lambda: open_policy(model, config),
                sampling,
                label=f"Testing ({self.name}, {shots} examples)",
            )
            told[self._figure(shots)] = statistics.fmean(self.scores(round, shots))
        return told

    def prompt(self, item: Demonstration, shots: int) -> Messages:
        """Examples as turns of a dialogue, then the item."""
        draw = random.Random(f"{self.name}/{item.id}/{shots}")
        turns: Messages = []
        for one in draw_tasks(self.seeds, shots, draw):
            turns.append({"role": "user", "content": joined(one.instruction, one.input)})
            turns.append({"role": "assistant", "content": one.output or ""})
        system = [one for one in item.prompt if one["role"] == "system"]
        return [*system, *turns, *(one for one in item.prompt if one["role"] != "system")]

    def scores(self, round: Round, shots: int) -> list[float]:
        """Score of the model of a round on each item."""
        rows: list[Row] = round.read(f"{self.name}-{shots}")
        score = METRICS[self.metric]
        return [
            score(row["responses"][0].strip(), one.completion)
            for row, one in zip(rows, self.items, strict=True)
        ]

    def compared(self, first: Round, last: Round) -> list[doc.ComparisonRow]:
        """A row for every number of examples, paired by item."""
        return [
            paired(
                self._figure(shots),
                self.scores(first, shots),
                self.scores(last, shots),
                emphasis=shots == self.shots[-1],
            )
            for shots in self.shots
        ]

    def sections(self, first: Round, last: Round) -> list[doc.AnySection]:
        """Scores by data set with their median, and answers side by side, after the most examples."""
        shots = self.shots[-1]
        before, after = self.scores(first, shots), self.scores(last, shots)
        sections: list[doc.AnySection] = []
        if len({*self.sets}) > 1:
            sections.append(self._by_set(before, after, shots))
        texts = [[row["responses"][0] for row in one.read(f"{self.name}-{shots}")] for one in (first, last)]
        rows = [
            doc.Sample(item.prompt[-1]["content"], [doc.Output(old, a), doc.Output(new, b)], tags=[group])
            for item, group, old, new, a, b in zip(self.items, self.sets, *texts, before, after, strict=True)
        ]
        title = f"Test items side by side ({self.name})"
        sections.append(
            doc.Samples(title, columns=["Before", "After"], rows=rows[:50], score_name=self.metric)
        )
        return sections

    def _by_set(self, before: Sequence[float], after: Sequence[float], shots: int) -> doc.TableSection:
        groups: dict[str, list[tuple[float, float]]] = {}
        for group, *pair in zip(self.sets, before, after, strict=True):
            groups.setdefault(group, []).append((pair[0], pair[1]))
        means = {
            name: [statistics.fmean(one[side] for one in pairs) for side in (0, 1)]
            for name, pairs in groups.items()
        }
        rows: list[list[doc.Cell]] = [[name, len(groups[name]), *means[name]] for name in means]
        rows.append(
            [
                "median of the sets",
                None,
                *(statistics.median(one[side] for one in means.values()) for side in (0, 1)),
            ]
        )
        return doc.TableSection(
            f"By data set ({self.name})",
            note=f"{self.metric}, {shots} examples before an item. One set can carry a mean: look at the median.",
            columns=("set", "items", "before", "after"),
            rows=rows,
            units={"items": "integer", "before": "percent", "after": "percent"},
        )

    def _figure(self, shots: int) -> str:
        return f"{self.name} {self.metric}, {shots}-shot"


def read_exam(
    name: str, source: str, seeds: Sequence[SeedTask], shots: Sequence[int], metric: Metric
) -> Exam:
    """Demonstrations as items.

    Raises:
        DataError: they cannot be read, share an id, or one is among the seeds.
    """
    records = read_records(source, kind="demonstration").records
    items = [one for one in records if isinstance(one, Demonstration)]
    problems = repeated_ids(items)
    known = {joined(one.instruction, one.input).strip() for one in seeds}
    problems += [
        one.problem("prompt", "it is among the seed tasks", "items that nothing is trained on")
        for one in items
        if one.prompt[-1]["content"].strip() in known
    ]
    if problems:
        raise DataError(f"{source}: {len(problems)} of {len(items)} test items cannot be used.", problems)
    sets = [str(next((one.extra[key] for key in SET_COLUMNS if one.extra.get(key)), "all")) for one in items]
    return Exam(name, items, sets, seeds, list(dict.fromkeys(shots)), metric)
