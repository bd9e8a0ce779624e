"""Rewards do not depend on the batch, and a model without a trained head is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from coalign.core.errors import ConfigError, ModelError
from coalign.models.reward_model import load_reward_model
from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer

SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
PROMPTS = ["short", [{"role": "user", "content": "a prompt that is longer"}], "x", "and one more"]
TEXTS = ["yes", "a longer answer, indeed", "", "no"]


def saved(folder, kind, config, template=True):
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(4)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer() if template else tiny_tokenizer(None)
    tokenizer.pad_token = tokenizer.eos_token  # as many models have it
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    config = hf.LlamaConfig(**SHAPE, num_labels=1, pad_token_id=VOCABULARY - 1)
    return saved(tmp_path_factory.mktemp("causal"), hf.LlamaForSequenceClassification, config)


def test_batches_do_not_change_rewards(causal):
    model = load_reward_model(causal, device="cpu")
    assert model.inputs.format == "chat"
    together = model.score(PROMPTS, TEXTS)
    assert len(set(together)) == 4
    for prompt, text, reward in zip(PROMPTS, TEXTS, together, strict=True):
        assert model.score([prompt], [text]) == pytest.approx([reward], abs=1e-4)
    assert model.score(PROMPTS, TEXTS, batch_size=2) == pytest.approx(together, abs=1e-4)
    assert model.score([], []) == []


def test_the_reward_is_read_at_the_last_token_although_it_is_the_padding_token_too(causal):
    model = load_reward_model(causal, device="cpu")
    assert model.inputs.tokenizer.pad_token == model.inputs.tokenizer.eos_token
    ids = model.inputs.text(PROMPTS[1], TEXTS[1]).ids
    assert ids[-1] == model.inputs.tokenizer.eos_token_id
    with torch.inference_mode():
        hidden = model.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        expected = float(model.model.score(hidden))
    assert model.score(PROMPTS, TEXTS)[1] == pytest.approx(expected, abs=1e-4)


def test_long_inputs_lose_their_beginning_and_it_is_said(causal, caplog):
    model = load_reward_model(causal, device="cpu", max_length=20)
    assert model.score(["x" * 50], ["yes"]) == pytest.approx(model.score(["x" * 60], ["yes"]))
    assert "1 of 1 inputs" in caplog.text


def test_an_encoder_takes_two_segments_and_a_label(tmp_path):
    labels = {"id2label": {0: "fine", 1: "toxic"}, "label2id": {"fine": 0, "toxic": 1}}
    config = hf.BertConfig(**SHAPE, num_labels=2, **labels)
    folder = saved(tmp_path, hf.BertForSequenceClassification, config, template=False)
    model = load_reward_model(folder, label="toxic", device="cpu")
    assert model.inputs.format == "pair"
    rewards = model.score(PROMPTS, TEXTS)
    assert all(reward < 0 for reward in rewards)
    assert model.score(PROMPTS[:1], TEXTS[:1]) == pytest.approx(rewards[:1], abs=1e-4)
    other = load_reward_model(folder, label="0", device="cpu").score(PROMPTS, TEXTS)
    assert (torch.tensor(rewards).exp() + torch.tensor(other).exp()).tolist() == pytest.approx([1.0] * 4)
    refused: dict[str, dict[str, Any]] = {
        r"0 \(fine\), 1 \(toxic\)": {}, "no output 'rude'": {"label": "rude"},
        "needs a chat template": {"label": "0", "format": "chat"},
    }  # fmt: skip
    for message, options in refused.items():
        with pytest.raises(ConfigError, match=message):
            load_reward_model(folder, device="cpu", **options)


def test_a_language_model_is_no_reward_model(tmp_path):
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig(**SHAPE))
    with pytest.raises(ModelError, match=r"would be random, first score\.weight"):
        load_reward_model(folder, device="cpu")
    with pytest.raises(ModelError):
        load_reward_model(str(tmp_path / "absent"), device="cpu")
