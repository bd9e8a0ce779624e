"""Tiny runs of systems that are pipelines: (options, files)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.preference.tiny_runs import WORDS, demonstrations, pairs

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
FIT = {"model": "models/tiny", "device": "cpu", "batch_size": 4, "learning_rate": 1e-2, "max_length": 200, "max_steps": 1,
       "eval_fraction": 0.25, "save_steps": 1}  # fmt: skip

CALL = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": {"query": "plums"}}}],
}
TRAJECTORIES = [
    {
        "messages": [{"role": "user", "content": f"Where is the {one}?"}, CALL, {"role": "tool", "content": "It is here."},
                     {"role": "assistant", "content": f"The {one} is here."}],
        "tools": [{"type": "function", "function": {"name": "search", "description": "Look it up.", "parameters": {
            "type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}}],
    }
    for one in WORDS[:4]
]  # fmt: skip

BALANCED = [
    {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if place % 2 else row
    for place, row in enumerate(pairs(12))
]


def _encoder(path: Path) -> object:
    from tests.contract.small import MODELS

    path.parent.mkdir(exist_ok=True)
    return MODELS["encoder"](path)


SMALL: dict[str, Tiny] = {
    "chatglm": (
        {**FIT, "data": "demonstrations.jsonl", "long_data": "demonstrations.jsonl", "long_length": 150},
        {"demonstrations.jsonl": demonstrations()},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "chatglm with answers of its own, and tools": (
        "chatglm",
        (
            {**FIT, "data": "demonstrations.jsonl", "contrast": "demonstrations.jsonl", "contrast_samples": 4,
             "contrast_rejected": 1, "agent_data": "trajectories.jsonl", "agent_share": 0.4, "chat_template": "tools",
             "stage": ["contrast.max_new_tokens=4", "contrast.encoder=models/encoder"]},
            {"demonstrations.jsonl": demonstrations(), "trajectories.jsonl": TRAJECTORIES, "models/encoder": _encoder},
        ),
    ),
    "chatglm by rewards": (
        "chatglm",
        (
            {**FIT, "preferences": "pairs.jsonl", "prompts": "prompts.jsonl", "balance_lengths": [1000], "min_reward_variance": 1e-9,
             "stage": ["ppo.max_new_tokens=4", "ppo.prompts_per_step=2", "ppo.eval_fraction=0.34"]},
            {"pairs.jsonl": BALANCED, "prompts.jsonl": [{"prompt": f"Name the {one}."} for one in WORDS[:4]]},
        ),
    ),
}  # fmt: skip

REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "chatglm": [
        ({"questions": "x"}, "questions: needs right"),
        ({"right": "max_words:3"}, "right has no effect without questions"),
        ({"prompts": "x"}, "needs preferences"),
        ({"agent_data": "x", "agent_share": 0.5}, "agent_share has no effect without data to mix with"),
        ({"agent_data": "x", "data": "y", "agent_share": 1.0}, "leaves one part out"),
        ({"data": "x", "eval_data": "y"}, "eval_data has no effect here"),
        ({"data": "x", "long_length": 9}, "long_length has no effect without long_data"),
        ({"preferences": "x", "reward_l2": 0.5}, "reward_l2 has no effect without prompts"),
    ],
}
