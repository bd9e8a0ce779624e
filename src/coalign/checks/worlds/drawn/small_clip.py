"""The small CLIP of the drawn world: its architecture, its training, and the cache of what was trained."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from coalign.checks.tiny_models import seeded, stream
from coalign.checks.worlds.drawn.captions import CONTEXT, caption, vocabulary, word_tokenizer
from coalign.checks.worlds.drawn.scene import PLAIN, SIDE, draw_many, random_scene
from coalign.core.cache import cache_root
from coalign.core.files import atomic_path
from coalign.core.progress import progress
from coalign.pairs.losses import contrastive_loss

WIDTH, HEADS, PATCH = 64, 4, 8
VISION_LAYERS, TEXT_LAYERS = 3, 2
MAX_SCALE = math.log(100)


@dataclass(frozen=True)
class Recipe:
    """What the shared small CLIP is made from.

    Attributes:
        seed: of weights, pairs and order.
        pairs: drawn scenes with captions.
        steps: of 128 pairs.
        version: raised whenever pictures, captions or training change, so that no older checkpoint is taken.
    """

    seed: int = 0
    pairs: int = 16_000
    steps: int = 1_200
    version: int = 1


def new_small_clip(seed: int, words: Sequence[str] | None = None) -> tuple[Any, Any]:
    """A `transformers.CLIPModel` with random weights and its tokenizer.

    Pictures of 32 x 32 in patches of 8; width 64 with 4 heads, 3 layers for pictures and 2 causal ones for texts; a joint
    space of 64; GELU.

    Args:
        words: of the tokenizer; those of the world when None.
    """
    from transformers import CLIPConfig, CLIPModel

    tokenizer = word_tokenizer(words if words is not None else vocabulary())
    both = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
    }
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "num_hidden_layers": TEXT_LAYERS,
    }
    vision = {"image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": VISION_LAYERS}
    config = CLIPConfig(text_config=text | ids | both, vision_config=vision | both, projection_dim=WIDTH)
    return seeded(lambda: CLIPModel(config), seed), tokenizer


def train_small_clip(
    pictures: Tensor,
    texts: Sequence[str],
    *,
    steps: int,
    seed: int,
    batch: int = 128,
    rate: float = 2e-3,
    words: Sequence[str] | None = None,
) -> tuple[Any, Any]:
    """A new small CLIP that has learnt pairs of pictures and texts (`fit_small_clip`), and its tokenizer.

    Args:
        words: of the tokenizer; those of the world when None.
    """
    model, tokenizer = new_small_clip(seed, words)
    fit_small_clip(model, tokenizer, pictures, texts, steps=steps, seed=seed, batch=batch, rate=rate)
    return model, tokenizer


def fit_small_clip(
    model: Any,
    tokenizer: Any,
    pictures: Tensor,
    texts: Sequence[str],
    *,
    steps: int,
    seed: int,
    batch: int = 128,
    rate: float = 2e-3,
) -> None:
    """Let a small CLIP learn pairs of pictures and texts.

    The symmetric contrastive loss over batches, AdamW (betas 0.9 and 0.98, weight decay 0.05), 100 steps of warm-up (a
    tenth, where there are fewer than 1,000) and a cosine; the scale of the logits is learnt up to 100.

    Args:
        pictures: [N, 3, 32, 32] from 0 to 1.
        texts: N captions.
    """
    filled = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    ids, order = filled["input_ids"], stream(seed, "order of pairs")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    warm = min(100, max(1, steps // 10))
    queue = torch.empty(0, dtype=torch.long)
    model.train()
    with progress(steps, "small CLIP", "step") as bar:
        for step in range(steps):
            while len(queue) < batch:
                queue = torch.cat([queue, torch.randperm(len(ids), generator=order)])
            rows, queue = queue[:batch], queue[batch:]
            past = (step - warm) / max(1, steps - warm)
            share = (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * past)
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            image = model.get_image_features(pixel_values=pictures[rows]).pooler_output
            text = model.get_text_features(input_ids=ids[rows]).pooler_output
            loss = contrastive_loss(image, text, model.logit_scale.exp()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_SCALE)
            bar.advance()
    model.eval()


@torch.no_grad()
def take_over(model: Any, tokenizer: Any, start: Path) -> None:
    """Give a small CLIP the weights of the one in `start`, and its embeddings of the words that both know."""
    from transformers import AutoTokenizer, CLIPModel

    embedding = "text_model.embeddings.token_embedding.weight"
    known, other = (
        AutoTokenizer.from_pretrained(start).get_vocab(),
        CLIPModel.from_pretrained(start).state_dict(),
    )
    rows = model.state_dict()[embedding].clone()
    for word, place in tokenizer.get_vocab().items():
        if word in known:
            rows[place] = other[embedding][known[word]]
    model.load_state_dict(other | {embedding: rows})


def save_small_clip(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a small CLIP as Transformers reads it: weights, tokenizer, and an image processor that changes nothing."""
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    unchanged: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "do_center_crop": False}
    pictures = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, **unchanged)
    model.save_pretrained(folder)
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)


def drawn_pairs(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Plain pictures of one or two objects, [count, 3, 32, 32], and a caption of each."""
    rng = np.random.default_rng([seed, 71])
    scenes = [random_scene(rng) for _ in range(count)]
    return draw_many(scenes, PLAIN, rng), [caption(one, rng) for one in scenes]


def small_clip(recipe: Recipe = Recipe()) -> Path:
    """The folder of the small CLIP that checks start from; trained at first use (about four minutes of one core)."""

    def make() -> tuple[Any, Any]:
        pictures, texts = drawn_pairs(recipe.pairs, recipe.seed)
        return train_small_clip(pictures, texts, steps=recipe.steps, seed=recipe.seed)

    return kept_clip(asdict(recipe), make)


def kept_clip(recipe: Mapping[str, Any], make: Callable[[], tuple[Any, Any]]) -> Path:
    """The folder of a small CLIP in the cache, by the content of what it is made from; made at first use.

    Args:
        recipe: everything that `make` depends on; another one has another folder.
        make: the model and its tokenizer.
    """
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / "small-clip" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):  # others wait for the one that trains
        if not folder.exists():
            model, tokenizer = make()
            with atomic_path(folder) as part:
                save_small_clip(part, model, tokenizer)
    return folder
