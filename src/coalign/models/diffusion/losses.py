"""The loss of diffusion models: what a network is to predict of noised data, and how much each amount of noise counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


def prediction_of(scheduler: Any) -> Prediction:
    """What networks under a scheduler of diffusers predict.

    Raises:
        ModelError: something else, or a scheduler without a table of cumulative products (flow matching).
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample") or not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"A {type(scheduler).__name__} with prediction {kind!r} is not trained here, expected a scheduler of "
            "Gaussian diffusion that predicts epsilon, v_prediction or sample."
        )
    return kind


def signal_to_noise(products: Tensor, steps: Tensor) -> Tensor:
    """[B] `a / (1 - a)` at the time steps [B], a the cumulative product of the alphas [T]."""
    kept = products.to(steps.device)[steps]
    return kept / (1 - kept)


def noised(products: Tensor, data: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """[B, ...] `sqrt(a) x + sqrt(1 - a) e` (DDPM, equation 4), in the format of `data`."""
    signal, spread = _roots(products, data, steps)
    return signal * data + spread * noise


def target(prediction: Prediction, products: Tensor, data: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """[B, ...] what the network is to predict: e, `sqrt(a) e - sqrt(1 - a) x` (Salimans & Ho 2022), or x."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return data
    signal, spread = _roots(products, data, steps)
    return signal * noise - spread * data


def min_snr_weights(prediction: Prediction, ratios: Tensor, gamma: float) -> Tensor:
    """[B] weights of the squared error: `min(SNR, g)` on the data, as each prediction sees it (Hang et al. 2023).

    `min(SNR, g) / SNR` for epsilon, 1 where the signal is nothing; `min(SNR, g)` for sample; for v_prediction, whose error
    is (SNR + 1) times that of the data, `min(SNR + 1, g) / (SNR + 1)`, as diffusers' examples have it.

    Args:
        ratios: [B] signal-to-noise ratios.
    """
    if prediction == "sample":
        return ratios.clamp(max=gamma)
    ratios = ratios + 1 if prediction == "v_prediction" else ratios
    return (gamma / ratios.clamp(min=torch.finfo(ratios.dtype).tiny)).clamp(max=1)


def diffusion_losses(
    predicted: Tensor,
    data: Tensor,
    noise: Tensor,
    steps: Tensor,
    products: Tensor,
    prediction: Prediction,
    *,
    gamma: float | None = None,
) -> Tensor:
    """[B] squared errors, the mean over all elements of a sample, in float32 at least.

    Args:
        predicted, data, noise: [B, ...]; data are latents, or pixels of a model without them.
        steps: [B] time steps.
        products: [T] cumulative products of the alphas.
        gamma: of the min-SNR weights; none by default.
    """
    wanted = target(prediction, products, data, noise, steps)
    errors = (predicted.float() - wanted.float()) if predicted.dtype.itemsize < 4 else predicted - wanted
    losses = errors.square().flatten(1).mean(1)
    if gamma is None:
        return losses
    return losses * min_snr_weights(prediction, signal_to_noise(products, steps), gamma).to(losses)


def _roots(products: Tensor, data: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    kept = products.to(device=data.device, dtype=data.dtype)[steps].reshape(-1, *[1] * (data.ndim - 1))
    return kept.sqrt(), (1 - kept).sqrt()
