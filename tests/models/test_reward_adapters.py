"""LoRA reward models as peft (and so TRL's RewardTrainer) writes them load with the head that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from coalign.core.errors import ModelError
from coalign.data.encoding import encode_prompt, encode_response
from coalign.models.files.loading import load_tokenizer
from coalign.models.reward_model import load_reward_model
from tests.preference.tiny_runs import save_tiny_model

PROMPT: Any = [{"role": "user", "content": "hi there"}]
ANSWERS = ["yes it is", "no"]


def written(folder: Path, **changes: Any) -> Path:
    """An adapter with its head over a causal model; nothing of it is zero."""
    base = save_tiny_model(folder / "base")
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    settings: Any = {"task_type": "SEQ_CLS", "r": 4, "target_modules": "all-linear", **changes}
    model = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.normal_(std=0.3)
    model.save_pretrained(folder / "reward")
    load_tokenizer(str(base)).save_pretrained(folder / "reward")
    return folder / "reward"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modules_to_save": ["score"]},
        {"use_rslora": True},
        {"target_modules": ["q_proj"], "lora_alpha": 7},
    ],
    ids=["default", "head", "rslora", "one-target"],
)
def test_rewards_are_those_of_peft(tmp_path, changes):
    folder = written(tmp_path, **changes)
    ours = load_reward_model(str(folder), device="cpu", dtype="float32").score([PROMPT] * 2, ANSWERS)
    again = load_reward_model(str(folder), device="cpu", dtype="float32").score([PROMPT] * 2, ANSWERS)
    assert ours == again
    model: Any = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    model.get_base_model().config.pad_token_id = model.get_base_model().config.vocab_size - 1
    tokenizer = load_tokenizer(str(folder))
    for reward, answer in zip(ours, ANSWERS, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, PROMPT) + encode_response(tokenizer, PROMPT, answer)])
        with torch.no_grad():
            theirs = float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])
        assert reward == pytest.approx(theirs, abs=1e-4)


def test_an_adapter_without_its_head_is_refused(tmp_path):
    folder = written(tmp_path)
    path = folder / "adapter_model.safetensors"
    save_file({name: one for name, one in load_file(path).items() if "score" not in name}, path)
    with pytest.raises(ModelError, match="has no head, so rewards would be random"):
        load_reward_model(str(folder), device="cpu")
