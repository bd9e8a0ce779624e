from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PretrainedConfig

from coalign.models.generation.first_token import first_token_view

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40,
}  # fmt: skip


def config(kind: str, **changes: Any) -> PretrainedConfig:
    return AutoConfig.for_model(kind, **{**SIZES, **changes})


def scaled(model: Any) -> Any:
    """Larger weights, so that what attention sees matters."""
    with torch.no_grad():
        for one in model.parameters():
            if one.ndim > 1:
                one.mul_(5)
    return model.eval()


def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 9:], mask[1, 4:] = 0, 0
    return {"input_ids": ids.where(mask == 1, 1), "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert", "electra"])
def test_the_first_token_comes_out_as_of_the_whole_layer(kind: str, attention: str) -> None:
    torch.manual_seed(0)
    model = scaled(
        AutoModelForSequenceClassification.from_config(config(kind), attn_implementation=attention)
    )
    before = copy.deepcopy(model.state_dict())
    view: Any = first_token_view(model)
    assert view is not None
    for inputs in (batch(), {**batch(), "attention_mask": torch.ones(3, 12, dtype=torch.long)}):
        with torch.no_grad():
            expected, found = model(**inputs).logits, view(**inputs).logits
            base = getattr(view, view.base_model_prefix)(**inputs).last_hidden_state
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert base.shape == (3, 1, 16)
    assert (expected.amax(0) - expected.amin(0)).max() > 0.01, (
        "the rows differ, so the comparison says something"
    )
    assert model.state_dict().keys() == before.keys(), "the model is as it was"


def test_the_view_shares_weights_and_gradients() -> None:
    torch.manual_seed(0)
    model = scaled(AutoModel.from_config(config("roberta")))
    view: Any = first_token_view(model)
    assert view is not None
    inputs = batch()
    view(**inputs).last_hidden_state[:, 0].square().sum().backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    model(**inputs).last_hidden_state[:, 0].square().sum().backward()
    for name, one in found.items():
        torch.testing.assert_close(one, dict(model.named_parameters())[name].grad, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(-1)
        torch.testing.assert_close(view(**inputs).pooler_output, model(**inputs).pooler_output)


@pytest.mark.parametrize(
    "made",
    [
        AutoConfig.for_model("distilbert", dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=40),
        config("deberta-v2"),
        config("mpnet"),
        config("bert", is_decoder=True),
    ],
    ids=lambda one: one.model_type,
)
def test_other_architectures_decoders_and_two_encoders_have_no_view(made: PretrainedConfig) -> None:
    assert first_token_view(AutoModel.from_config(made)) is None
    one, other = (AutoModel.from_config(config("bert")) for _ in range(2))
    assert first_token_view(nn.ModuleList([one, other])) is None
