"""Stage parts that several loops share: sampling responses row by row, and loading a round's model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from torch import nn

from coalign.data.records import Messages
from coalign.models.adapters import has_adapter, merge
from coalign.models.devices import decoding_dtype
from coalign.models.generation import TransformersGenerator
from coalign.models.loading import load_model, load_tokenizer
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.selfalign.loop import Round

if TYPE_CHECKING:
    from peft import PeftModel


class Prompted(Protocol):
    """Anything with an id and a prompt."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> Messages: ...


def sample_rows(
    round: Round,
    stage: str,
    tasks: Sequence[Prompted],
    generator: TransformersGenerator,
    sampling: Sampling,
    label: str,
) -> list[dict[str, Any]]:
    """Sample responses to every task and keep one row a task in the stage's artefact, in task order at the end.

    A killed stage goes on at the first batch with a missing row; batches are composed from all tasks, so the text
    is that of an undisturbed run.

    Returns:
        `{"id", "responses": [{"text", "finish_reason", "tokens"}]}` for every task.
    """
    have = {row["id"] for row in round.read(stage)}

    def keep(batch: dict[int, list[Generation]]) -> None:
        rows = [
            {"id": tasks[index].id, "responses": [_row(one) for one in samples]}
            for index, samples in batch.items()
            if tasks[index].id not in have
        ]
        round.append(stage, rows)
        have.update(row["id"] for row in rows)

    done = [index for index, task in enumerate(tasks) if task.id in have]
    generator.generate([task.prompt for task in tasks], sampling, done=done, on_batch=keep, label=label)
    by_id = {row["id"]: row for row in round.read(stage)}
    rows = [by_id[task.id] for task in tasks]
    round.write(stage, rows)  # batches finish in order of length
    return rows


def make_generator(options: ModelOptions) -> TransformersGenerator:
    """A generator over the model of `options`; an adapter is merged, which makes every token cheaper.

    With `dtype: auto` the merged weights are put into the format in which this device samples fastest.
    """
    model = load_model(options, training=False)
    if has_adapter(model):
        model = merge(cast("PeftModel", model))
    if options.dtype == "auto":
        model = cast(nn.Module, model).to(decoding_dtype(next(model.parameters()).device))
    return TransformersGenerator(model, load_tokenizer(options.model, revision=options.revision))


def _row(sample: Generation) -> dict[str, Any]:
    return {"text": sample.text, "finish_reason": sample.finish_reason, "tokens": len(sample.token_ids)}
