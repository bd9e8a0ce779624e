"""Nudging: the loop over two word tables, removal of repeated ends, nudge statistics.

A table maps the last word of the text to the next one and its probability. Every word after the first carries a
space; the length of a text is its number of words.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from coalign.decoding.collaboration.guided import (
    BASE,
    NUDGING,
    Settings,
    guide,
    nudged_words,
    without_repeated_end,
)
from coalign.decoding.collaboration.speakers import Chunk, Speaker, Token, hold
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "text" in inputs:
        return {"deduplicated": without_repeated_end(inputs["text"])}
    if "answers" in inputs:
        found = [nudged_words(*one) for one in zip(inputs["answers"], inputs["nudging_words"], strict=True)]
        return {
            "mean_num_nudging": fmean(one[0] for one in found),
            "mean_ratio_nudging": fmean(one[1] for one in found),
        }
    settings = Settings(
        gamma=params["threshold"],
        base_tokens=params["base_chunk_tokens"],
        nudging_tokens=params["nudging_chunk_tokens"],
        max_length=params["max_total_words"],
        max_rounds=params["max_rounds"],
    )
    speakers = {BASE: table_speaker(inputs["base_table"]), NUDGING: table_speaker(inputs["nudging_table"])}
    answer = hold(guide(settings, lambda text: len(text.split())), speakers)
    return {
        "text": answer.text,
        "nudging_words": answer.nudges,
        "rounds": answer.rounds,
        "stop_reason": answer.stop_reason,
    }


def table_speaker(table: dict[str, tuple[str, float]]) -> Speaker:
    def speak(text: str, count: int) -> Chunk:
        tokens = []
        for _ in range(count):
            words = text.split()
            word, prob = table.get(words[-1] if words else "<s>", table["<unk>"])
            if word == "<eos>":
                return Chunk(tuple(tokens), stopped=True)
            tokens.append(Token(f" {word}" if words else word, prob))
            text += tokens[-1].text
        return Chunk(tuple(tokens))

    return speak
