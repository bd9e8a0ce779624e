"""Tasks with known answers, and what a model answers: multiple choice by log-likelihood, or free text by greedy decoding.

A file has questions with choices (`coalign.data.multiple_choice`), or prompts with the answer to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.core.errors import ConfigError, DataError
from coalign.data.multiple_choice import CHOICES, read_questions
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Ranking
from coalign.data.rows import iter_rows
from coalign.loops.rows import Keep, answer_rows, fill_rows
from coalign.measures.answers import numbers_in
from coalign.measures.texts.text_metrics import rouge_1
from coalign.models.backends.open import open_generator
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.generation.rows import row_of
from coalign.models.options import ModelOptions
from coalign.models.scoring.choices import choice_logps
from coalign.models.types import Generation, Sampling

Metric = Literal["choice", "number", "exact", "rouge1"]
"""`choice`: the most probable choice; `number`: the last number of the text; `exact`: the whole text, folded;
`rouge1`: ROUGE-1 F, a score instead of right or wrong."""


@dataclass(frozen=True)
class Task:
    """Test items of one kind.

    Attributes:
        metric: how an answer is compared; never `auto`.
        items: questions with choices for `choice`, else prompts with a completion.
        guessed: under `auto`, which metric was taken and what it makes of the first answers, in a sentence.
    """

    metric: Metric
    items: list[Ranking] | list[Demonstration]
    guessed: str = ""

    @property
    def truths(self) -> list[str]:
        """The right answer of each item, as predictions are written."""
        if self.metric == "choice":
            return [one.responses[right_choice(one)] for one in self.items if isinstance(one, Ranking)]
        return [folded(one.completion, self.metric) for one in self.items if isinstance(one, Demonstration)]


def read_task(source: str, metric: Literal["auto"] | Metric = "auto", limit: int | None = None) -> Task:
    """Read test items.

    Args:
        source: a file whose rows have `question`, `choices`, `answer`, or the columns of demonstrations.
        metric: `auto` takes `choice` where the rows have choices, `number` where every answer ends in a number, else
            `rouge1`.

    Raises:
        DataError: rows that are no such items, or an answer without a number under `number`.
        ConfigError: a metric that does not fit the rows.
    """
    first = next((row.value for row in iter_rows(source) if row.value), {})
    has_choices = any(name in first for name in CHOICES)
    if metric == "choice" and not has_choices:
        raise ConfigError(f"metric: choice needs a list of choices ({', '.join(CHOICES)}) in {source}")
    if has_choices and metric in ("auto", "choice"):
        return Task("choice", read_questions(source, limit=limit))
    records = read_records(source, kind="demonstration", limit=limit).records
    items = [one for one in records if isinstance(one, Demonstration)]
    guessed = ""
    if metric == "auto":
        metric = "number" if all(last_number(one.completion) is not None for one in items) else "rouge1"
        examples = ", ".join(repr(folded(one.completion, metric))[:60] for one in items[:3])
        guessed = f"Answers are compared by {metric} (--metric), the first ones as {examples}."
    if metric == "number":
        _assert_numbers(items)
    return Task(metric, items, guessed)


def right_choice(question: Ranking) -> int:
    """Position of the right choice."""
    return question.scores.index(max(question.scores))


def last_number(text: str) -> str | None:
    """The last number of a text as `coalign.measures.answers` shows it; None when there is none."""
    found = numbers_in(text)
    return found[-1].text if found else None


def folded(text: str, metric: Metric) -> str:
    """An answer as it is compared: its last number (empty without one), or its words in lower case; as it is for
    `rouge1` and `choice`.
    """
    if metric == "number":
        return last_number(text) or ""
    return " ".join(text.casefold().split()).strip(" .") if metric == "exact" else text


def answer_task(
    task: Task, options: ModelOptions, path: Path, *, max_new_tokens: int = 128, label: str = "Answering"
) -> list[str]:
    """What the model answers to every item, as it is compared; kept in `path` item by item and read on a restart.

    Returns:
        [N] the text of the chosen choice, the number, or the text.
    """

    def choose(_: list[int], keep: Keep) -> None:
        chosen = _choose([one for one in task.items if isinstance(one, Ranking)], options, label)
        keep(
            {
                index: {"prompt": task.items[index].prompt, **row_of([Generation(text)])}
                for index, text in enumerate(chosen)
            }
        )

    if task.metric == "choice":
        rows = fill_rows(path, [one.id for one in task.items], choose)
    else:
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
        rows = answer_rows(path, task.items, lambda: open_generator(options), sampling, label=label)
    return [folded(row["responses"][0].strip(), task.metric) for row in rows]


def scores(task: Task, answers: Sequence[str]) -> list[float]:
    """[N] ROUGE-1 F under `rouge1`, else 1 for right and 0 for wrong."""
    pairs = zip(answers, task.truths, strict=True)
    if task.metric == "rouge1":
        return [rouge_1(answer, truth) for answer, truth in pairs]
    return [float(answer == truth != "") for answer, truth in pairs]


def _choose(questions: list[Ranking], options: ModelOptions, label: str) -> list[str]:
    """The choice of highest total log-probability of every question; the first of equals."""
    model = load_model(options, training=False)
    logps = choice_logps(model, load_tokenizer(options), questions, label=label)
    return [
        question.responses[values.index(max(values))]
        for question, values in zip(questions, logps, strict=True)
    ]


def _assert_numbers(items: Sequence[Demonstration]) -> None:
    problems = [
        one.problem("completion", "holds no number", "an answer that ends in a number")
        for one in items
        if last_number(one.completion) is None
    ]
    if problems:
        raise DataError(f"{len(problems)} of {len(items)} answers hold no number.", problems)
