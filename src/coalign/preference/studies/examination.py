"""What every model of a study is measured on, the same for all: held-out pairs, answered prompts, questions.

A model is compared with the model that its training started from, which also is the reference of implicit rewards,
whatever the objective used: so objectives with a reference and without one are read on one scale.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import DataError
from coalign.data.encoding import EncodedRecord, encode_prompt, encode_records
from coalign.data.multiple_choice import as_text, choice_accuracy
from coalign.data.readers import read_records
from coalign.data.records import Messages, Preference, Ranking, Record
from coalign.judging.verifiers.following import has_constraints
from coalign.judging.verifiers.tasks import ConstraintTask, measure_responses, read_tasks
from coalign.models.backends.open import open_generator
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.options import ModelOptions
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import Generation, ResponseLogps, Responses, Sampling
from coalign.report.model import Better, Unit

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Measure:
    """How a metric is called and read."""

    title: str
    better: Better
    unit: Unit = "number"


MEASURES: dict[str, Measure] = {
    "satisfaction": Measure("Constraints satisfied", "higher", "percent"),
    "reward_accuracy": Measure("Held-out pairs in the right order, by implicit reward", "higher", "percent"),
    "logp_accuracy": Measure("Held-out pairs in the right order, by log-probability", "higher", "percent"),
    "mean_logp_accuracy": Measure(
        "Held-out pairs in the right order, by log-probability per token", "higher", "percent"
    ),
    "margin": Measure("Margin of the log-ratios, nats", "higher"),
    "chosen_logp": Measure("Log-ratio of the chosen response, nats", "neither"),
    "choices": Measure("Questions right, by log-probability per token", "higher", "percent"),
    "choices_sum": Measure("Questions right, by log-probability", "higher", "percent"),
    "kl": Measure("KL from the start model, nats a response", "lower"),
    "length": Measure("Response length, tokens", "neither"),
    "length_median": Measure("Median response length, tokens", "neither"),
    "length_deviation": Measure("Standard deviation of the response length", "neither"),
    "unfinished": Measure("Responses that ran out of tokens", "lower", "percent"),
}
"""Metric to its name and direction, in the order of reports."""


@dataclass(frozen=True)
class Task:
    """A prompt to answer."""

    id: str
    prompt: Messages
    plain: bool = False


@dataclass(frozen=True)
class Examination:
    """What models are measured on.

    Attributes:
        pairs: held out.
        tasks: prompts to answer, one sample each at temperature 1 from the same random streams for every model.
        constraints: of the tasks, by id, where they have such.
        questions: multiple choice; may be empty.
        max_new_tokens: of an answer.
        max_length: of prompt and response together, as in training.
    """

    pairs: Sequence[Preference]
    tasks: Sequence[Task]
    constraints: Mapping[str, ConstraintTask] = field(default_factory=dict)
    questions: Sequence[Ranking] = ()
    max_new_tokens: int = 128
    max_length: int | None = None
    max_prompt_length: int | None = None

    @property
    def main(self) -> str:
        """The metric by which models are compared: constraints satisfied where there are any, else pairs."""
        return "satisfaction" if self.constraints else "reward_accuracy"


def read_prompts(source: str, limit: int) -> tuple[list[Task], dict[str, ConstraintTask]]:
    """Prompts to answer, at most `limit`, and their constraints where the file has a `constraints` column.

    Raises:
        DataError: the file cannot be read, or only some rows have constraints.
    """
    records = read_records(source, kind="prompt").records
    if not any(has_constraints(record.extra) for record in records):
        return prompts_of(records, limit), {}
    everything = read_tasks(source)
    begun = {one.group for one in everything[:limit] if one.group is not None}
    constrained = everything[:limit] + [one for one in everything[limit:] if one.group in begun]
    plain = {record.id: record.plain for record in records}
    tasks = [Task(one.id, one.prompt, plain[one.id]) for one in constrained]
    return tasks, {one.id: one for one in constrained}


def prompts_of(records: Sequence[Record], limit: int) -> list[Task]:
    """The different prompts of records, at most `limit`."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(repr(record.prompt), record)
    return [Task(str(index), one.prompt, one.plain) for index, one in enumerate(list(found.values())[:limit])]


def examine(policy: ModelOptions, start: ModelOptions, exam: Examination) -> tuple[Metrics, list[Generation]]:
    """Measure a model against the one that its training started from; also what it answered.

    The model is loaded twice (as the loops sample, and as it was trained), the start model once, never two together.
    With `policy is start` the metrics that compare the two are None, and KL is 0.

    Raises:
        DataError: pairs, prompts or questions that do not fit the model's tokenizer or context.
    """
    tokenizer = load_tokenizer(policy)
    answers = _answers(policy, tokenizer, exam)
    parts = _parts(tokenizer, exam, answers)
    own = _scored(policy, parts)
    before = own if policy is start else _scored(start, {name: parts[name] for name in ("pairs", "answers")})
    metrics = pair_metrics(own["pairs"], before["pairs"] if policy is not start else None)
    metrics |= answer_metrics(answers, own["answers"].sums() - before["answers"].sums())
    if exam.constraints:
        metrics["satisfaction"] = _satisfaction(exam, answers)
    if exam.questions:
        metrics |= _choices(exam, own["questions"])
    return {name: metrics[name] for name in MEASURES if name in metrics}, answers


def pair_metrics(policy: ResponseLogps, start: ResponseLogps | None) -> Metrics:
    """Metrics of held-out pairs, chosen and rejected in turn; a tie is not in the right order.

    Args:
        start: the same responses under the start model; None for the start model itself, which has no log-ratios.
    """
    sums, means = policy.sums(), policy.means()
    own: Metrics = {"logp_accuracy": _in_order(sums), "mean_logp_accuracy": _in_order(means)}
    if start is None:
        return own | {"reward_accuracy": None, "margin": None, "chosen_logp": None}
    ratios = sums - start.sums()
    return own | {
        "reward_accuracy": _in_order(ratios),
        "margin": float((ratios[0::2] - ratios[1::2]).mean()),
        "chosen_logp": float(ratios[0::2].mean()),
    }


def answer_metrics(answers: Sequence[Generation], log_ratios: Tensor) -> Metrics:
    """Length statistics of sampled answers and the KL divergence that they estimate.

    Args:
        log_ratios: [answers] `S_policy - S_start` of each answer, summed over its tokens.
    """
    lengths = [len(one.token_ids) for one in answers]
    return {
        "kl": float(log_ratios.mean()),
        "length": statistics.fmean(lengths),
        "length_median": float(statistics.median(lengths)),
        "length_deviation": statistics.pstdev(lengths),
        "unfinished": sum(one.finish_reason == "length" for one in answers) / len(answers),
    }


def _in_order(values: Tensor) -> float:
    return float((values[0::2] > values[1::2]).double().mean())


def _answers(policy: ModelOptions, tokenizer: PreTrainedTokenizerBase, exam: Examination) -> list[Generation]:
    prompts: list[Any] = [_as_given(task, tokenizer) for task in exam.tasks]
    sampling = Sampling(max_new_tokens=exam.max_new_tokens)
    return [one for (one,) in open_generator(policy).generate(prompts, sampling, label="Answering")]


def _as_given(task: Task, tokenizer: PreTrainedTokenizerBase) -> Messages | str:
    """Plain text where there is no template for it, as in training."""
    if task.plain and not tokenizer.chat_template:
        return "".join(one["content"] for one in task.prompt)
    return task.prompt


def _parts(
    tokenizer: PreTrainedTokenizerBase, exam: Examination, answers: Sequence[Generation]
) -> dict[str, Responses]:
    pairs = encode_records(
        exam.pairs, tokenizer, max_prompt_length=exam.max_prompt_length, max_length=exam.max_length
    ).records
    if not pairs:
        raise DataError(
            "No held-out pair is left: their prompts leave no room for a response.",
            hint="Raise --max-length, or cut the beginning of prompts with --max-prompt-length.",
        )
    parts = {"pairs": _responses(pairs)}
    prompts = [
        encode_prompt(tokenizer, task.prompt, plain=task.plain and not tokenizer.chat_template)
        for task in exam.tasks
    ]
    parts["answers"] = Responses(prompts, [one.token_ids for one in answers], list(range(len(answers))))
    if exam.questions:
        questions = exam.questions if tokenizer.chat_template else [as_text(one) for one in exam.questions]
        parts["questions"] = _responses(encode_records(questions, tokenizer).records)
    return parts


def _responses(encoded: Sequence[EncodedRecord]) -> Responses:
    return Responses(
        [one.prompt_ids for one in encoded],
        [ids for one in encoded for ids in one.response_ids],
        [index for index, one in enumerate(encoded) for _ in one.response_ids],
    )


def _scored(options: ModelOptions, parts: Mapping[str, Responses]) -> dict[str, ResponseLogps]:
    model: nn.Module = load_model(options, training=False)
    device = torch.device("cpu")
    with torch.no_grad():
        return {
            name: score_responses(model, part, batch_tokens=DEFAULT_BATCH_TOKENS).to(device)
            for name, part in parts.items()
        }


def _satisfaction(exam: Examination, answers: Sequence[Generation]) -> float:
    rows = [{"id": task.id, "responses": [one.text]} for task, one in zip(exam.tasks, answers, strict=True)]
    return statistics.fmean(row["csr"][0] for row in measure_responses(exam.constraints, rows))


def _choices(exam: Examination, scored: ResponseLogps) -> Metrics:
    values = torch.tensor([score for question in exam.questions for score in question.scores])
    found = choice_accuracy(scored.sums(), scored.lengths, values, scored.prompt_index)
    return {"choices": found.by_mean, "choices_sum": found.by_sum}
