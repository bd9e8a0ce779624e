"""Weights in 4 or 8 bits under an adapter (QLoRA, Dettmers et al. 2023), through bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalign.core.extras import require

if TYPE_CHECKING:
    import torch

    from coalign.models.options import ModelOptions


def quantization_arguments(options: ModelOptions, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` for `options.quantization`; none where weights stay as they are.

    `4bit` is NF4 with the blocks' constants quantised too (QLoRA, section 3), products in `dtype`; `8bit` is LLM.int8().
    The output layer keeps its format in both.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    if options.quantization == "none":
        return {}
    require("bitsandbytes", "quantization")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=options.quantization == "4bit",
        load_in_8bit=options.quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


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
    """Whether weights of the model are in 4 or 8 bits: they are on their device already, and none can be merged."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))
