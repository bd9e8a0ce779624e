"""Options of a merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import OptionGroup, option, required

TENSORS = "tensors.jsonl"
"""Artefact with what was measured of each tensor."""


@dataclass(kw_only=True)
class Config(OptionGroup):
    """What is merged, and how."""

    __group__ = "Merging"

    models: list[str] = required(
        "the models: folders, run folders or hub ids, whole or adapters; several flags or commas"
    )
    base: str | None = option(
        None, "the model that all of them were tuned from; needed by all ways but linear"
    )
    method: Literal["model-stock", "task-arithmetic", "linear"] = option(
        "model-stock",
        "model-stock: between base and mean, by the angle of what was learnt; task-arithmetic: base plus the sum of what "
        "was learnt; linear: weighted mean",
        source="Model Stock, arXiv 2403.19522; task arithmetic, 2212.04089; Baichuan Alignment, section 2.4",
    )
    weights: list[float] | None = option(
        None,
        "of the models, in their order; by default all are 1",
        only_with={"method": ("linear", "task-arithmetic")},
    )
    scale: float = option(
        1.0, "factor on the sum of what was learnt", only_with={"method": "task-arithmetic"}
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "number format of the result; auto: that of the base, else of the first model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.models) < 2:
            raise ValueError(f"models: {len(self.models)} given, expected two or more")
        if self.method == "linear":
            self.refuse(["base"], "with method: linear")
        elif self.base is None:
            raise ValueError(f"base is required with method: {self.method}")
        if self.weights is not None and len(self.weights) != len(self.models):
            raise ValueError(
                f"weights: {len(self.weights)} given, expected one for each of {len(self.models)} models"
            )
        if self.method == "linear" and self.weights and sum(self.weights) == 0:
            raise ValueError("weights: sum to 0, expected a sum that can be divided by")

    @property
    def model(self) -> str:
        """The model whose configuration and tokenizer the result has."""
        return self.base or self.models[0]
