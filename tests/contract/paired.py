"""Tiny runs of systems over pictures and the texts beside them: (options, files)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coalign.checks.worlds.drawn.captions import vocabulary, word_tokenizer
from coalign.checks.worlds.drawn.figures import (
    HUMAN,
    TARGET,
    described,
    draw_figure,
    random_figure,
    words_of_figures,
)
from coalign.checks.worlds.drawn.scene import PLAIN, draw, random_object
from tests.pairs.tiny import tiny_clip
from tests.vision.drawn import data_url

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
CLASSES = ("blue ring", "green cross", "red circle", "white square")


def drawn_rows(n: int, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> list[dict[str, Any]]:
    """So many pictures of each class, with its name."""
    rng = np.random.default_rng(seed)
    return [
        {"image": data_url(drawn_picture(rng, name)), "label": name.replace(" ", "_"), "id": f"{name}/{at}"}
        for at in range(n)
        for name in classes
    ]


def drawn_picture(rng: np.random.Generator, name: str) -> Any:
    from PIL import Image

    colour, shape = name.split()
    pixels = draw([random_object(rng, colour=colour, shape=shape)], PLAIN, rng)
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())


def _json(value: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value), encoding="utf-8")


def figure_rows(n: int, views: int = 1, *, captions: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Pictures of figures; with captions, also the identity."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    rows = []
    for who in range(n):
        figure = random_figure(rng)
        for at in range(views):
            pixels = draw_figure(figure, TARGET, rng)
            picture = Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())
            row = {"image": data_url(picture), "id": f"{who}/{at}"}
            told = [described(figure, HUMAN[at % len(HUMAN)], rng, 0.15) for _ in range(captions)]
            rows.append(row | ({"captions": told, "person_id": f"p{who}"} if captions else {}))
    return rows


def tiny_vit(path: Path) -> object:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(image_size=16, patch_size=8, **SIZES), add_pooling_layer=False).save_pretrained(
        path
    )


def tiny_bert(path: Path) -> object:
    from transformers import BertConfig, BertModel

    tokenizer = word_tokenizer([*words_of_figures(), *vocabulary()])
    tokenizer.mask_token = "<mask>"
    tokenizer.save_pretrained(path)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=24, **SIZES)
    return BertModel(config, add_pooling_layer=False).save_pretrained(path)


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}
LEXICON = """
categories:
  upper: {required: true, prompt: "there is a {} square", phrases: [red, blue, green]}
  bag: {prompt: "a {} diamond", phrases: ["no", small], negative: 0}
templates: ["a {upper} top[ and a {bag} bag]", "{upper} on the left"]
"""
TOWERS = {
    "image_tower": "models/vit",
    "text_tower": "models/bert",
    "image_size": [16, 8],
    "width": 8,
    "text_length": 20,
}


SMALL: dict[str, Tiny] = {
    "unipt": (
        {**TOWERS, "data": "figures.jsonl", "captions": "told.jsonl", "test": "asked.jsonl", "model": "models/small-clip",
         "lexicon": "lexicon.yaml", "device": "cpu", "optional_threshold": 0.2, "max_steps": 2, "batch_size": 3, "tune_steps": 2,
         "tune_batch_size": 3, "parts": 2, "scoring_batch": 3, "save_steps": 1, "learning_rate": 1e-3},
        {"figures.jsonl": figure_rows(6), "told.jsonl": figure_rows(3, 2, captions=1, seed=1),
         "asked.jsonl": figure_rows(3, 2, captions=1, seed=2), "lexicon.yaml": lambda path: path.write_text(LEXICON)},
    ),
    "coprompt": (
        {"data": "classes.jsonl", "model": "models/small-clip", "device": "cpu", "shots": 2, "seeds": [1, 2],
         "arms": ["coprompt"], "prompt_length": 2, "prompt_depth": 2, "context": "X X a", "ending": "",
         "templates": ["this shows a {}", "there is a {}"], "epochs": 2, "batch_size": 4, "eval_batch_size": 3, "save_steps": 1},
        {"classes.jsonl": drawn_rows(4)},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "unipt that labels alone, in its own words": (
        "unipt",
        ({"data": "figures.jsonl", "model": "models/small-clip", "device": "cpu", "label_only": True, "sentences": 2, "scale": 50.0},
         {"figures.jsonl": figure_rows(6)}),
    ),
    "unipt that only pretrains, with equal texts as pairs": (
        "unipt",
        ({**TOWERS, "data": "figures.jsonl", "test": "asked.jsonl", "model": "models/small-clip", "lexicon": "lexicon.yaml",
          "device": "cpu", "equal_captions": "positives", "temperature": 0.07, "pool_mask": True, "word_weight": 0.0, "flip": False,
          "max_steps": 2, "batch_size": 6, "save_steps": 1, "schedule": "cosine", "learning_rate": 1e-3},
         {"figures.jsonl": figure_rows(6), "asked.jsonl": figure_rows(3, 2, captions=1, seed=2),
          "lexicon.yaml": lambda path: path.write_text(LEXICON)}),
    ),
    "coprompt on all classes, with descriptions and another style": (
        "coprompt",
        (
            {"data": "classes.jsonl", "test": "more.jsonl", "transfer": ["own=own.jsonl", "more=more.jsonl"],
             "model": "models/small-clip", "device": "cpu", "shots": 2, "seeds": [0], "protocol": "all",
             "arms": ["no-adapters", "no-consistency"], "criterion": "mse", "prompt_length": 1, "prompt_depth": 3, "context": "",
             "ending": "", "preset": "pets", "descriptions": "said.json", "clean_student": True, "augmentation": "none",
             "optimizer": "adamw", "schedule": "cosine", "max_steps": 2, "batch_size": 4, "gradient_accumulation": 2, "save_steps": 1},
            {"classes.jsonl": drawn_rows(4), "more.jsonl": drawn_rows(2, seed=3),
             "own.jsonl": drawn_rows(2, ("purple ring", "red ring"), seed=4),
             "said.json": _json({name: ["there is a " + name, "this shows it"][: 1 + at % 2] for at, name in enumerate(CLASSES)})},
        ),
    ),
}  # fmt: skip

MODELS: dict[str, Callable[[Path], object]] = {"small-clip": tiny_clip, "vit": tiny_vit, "bert": tiny_bert}
