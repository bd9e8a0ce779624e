"""Tiny image-text models of real classes with random weights, in folders."""

from pathlib import Path
from typing import Any

from coalign.checks.worlds.drawn.captions import vocabulary, word_tokenizer
from coalign.checks.worlds.drawn.small_clip import new_small_clip, save_small_clip


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    save_small_clip(folder, *new_small_clip(seed))
    return folder


def tiny_siglip(folder: Path) -> Path:
    """A SigLIP: no start token, pooled by attention and at the last token, which may be padding."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = word_tokenizer(vocabulary())
    tokenizer._tokenizer.post_processor = None
    tokenizer.bos_token = None
    both: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    config = SiglipConfig(
        text_config=both | {"vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config=both | {"image_size": 32, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
