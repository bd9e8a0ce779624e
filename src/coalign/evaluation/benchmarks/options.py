"""Options of `coalign eval`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from coalign.core.options import Count, CountOrZero, Seed, option, required
from coalign.models.options import REFUSED_QUANTIZATION, ModelOptions, Quantization


@dataclass(kw_only=True)
class Config:
    """Options of `coalign eval`."""

    __group__ = "Tasks"

    models: list[str] = required(
        "models to compare, each with the first: runs, folders, hub ids or `default`", group="Model"
    )
    tasks: list[str] = required(
        "of lm-evaluation-harness by name (a task, or a group of tasks); of inspect_ai as inspect:NAME or file.py@NAME"
    )
    include_path: str | None = option(
        None, "a folder of task files (YAML) of lm-evaluation-harness, which may read local data"
    )
    limit: Count | None = option(None, "only the first so many items of each task, to try")
    num_fewshot: CountOrZero | None = option(None, "examples before each item; by default the task's own")
    apply_chat_template: bool = option(
        False, "write items as a conversation by the model's chat template (inspect_ai always does)"
    )
    system_instruction: str | None = option(None, "a system message, or a text before every item")
    batch_size: Count = option(8, "requests of lm-evaluation-harness in a forward pass")
    seed: Seed = option(
        1234, "of the order of examples and of bootstrap intervals", source="lm-evaluation-harness"
    )
    chat_template: str | None = option(None, "another chat template, as coalign run has it", group="Model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "number format of the weights; auto: bfloat16 on CUDA, float32 elsewhere", group="Model"
    )
    quantization: Quantization = option(
        "none",
        "weights in 4 or 8 bits by bitsandbytes, or in 8 by torchao",
        group="Model",
        refused=REFUSED_QUANTIZATION,
    )
    device: str = option(
        "auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu", group="Model"
    )
    trust_remote_code: bool = option(False, "run Python code that a model's repository brings", group="Model")

    def __post_init__(self) -> None:
        for name in ("models", "tasks"):
            twice = [one for one, count in Counter(getattr(self, name)).items() if count > 1]
            if twice:
                raise ValueError(f"{name}: {twice[0]} is given twice")

    def model(self, name: str) -> ModelOptions:
        """The options by which one of the models is loaded."""
        return ModelOptions(
            model=name,
            chat_template=self.chat_template,
            dtype=self.dtype,
            quantization=self.quantization,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )
