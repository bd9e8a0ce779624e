"""Tiny reinforcement learning: a byte-level model, prompts, and rewards that are counted from token ids."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model

from coalign.core.options import build
from coalign.core.runs import Run
from coalign.loops.online import online_learner
from coalign.loops.reinforcement import Reinforcement, reinforce
from coalign.loops.rows import Row
from coalign.training.job import FitResult
from coalign.training.online.methods import get_online_method
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model

BASE = {"prompts": "none", "reward": ["max_words:1"], "learning_rate": 1e-2, "max_new_tokens": 6, "device": "cpu",
        "prompts_per_step": 2, "samples": 4, "max_steps": 4, "epochs": 9, "schedule": "constant", "eval_samples": 2}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    id: str
    prompt: Any


def asked(count: int, name: str = "p") -> list[Asked]:
    return [Asked(f"{name}{i}", [{"role": "user", "content": f"{name} {i}"}]) for i in range(count)]


def tiny_policy(*, adapter: bool = True, seed: int = 0) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(CHATML)
    ids: Any = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    model: Any = make_model("llama", seed=seed, vocab_size=len(tokenizer), scale=5.0, **ids)
    if adapter:
        config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    return model, tokenizer


@functools.cache
def liked() -> frozenset[int]:
    """About half of the vocabulary, which a direction of the hidden states tells apart."""
    head = tiny_policy(adapter=False)[0].lm_head.weight
    return frozenset((head[:, 0] > 0).nonzero().flatten().tolist())


def liked_share(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The share of sampled tokens that are liked."""
    return [
        {"rewards": [sum(one in liked() for one in ids) / len(ids) for ids in row["token_ids"]]}
        for row in rows
    ]


def loop_of(folder: Path, method: str = "grpo", **changes: Any) -> Reinforcement:
    own = {key: changes.pop(key) for key in ("score", "prompts", "held_out", "transform") if key in changes}
    config = build(online_learner(method).Config, {**BASE, **changes})
    run = Run.start(folder, method, config)
    given = {"score": liked_share, "prompts": asked(6), **own}
    return Reinforcement(method=get_online_method(method), constants=config, config=config, run=run, **given)


def learn(loop: Reinforcement, *, adapter: bool = True) -> tuple[FitResult, Any]:
    import torch

    torch.manual_seed(0)
    model, tokenizer = tiny_policy(adapter=adapter)
    return reinforce(loop, model, tokenizer), model
