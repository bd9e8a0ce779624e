"""Check of `tvta`: moments of vague sentences in drawn videos, by the aligner and by the frozen features alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.tiny_models import seeded, stream
from coalign.checks.worlds.drawn.small_clip import small_clip
from coalign.checks.worlds.drawn.steps import step_videos
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.pairs.encoders import ImageTextEncoder
from coalign.video.grounding.losses import alignment_recall, moments, time_mask
from coalign.video.grounding.network import Aligner, AlignerSizes
from coalign.video.grounding.placing import by_aligner, by_features
from coalign.video.grounding.training import Example, collate, layer_losses, shuffled

TRAINED, TESTED = 600, 200
STEPS, BATCH, LEARNING_RATE, TEMPERATURE = 600, 8, 1e-3, 0.07
SHIFT = 4
"""Frames by which noisy intervals are moved at most."""
RAW, ORDERED, SHUFFLED, NOISY = "frozen features", "ordered", "shuffled", "ordered, shifted intervals"


@dataclass(frozen=True)
class Material:
    """Frozen features of the videos of a seed."""

    seed: int

    @cached_property
    def learnt(self) -> list[Example]:
        return examples(TRAINED, self.seed)

    @cached_property
    def tested(self) -> list[Example]:
        return examples(TESTED, self.seed + 10_000)

    @cached_property
    def shifted(self) -> list[Example]:
        """The videos to learn from with every interval moved by up to 4 frames either way, inside the video."""
        draw = stream(self.seed, "shifts")
        return [replace(one, inside=_moved(one.inside, draw)) for one in self.learnt]


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Aligned with their order, vague sentences are found better than by their frozen features.

    Rule:
        Seen: the recall of the ordered aligner is above that of the frozen features by 5 points or more in the mean and above
        it in every seed, that of the shuffled one is not below theirs in the mean, and an aligner that learns from shifted
        intervals is below the ordered one in the mean. Not seen otherwise.

    Setting:
        Drawn videos of 6 steps, each 2 to 4 frames of one object, with other objects between them and one step's object seen
        again elsewhere; a sentence a step, of which half name the shape alone. Features of the small CLIP, frozen. 600
        videos to learn from, 200 to test. Width 64, joint 32, 2 + 2 layers, 4 heads; 600 steps of 8 videos, AdamW 1e-3,
        cosine. Shifted intervals lie up to 4 frames off.
    """
    arms = {
        RAW: lambda one: {"recall": recall(one.tested, by_features)},
        ORDERED: lambda one: _measured(one.learnt, one, ordered=True),
        SHUFFLED: lambda one: _measured(one.learnt, one, ordered=False),
        NOISY: lambda one: _measured(one.shifted, one, ordered=True),
    }
    rows = measure_arms(run, seeds=seeds, prepare=Material, arms=arms)
    gains = rows.gaps("recall", ORDERED, RAW)
    loose = rows.gap("recall", SHUFFLED, RAW)
    clean = rows.gap("recall", ORDERED, NOISY)
    wide = mean_of(gains) >= 0.05 and min(gains.values()) > 0
    return rows.verdict(
        check,
        outcome=decide(seen=wide and loose >= 0 and clean > 0),
        summary={
            "recall, ordered - frozen features": mean_of(gains),
            "smallest gain": min(gains.values()),
            "recall, shuffled - frozen features": loose,
            "recall, true - shifted intervals": clean,
        },
    )


def examples(count: int, seed: int) -> list[Example]:
    """Videos of a seed as the aligner sees them: features of the small CLIP."""
    encoder = ImageTextEncoder.load(small_clip(), device="cpu")
    found = []
    with torch.inference_mode():
        for number, one in enumerate(step_videos(count, seed)):
            visual = encoder.image(one.frames).pooled.clone()
            text = encoder.text(encoder.ids(one.sentences)).pooled.clone()
            starts, ends = torch.tensor(one.starts), torch.tensor(one.ends)
            found.append(Example(str(number), visual, text, time_mask(starts, ends, len(visual))))
    return found


def trained(learnt: list[Example], seed: int, *, ordered: bool, steps: int = STEPS) -> Aligner:
    """An aligner from random weights: MIL-NCE over batches of 8 videos, the rate falling to 0."""
    first = learnt[0]
    sizes = AlignerSizes(first.visual.shape[1], first.text.shape[1], 64, 32, 2, 2, 4, 128)
    model = seeded(lambda: Aligner(sizes), seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=5e-5, fused=True)
    order, mixing = stream(seed, "order"), stream(seed, "sentences")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            rows = torch.randint(len(learnt), (BATCH,), generator=order).tolist()
            batch = collate([learnt[row] for row in rows])
            batch = batch if ordered else shuffled(batch, mixing)
            losses, _ = layer_losses(model, batch, ordered=ordered, temperature=TEMPERATURE)
            optimizer.zero_grad()
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def recall(tested: list[Example], similarity: Callable[[Example], torch.Tensor]) -> float:
    """Share of all sentences whose moment lies in their interval."""
    shares = []
    for one in tested:
        nothing = torch.zeros(1, len(one.visual), dtype=torch.bool)
        found, _ = moments(similarity(one)[None], nothing)
        shares.append(alignment_recall(found[0], one.inside, torch.ones(len(one.text))))
    return sum(shares) / len(shares)


def _measured(learnt: list[Example], material: Material, *, ordered: bool) -> Measures:
    model = trained(learnt, material.seed, ordered=ordered)
    return {"recall": recall(material.tested, by_aligner(model, ordered))}


def _moved(inside: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    moved = torch.zeros_like(inside)
    for row, frames in enumerate(inside):
        places = frames.nonzero().flatten()
        by = int(torch.randint(-SHIFT, SHIFT + 1, (), generator=draw))
        moved[row, (places + by).clamp(0, inside.shape[1] - 1)] = True
    return moved
