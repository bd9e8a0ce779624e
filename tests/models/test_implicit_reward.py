"""Implicit rewards: sums over exactly the tokens that are trained on, however prompts are batched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.data.encoding import encode_prompt, encode_response
from coalign.loops import scoring
from coalign.loops.scoring import scored_logps
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.implicit_reward import sequence_logps
from coalign.models.options import ModelOptions
from coalign.training.options import TrainingOptions

PROMPTS: list[Any] = [[{"role": "user", "content": text}] for text in ("say a", "say something longer", "x")]
ANSWERS = [["a", "a b c"], ["", "the sky is blue"], ["y"]]


@pytest.fixture(scope="module")
def loaded(tiny_model: str) -> tuple[Any, Any]:
    return load_model(tiny_model, training=False), load_tokenizer(tiny_model)


def test_sums_are_those_of_a_plain_forward_pass(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    found = sequence_logps(model, tokenizer, PROMPTS, ANSWERS)
    for prompt, texts, sums, tokens in zip(PROMPTS, ANSWERS, found.sums, found.tokens, strict=True):
        before = encode_prompt(tokenizer, prompt)
        for text, value, n in zip(texts, sums, tokens, strict=True):
            ids = encode_response(tokenizer, prompt, text)
            with torch.no_grad():
                logps = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
            expected = sum(float(logps[len(before) - 1 + place, one]) for place, one in enumerate(ids))
            assert value == pytest.approx(expected, abs=1e-3)
            assert n == len(ids)


def test_a_model_has_no_reward_against_itself_and_beta_only_scales(loaded: tuple[Any, Any]) -> None:
    found = sequence_logps(*loaded, PROMPTS, ANSWERS)
    assert all(one == 0 for row in found.rewards(found) for one in row)
    alone = sequence_logps(*loaded, PROMPTS[::-1], ANSWERS[::-1])
    assert [one for row in alone.sums[::-1] for one in row] == pytest.approx(
        [one for row in found.sums for one in row], abs=1e-4
    )
    assert found.means()[1][1] == found.sums[1][1] / found.tokens[1][1]
    zero = type(found)([[0.0] * len(row) for row in found.sums], found.tokens)
    assert found.rewards(zero, beta=2.0)[0][1] == 2 * found.sums[0][1]


def test_a_prompt_without_room_is_not_scored(loaded: tuple[Any, Any]) -> None:
    found = sequence_logps(
        *loaded, PROMPTS, ANSWERS, max_length=len(encode_prompt(loaded[1], PROMPTS[0])) + 1
    )
    assert all(math.isnan(one) for one in found.sums[1])
    assert found.tokens[1] == [0, 0]
    assert found.tokens[0] == [1, 1]


def test_rows_go_on_where_they_were_cut(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)
    rows = [
        {"id": str(place), "prompt": prompt, "responses": texts}
        for place, (prompt, texts) in enumerate(zip(PROMPTS, ANSWERS, strict=True))
    ]
    policy, limits = ModelOptions(model=tiny_model, device="cpu"), TrainingOptions()
    whole = scored_logps(tmp_path / "whole.jsonl", rows, policy, limits, label="Scoring")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text(lines[0] + lines[1][:7])
    again = scored_logps(tmp_path / "cut.jsonl", rows, policy, limits, label="Scoring")
    assert again == whole
    assert (tmp_path / "cut.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
