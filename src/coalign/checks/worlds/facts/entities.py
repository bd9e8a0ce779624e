"""A world of facts about entities: a tiny model knows some answers by heart and others not at all.

An entity is a pair of names, its answer one of a few tokens. The model is pretrained on the facts of the *known* half;
the *unknown* half it has never seen. Both halves are cut again by entity, into questions to learn from and questions to
test on. A response is one token: an answer, or the token that declines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import seeded, stream, tiny_transformer

NAMES, ANSWERS = 60, 24
IDK_TOKEN = NAMES + ANSWERS
VOCABULARY = NAMES + ANSWERS + 1


@dataclass(frozen=True)
class Entities:
    """Questions with their answers, token ids.

    Attributes:
        prompts: [n, 2] names.
        answers: [n] answer tokens.
    """

    prompts: Tensor
    answers: Tensor


@dataclass(frozen=True)
class EntityWorld:
    """What the arms of a seed share.

    Attributes:
        base: the pretrained model.
        learning, test: questions of which half are known to it.
    """

    seed: int
    base: LlamaForCausalLM
    learning: Entities
    test: Entities


def entity_world(
    seed: int, *, known: int = 500, unknown: int = 500, steps: int = 1500, batch_size: int = 128
) -> EntityWorld:
    """Draw the facts and pretrain the model on the known ones (Adam, 1e-3)."""
    draw = stream(seed, "entities")
    pairs = torch.randperm(NAMES * NAMES, generator=draw)[: known + unknown]
    prompts = torch.stack([pairs // NAMES, pairs % NAMES], dim=1)
    answers = NAMES + torch.randint(ANSWERS, (known + unknown,), generator=draw)
    base = seeded(lambda: tiny_transformer(VOCABULARY, width=96, layers=2, heads=4), seed)
    facts = Entities(prompts[:known], answers[:known])
    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": 1e-3, "order": "pretraining"}
    base = tuned(base, facts.prompts, facts.answers, seed, **settings)
    halves = [
        torch.cat([torch.arange(known)[part::2], known + torch.arange(unknown)[part::2]]) for part in (0, 1)
    ]
    learning, test = (Entities(prompts[rows], answers[rows]) for rows in halves)
    return EntityWorld(seed, base, learning, test)


def tuned(
    model: LlamaForCausalLM, prompts: Tensor, responses: Tensor, seed: int, **settings: Any
) -> LlamaForCausalLM:
    """A copy of the model, trained to give each response [n] to its prompt [n, 2]; settings as in `pretrained`."""
    examples = [
        example(prompt, [[token]]) for prompt, token in zip(prompts.tolist(), responses.tolist(), strict=True)
    ]
    return pretrained(model, examples, seed, **settings)


@torch.no_grad()
def next_logits(model: LlamaForCausalLM, prompts: Tensor) -> Tensor:
    """[n, V] logits of the token after each prompt."""
    return model(input_ids=prompts).logits[:, -1]


def greedy_answers(model: LlamaForCausalLM, prompts: Tensor, *, may_decline: bool = True) -> Tensor:
    """[n] most probable answer tokens, or the declining token where that is allowed."""
    logits = next_logits(model, prompts)
    return NAMES + logits[:, NAMES : VOCABULARY if may_decline else IDK_TOKEN].argmax(-1)


def sampled_answers(model: LlamaForCausalLM, prompts: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """[prompts, n] answer tokens sampled at temperature 1."""
    probabilities = next_logits(model, prompts)[:, NAMES:IDK_TOKEN].softmax(-1)
    return NAMES + torch.multinomial(probabilities, n, replacement=True, generator=generator)
