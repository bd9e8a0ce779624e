"""Short trainings on real text: an adapter on the default model, one record a step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from coalign.checks import real_text
from coalign.checks.steps import reference_logps, trained
from coalign.checks.tiny_models import seeded, stream
from coalign.data.records import Messages, Record
from coalign.models.adapters import add_lora
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.training.examples import prepare_examples
from coalign.training.objective import Objective
from coalign.training.options import TrainingOptions

LEARNING_RATE = 3e-4


def adapted(
    records: Sequence[Record], objective: Objective, constants: Any, *, steps: int, seed: int
) -> nn.Module:
    """The default model with a new adapter, trained for so many steps of one record with Adam at 3e-4.

    The reference of an objective that has one is the default model.

    Args:
        records: of the objective's kind, drawn in permutations.
        constants: of the objective; its defaults when None.
    """
    model, tokenizer = real_text.open_model(real_text.MODEL)
    options = TrainingOptions(max_length=real_text.MAX_LENGTH)
    examples = prepare_examples(records, objective, tokenizer, options).examples
    base: Any = copy.deepcopy(model)
    return trained(
        seeded(lambda: add_lora(base, ModelOptions()), seed),
        examples,
        objective,
        constants,
        steps=steps,
        batch_size=1,
        learning_rate=LEARNING_RATE,
        generator=stream(seed, "records/order"),
        reference=reference_logps(model, examples, path="auto") if objective.reference else None,
        path="auto",
    )


def sampled(
    prompts: Sequence[Messages], n: int, *, max_new_tokens: int, seed: int, model: nn.Module | None = None
) -> list[list[Generation]]:
    """`n` responses to every prompt at temperature 1, by default of the default model."""
    default, tokenizer = real_text.open_model(real_text.MODEL)
    sampling = Sampling(max_new_tokens=max_new_tokens, n=n, seed=seed)
    return TransformersGenerator(model or default, tokenizer).generate(prompts, sampling)
