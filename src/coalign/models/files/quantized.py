"""Weights in 4 or 8 bits under an adapter (QLoRA, Dettmers et al. 2023), through bitsandbytes or torchao."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from coalign.core.extras import require

if TYPE_CHECKING:
    import torch

    from coalign.models.options import ModelOptions

TORCHAO = ("int8_weight_only", "float8_weight_only")
"""Kinds of `ModelOptions.quantization` that are torchao's; the others are bitsandbytes'."""


def quantization_arguments(options: ModelOptions, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` for `options.quantization`; none where weights stay as they are.

    `4bit` is NF4 with the blocks' constants quantised too (QLoRA, section 3), products in `dtype`; `8bit` is LLM.int8().
    torchao's kinds hold a byte a weight and one scale a row; products are in `dtype`, of activations as they are. The output
    layer keeps its format in all.

    Raises:
        MissingExtraError: the library is not installed.
    """
    if options.quantization == "none":
        return {}
    found = _torchao if options.quantization in TORCHAO else _bitsandbytes
    return {"quantization_config": found(options.quantization, dtype), "device_map": {"": device}}


def _bitsandbytes(kind: str, dtype: torch.dtype) -> Any:
    require("bitsandbytes", "quantization")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=kind == "4bit",
        load_in_8bit=kind == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _torchao(kind: str, dtype: torch.dtype) -> Any:
    require("torchao", "torchao")
    from torchao.quantization import (  # pyright: ignore[reportMissingImports]
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
    )
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8_weight_only" else Float8WeightOnlyConfig())


def keep_gradients(model: Any) -> None:
    """Keep weights of 4 bits in the layout that they were loaded in.

    bitsandbytes (seen in 0.50.2) lays them out anew for CPUs with AVX512-BF16 when a layer is first called in evaluation
    mode without gradients; from then on no gradient passes through the layer, and what dequantises the weights (DoRA,
    merging) gets others.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def is_quantized(model: Any) -> bool:
    """Whether weights of the model are in few bits: they are on their device already, and none can be merged."""
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        return True
    return any(is_packed(one) for one in model.parameters())


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight is torchao's, which calls itself a float of full size and can only be multiplied with."""
    return type(weight).__module__.startswith("torchao.")


def stored_parts(weight: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a weight is kept as: itself, or torchao's numbers and their scales."""
    return [cast(Any, weight).qdata, cast(Any, weight).scale] if is_packed(weight) else [weight]
