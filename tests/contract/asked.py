"""Tiny runs of systems that ask several models about logs and requests: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.preference.tiny_runs import WORDS, demonstrations, judgments, pairs

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
MODEL = {"model": "models/tiny", "device": "cpu"}
FIT = {"batch_size": 4, "learning_rate": 1e-2, "max_length": 200}


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


def _logs(n: int = 5) -> list[dict[str, Any]]:
    turns = ["Why is it blue?", "Because.", "Say more.", "No."]
    return [
        {
            "id": f"c{i}",
            "messages": [
                {"role": "assistant" if k % 2 else "user", "content": f"{text} {WORDS[i]}"}
                for k, text in enumerate(turns)
            ],
        }
        for i in range(n)
    ]


def _topics(n: int = 5) -> list[dict[str, Any]]:
    return [{"goal": f"Tell of the {WORDS[i]}.", "category": "ab"[i % 2]} for i in range(n)]


FEEDBACK = {**MODEL, **FIT, "model": "models/wide", "prompts": "asked-for.jsonl", "max_new_tokens": 4, "critique_tokens": 5,
            "request_batch": 3, "max_length": 900, "max_steps": 1, "save_steps": 0, "eval_fraction": 0.0}  # fmt: skip
ASKED_FOR = [{"id": f"p{i}", "prompt": f"the sky is {WORDS[i]}"} for i in range(4)]

SMALL: dict[str, Tiny] = {
    "align-anything": (
        {**FEEDBACK, "data": "judgments.jsonl", "eval_prompts": "held-out.jsonl", "measure": ["max_characters:8"]},
        {"judgments.jsonl": judgments(8, fine=2), "asked-for.jsonl": ASKED_FOR, "held-out.jsonl": ASKED_FOR[:1]},
    ),
    "wildfeedback": (
        {**MODEL, **FIT, "data": "logs.jsonl", "expert": "models/answerer", "judge_model": "models/answerer", "personal_data": "keep",
         "max_new_tokens": 4, "held_out": 0.3, "request_batch": 2, "judge_tokens": 4, "max_prompt_length": 100, "max_length": 120,
         "save_steps": 1},
        {"logs.jsonl": _logs()},
    ),
    "past-tense": (
        {**MODEL, **FIT, "data": "topics.jsonl", "controls": "harmless.jsonl", "chats": "demonstrations.jsonl",
         "reformulator": "models/tiny", "judges": ["rules_prefix", "rating"], "judge_model": "models/other", "attempts": 2,
         "max_new_tokens": 5, "reformulator_tokens": 6, "judge_max_new_tokens": 4, "shares": [0.0, 0.5], "defence_records": 6,
         "epochs": 1, "save_steps": 1, "past_template": "ask.txt", "future_template": "ask.txt", "rating_template": "yes.txt"},
        {"ask.txt": text("Was {request}"), "yes.txt": text("{request} {response}"), "topics.jsonl": _topics(), "harmless.jsonl": [{"id": f"p{i}", "prompt": f"the sky is {WORDS[i]}"} for i in range(2)], "demonstrations.jsonl": demonstrations()},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "align-anything beside labelled pairs, without critiques": (
        "align-anything",
        ({**FEEDBACK, "critic": "models/answerer", "labelled": "pairs.jsonl", "refine_on": "x,c", "optimise": "none",
          "stage": ["labelled.beta=0.2"], "max_steps": 1}, {"asked-for.jsonl": ASKED_FOR, "pairs.jsonl": pairs()}),
    ),
    "wildfeedback with a trained detector": (
        "wildfeedback",
        (
            {**MODEL, **FIT, "data": "logs.jsonl", "judge_model": "models/answerer", "expert": "models/answerer",
             "personal_data": "keep", "detector": "trained", "detector_data": "turns.jsonl", "encoder": "models/encoder",
             "moderate": False, "max_new_tokens": 4, "temperature": 0.0, "list_place": "user",
             "request_batch": 2, "judge_tokens": 4, "held_out": 0.0, "save_steps": 1},
            {"logs.jsonl": _logs(),
             "turns.jsonl": [
                 *({"text": f"Say more. {one}", "label": "dsat"} for one in WORDS[:5]),
                 *({"text": "z" * n, "label": ("sat", "none")[n % 2]} for n in range(1, 7))]},
        ),
    ),
    "past-tense that stops early": (
        "past-tense",
        (
            {**MODEL, "data": "topics.jsonl", "reformulations": "rewritten.jsonl", "conditions": ["past", "direct"],
             "early_stop": True, "keep_texts": True, "attempts": 2, "max_new_tokens": 4},
            {"topics.jsonl": _topics(), "rewritten.jsonl": [
                {"request": one["goal"], "past": [f"What was it {k}?" for k in range(2)]} for one in _topics()]},
        ),
    ),
}  # fmt: skip
