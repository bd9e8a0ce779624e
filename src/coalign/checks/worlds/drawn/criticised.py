"""Captions of drawn scenes, critiques of them in words and captions refined after a critique, all in tokens of one small decoder."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from coalign.checks.arms import Measures
from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.training.batches import Example

OBJECTS, COLOURS, SHAPES = 3, 8, 6
LENGTH = 2 * OBJECTS
"""Tokens of a scene, of a caption and of a critique: a colour and a shape an object."""
_KINDS = (COLOURS, SHAPES) * OBJECTS
_WORDS = COLOURS + SHAPES
"""Image tokens come first, the words for what they show follow in the same order."""
OK, CAPTION, CRITIQUE, REFINE = range(2 * _WORDS, 2 * _WORDS + 4)
VOCABULARY = REFINE + 1

Scene = list[int]
"""The image tokens of a scene."""
Text = list[int]


def caption_of(scene: Scene) -> Text:
    """The right caption."""
    return [token + _WORDS for token in scene]


def critique_of(scene: Scene, caption: Text) -> Text:
    """For each attribute `OK`, or the right word where the caption has another."""
    return [OK if said == right else right for said, right in zip(caption, caption_of(scene), strict=True)]


def right_share(scene: Scene, caption: Text) -> float:
    """The share of attributes that a caption names rightly."""
    return statistics.fmean(said == right for said, right in zip(caption, caption_of(scene), strict=True))


def to_caption(scene: Scene) -> list[int]:
    """The prompt of a caption."""
    return [*scene, CAPTION]


def to_criticise(scene: Scene, caption: Text) -> list[int]:
    """The prompt of a critique: scene and caption."""
    return [*scene, CAPTION, *caption, CRITIQUE]


def to_refine(scene: Scene, caption: Text, critique: Text) -> list[int]:
    """The prompt of a refinement: scene, caption and critique, as a conversation of three turns."""
    return [*scene, CAPTION, *caption, CRITIQUE, *critique, REFINE]


def words_of(tokens: Sequence[int]) -> str:
    """Tokens as a text, a word each."""
    return " ".join(f"w{token}" for token in tokens)


@dataclass(frozen=True)
class Captioned:
    """The world of a seed.

    Attributes:
        corrupted: chance that an attribute of a caption to learn from is drawn anew from its kind.
        unseen: scenes that a model is measured on.
    """

    seed: int
    corrupted: float = 0.3
    unseen: int = 600

    def scenes(self, purpose: str, n: int) -> list[Scene]:
        """Scenes of a purpose; others are others."""
        draw = stream(self.seed, f"scenes/{purpose}")
        columns = [
            torch.randint(kind, (n,), generator=draw) + (COLOURS if kind == SHAPES else 0) for kind in _KINDS
        ]
        return torch.stack(columns, 1).tolist()

    def corrupt(self, caption: Text, draw: torch.Generator) -> Text:
        """A caption with some attributes drawn anew."""
        hit = (torch.rand(LENGTH, generator=draw) < self.corrupted).tolist()
        drawn = [
            int(torch.randint(kind, (1,), generator=draw)) + _WORDS + (COLOURS if kind == SHAPES else 0)
            for kind in _KINDS
        ]
        return [new if changed else old for old, new, changed in zip(caption, drawn, hit, strict=True)]

    def shown(self, n: int) -> list[Example]:
        """What the starting model learns from: corrupted captions, and one record in five a refinement."""
        draw = stream(self.seed, "corruptions")
        found = []
        for place, scene in enumerate(self.scenes("start", n)):
            caption = self.corrupt(caption_of(scene), draw)
            if place % 5 == 4:
                asked = to_refine(scene, caption, critique_of(scene, caption))
                found.append(example(asked, [caption_of(scene)]))
            else:
                found.append(example(to_caption(scene), [caption]))
        return found

    def start(self, *, records: int, steps: int) -> nn.Module:
        """A decoder of 2 layers and width 64 that captions with errors and refines after a critique."""
        fresh = seeded(lambda: tiny_transformer(VOCABULARY, 64, 2, 4, positions=64, spread=0.1), self.seed)
        return pretrained(fresh, self.shown(records), self.seed, steps=steps, learning_rate=2e-3)

    def said(self, model: nn.Module, prompts: Sequence[Sequence[int]], purpose: str) -> list[Text]:
        """One sample a prompt, at temperature 1."""
        found = sample(model, prompts, stream(self.seed, purpose), n=1, max_new_tokens=LENGTH)
        return [one[0] for one in found]

    def measure(self, model: nn.Module, reference: nn.Module) -> Measures:
        """The share of right attributes in captions of unseen scenes, sampled at temperature 1."""
        scenes = self.scenes("unseen", self.unseen)
        captions = self.said(model, [to_caption(one) for one in scenes], "unseen captions")
        return {"right": statistics.fmean(map(right_share, scenes, captions))}
