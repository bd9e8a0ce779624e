"""Tiny random image-text-to-text models with their processors: LLaVA, and Idefics3, which splits pictures by size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.data.tokenizers import byte_tokenizer

PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ '<image>' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template of parts: text that is not in parts would be left out without a word."""
SIDE = 16
TOKENS = 4
"""Of a picture in the tiny LLaVA."""
_TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8,
}  # fmt: skip


def save_tiny_llava(folder: Path, seed: int = 0) -> Path:
    """A folder as the hub has them: 4 tokens a picture, each picture brought to 16 x 16."""
    tokenizer = _tokenizer(["<image>"])
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(image_size=SIDE, **_VISION),
        text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **_TEXT),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=TOKENS,
    )
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PARTS,
    )
    return _saved(folder, hf.LlavaForConditionalGeneration, config, processor, seed)


def save_tiny_idefics3(folder: Path, seed: int = 0) -> Path:
    """A folder of a model that cuts pictures above 32 pixels into pieces, with 4 tokens a piece."""
    tokenizer = _tokenizer(["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"])
    kind: Any = hf.Idefics3Config
    config = kind(
        vision_config={"image_size": 32, **_VISION},
        text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **_TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=1,
    )
    processor = hf.Idefics3Processor(
        image_processor=hf.Idefics3ImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        ),
        tokenizer=tokenizer,
        image_seq_len=TOKENS,
        chat_template=PARTS,
    )
    return _saved(folder, hf.Idefics3ForConditionalGeneration, config, processor, seed)


def save_tiny_qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """A folder of a model that lays out pictures in three directions, as many tokens as a picture has squares of 16
    pixels; its processor has a part for clips, which needs torchvision.
    """
    tokenizer = _tokenizer(["<|image_pad|>", "<|video_pad|>"])
    tokenizer.chat_template = PARTS.replace("<image>", "<|image_pad|>")
    ids = {
        f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")
    }
    config = hf.Qwen2VLConfig(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8,
        },
        **ids,
    )  # fmt: skip
    pixels: Any = hf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
    pixels.save_pretrained(folder)
    return _saved(folder, hf.Qwen2VLForConditionalGeneration, config, tokenizer, seed)


def _tokenizer(special: list[str]) -> Any:
    tokenizer = byte_tokenizer(PARTS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *special]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<s>"
    return tokenizer


def _saved(folder: Path, kind: Any, config: Any, processor: Any, seed: int) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = kind(config)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(4)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
