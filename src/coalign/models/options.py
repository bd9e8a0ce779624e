"""Options of every system that loads a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from coalign.core.options import Count, Fraction, OptionGroup, Positive, option


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
    adapter_kind: Literal["lora", "rslora", "dora"] = option(
        "lora",
        "plain; scaled by alpha / sqrt(r) (rsLoRA, for high ranks); or with a magnitude for every output (DoRA)",
        source="LoRA, arXiv 2106.09685; rsLoRA, 2312.03732; DoRA, 2402.09353",
    )
    adapter_rank: Count = option(16, "rank r of the adapter", source="LoRA paper, section 7.2; peft examples")
    adapter_alpha: Positive = option(
        32.0, "the adapter's output is scaled by alpha / r", source="common practice: 2 r"
    )
    adapter_dropout: Fraction = option(0.0, "dropout on the adapter's input")
    adapter_targets: list[str] = option(
        ["all-linear"],
        "modules that get an adapter, by name; all-linear: every one but the head",
        source="QLoRA paper",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "number format of the weights; auto: bfloat16 on CUDA, float32 elsewhere and for trained weights, whose products "
        "are bfloat16 on CUDA",
    )
    quantization: Literal["none", "4bit", "8bit"] = option(
        "none",
        "weights that are not trained in 4 bits (NF4, as QLoRA has them) or 8 (LLM.int8()), by bitsandbytes",
        source="QLoRA paper, section 3",
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

    def at(self, model: str | Path) -> Self:
        """The same options for another model or folder, which has a revision and a chat template of its own."""
        return replace(self, model=str(model), revision=None, chat_template=None)

    def refuse_training(self) -> None:
        """Refuse options of training, for what only generates.

        Raises:
            ValueError: one of them is given.
        """
        self.refuse(TRAINING, "here: nothing is trained")


ADAPTER = ("adapter_kind", "adapter_rank", "adapter_alpha", "adapter_dropout", "adapter_targets")
"""The options that describe an adapter."""
TRAINING = ("tuning", "save_dtype", *ADAPTER)
"""The options of training, which what only generates does not take."""
