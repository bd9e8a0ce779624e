"""Tiny models of the real classes with random weights: a pipeline of Stable Diffusion, detectors, a captioner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "yellow",
    "square",
    "and",
    "left",
    "right",
    "above",
    "below",
    "of",
    "to",
    "the",
    "cat",
    "cup",
    "on",
    "top",
    "not",
    "is",
    ".",
    "next",
]


def word_tokenizer(length: int = 16) -> Any:
    """A word-level tokenizer with the special tokens of CLIP."""
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<start>", "<end>", *WORDS]
    one = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.Whitespace()
    one.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=one,
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        model_max_length=length,
    )


def clip_folder(path: Path) -> None:
    """The tokenizer in the form that `CLIPTokenizer` reads back."""
    word_tokenizer().save_pretrained(path)


def tiny_pipeline(prediction: str = "epsilon", seed: int = 0) -> Any:
    """A `StableDiffusionPipeline` of 16 x 16 pixels."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
            attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS) + 3,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=2,
            )
        )
    scheduler = DDIMScheduler(
        prediction_type=prediction, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=word_tokenizer(), unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def save_tiny_pipeline(path: Path) -> object:
    return tiny_pipeline().save_pretrained(path)


def save_detector(path: Path) -> object:
    """YOLOS with two labels; it finds something everywhere."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32], patch_size=8,
        num_detection_tokens=6, id2label={0: "cat", 1: "cup"}, label2id={"cat": 0, "cup": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    YolosForObjectDetection(config).save_pretrained(path)
    return YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)


def save_asked_detector(path: Path) -> object:
    """OWL-ViT with random weights."""
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {
        **small,
        "vocab_size": len(WORDS) + 3,
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {**small, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    OwlViTForObjectDetection(
        OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(path)
    images = OwlViTImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    return OwlViTProcessor(image_processor=images, tokenizer=word_tokenizer()).save_pretrained(path)


TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}"
    "{% endfor %}{% endfor %}"
)


def save_captioner(path: Path) -> object:
    """LLaVA with random weights."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )  # fmt: skip

    tokenizer = word_tokenizer(256)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = CLIPVisionConfig(**small, image_size=16, patch_size=8)
    text = LlamaConfig(
        **small,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image, vision_feature_layer=-1
    )
    LlavaForConditionalGeneration(config).save_pretrained(path)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(path)
