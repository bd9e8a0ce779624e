"""Tiny image-text models of the real classes with random weights, and pictures that are noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

WORDS = [
    "a",
    "the",
    "red",
    "green",
    "blue",
    "circle",
    "ring",
    "square",
    "picture",
    "of",
    "is",
    "it",
    "there",
    "yes",
    "no",
    "does",
    "image",
    "show",
    "small",
    "large",
    "and",
]


def noise(number: int, side: int = 32) -> Image.Image:
    """A picture that no other number has."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))


def save_noise(folder: Path, count: int) -> list[Path]:
    """`count` pictures in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        noise(number).save(path)
    return paths


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_clip_folder(path: Path) -> Path:
    """A CLIP of the drawn world that has learnt nothing."""
    from coalign.checks.worlds.drawn.small_clip import new_small_clip, save_small_clip

    save_small_clip(path, *new_small_clip(0))
    return path


def bert_tokenizer() -> Any:
    """Whole words between <bos> and <eos>."""
    from coalign.checks.worlds.drawn.captions import word_tokenizer

    return word_tokenizer(WORDS)


def image_processor() -> Any:
    from transformers import BlipImageProcessor

    return BlipImageProcessor(size={"height": 32, "width": 32})


def blip_folder(path: Path, seed: int = 0) -> Path:
    """BLIP for retrieval."""
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipProcessor

    torch.manual_seed(seed)
    both: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": 40, "encoder_hidden_size": 16, "max_position_embeddings": 24, "projection_dim": 16}
    config = BlipConfig(
        text_config=both
        | text
        | {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3},
        vision_config=both | {"image_size": 32, "patch_size": 16, "projection_dim": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    BlipForImageTextRetrieval(config).eval().save_pretrained(path)
    BlipProcessor(image_processor(), bert_tokenizer()).save_pretrained(path)
    return path


def blip2_folder(path: Path, seed: int = 0) -> Path:
    """BLIP-2 with its matching head."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2Processor

    torch.manual_seed(seed)
    both: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    former = {
        "vocab_size": 40, "encoder_hidden_size": 16, "max_position_embeddings": 24, "cross_attention_frequency": 1,
        "use_qformer_text_input": True, "pad_token_id": 0,
    }  # fmt: skip
    config = Blip2Config(
        vision_config=both | {"image_size": 32, "patch_size": 16},
        qformer_config=both | former,
        num_query_tokens=3,
        image_text_hidden_size=16,
    )
    model = Blip2ForImageTextRetrieval(config).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.1 * torch.randn_like(one))  # query tokens begin as zeros
    model.save_pretrained(path)
    Blip2Processor(image_processor(), bert_tokenizer(), num_query_tokens=3).save_pretrained(path)
    return path


def llava_folder(path: Path, seed: int = 0) -> Path:
    """A LLaVA whose texts are words."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = bert_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    torch.manual_seed(seed)
    both: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**both, image_size=32, patch_size=16),
        text_config=LlamaConfig(
            **both, vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(path)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    size = {"height": 32, "width": 32}
    LlavaProcessor(
        CLIPImageProcessor(size=size, do_center_crop=False), tokenizer, patch_size=16,
        vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(path)  # fmt: skip
    return path
