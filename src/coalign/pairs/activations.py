"""The activation function of a loaded CLIP against that of its family.

OpenAI's weights were trained with x sigmoid(1.702 x) (`quick_gelu`), most of OpenCLIP's with GELU. A converted model whose
configuration says nothing gets `quick_gelu`; with the wrong one nothing fails, and accuracy is some points lower.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from coalign.models.files.places import Location
from coalign.models.files.stored import cached_path

logger = logging.getLogger(__name__)

FAMILIES = {
    "openai/": "quick_gelu",
    "facebook/metaclip": "quick_gelu",
    "apple/dfn": "quick_gelu",
    "laion/": "gelu",
    "google/siglip": "gelu_pytorch_tanh",
}
"""Activation by the beginning of a hub id, in lower case."""


def say_activation(config: Any, place: Location) -> None:
    """Log the activation of both towers: a warning where something is odd about it, else for information."""
    problem = activation_problem(config, place.name, stated_activations(place))
    if problem:
        logger.warning("%s: %s", place.name, problem)
    else:
        logger.info("%s: layers with %s", place.name, config.vision_config.hidden_act)


def activation_problem(config: Any, name: str, stated: tuple[bool, bool] = (True, True)) -> str | None:
    """What is odd about the activation functions of a model, in words; None where nothing is.

    Args:
        config: with `vision_config` and `text_config`.
        name: its hub id or folder; the family is read from it.
        stated: whether the file of the configuration says the function of images and of texts.
    """
    towers = {"vision_config": config.vision_config, "text_config": config.text_config}
    found = {part: getattr(one, "hidden_act", None) for part, one in towers.items()}
    origin = "/" + name.lower().replace("models--", "").replace(
        "--", "/"
    )  # as the hub's cache names its folders
    family = next((one for one in FAMILIES if f"/{one}" in origin), None)
    known = FAMILIES[family] if family else None
    for part, act in found.items():
        if known is not None and act != known:
            return (
                f"hidden_act of {part} is {act}, and models of {str(family).rstrip('/')} were trained with {known}:"
                f" set it to {known} in config.json"
            )
    silent = [part for part, says in zip(found, stated, strict=True) if not says]
    if silent and known is None and config.model_type == "clip":
        return (
            f"config.json says no hidden_act in {' and '.join(silent)}, so {found[silent[0]]}, the default of"
            " Transformers, is taken; weights of OpenCLIP were mostly trained with gelu"
        )
    if len(set(found.values())) > 1:
        return "hidden_act differs between the towers: " + ", ".join(f"{a} {b}" for a, b in found.items())
    return None


def stated_activations(place: Location) -> tuple[bool, bool]:
    """Whether `config.json` says the activation of images and of texts; yes, where there is no such file or Transformers
    wrote it.
    """
    path = cached_path(place, "config.json")
    if path is None:
        return True, True
    raw = json.loads(Path(path).read_text(encoding="utf-8"))
    if "transformers_version" in raw:
        return True, True  # written by Transformers, which leaves defaults out
    vision, text = (
        "hidden_act" in (raw.get(part) or raw.get(f"{part}_dict") or {})
        for part in ("vision_config", "text_config")
    )
    return vision, text
