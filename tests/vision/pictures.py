"""Small pictures and a small model of pictures for tests."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np


def picture(folder: Path, name: str, *, bright: bool, wide: bool, seed: int, side: int = 24) -> Path:
    """A rectangle, wide or high, on a dark ground, or on a bright one."""
    from PIL import Image

    numbers = np.random.default_rng(seed)
    pixels = numbers.integers(0, 40, (side, side, 3))
    high, across = (6, 16) if wide else (16, 6)
    top, left = numbers.integers(0, side - high), numbers.integers(0, side - across)
    pixels[top : top + high, left : left + across] = 200
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    Image.fromarray((255 - pixels if bright else pixels).astype(np.uint8)).save(path)
    return path


def domain_pictures(folder: Path, each: int = 4, *, inline: bool = False) -> list[dict[str, Any]]:
    """Rows with `image` (relative to the folder above, or the file itself in base64), `label` and `domain`: two classes in two
    domains.
    """
    rows = []
    for domain in ("bright", "dark"):
        for label in ("high", "wide"):
            for number in range(each):
                path = picture(
                    folder / domain / label, f"{number}.png", bright=domain == "bright", wide=label == "wide",
                    seed=len(rows),
                )  # fmt: skip
                image = path.relative_to(folder.parent).as_posix()
                if inline:
                    image = base64.b64encode(path.read_bytes()).decode()
                rows.append({"id": f"p{len(rows)}", "image": image, "label": label, "domain": domain})
    return rows


def save_tiny_resnet(path: Path, seed: int = 0) -> object:
    """A ResNet backbone of random weights, with its processor."""
    import torch
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetModel

    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 12, 12], depths=[1] * 4, layer_type="basic")
    ResNetModel(config).save_pretrained(path)
    return ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(path)
