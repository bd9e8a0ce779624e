"""Diffusion models: the loss and its weights, samplers that leave no noise, files, pictures of their own random streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ModelError
from coalign.models.diffusion.files import load_pipeline, save_pipeline
from coalign.models.diffusion.losses import (
    diffusion_losses,
    min_snr_weights,
    noised,
    prediction_of,
    signal_to_noise,
    target,
)
from coalign.models.diffusion.sampling import pictures_of
from coalign.models.diffusion.schedulers import sampling_scheduler
from coalign.models.diffusion.text_to_image import latents_of, sample_latents, text_to_image_of, tokens_of
from tests.vision.diffusion_models import tiny_pipeline

diffusers = pytest.importorskip("diffusers")
PRODUCTS = torch.linspace(0.999, 0.01, 50, dtype=torch.float64)
KINDS = ("epsilon", "v_prediction", "sample")


def scheduler(kind: str = "DDIMScheduler", **changes: Any) -> Any:
    return getattr(diffusers, kind)(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False, **changes
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_noised_data_and_the_target_are_those_of_the_scheduler(kind: Any) -> None:
    """diffusers' own `add_noise` and `get_velocity` say the same."""
    ours = scheduler("DDPMScheduler", prediction_type=kind)
    data, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    steps = torch.tensor([0, 50, 99])
    assert torch.allclose(noised(ours.alphas_cumprod, data, noise, steps), ours.add_noise(data, noise, steps))
    found = target(prediction_of(ours), ours.alphas_cumprod, data, noise, steps)
    expected = {"epsilon": noise, "sample": data, "v_prediction": ours.get_velocity(data, noise, steps)}[kind]
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_every_prediction_weighs_the_data_alike(kind: Any) -> None:
    """With min-SNR weights an error of the data costs min(SNR, g) of its square (min(SNR + 1, g) for v), whatever is predicted."""
    steps = torch.arange(1, 49)
    data, noise = torch.randn(48, 5, dtype=torch.float64), torch.randn(48, 5, dtype=torch.float64)
    off = data + 0.01 * torch.randn(48, 5, dtype=torch.float64)
    noisy = noised(PRODUCTS, data, noise, steps)
    kept = PRODUCTS[steps][:, None]
    implied = (noisy - kept.sqrt() * off) / (1 - kept).sqrt()
    predicted = target(kind, PRODUCTS, off, implied, steps)
    found = diffusion_losses(predicted, data, noise, steps, PRODUCTS, kind, gamma=5.0)
    ratios = signal_to_noise(PRODUCTS, steps)
    weights = (ratios + 1 if kind == "v_prediction" else ratios).clamp(max=5.0)
    assert torch.allclose(found, weights * (off - data).square().mean(1), rtol=1e-9)


@given(st.floats(0, 1e6), st.floats(0.1, 20))
def test_weights_are_finite_also_without_signal(ratio: float, gamma: float) -> None:
    for kind in KINDS:
        weight = float(min_snr_weights(kind, torch.tensor([ratio], dtype=torch.float64), gamma))
        assert 0 <= weight <= max(gamma, 1)
    assert float(min_snr_weights("epsilon", torch.zeros(1), gamma)) == 1


def test_half_precision_predictions_are_compared_in_float32() -> None:
    data = torch.zeros(2, 3)
    losses = diffusion_losses(data.half(), data, data, torch.tensor([1, 2]), PRODUCTS.float(), "epsilon")
    assert losses.dtype == torch.float32


def test_a_scheduler_that_is_not_of_gaussian_diffusion_is_refused() -> None:
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler"):
        prediction_of(diffusers.FlowMatchEulerDiscreteScheduler())


def spread(one: Any, steps: int, deviation: float = 0.05) -> float:
    """Deviation of the samples of a network that knows its data, numbers of this deviation, over that of the data."""
    products = one.alphas_cumprod

    def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        kept = products[times][:, None]
        return noisy * (1 - kept).sqrt() / (kept * deviation**2 + 1 - kept)

    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    return float(sample_latents(predict, one, noise, steps).std()) / deviation


@pytest.mark.parametrize("steps", [5, 10])
def test_ddim_with_linspace_spacing_leaves_no_noise(steps: int) -> None:
    """diffusers 0.42.1: the step back does not meet the next time step, so the samples are noisier than the data."""
    given = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="linspace",
    )
    assert spread(given, steps) > 1.5
    ours = sampling_scheduler(given)
    assert ours.config.timestep_spacing == "trailing"
    assert spread(ours, steps) < 1
    assert given.config.timestep_spacing == "linspace"


def test_other_schedulers_are_kept_or_made_of_the_same_noise_schedule() -> None:
    leading = scheduler(timestep_spacing="leading")
    assert sampling_scheduler(leading) is leading
    for name in ("ddim", "ddpm", "dpm-solver", "euler", "euler-ancestral", "unipc"):
        made = sampling_scheduler(leading, name)  # type: ignore[arg-type]
        assert made.config.beta_schedule == "squaredcos_cap_v2"
        assert made.config.timestep_spacing == "trailing"


def test_a_picture_does_not_depend_on_how_many_are_made() -> None:
    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    three = pictures_of(pipeline, "a cat left of a cup", 3, seed=4, steps=2, sampler="ddim")
    one = pictures_of(pipeline, "a cat left of a cup", 1, seed=4, steps=2, sampler="ddim")
    assert three[0].tobytes() == one[0].tobytes()
    assert three[1].tobytes() != three[0].tobytes()
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"


def test_captions_that_are_cut_are_told() -> None:
    tokenizer = tiny_pipeline().tokenizer
    ids, cut = tokens_of(tokenizer, ["a cat", "a cat " * 20])
    assert ids.shape == (2, 16)
    assert cut == [False, True]


def test_latents_are_drawn_and_scaled_as_the_autoencoder_says() -> None:
    vae = tiny_pipeline().vae
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    mean = latents_of(vae, pixels, lambda shape: torch.zeros(shape))
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    assert torch.allclose(mean, expected)
    assert latents_of(None, pixels, lambda shape: torch.zeros(shape)) is pixels


def test_a_pipeline_is_saved_whole_and_read_back(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    save_pipeline(pipeline, tmp_path / "model")
    again = load_pipeline(str(tmp_path / "model"), device="cpu", parts=("unet", "vae"))
    assert torch.equal(again.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    with pytest.raises(ModelError, match="without image_encoder"):
        load_pipeline(str(tmp_path / "model"), device="cpu", parts=("image_encoder",))
    (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no pipeline"):
        load_pipeline(str(tmp_path / "model"), device="cpu")


def test_a_model_that_asks_for_more_than_one_text_is_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(ModelError, match="more than one text encoder"):
        text_to_image_of(pipeline, "xl")
