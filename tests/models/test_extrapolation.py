"""Log-probabilities under logits that go on from a reference past a model."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from coalign.models.adapters import disabled_adapter
from coalign.models.scoring.engine import Path, score_responses
from coalign.models.scoring.extrapolation import extrapolated_logits, score_extrapolated
from coalign.models.types import Responses
from tests.models.test_scoring import FIXED
from tests.models.tiny import make_model


def adapted(**changes: Any) -> Any:
    """A model whose adapter does something."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **changes)
    return get_peft_model(make_model("llama", dtype=torch.float64), config)  # type: ignore[arg-type]


def naive(model: Any, responses: Responses, strength: float) -> list[float]:
    """Each response by itself: both models' logits, mixed and normalised."""
    found = []
    for index, ids in zip(responses.prompt_index, responses.response_ids, strict=True):
        row = torch.tensor([[*responses.prompt_ids[index], *ids]])
        with torch.no_grad():
            logits = model(input_ids=row).logits[0]
            with disabled_adapter(model):
                frozen = model(input_ids=row).logits[0]
        mixed = ((1 + strength) * logits - strength * frozen).log_softmax(-1)
        start = row.shape[1] - len(ids)
        found += [float(mixed[start - 1 + place, token]) for place, token in enumerate(ids)]
    return found


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_equals_mixing_the_logits_of_single_responses(path: Path, strength: float) -> None:
    model = adapted().eval()
    extrapolated, reference = score_extrapolated(
        model, partial(disabled_adapter, model), FIXED, strength, path=path, batch_tokens=12
    )
    assert extrapolated.token_logps.tolist() == pytest.approx(naive(model, FIXED, strength), abs=1e-9)
    assert reference.token_logps.tolist() == pytest.approx(naive(model, FIXED, -1.0), abs=1e-9)
    assert not extrapolated.token_logps.requires_grad
    plain = score_responses(model, FIXED)
    assert extrapolated.lengths.equal(plain.lengths)
    assert extrapolated.prompt_index.equal(plain.prompt_index)


def test_masked_tokens_are_left_out_and_dropout_is_off() -> None:
    model = adapted(lora_dropout=0.9).train()
    masks = [[True] * len(ids) for ids in FIXED.response_ids]
    masks[0][1] = masks[3][0] = False
    masked = Responses(FIXED.prompt_ids, FIXED.response_ids, FIXED.prompt_index, masks)
    whole, part = (
        score_extrapolated(model, partial(disabled_adapter, model), one, 0.5)[0] for one in (FIXED, masked)
    )
    kept = torch.tensor([one for mask in masks for one in mask])
    torch.testing.assert_close(part.token_logps, whole.token_logps[kept])
    assert model.training, "the mode is as it was"


def test_another_model_as_reference() -> None:
    model, other = make_model("llama", dtype=torch.float64), make_model("llama", seed=3, dtype=torch.float64)
    extrapolated, reference = score_extrapolated(model, lambda: contextlib.nullcontext(other), FIXED, -1.0)
    torch.testing.assert_close(reference.token_logps, score_responses(other, FIXED).token_logps.detach())
    torch.testing.assert_close(extrapolated.token_logps, reference.token_logps)


def test_log_probabilities_must_not_be_extrapolated_without_normalising() -> None:
    """The trap of the method: logits and log-probabilities differ by what normalising takes off."""
    torch.manual_seed(1)
    logits, frozen = torch.randn(2, 3, 7, dtype=torch.float64)
    mixed = extrapolated_logits(logits, frozen, 0.5).log_softmax(-1)
    assert mixed.exp().sum(-1).tolist() == pytest.approx([1, 1, 1])
    shifted = extrapolated_logits(logits + 5, frozen - 2, 0.5).log_softmax(-1)
    torch.testing.assert_close(shifted, mixed)
    assert not torch.allclose(1.5 * logits.log_softmax(-1) - 0.5 * frozen.log_softmax(-1), mixed, atol=1e-3)
