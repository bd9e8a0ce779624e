"""Rows of the files that tiny runs read."""

from __future__ import annotations

from typing import Any

PASSAGES = [{"id": "a", "title": "Sky", "text": "The sky is blue."}, {"id": "b", "text": "The sea is grey."}]


def answered_pairs(n: int = 6) -> list[dict[str, Any]]:
    """Pairs under the published names, some with passages of their own and scores of judges."""
    request = "[1] Sky\nThe sky is blue.\n\n[2] The sea is grey.\n\nColour of the sky?"
    return [
        {"prompt": request, "question": "Colour of the sky?", "chosen": f"Blue, {i}.", "chosen_model": "a",
         "reject": f"The sky is grey {i}.", "reject_model": "b", "subset": ["NQ", "abstain/own", "MuSiQue"][i % 3],
         "references": PASSAGES, "judge_scores": [[5, 1 + i % 3], [4, 2]]}
        for i in range(n)
    ]  # fmt: skip


def grounded(n: int = 4) -> list[dict[str, Any]]:
    """Questions with passages, and with an answer of some model."""
    return [
        {"id": f"q{i}", "question": f"Which colour is thing {i}?", "answers": [f"colour {i}"],
         "passages": [{"text": f"Thing {i} is colour {i}."}, f"Thing {i} is old."],
         "responses": [{"model": "given", "text": f"It is colour {i}."}]}
        for i in range(n)
    ]  # fmt: skip


def judged_pairs(n: int = 4) -> list[dict[str, Any]]:
    long = "The first fact is here. The second one follows. A third closes it."
    return [
        {
            "id": f"q{i}",
            "prompt": f"Why, {i}?",
            "response_a": long,
            "response_b": f"Short {i}. Yes. No.",
            "label": "A",
        }
        for i in range(n)
    ]


def outputs(models: int = 3, prompts: int = 2) -> list[dict[str, Any]]:
    return [
        {"id": f"p{x}", "prompt": f"Prompt {x}?", "model": f"m{k}", "output": "x" * (k + 1)}
        for x in range(prompts)
        for k in range(models)
    ]


def read(n: int = 5) -> list[dict[str, Any]]:
    """Questions with two passages; what a random reader says depends on them."""
    return [
        {"id": f"q{i}", "question": f"Letter {i}?", "answers": ["sea", "an"], "passages": [f"It is {'aeiou'[i]}.", {"text": "None.", "title": "T"}]}
        for i in range(n)
    ]  # fmt: skip


def claims() -> list[dict[str, Any]]:
    return [
        {"id": f"c{i}", "context": "The sky is blue. It rains.", "claim": f"It rains {word}. The sea is green.",
         "label": i % 2}
        for i, word in enumerate(("red", "blue", "four", "five"))
    ]  # fmt: skip


def questions(n: int = 8) -> list[dict[str, Any]]:
    split = ["train"] * (n - 3) + ["test"] * 3
    return [
        {"question": f"What colour is thing {i}?", "answers": ["e", "blue"], "split": split[i]}
        for i in range(n)
    ]


def choices(n: int = 6) -> list[dict[str, Any]]:
    return [
        {"question": f"Which, {i}?", "choices": ["red", "blue", f"no {i}"], "answer": i % 3} for i in range(n)
    ]
