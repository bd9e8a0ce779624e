"""NEFTune: noise of the right size on the tokens that are trained on, and nowhere else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from coalign.core.errors import ConfigError
from coalign.models.scoring.embedding_noise import embedding_noise, sequence_lengths
from coalign.models.scoring.engine import score_responses
from coalign.models.scoring.shared_prefix import Layout
from coalign.models.types import Responses
from tests.models.tiny import make_model

RESPONSES = Responses([[5, 6, 7], [8, 9]], [[10, 11], [12], [13, 14, 15, 16]], [0, 0, 1])


def embedded(model: nn.Module, **inputs: Any) -> torch.Tensor:
    """[B, T, d] what goes into the first layer."""
    seen = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))  # type: ignore[union-attr]
    model(**inputs)
    handle.remove()
    return seen[0].detach()


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_noise_is_uniform_and_as_large_as_the_sequence_says(alpha: float) -> None:
    model = make_model("llama").train()
    ids = torch.randint(3, 20, (40, 30))
    mask = torch.ones_like(ids)
    mask[20:, 10:] = 0  # rows of 10 tokens with padding
    plain = embedded(model, input_ids=ids, attention_mask=mask)
    with embedding_noise(model, alpha):
        noise = embedded(model, input_ids=ids, attention_mask=mask) - plain
    width = plain.shape[-1]
    for rows, length in ((noise[:20], 30), (noise[20:, :10], 10)):
        reach = alpha / math.sqrt(length * width)
        assert rows.abs().max() <= reach * 1.0001
        assert rows.abs().max() > 0.98 * reach
        assert rows.std() == pytest.approx(reach / math.sqrt(3), rel=0.05)
        assert abs(rows.mean()) < 0.05 * reach


def test_a_packed_row_has_the_noise_of_its_own_sequences() -> None:
    layout = Layout([(0, 3), (3, 10)], torch.zeros(10, dtype=torch.long))
    assert sequence_lengths((1, 10), layout).tolist() == [[3] * 3 + [7] * 7]
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert sequence_lengths((2, 3), None, mask).tolist() == [[2] * 3, [1] * 3]
    assert sequence_lengths((2, 3)).tolist() == [[3] * 3] * 2


@pytest.mark.parametrize("path", ["packed", "padded"])
def test_scores_move_in_training_alone(path: Any) -> None:
    model = make_model("llama")
    plain = score_responses(model.eval(), RESPONSES, path=path).token_logps
    with embedding_noise(model, 5.0):
        assert torch.equal(score_responses(model.eval(), RESPONSES, path=path).token_logps, plain)
        moved = score_responses(model.train(), RESPONSES, path=path).token_logps
    assert not torch.allclose(moved, plain, atol=1e-4)
    assert torch.allclose(score_responses(model.train(), RESPONSES, path=path).token_logps, plain, atol=1e-6)


def test_without_alpha_nothing_is_hooked() -> None:
    model: Any = make_model("llama")
    with embedding_noise(model, None):
        assert not model.get_input_embeddings()._forward_hooks


def test_a_model_without_tokens_refuses_it() -> None:
    with (
        pytest.raises(ConfigError, match="neftune_noise_alpha has no effect on a Linear"),
        embedding_noise(nn.Linear(2, 2), 5.0),
    ):
        pass
