"""Adapters that are trained further: the reference is what was loaded, in all of its parts and for every kind.

trl 1.16.0 copies those parts alone that peft keeps in modules (findings/a-reference-adapter-is-copied-in-part.sh).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import LoraConfig, get_peft_model

from coalign.models.adapters import active_adapter, disabled_adapter
from coalign.models.files.loading import load_adapter_twice, load_for_training
from coalign.models.options import AdapterKind, ModelOptions
from tests.models.test_adapter_kinds import fresh, logits, moved
from tests.models.tiny import make_model

PARTS: dict[str, dict[str, Any]] = {
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9]},
    "head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("kind", [*get_args(AdapterKind), *PARTS])
def test_the_reference_is_the_adapter_that_was_loaded(kind: str, tmp_path: Path) -> None:
    base = make_model("qwen2", scale=1.0)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    made: Any = (
        get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM", **PARTS[kind])).eval()
        if kind in PARTS
        else fresh(kind, model=base)
    )
    plain = logits(base)
    expected = logits(moved(made))
    assert not torch.allclose(expected, plain, atol=1e-3)
    made.save_pretrained(str(tmp_path / "adapter"))

    options = ModelOptions(model=str(tmp_path / "adapter"), device="cpu", dtype="float32")
    close: Any = {"atol": 1e-4, "rtol": 1e-4}
    model: Any = load_adapter_twice(options, "shipped").eval()
    torch.testing.assert_close(logits(model), expected, **close)
    assert not torch.allclose(logits(moved(model)), expected, atol=1e-3)
    with active_adapter(model, "shipped"):
        torch.testing.assert_close(logits(model), expected, **close)

    further: Any = load_for_training(options).eval()
    assert not torch.allclose(logits(moved(further)), expected, atol=1e-3)
    with disabled_adapter(further):
        torch.testing.assert_close(logits(further), expected, **close)
