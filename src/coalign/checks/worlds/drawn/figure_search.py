"""The search of a drawn figure by a description: what the arms of person search learn from, and how they are measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from coalign.checks.arms import Measures
from coalign.checks.tiny_models import seeded, stream
from coalign.checks.worlds.drawn.captions import CONTEXT, word_tokenizer
from coalign.checks.worlds.drawn.figures import (
    ATTRIBUTES,
    HUMAN,
    TARGET,
    VIEWS,
    Figure,
    described,
    draw_figure,
    figure_lexicon,
    generic_caption,
    random_figure,
    words_of_figures,
)
from coalign.checks.worlds.drawn.scene import PLAIN, SIDE
from coalign.checks.worlds.drawn.small_clip import (
    HEADS,
    PATCH,
    TEXT_LAYERS,
    VISION_LAYERS,
    WIDTH,
    Recipe,
    fit_small_clip,
    kept_clip,
    new_small_clip,
    small_clip,
    take_over,
)
from coalign.measures.retrieval import retrieval_figures
from coalign.pairs.encoders import ImageTextEncoder
from coalign.training.task import Task
from coalign.vision.search.lexicon import label
from coalign.vision.search.towers import TowerSettings, TwoTowers
from coalign.vision.search.training import (
    FineTuning,
    Identities,
    Pretraining,
    gallery_features,
    query_features,
    search_scores,
)

BATCH = 64


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    labeller_pairs: int = 8000
    labeller_steps: int = 1200
    crops: int = 3000
    pretraining_steps: int = 400
    identities: int = 300
    tuning_steps: int = 300
    test_identities: int = 200
    test_views: int = 3


@dataclass(frozen=True)
class SearchWorld:
    """What the arms of a seed share.

    Attributes:
        crops: [N, 3, 32, 32] figures without a caption, in the target style.
        pseudo_texts: one of each, by the labeller.
        generic: captions of other figures.
        tuning: pictures, captions and identities to fine-tune on.
        queries, gallery: texts and their identities; pictures and theirs.
        accuracy: of the labeller by category, over the crops.
    """

    seed: int
    sizes: Sizes
    crops: Tensor
    pseudo_texts: list[str]
    generic: list[str]
    tuning: tuple[Tensor, list[str], list[int]]
    queries: tuple[list[str], list[int]]
    gallery: tuple[Tensor, list[int]]
    accuracy: Mapping[str, float]


def search_world(
    seed: int,
    sizes: Sizes = Sizes(),
    recipe: Recipe = Recipe(),  # noqa: B008
) -> SearchWorld:
    """Everything that the arms share: the labeller is the small CLIP, trained on with captioned figures."""
    rng = np.random.default_rng([seed, 2309])
    known = [random_figure(rng) for _ in range(sizes.crops)]
    generic = [generic_caption(one, rng) for one in known]
    unknown = [random_figure(rng) for _ in range(sizes.crops // VIEWS)]
    shown = [one for one in unknown for _ in range(VIEWS)]
    crops = torch.stack([draw_figure(one, TARGET, rng) for one in shown])
    texts, accuracy = _pseudo_texts(labeller(sizes, recipe), crops, shown, seed)
    people = [random_figure(rng) for _ in range(sizes.identities)]
    tuned = [(who, one) for who, one in enumerate(people) for _ in range(2)]
    tuning = (
        torch.stack([draw_figure(one, TARGET, rng) for _, one in tuned]),
        [_human(one, rng) for _, one in tuned],
        [who for who, _ in tuned],
    )
    tested = [random_figure(rng) for _ in range(sizes.test_identities)]
    gallery = [(who, one) for who, one in enumerate(tested) for _ in range(sizes.test_views)]
    found = torch.stack([draw_figure(one, TARGET, rng) for _, one in gallery])
    asked = [_human(one, rng) for one in tested]
    return SearchWorld(
        seed, sizes, crops, texts, generic, tuning, (asked, list(range(len(tested)))),
        (found, [who for who, _ in gallery]), accuracy,
    )  # fmt: skip


def labeller(sizes: Sizes, recipe: Recipe) -> ImageTextEncoder:
    """The small CLIP, trained on with captioned figures in the plain style; kept in the cache, the same for all seeds."""

    def make() -> tuple[Any, Any]:
        rng = np.random.default_rng(2310)
        known = [random_figure(rng) for _ in range(sizes.labeller_pairs)]
        pictures = torch.stack([draw_figure(one, PLAIN, rng) for one in known])
        texts = [generic_caption(one, rng) for one in known]
        model, tokenizer = new_small_clip(0, words_of_figures())
        take_over(model, tokenizer, small_clip(recipe))
        steps = sizes.labeller_steps
        fit_small_clip(model, tokenizer, pictures, texts, steps=steps, seed=0, batch=BATCH, rate=1e-3)
        return model, tokenizer

    facts = {
        "figures": 2,
        "pairs": sizes.labeller_pairs,
        "steps": sizes.labeller_steps,
        "start": asdict(recipe),
    }
    return ImageTextEncoder.load(kept_clip(facts, make), device="cpu")


def _human(figure: Figure, rng: np.random.Generator) -> str:
    return described(figure, HUMAN[int(rng.integers(len(HUMAN)))], rng, 0.15)


@torch.no_grad()
def _pseudo_texts(
    encoder: ImageTextEncoder, crops: Tensor, figures: Sequence[Figure], seed: int
) -> tuple[list[str], dict[str, float]]:
    """A text of each crop, and the share of crops of which the labeller is right by category; an attribute that may be
    absent is said to be where it is not sure.
    """
    lexicon = figure_lexicon()
    images = torch.cat([encoder.image(part).pooled for part in crops.split(256)])
    phrases = [encoder.text(encoder.ids(one.prompts())).pooled for one in lexicon.categories]
    rows = [
        {name: place for name, (place, _) in row.items()}
        for row in label(images, phrases, lexicon, scale=float(encoder.scale))
    ]
    right = {
        name: sum((row[name] or 0) == one.attributes[at] for row, one in zip(rows, figures, strict=True))
        / len(rows)
        for at, name in enumerate(ATTRIBUTES)
    }
    draw = random.Random(seed)
    return [lexicon.sentence(row, draw).lower() for row in rows], right


def new_towers(seed: int) -> TwoTowers:
    """Fresh towers of Transformers' own classes: a ViT of 3 layers, a BERT of 2."""
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    tokenizer = word_tokenizer(words_of_figures(), CONTEXT)
    tokenizer.mask_token = "<mask>"
    both: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
    }
    still: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vision = ViTConfig(image_size=SIDE, patch_size=PATCH, num_hidden_layers=VISION_LAYERS, **both, **still)
    text = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        num_hidden_layers=TEXT_LAYERS,
        **both,
        **still,
    )
    settings = TowerSettings(width=WIDTH, height=SIDE, image_width=SIDE, text_length=CONTEXT)
    return seeded(
        lambda: TwoTowers(
            ViTModel(vision, add_pooling_layer=False),
            BertModel(text, add_pooling_layer=False),
            tokenizer,
            settings,
        ),
        seed,
    )


def fit(module: nn.Module, task: Task, size: int, *, steps: int, rate: float, seed: int) -> None:
    """The trainer's own loss in a bare loop: AdamW (weight decay 0.01), warm-up of a tenth, linear decay."""
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    order: list[int] = []
    generator = stream(seed, "order")
    module.train()
    for step in range(steps):
        while len(order) < BATCH:
            order += (torch.randperm(size, generator=generator) + step * size).tolist()
        batch, order = task.collate(order[:BATCH]), order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / max(steps // 10, 1), (steps - step) / (0.9 * steps))
        state: Any = SimpleNamespace(global_step=step, max_steps=steps)
        loss = (
            task.loss(module, batch, state).losses / torch.as_tensor(task.count(batch)).clamp(min=1)
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.eval()


def pretrained(world: SearchWorld, texts: Sequence[str], *, steps: int | None = None) -> TwoTowers:
    """Towers trained on crops with these texts."""
    towers = new_towers(world.seed)
    task = Pretraining(
        towers, [[one] for one in texts], lambda index, mirrored: _seen(world.crops[index], mirrored),
        temperature=0.07, word_weight=1.0, word_share=0.15, positives=True, flip=False, seed=world.seed,
    )  # fmt: skip
    fit(towers, task, len(texts), steps=steps or world.sizes.pretraining_steps, rate=1e-3, seed=world.seed)
    return towers


def shuffled(world: SearchWorld) -> list[str]:
    """The pseudo-texts, each at another crop."""
    order = torch.randperm(len(world.pseudo_texts), generator=stream(world.seed, "shuffled")).tolist()
    return [world.pseudo_texts[place] for place in order]


def separate(world: SearchWorld) -> TwoTowers:
    """The picture tower has learnt by how much crops are turned, the text tower the masked words of generic captions."""
    towers = new_towers(world.seed)
    fit(
        Turned(towers),
        _Turns(world.crops),
        4 * len(world.crops),
        steps=world.sizes.pretraining_steps,
        rate=1e-3,
        seed=world.seed,
    )
    words = Pretraining(
        towers, [[one] for one in world.generic], lambda index, mirrored: world.crops[0],
        temperature=1.0, word_weight=1.0, word_share=0.15, positives=False, flip=False, seed=world.seed,
    )  # fmt: skip
    fit(
        towers,
        _Words(words),
        len(world.generic),
        steps=world.sizes.pretraining_steps,
        rate=1e-3,
        seed=world.seed,
    )
    return towers


class Turned(nn.Module):
    """A picture tower with a head for four turns."""

    def __init__(self, towers: TwoTowers) -> None:
        super().__init__()
        self.towers = towers
        self.head = seeded(lambda: nn.Linear(WIDTH, 4), 0)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.towers.image(pixels)[0])


class _Turns(Task):
    def __init__(self, crops: Tensor) -> None:
        self.crops = crops

    def collate(self, examples: Sequence[int]) -> dict[str, Any]:
        places = [divmod(key % (4 * len(self.crops)), 4) for key in examples]
        turned = [torch.rot90(self.crops[place], turns, (1, 2)) for place, turns in places]
        return {
            "ids": list(map(str, places)),
            "pixels": torch.stack(turned),
            "turns": torch.tensor([one for _, one in places]),
        }

    def loss(self, model: nn.Module, batch: dict[str, Any], state: Any) -> Any:
        return SimpleNamespace(losses=cross_entropy(model(batch["pixels"]), batch["turns"], reduction="none"))


class _Words(Task):
    """The masked words of a pretraining, without its pictures."""

    def __init__(self, task: Pretraining) -> None:
        self.task = task

    def collate(self, examples: Sequence[int]) -> dict[str, Any]:
        return self.task.collate(examples)

    def count(self, batch: dict[str, Any]) -> Any:
        return self.task.count(batch)[1]

    def loss(self, model: nn.Module, batch: dict[str, Any], state: Any) -> Any:
        from coalign.vision.search.objectives import masked_word_loss

        return SimpleNamespace(
            losses=masked_word_loss(model("word_logits", batch["masked"], batch["mask"]), batch["words"])[0]
        )


def searched(world: SearchWorld, start: Callable[[SearchWorld], TwoTowers]) -> Measures:
    """Fine-tune what `start` gives, and search the gallery."""
    towers = start(world)
    pictures, texts, who = world.tuning
    task = FineTuning(
        towers, texts, who, lambda index, mirrored: _seen(pictures[index], mirrored),
        margin=0.2, identity_weight=1.0, part_weight=0.0, flip=False, seed=world.seed,
    )  # fmt: skip
    module = seeded(lambda: Identities(towers, max(who) + 1), world.seed)
    fit(module, task, len(texts), steps=world.sizes.tuning_steps, rate=1e-3, seed=world.seed)
    return measured(world, towers)


def measured(world: SearchWorld, towers: TwoTowers) -> Measures:
    """Rank-1, Rank-5 and mAP of the queries over the gallery."""
    asked, wanted = world.queries
    found, shown = world.gallery
    scores = search_scores(query_features(towers, asked, 200), gallery_features(towers, found.split(200)))
    positives = np.asarray(wanted)[:, None] == np.asarray(shown)[None, :]
    figures = retrieval_figures(scores.numpy(), positives, ks=(1, 5))
    return {"Rank-1": figures.recall[1], "Rank-5": figures.recall[5], "mAP": figures.mean_average_precision}


def _seen(picture: Tensor, mirrored: bool) -> Tensor:
    return picture.flip(-1) if mirrored else picture
