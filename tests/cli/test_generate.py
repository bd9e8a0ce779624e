"""`coalign generate`: the file it writes, and how it goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coalign.models.generation.generator import TransformersGenerator
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    tokenizer = byte_tokenizer(CHATML)
    folder = tmp_path / "model"
    make_model("llama", dtype=torch.float32, vocab_size=len(tokenizer), eos_token_id=1).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"say {word}"}) + "\n" for word in ("sea", "sky", "a", "green"))
    )
    return str(file)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_in_the_order_of_the_prompts(coalign, model, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    result = coalign(
        "generate", "--model", model, "--prompts", prompts, "--out", str(out),
        "--samples", "2", "--max-new-tokens", "6", "--logprobs", "--top-p", "0.9",
    )  # fmt: skip
    assert result.code == 0
    assert result.out.strip() == str(out)
    assert "samples/s" in result.err
    made = rows(out)
    assert [one["prompt"][-1]["content"] for one in made] == ["say sea", "say sky", "say a", "say green"]
    assert all(len(one["responses"]) == len(one["finish_reasons"]) == 2 for one in made)
    assert [len(logps) for logps in made[0]["logprobs"]] == made[0]["tokens"]
    assert not out.with_name("out.jsonl.partial").exists()


def test_a_killed_command_goes_on(coalign, model, prompts, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    command = [
        "generate",
        "--model",
        model,
        "--prompts",
        prompts,
        "--max-new-tokens",
        "5",
        "--batch-size",
        "1",
    ]
    coalign(*command, "--out", str(tmp_path / "whole.jsonl"))
    decode, calls = TransformersGenerator._decode, []

    def killed(self, part, job, meter):
        calls.append(part)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, part, job, meter)

    monkeypatch.setattr(TransformersGenerator, "_decode", killed)
    assert coalign(*command, "--out", str(out)).code == 130
    assert not out.exists()
    other = coalign(*command, "--out", str(out), "--temperature", "0")
    assert other.code == 2
    assert "temperature: 1.0 there, 0.0 now" in other.err
    result = coalign(*command, "--out", str(out))
    assert "2 of 4 prompts are done" in result.err
    assert len(calls) == 5
    assert rows(out) == rows(tmp_path / "whole.jsonl")
    again = coalign(*command, "--out", str(out))
    assert again.code == 2
    assert "--overwrite" in again.err
    assert coalign(*command, "--out", str(out), "--overwrite").code == 0


def test_stop_texts_and_plain_prompts(coalign, model, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    result = coalign(
        "generate", "--model", model, "--prompts", prompts, "--out", str(out), "--plain",
        "--max-new-tokens", "3", "--stop", r"\n", "--stop", "a, b",
    )  # fmt: skip
    assert result.code == 0
    assert len(rows(out)) == 4
    chat = tmp_path / "chat.jsonl"
    chat.write_text(json.dumps({"prompt": [{"role": "user", "content": "hi"}]}) + "\n")
    refused = coalign(
        "generate", "--model", model, "--prompts", str(chat), "--out", str(tmp_path / "b.jsonl"), "--plain"
    )
    assert refused.code == 2
    assert "--plain" in refused.err


def test_bad_options_and_files_are_refused_before_the_model_is_loaded(coalign, prompts, tmp_path):
    out = str(tmp_path / "out.jsonl")
    bad = coalign("generate", "--model", "absent/model", "--prompts", prompts, "--out", out, "--top-p", "2")
    assert bad.code == 2
    assert "--top-p" in bad.err
    missing = coalign("generate", "--model", "absent/model", "--prompts", "nowhere.jsonl", "--out", out)
    assert missing.code == 1
    assert "nowhere.jsonl" in missing.err
    assert not Path(out).exists()


def test_methods_are_listed_with_their_options(coalign):
    result = coalign("generate", "--list-methods")
    assert result.code == 0
    assert "nudging (" in result.out
    assert "gamma=FLOAT" in result.out
