"""Tiny models behave like Hugging Face models where the engine and the sampler look."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coalign.checks.tiny_models import TinyGRU, sample, seeded, stream, tiny_transformer

MODELS = {
    "gru": lambda: TinyGRU(12, width=16, layers=2),
    "transformer": lambda: tiny_transformer(12, width=16, layers=2, heads=2),
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return seeded(MODELS[request.param], 3).eval()


def test_step_by_step_equals_at_once(model: nn.Module) -> None:
    ids = torch.tensor([[1, 5, 7, 2], [3, 3, 0, 9]])
    whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    past = None
    for place in range(ids.shape[1]):
        output = model(
            input_ids=ids[:, place : place + 1], past_key_values=past, use_cache=True, logits_to_keep=1
        )
        past = output.past_key_values
        torch.testing.assert_close(output.logits[:, -1], whole[:, place], atol=1e-5, rtol=1e-5)


def test_right_padding_changes_nothing_before_it(model: nn.Module) -> None:
    ids = torch.tensor([[1, 5, 7]])
    padded = model(input_ids=torch.tensor([[1, 5, 7, 0, 0]]), use_cache=False).logits[:, :3]
    torch.testing.assert_close(padded, model(input_ids=ids, use_cache=False).logits, atol=1e-6, rtol=1e-5)


def test_samples_follow_the_stream_and_the_model(model: nn.Module) -> None:
    prompts = [[1, 2], [3, 4]]
    first = sample(model, prompts, stream(0, "a"), n=3, max_new_tokens=6, end=5)
    assert first == sample(model, prompts, stream(0, "a"), n=3, max_new_tokens=6, end=5)
    assert first != sample(model, prompts, stream(0, "b"), n=3, max_new_tokens=6, end=5)
    assert [len(row) for row in first] == [3, 3]
    for one in (one for row in first for one in row):
        assert 1 <= len(one) <= 6
        assert 5 not in one[:-1]
        assert len(one) == 6 or one[-1] == 5


def test_samples_have_the_models_distribution() -> None:
    model = seeded(MODELS["gru"], 0).eval()
    drawn = sample(model, [[4]], stream(0, "x"), n=20_000, max_new_tokens=1, temperature=0.5)[0]
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=12) / 20_000
    expected = torch.softmax(model(input_ids=torch.tensor([[4]])).logits[0, 0] / 0.5, dim=-1)
    torch.testing.assert_close(counts, expected.detach(), atol=0.012, rtol=0)


def test_prompts_of_different_length_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        sample(model, [[1], [1, 2]], stream(0, "a"), n=1, max_new_tokens=2)


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = seeded(MODELS["gru"], 1)
    assert torch.equal(torch.rand(1), expected), "the global random state stays as it was"
    two = seeded(MODELS["gru"], 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
