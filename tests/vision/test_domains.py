"""Styles inside classifiers, learned consistency, streams: what they keep, whatever the network."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coalign.core.errors import DataError, ModelError
from coalign.vision.domains.classifier import BlockClassifier, adaptive_maps, assert_mixable
from coalign.vision.domains.draws import Draw, draw_views
from coalign.vision.domains.files import Adaptable
from coalign.vision.domains.options import ConsistencyOptions
from coalign.vision.domains.pictures import augmented, in_batches, read_pictures, split_domains
from coalign.vision.domains.stream import StreamClassifier, StreamSettings, style_bank
from coalign.vision.domains.styles import Style, alignment_penalty, elementwise, mix_styles, style_of
from coalign.vision.domains.training import BalancedShuffle, Consistency
from tests.vision.pictures import domain_pictures

seeds = st.integers(0, 10_000)


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds, st.sampled_from([(3, 4, 5, 2), (3, 7, 4)]))
@settings(max_examples=15, deadline=None)
def test_a_map_takes_the_other_style_as_far_as_its_share_says(seed: int, shape: tuple[int, ...]) -> None:
    own = maps(seed, *shape)
    others = Style(maps(seed + 1, 3, 4), maps(seed + 2, 3, 4).abs() + 0.1)
    torch.testing.assert_close(mix_styles(own, others, torch.ones(3)), own)
    taken = style_of(mix_styles(own, others, torch.zeros(3)), eps=0.0)
    torch.testing.assert_close(taken.mean, others.mean)
    torch.testing.assert_close(taken.deviation, others.deviation, rtol=1e-3, atol=1e-4)
    alone = own[:1]
    torch.testing.assert_close(mix_styles(alone, style_of(alone), torch.tensor([0.3])), alone)


def test_a_map_of_one_cell_has_no_style() -> None:
    with pytest.raises(ValueError, match=r"\[4, 1, 1\] has one cell"):
        style_of(torch.ones(2, 4, 1, 1))


@given(seeds, st.floats(1e-6, 1e6))
@settings(max_examples=15, deadline=None)
def test_alignment_looks_at_directions_alone(seed: int, scale: float) -> None:
    one, other = [maps(seed, 3, 2), maps(seed + 1, 4)], [maps(seed + 2, 3, 2), maps(seed + 3, 4)]
    found = alignment_penalty(one, other)
    torch.testing.assert_close(alignment_penalty([scale * g for g in one], other), found)
    correlation = torch.stack([torch.cat([g.flatten() for g in both]) for both in (one, other)]).corrcoef()[
        0, 1
    ]
    assert float(found) == pytest.approx(0.1 * 2 * float(1 - correlation) * 9 / 10)
    constant = alignment_penalty([torch.zeros(3), torch.zeros(2)], [torch.ones(3), torch.ones(2)])
    assert float(constant) == 0


def test_layers_change_nothing_at_the_start() -> None:
    values = maps(0, 2, 3, 4)
    ones, zeros = torch.ones(5, 3, 4), torch.zeros(5, 3, 4)
    assert torch.equal(elementwise(values, ones, zeros, rectified=False), values)
    assert torch.equal(elementwise(values, ones, zeros), values.relu())


def networks() -> dict[str, Any]:
    import transformers

    hf: Any = transformers
    plain = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    }
    eager = {"num_labels": 3, "attn_implementation": "eager"}
    configs = {
        "resnet": hf.ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", num_labels=3),
        "convnext": hf.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_labels=3, drop_path_rate=0.0),
        "swin": hf.SwinConfig(
            image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, num_labels=3,
            drop_path_rate=0.0,
        ),
        "vit": hf.ViTConfig(num_hidden_layers=6, **eager, **plain),
        "clip": hf.CLIPConfig(vision_config={**plain, "num_hidden_layers": 4}, **eager),
    }  # fmt: skip
    return {
        name: lambda one=one: hf.AutoModelForImageClassification.from_config(one)
        for name, one in configs.items()
    }


def classifier(name: str = "resnet") -> BlockClassifier:
    torch.manual_seed(0)
    return BlockClassifier(networks()[name]()).eval()


PIXELS = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet", "convnext", "swin", "vit", "clip"])
def test_any_image_classifier_is_blocks(name: str) -> None:
    one = classifier(name)
    features, logits = one(PIXELS)
    with torch.no_grad():
        torch.testing.assert_close(one.network(PIXELS).logits, logits)
    assert one.blocks == (2 if name == "swin" else 4)
    draw = Draw(1, np.array([1, 2, 3, 0]), np.array([0.0, 0.1, 0.2, 1.0]))
    both, _ = one(PIXELS, draw)
    torch.testing.assert_close(both[:4], features)
    gaps = (both[4:] - features).abs().amax(-1)
    assert gaps[:3].min() > 1e-6
    assert gaps[3] < 1e-5, "all of its own style"
    mapped, _ = one(PIXELS, draw, maps=adaptive_maps(one, PIXELS, 5))
    torch.testing.assert_close(mapped[:4], features)  # a view's cells can be negative, which ReLUs cut off
    options = ConsistencyOptions(consistency_layers=3)
    consistency = Consistency(options, features.shape[-1], learning_rate=1e-3, seed=0)
    before = {key: value.clone() for key, value in one.state_dict().items()}
    penalty = consistency.align(one.train(), PIXELS, torch.tensor([0, 1, 2, 0]), 0)
    assert 0 < float(penalty) < 0.4
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())
    assert not torch.equal(consistency.layers.biases, torch.zeros_like(consistency.layers.biases))


def test_the_layers_follow_the_derivative_of_the_penalty() -> None:
    """The step's gradient is of second order: against differences of first-order gradients."""
    one = classifier("convnext").double()
    pixels, labels = PIXELS.double(), torch.tensor([0, 1, 2, 0])
    consistency = Consistency(ConsistencyOptions(consistency_layers=2), 8, learning_rate=1e-3, seed=3)
    layers = consistency.layers.double()
    with torch.no_grad():
        layers.biases.add_(0.3 * maps(5, 2, 8))
        layers.weights.add_(0.3 * maps(6, 2, 8))
    parameters = list(one.extractor().values())

    def gradient(which: int) -> torch.Tensor:
        losses: Any = consistency.losses(one, pixels, labels, 7)[which]
        found = torch.autograd.grad(losses.mean(), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([value.flatten() for value in found])

    main, own = gradient(0), gradient(1)
    used = (main != 0) | (own != 0)
    main, own = main[used], own[used]
    push = 0.2 * ((own - own.mean()) / own.std() - (main - main.mean()) / main.std()) / own.std() / len(own)
    entry = layers.weights.data[0]
    slopes = []
    for place in range(8):
        ends = []
        for step in (1e-6, -1e-6):
            entry[place] += step
            ends.append(gradient(1)[used])
            entry[place] -= step
        slopes.append(float(push @ (ends[0] - ends[1])) / 2e-6)
    kept: list[torch.Tensor] = []

    class Keeping:
        def step(self) -> None:
            kept.extend(value.grad.clone() for value in layers.parameters() if value.grad is not None)

        def zero_grad(self) -> None: ...

    consistency.optimizer = Keeping()  # type: ignore[assignment]
    consistency.align(one, pixels, labels, 7)
    assert kept[0][0].tolist() == pytest.approx(slopes, rel=1e-3, abs=1e-7)


def test_batch_normalisation_keeps_its_statistics() -> None:
    one = classifier().train()
    before = {key: value.clone() for key, value in one.named_buffers()}
    one(PIXELS)
    assert before
    assert all(torch.equal(value, before[key]) for key, value in one.named_buffers())


def test_a_network_without_blocks_or_head_is_refused() -> None:
    with pytest.raises(ModelError, match="no head called `classifier`"):
        BlockClassifier(nn.Linear(2, 2))
    bare = nn.Sequential(nn.Linear(2, 2))
    bare.classifier = nn.Linear(2, 2)  # type: ignore[assignment]
    with pytest.raises(ModelError, match="no list of stages"):
        BlockClassifier(bare)
    with pytest.raises(ModelError, match="8 x 8 pixels are too small"):
        assert_mixable(classifier(), PIXELS[:, :, :8, :8])


def adaptable(name: str = "resnet") -> Adaptable:
    one = classifier(name)
    features, _ = one(PIXELS)
    consistency = Consistency(ConsistencyOptions(), features.shape[-1], learning_rate=1e-3, seed=0)
    with torch.no_grad():
        consistency.layers.biases.add_(0.1)
    return Adaptable(one, None, ["a", "b", "c"], consistency.layers, style_bank(one, [PIXELS]))


@pytest.mark.parametrize("adapted", ["maps", "extractor"])
def test_a_stream_leaves_what_it_starts_from_as_it_was(adapted: str) -> None:
    start = adaptable()
    before = copy.deepcopy(start.classifier.state_dict())
    plain = start.classifier(PIXELS)[1].softmax(-1)
    stream = StreamClassifier(start, StreamSettings(adapted=adapted), PIXELS)
    torch.testing.assert_close(stream.probabilities(PIXELS), plain)
    told = [stream.adapt(PIXELS, number) for number in range(3)]
    assert all(one is not None and 0 < one.moved <= 3.1e-3 for one in told)
    assert not torch.equal(stream.probabilities(PIXELS), plain)
    assert all(torch.equal(value, before[key]) for key, value in start.classifier.state_dict().items())
    again = StreamClassifier(start, StreamSettings(adapted=adapted), PIXELS)
    again.load(copy.deepcopy(stream.state()))
    assert stream.adapt(PIXELS, 9) == again.adapt(PIXELS, 9)


def test_the_released_step_moves_nothing_and_a_bank_or_a_batch_does() -> None:
    start = adaptable()
    released = StreamSettings(styles="released", test_rate=5e-6, test_weight=1e-6)
    for settings_, pixels, moves in (
        (released, PIXELS[:1], False),
        (StreamSettings(), PIXELS[:1], True),
        (StreamSettings(styles="batch"), PIXELS, True),
    ):
        found = StreamClassifier(start, settings_, PIXELS).adapt(pixels, 0)
        assert found is not None
        assert (found.moved > 1e-5) is moves
    assert StreamClassifier(start, StreamSettings(styles="batch"), PIXELS).adapt(PIXELS[:1], 0) is None


def test_domains_take_turns() -> None:
    domains = [0] * 7 + [1] * 3 + [2] * 5
    order = BalancedShuffle(domains, 4)
    drawn = [key % 15 for key in order]
    assert [domains[one] for one in drawn] == [0, 1, 2] * 7
    assert Counter(one for one in drawn if domains[one] == 0) == Counter(range(7))
    assert min(Counter(one for one in drawn if domains[one] == 1).values()) == 2
    order.set_epoch(1)
    assert list(order) != drawn
    assert len(order) == len(drawn)


def test_views_depend_on_their_stream_alone() -> None:
    first, again, other = draw_views(6, 1, 2), draw_views(6, 1, 2), draw_views(6, 1, 3)
    assert (first.rows == again.rows).all()
    assert (first.shares == again.shares).all()
    assert (first.shares != other.shares).any()
    assert max(draw_views(50, 0, styles=3).rows) < 3


def test_pictures_are_read_from_folders_and_records(tmp_path: Path) -> None:
    rows = domain_pictures(tmp_path / "set", 3)
    found = read_pictures(str(tmp_path / "set"), labelled=True)
    assert [(one.label, one.domain) for one in found.pictures] == [
        (row["label"], row["domain"]) for row in rows
    ]
    training, held_out = split_domains(found.pictures, 0.2, 0)
    assert Counter(one.domain for one in held_out) == {"bright": 1, "dark": 1}
    assert len(training) + len(held_out) == len(rows)
    broken = tmp_path / "set" / "dark" / "wide" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 of 12 pictures cannot be used(.|\n)*dark/wide/1.png"):
        read_pictures(str(tmp_path / "set"), labelled=True)
    left = read_pictures(str(tmp_path / "set"), labelled=True, on_bad_record="skip")
    assert len(left.pictures) == 11
    assert "1 records were left out" in left.notes[-1]
    with pytest.raises(DataError, match="domain: missing, expected its domain"):
        read_pictures(str(tmp_path / "set" / "bright"), labelled=True)
    stream = read_pictures(str(tmp_path / "set" / "bright" / "wide"), labelled=False)
    assert [(one.label, one.domain) for one in stream.pictures] == [(None, "")] * 3


def test_a_picture_changes_at_random_in_its_own_way() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    first, again, other = (
        np.asarray(augmented(Image.fromarray(pixels), np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert first.shape == (20, 20, 3)
    assert (first == again).all()
    assert (first != other).any()


def test_the_order_of_a_stream() -> None:
    pictures: list[Any] = list(range(7))
    assert in_batches(pictures, 3, None) == [(0, 1, 2), (3, 4, 5), (6,)]
    shuffled = in_batches(pictures, 3, 1)
    assert {*itertools.chain(*shuffled)} == {*pictures}
    assert shuffled == in_batches(pictures, 3, 1) != in_batches(pictures, 3, None)
