"""Consistency models: schedules, the loss, sampling, the averages of weights, training that resumes exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coalign.core.errors import ConfigError
from coalign.training.averages import WeightAverage
from coalign.vision.consistency.losses import (
    Preconditioning,
    consistency_losses,
    elementwise_pseudo_huber,
    get_distance,
    pseudo_huber,
    squared_distance,
)
from coalign.vision.consistency.objective import ConsistencyObjective
from coalign.vision.consistency.sampling import consistency_samples, sampled
from coalign.vision.consistency.schedules import (
    Noise,
    doubling_levels,
    lognormal_bins,
    number_of_levels,
    square_root_levels,
    teacher_decay,
)

MODEL = Preconditioning()


@given(st.integers(1, 50), st.integers(0, 11), st.integers(1, 5000))
def test_the_curriculum_never_falls_and_ends_at_the_last_number_of_levels(
    first: int, doublings: int, steps: int
) -> None:
    last = first * 2**doublings
    found = [doubling_levels(step, steps, first, last) for step in range(steps)]
    assert found == sorted(found)
    assert found[0] == first + 1
    assert found[-1] <= last + 1
    if steps > doublings:
        assert found[-1] == last + 1


@given(st.integers(1, 20), st.integers(0, 300), st.integers(1, 2000))
def test_every_curriculum_has_two_levels_at_least(first: int, more: int, steps: int) -> None:
    for kind in ("doubling", "square-root", "constant"):
        for step in {0, steps // 2, steps - 1}:
            assert 2 <= number_of_levels(kind, step, steps, first, first + more) <= first + more + 2
    assert square_root_levels(0, steps, first, first + more) == max(first, 1)


@given(st.floats(-6, 5), st.floats(0.2, 4), st.integers(2, 400))
def test_the_mass_of_noise_levels_is_a_distribution(mean: float, deviation: float, count: int) -> None:
    levels = Noise(mean=mean, deviation=deviation).levels(count)
    assert np.all(levels.probabilities >= 0)
    assert levels.probabilities.sum() == pytest.approx(1)
    assert np.all(np.diff(levels.sigmas) > 0)
    assert levels.place(np.array([0.0, 1.0 - 1e-12, 0.5])).max() <= count - 2


def test_the_tails_of_the_noise_distribution_keep_their_digits() -> None:
    """Far above the mean erf is 1 in every bit; the mass of its bins still falls as the density does."""
    sigmas = np.exp(np.array([9.0, 9.1, 9.2, 9.3]))
    found = lognormal_bins(sigmas, -1.1, 1.0)
    assert np.all(found > 0)
    assert found[1] / found[0] == pytest.approx(math.exp(-(10.25**2 - 10.15**2) / 2), rel=2e-2)


def test_a_distribution_outside_of_the_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="outside of the levels"):
        Noise(mean=300.0, deviation=0.01).assert_inside()


def test_levels_are_drawn_as_often_as_they_should_be() -> None:
    levels = Noise().levels(21)
    drawn = levels.place(np.random.default_rng(0).random(200_000))
    assert np.bincount(drawn, minlength=20) / 200_000 == pytest.approx(levels.probabilities, abs=4e-3)


def test_a_teacher_without_moving_average_has_no_decay() -> None:
    assert teacher_decay(11, 10, 0.0) == 0
    assert ConsistencyObjective(teacher=0.9, teacher_schedule="constant").decay(7, 10) == 0.9
    grown = [ConsistencyObjective(teacher=0.9).decay(step, 100) for step in range(100)]
    assert grown == sorted(grown)


@given(st.integers(1, 40), st.floats(0.001, 50))
def test_the_gradient_of_the_pseudo_huber_distance_is_no_longer_than_one(size: int, scale: float) -> None:
    outputs = (scale * torch.randn(3, size, dtype=torch.float64)).requires_grad_()
    pseudo_huber(outputs, torch.zeros(3, size, dtype=torch.float64)).sum().backward()
    assert outputs.grad is not None
    assert bool((outputs.grad.norm(dim=1) <= 1 + 1e-12).all())


def test_distances_of_equal_outputs_are_nothing_and_have_a_gradient() -> None:
    for name in ("pseudo-huber", "squared"):
        outputs = torch.ones(2, 3, 4, requires_grad=True)
        losses = get_distance(name)(outputs, torch.ones(2, 3, 4))
        losses.sum().backward()
        assert losses.tolist() == [0, 0]
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()


def test_the_elementwise_distance_is_another_loss() -> None:
    """A difference in one of four numbers: the norm is 3, the mean over elements a quarter of it."""
    a, b = torch.tensor([[3.0, 0, 0, 0]]), torch.zeros(1, 4)
    assert float(pseudo_huber(a, b, 1e-9)) == pytest.approx(3)
    assert float(elementwise_pseudo_huber(a, b, 1e-9)) == pytest.approx(0.75)
    assert float(squared_distance(a, b)) == 9


def test_an_own_distance_is_loaded_and_an_unknown_one_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def distance(a, b):\n    return (a - b).abs().flatten(1).amax(1)\n")
    found = get_distance(f"{tmp_path / 'own.py'}:distance")
    assert found(torch.tensor([[1.0, -5.0]]), torch.zeros(1, 2)).tolist() == [5]
    with pytest.raises(ConfigError, match="'lpips' is unknown"):
        get_distance("lpips")


def test_the_smallest_level_leaves_the_data_as_it_is() -> None:
    data = torch.randn(4, 2, 3)
    sigmas = torch.full((4,), MODEL.sigma_min)
    assert torch.equal(MODEL.denoise(lambda x, level: x + 9, data, sigmas), data)


class Dropping(nn.Module):
    """A network of which half of the units are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 256), nn.Dropout(0.5), nn.Linear(256, 2))

    def forward(self, points: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return self.layers(points)


def test_student_and_teacher_see_the_same_dropout_mask() -> None:
    """At equal noise the two passes are then the same; with masks of their own they would differ."""
    torch.manual_seed(0)
    network = Dropping().train()
    data, noise, sigmas = torch.randn(5, 2), torch.randn(5, 2), torch.full((5,), 0.7)
    losses = consistency_losses(MODEL, network, network, data, noise, sigmas, sigmas, torch.ones(5))
    assert losses.tolist() == [0] * 5
    assert not torch.equal(network(data, sigmas), network(data, sigmas))


def test_the_random_numbers_go_on_after_the_teacher_as_without_it() -> None:
    network, sigmas = Dropping().train(), torch.full((5,), 0.7)
    data = torch.randn(5, 2)
    torch.manual_seed(3)
    network(data, sigmas)
    expected = torch.rand(4)
    torch.manual_seed(3)
    consistency_losses(MODEL, network, network, data, data, sigmas, sigmas, torch.ones(5))
    assert torch.equal(torch.rand(4), expected)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = Dropping(), Dropping()
    sigmas = torch.full((5,), 0.7)
    data = torch.randn(5, 2)
    losses = consistency_losses(MODEL, student, teacher, data, data, sigmas, 2 * sigmas, torch.ones(5))
    losses.sum().backward()
    assert all(one.grad is None for one in teacher.parameters())
    assert all(one.grad is not None for one in student.parameters())


def test_the_data_as_denoiser_is_the_direct_form() -> None:
    """One Euler step of the probability flow with the data as denoiser gives x + s z: the two forms are one."""
    data, noise = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    upper, lower = 0.9, 0.4
    noisy = data + upper * noise
    euler = noisy + (lower - upper) * (noisy - data) / upper
    assert torch.allclose(euler, data + lower * noise, rtol=0, atol=1e-12)


def test_half_precision_outputs_are_widened_before_the_loss() -> None:
    sigmas = torch.tensor([40.0, 70.0])
    found = MODEL.denoise(lambda x, level: x.bfloat16(), torch.randn(2, 3), sigmas)
    assert found.dtype == torch.float32


def point_network(point: torch.Tensor) -> Any:
    """The network of the model that always gives `point`."""

    def network(scaled: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        sigmas = (4 * level).exp()
        skip, out, scale = (one[:, None] for one in MODEL.scalings(sigmas))
        return (point - skip * scaled / scale) / out

    return network


def test_a_perfect_model_samples_its_data_in_one_step_and_in_several() -> None:
    point = torch.tensor([0.3, -0.2])
    noises = [torch.randn(6, 2) for _ in range(3)]
    for sigmas in ([80.0], [80.0, 0.8], [80.0, 5.0, 0.3]):
        found = consistency_samples(MODEL, point_network(point), sigmas, noises[: len(sigmas)])
        assert torch.allclose(found, point.expand(6, 2), atol=2e-4)


@pytest.mark.parametrize("sigmas", [[1.0, 2.0], [80.0, 80.0], [80.0, 0.002]])
def test_levels_that_do_not_fall_or_lie_too_low_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match="level"):
        consistency_samples(MODEL, point_network(torch.zeros(2)), sigmas, [torch.zeros(1, 2)] * 2)


def test_samples_do_not_depend_on_their_batches() -> None:
    network = Dropping().eval()
    arguments: Any = {"seed": 5, "device": torch.device("cpu")}
    whole = sampled(MODEL, lambda rows: network, [80.0, 0.8], (2,), 7, batch_size=7, **arguments)
    parts = sampled(MODEL, lambda rows: network, [80.0, 0.8], (2,), 7, batch_size=3, **arguments)
    assert torch.allclose(whole, parts, atol=1e-6)


def test_the_average_of_weights_is_the_recursion_and_is_kept(tmp_path: Path) -> None:
    layer = nn.BatchNorm1d(2)
    average = WeightAverage(layer, 0.9)
    expected = layer.weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            layer.weight.add_(1.0)
            torch.as_tensor(layer.num_batches_tracked).fill_(step)
        average.update(layer)
        expected = 0.9 * expected + 0.1 * layer.weight.detach()
    assert torch.allclose(average.weights["weight"], expected)
    assert int(average.weights["num_batches_tracked"]) == 2
    trained = layer.weight.detach().clone()
    with average.applied(layer):
        assert torch.allclose(layer.weight, expected)
    assert torch.equal(layer.weight, trained)
    average.save(tmp_path / "average.safetensors")
    again = WeightAverage(nn.BatchNorm1d(2), 0.9)
    again.load(tmp_path / "average.safetensors")
    assert torch.equal(again.weights["weight"], average.weights["weight"])


def test_the_average_of_narrow_weights_is_wide() -> None:
    """In bfloat16 a step of 1 - 0.9999 would vanish."""
    layer = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(layer.weight)
    average = WeightAverage(layer, 0.9999)
    nn.init.zeros_(layer.weight)
    average.update(layer)
    assert float(average.weights["weight"]) == pytest.approx(0.9999)
