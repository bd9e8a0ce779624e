"""Tiny runs of systems that are pipelines: (options, files)."""

from __future__ import annotations

from typing import Any

from tests.contract.asked import MODEL, Tiny
from tests.preference.tiny_runs import WORDS, demonstrations

PROMPTS = [{"prompt": f"the sky is {word}"} for word in WORDS[:6]]
PAIRS = [
    {
        "prompt": f"the sky is {word}",
        "chosen": "yes it is",
        "rejected": word,
        "score_chosen": 2.0 + place,
        "score_rejected": 1.0,
    }
    for place, word in enumerate(WORDS[:6])
]

SMALL: dict[str, Tiny] = {
    "baichuan-alignment": (
        {**MODEL, "prompts": "prompts.jsonl", "demonstrations": "shown.jsonl", "preferences": "pairs.jsonl",
         "max_steps": 1, "batch_size": 2, "max_length": 200, "max_new_tokens": 4, "template": 1.0, "diverse": False,
         "stage": ["reinforced.prompts_per_step=2", "reinforced.eval_samples=1", "rewarding.eval_fraction=0.34"]},
        {"prompts.jsonl": PROMPTS, "shown.jsonl": demonstrations(), "pairs.jsonl": PAIRS},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {}

REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "baichuan-alignment": [
        ({"template": 0.5}, "template has no effect without prompts"),
        ({"prompts": "x", "curate": False, "anchors": 3}, "anchors has no effect without curate"),
        ({"prompts": "x", "best": 0.3}, "best has no effect without anchors"),
        ({"prompts": "x", "preferences": "y", "reward": ["max_words:3"]}, "give one of them"),
    ],
}
