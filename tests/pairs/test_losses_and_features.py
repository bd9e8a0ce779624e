"""Losses over pairs, and the cache of features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from coalign.pairs.encoders import ImageTextEncoder
from coalign.pairs.features import FeatureCache, encoder_identity, image_features, stacked, text_features
from coalign.pairs.losses import contrastive_loss, pairwise_sigmoid_loss
from tests.pairs.tiny import tiny_clip


def drawn(seed: int, rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=draw, dtype=torch.float64), torch.randn(
        rows, 4, generator=draw, dtype=torch.float64
    )


@given(st.integers(0, 1000), st.floats(0.1, 50))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_cross_entropy_both_ways(seed: int, scale: float) -> None:
    image, text = drawn(seed)
    logits, labels = scale * torch.cosine_similarity(image[:, None], text[None], dim=-1), torch.arange(5)
    both = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    assert contrastive_loss(image, text, scale).mean().item() == pytest.approx(both.item())
    eye = torch.eye(5, dtype=torch.bool)
    assert torch.allclose(contrastive_loss(image, text, scale, eye), contrastive_loss(image, text, scale))


def test_pairs_of_one_picture_are_no_negatives_of_each_other() -> None:
    image, text = drawn(0, 3)
    image[1] = image[0]
    text[1] = text[0]
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    losses = contrastive_loss(image, text, 100.0, positives)
    p = (100 * torch.cosine_similarity(image[:, None], text[None], dim=-1)).log_softmax(1)
    assert losses[0].item() == pytest.approx(losses[1].item())
    by_image = -(p[0, 0] + p[0, 1]) / 2
    assert by_image > 0.69  # both cannot have all the probability
    with pytest.raises(ValueError, match="no positive"):
        contrastive_loss(image, text, 1.0, torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="equal shapes"):
        contrastive_loss(image, text[:2], 1.0)


def test_the_sigmoid_loss_is_that_of_siglip() -> None:
    image, text = drawn(3)
    logits = 10 * torch.cosine_similarity(image[:, None], text[None], dim=-1) - 4
    signs = 2 * torch.eye(5, dtype=torch.float64) - 1
    expected = -torch.nn.functional.logsigmoid(signs * logits).sum(1)
    assert torch.allclose(pairwise_sigmoid_loss(image, text, 10.0, -4.0), expected)


def test_features_are_kept_by_content_model_and_processing(tmp_path: Path) -> None:
    encoder = ImageTextEncoder.load(tiny_clip(tmp_path / "a"))
    other = ImageTextEncoder.load(tiny_clip(tmp_path / "b", seed=1))
    identity = encoder_identity(encoder)
    assert identity == encoder_identity(ImageTextEncoder.load(tmp_path / "a")) != encoder_identity(other)
    encoder.processor.image_mean = [0.5] * 3
    assert encoder_identity(encoder) != identity
    encoder.processor.image_mean = [0.0] * 3
    pictures = [np.full((9, 9, 3), value, dtype=np.uint8) for value in (10, 90, 10)]
    cache = FeatureCache(identity, tmp_path / "features")
    calls: list[int] = []
    plain = encoder.image
    encoder.image = lambda pixels: calls.append(len(pixels)) or plain(pixels)  # type: ignore[method-assign]
    first = image_features(encoder, pictures, cache=cache, batch_size=1)
    again = image_features(encoder, [*pictures, pictures[1].copy()], cache=cache)
    assert sum(calls) == 2  # the two that differ, once
    assert torch.equal(stacked(again)[:3], stacked(first))
    assert torch.allclose(stacked(first), stacked(image_features(encoder, pictures)), atol=1e-6)
    found = text_features(encoder, ["a red circle", "a ring"], cache=cache, tokens=True)
    assert [len(one["tokens"]) for one in found] == [5, 4]


def test_what_was_made_before_a_fault_is_kept(tmp_path: Path) -> None:
    cache = FeatureCache("x", tmp_path)

    def make(places: list[int]) -> list[dict[str, torch.Tensor]]:
        if 3 in places:
            raise OSError("the disk is gone")
        return [{"pooled": torch.tensor([float(place)])} for place in places]

    with pytest.raises(OSError, match="gone"):
        cache.filled(list("abcd"), make, batch_size=2, label="x")
    assert sorted(FeatureCache("x", tmp_path).get(list("abcd"))) == ["a", "b"]
    assert FeatureCache("y", tmp_path).get(["a"]) == {}
