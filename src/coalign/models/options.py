"""Options of every system that loads a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from coalign.core.options import Count, Fraction, OptionGroup, Positive, option

AdapterKind = Literal["lora", "rslora", "dora", "loha", "lokr", "ia3", "vera", "oft", "hra"]
Quantization = Literal["none", "4bit", "8bit", "int8_weight_only", "float8_weight_only"]
AdapterInit = Literal["zero", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"]

TAKES_OUT = ("pissa", "pissa_niter_16", "olora")
"""Beginnings that take a part out of each weight."""

LORA_KINDS = ("lora", "rslora", "dora")
READ_BY: dict[str, tuple[str, ...]] = {
    "adapter_init": LORA_KINDS,
    "adapter_rank": (*LORA_KINDS, "loha", "lokr", "vera", "oft", "hra"),
    "adapter_alpha": (*LORA_KINDS, "loha", "lokr"),
    "adapter_dropout": (*LORA_KINDS, "vera"),
}
"""Options of an adapter to the kinds that read them."""
_VIRTUAL = "it puts virtual tokens before a text, which rows that share a prompt have no place for"
_ROUTED = "it chooses among adapters by the input and has no one weight to merge or to serve"
REFUSED_KINDS = {
    "adalora": "its ranks follow a schedule with a loss of its own beside the objective, which would be another objective",
    **dict.fromkeys(
        ("prompt-tuning", "prefix-tuning", "p-tuning", "multitask-prompt-tuning", "cpt"), _VIRTUAL
    ),
    **dict.fromkeys(("xlora", "poly"), _ROUTED),
    "adaption-prompt": "it changes attention itself, which scoring and decoding compute without it",
    "trainable-tokens": "it changes the embeddings, which adapters leave alone here",
}
"""Kinds of peft that are not offered, and why."""
_FLOW = "it rounds activations too, and no gradient passes through that to the layers below"
REFUSED_QUANTIZATION = {
    "int4_weight_only": "torchao makes these on a GPU alone, and peft puts no adapter on them; take 4bit",
    "intx_weight_only": "torchao keeps each in a byte, which int8_weight_only does with a smaller error",
    "int8_dynamic_activation_int8_weight": _FLOW,
    "int8_dynamic_activation_intx_weight": _FLOW,
    "float8_dynamic_activation_float8_weight": _FLOW,
    "float8_dynamic_activation_int4_weight": _FLOW,
}
"""Kinds of torchao that are not offered, and why."""
WHOLE_WEIGHTS = {"4bit": ("hra", "loha", "lokr")}
"""Kinds of adapters that peft 0.21 gets wrong over quantised weights: of hra over all, of others over these alone."""
WEIGHTS_IN_FEW_BITS = (
    "weights that are not trained in 4 bits (NF4, as QLoRA has them) or 8 (LLM.int8()) by bitsandbytes, or in 8 as whole "
    "numbers or floats by torchao"
)


@dataclass(kw_only=True)
class ModelOptions(OptionGroup):
    """Which model, on what, and how much of it is trained."""

    __group__ = "Model"

    model: str = option(
        "default", "`default` (SmolLM2-135M-Instruct), a hub id, a model folder or a run folder"
    )
    revision: str | None = option(None, "branch, tag or commit on the hub")
    tuning: Literal["auto", "lora", "full"] = option(
        "auto",
        "train an adapter or all weights; auto: all where they fit comfortably on the GPU and no adapter option is set, else an adapter",
    )
    adapter_kind: AdapterKind = option(
        "lora",
        "how an adapter changes a weight: a page on training options has them in a table",
        source="LoRA, arXiv 2106.09685",
        refused=REFUSED_KINDS,
    )
    adapter_init: AdapterInit = option(
        "zero",
        "how LoRA's matrices begin: A drawn and B zero; both drawn (orthogonal); or with the weight's own largest part "
        "(pissa by SVD, pissa_niter_16 by a quick one, olora by QR), which is taken out of the weight",
        source="LoRA, PiSSA (arXiv 2404.02948), OLoRA (2406.01775)",
    )
    adapter_rank: Count = option(
        16,
        "rank r of the adapter; of oft the size of a block",
        source="LoRA paper, section 7.2; peft examples",
    )
    adapter_alpha: Positive = option(
        32.0, "the adapter's output is scaled by alpha / r", source="common practice: 2 r"
    )
    adapter_dropout: Fraction = option(0.0, "dropout on the adapter's input")
    adapter_targets: list[str] = option(
        ["all-linear"],
        "modules that get an adapter, by name; all-linear: every one but the head (of ia3 those that peft takes)",
        source="QLoRA paper",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "number format of the weights; auto: bfloat16 on CUDA, float32 elsewhere and for trained weights, whose products "
        "are bfloat16 on CUDA",
    )
    quantization: Quantization = option(
        "none", WEIGHTS_IN_FEW_BITS, source="QLoRA paper, section 3", refused=REFUSED_QUANTIZATION
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "number format in which a whole model is saved; auto: that of the model it was trained from. Adapters are float32",
    )
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = option(
        "auto",
        "attention kernel; auto: what Transformers chooses for the model. Scoring shares prompts over SDPA whatever is "
        "chosen, on CUDA over FlexAttention where flex_attention is",
    )
    chat_template: str | None = option(
        None,
        "another chat template, saved with what is trained: a Jinja file, one of the tokenizer's own by name, or "
        "alpaca, chatml, gemma, llama-3, zephyr; tools: its own with a place for tools before it, NAME+tools another's",
    )
    trust_remote_code: bool = option(False, "run Python code that the model's repository brings")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuning == "full":
            if self.quantization != "none":
                raise ValueError(
                    f"quantization: {self.quantization} leaves nothing to train with tuning: full"
                )
            self.refuse(ADAPTER, "with tuning: full", advice="leave it out or use tuning: lora")
        for name, kinds in READ_BY.items():
            if self.adapter_kind not in kinds:
                self.refuse([name], f"with adapter_kind: {self.adapter_kind}")
        if self.quantization != "none" and self.adapter_kind in WHOLE_WEIGHTS.get(
            self.quantization, ("hra",)
        ):
            raise ValueError(
                f"quantization: {self.quantization} does not go with adapter_kind: {self.adapter_kind}, for which peft "
                "needs the weights themselves; take lora"
            )
        if self.adapter_init in TAKES_OUT:
            if self.adapter_kind == "dora":
                raise ValueError(f"adapter_init: {self.adapter_init} is of lora and rslora, not of dora")
            self.refuse(
                ["quantization"], f"with adapter_init: {self.adapter_init}, which takes a part out of weights"
            )
        if self.adapter_rank % 2 and (self.adapter_kind == "hra" or self.adapter_init == "orthogonal"):
            raise ValueError(f"adapter_rank: {self.adapter_rank} is odd, expected an even number")

    def at(self, model: str | Path) -> Self:
        """The same options for another model or folder, which has a revision and a chat template of its own."""
        return replace(self, model=str(model), revision=None, chat_template=None)

    def refuse_training(self) -> None:
        """Refuse options of training, for what only generates.

        Raises:
            ValueError: one of them is given.
        """
        self.refuse(TRAINING, "here: nothing is trained")


ADAPTER = (
    "adapter_kind",
    "adapter_init",
    "adapter_rank",
    "adapter_alpha",
    "adapter_dropout",
    "adapter_targets",
)
"""The options that describe an adapter."""
TRAINING = ("tuning", "save_dtype", *ADAPTER)
"""The options of training, which what only generates does not take."""
