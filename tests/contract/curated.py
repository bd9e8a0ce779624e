"""Tiny runs of systems that make their data under stated values or choose among ways of making it: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.preference.tiny_runs import WORDS, demonstrations, pairs

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
FIT = {"model": "models/wide", "device": "cpu", "batch_size": 4, "learning_rate": 1e-2, "epochs": 1}

VALUES = """
form:
  case:
    - {value: lower, description: All is lower case., constraints: [{verifier: letter_case, case: lower}]}
    - {value: upper, description: All is upper case., constraints: [{verifier: letter_case, case: upper}]}
  length: [The answer is short., The answer is long.]
tone:
  mood: [The answer is merry., The answer is sad., The answer is dry.]
"""


def _collection(n: int) -> list[dict[str, Any]]:
    """Two system messages an instruction, as the Multifaceted Collection has them."""
    return [
        {"system": f"Write {case} case.", "prompt": f"Name thing {i}.", "output": getattr(f"Thing {i}", case)(),
         "preference_set": [{"dimension": "style", "subdimension": "case", "preference": f"All is {case} case."}]}
        for i in range(n)
        for case in ("lower", "upper")
    ]  # fmt: skip


def _answers(strategy: str, form: str, n: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is thing {i}?", "completion": form.format(WORDS[i]), "strategy": strategy}
        for i in range(n)
    ]


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _long(n: int = 8) -> list[dict[str, Any]]:
    """Three replies of four have the length that was asked for."""
    said = " ".join(WORDS)
    return [
        {"prompt": f"Tell of {WORDS[i]} in {8 if i % 4 else 30} words", "completion": said} for i in range(n)
    ]


SMALL: dict[str, Tiny] = {
    "long-output": (
        {**FIT, "model": "models/tiny", "max_length": 200, "data": "long.jsonl", "general": "demonstrations.jsonl",
         "general_ratio": 1.0, "annealing_epochs": 1.0, "annealing_rate": 1e-3, "orders": "orders.jsonl", "max_new_tokens": 5,
         "judge_model": "models/other", "judge_max_new_tokens": 4, "judge_template": "quality.txt", "missing_quality": 3.0,
         "gradient_accumulation": 1, "save_steps": 1},
        {"quality.txt": _text("{request} {response}"), "long.jsonl": _long(), "demonstrations.jsonl": demonstrations(),
         "orders.jsonl": [{"prompt": f"Say {n} words", "length": n} for n in (2, 4)]},
    ),
    "janus": (
        {**FIT, "max_length": 2000, "data": "instructions.jsonl", "values": "values.yaml", "system_messages": 2, "unseen": 0.5,
         "max_new_tokens": 40, "stop": list("aeinorst .,"), "request_batch": 4, "eval_fraction": 0.34, "save_steps": 1,
         "compare": ["models/wide"]},
        {"instructions.jsonl": [{"id": f"p{i}", "prompt": f"the sky is {WORDS[i]}"} for i in range(6)],
         "values.yaml": _text(VALUES)},
    ),
    "response-selection": (
        {"model": "models/wide", "device": "cpu", "data": "styles.jsonl", "samples": 3, "pool": 4,
         "examples": 2, "max_new_tokens": 6, "reward": "max_characters:12", "hidden_states": True, "accuracies": "accuracies.yaml"},
        {"styles.jsonl": [*_answers("short", "It is {}.", 5), *_answers("long", "As everybody knows, it is {}.", 5)],
         "accuracies.yaml": _text("short: 0.5\nlong: 0.25\n")},
    ),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, Tiny]] = {
    "long-output that only filters": (
        "long-output",
        ({"data": "long.jsonl", "filter_only": True}, {"long.jsonl": _long()}),
    ),
    "janus with pairs and a judge": (
        "janus",
        (
            {**FIT, "max_length": 200, "data": "collection.jsonl", "collection": True, "policies": ["dpo", "orpo"],
             "reward_model": True, "best_of": 2, "helpfulness": "pairs.jsonl", "max_new_tokens": 5, "eval_fraction": 0.34,
             "pair_epochs": 1, "save_steps": 0, "judge_model": "models/wide", "judge_readout": "logprobs", "max_failures": 1.0},
            {"collection.jsonl": _collection(6), "pairs.jsonl": pairs()},
        ),
    ),
}  # fmt: skip
