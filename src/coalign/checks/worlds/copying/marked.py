"""A world of copying in which some answers begin with a mark that nobody wants.

A prompt has three letters and an answer begins with a noisy copy of them. Four of ten answers that the starting model
learns from begin with a mark of two tokens instead, the copy follows after it: so a marked answer is bad, but much of
it is right, and unlearning it carelessly unlearns copying. Known are marked answers to some prompts; the model's own
samples serve as anchors, and four of ten of them are marked too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, pretrained, start_with, training_arm
from coalign.checks.steps import example, frozen_logps
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.copying.copying import CopyingWorld
from coalign.training.batches import Example, responses_of_examples
from coalign.training.objective import Losses, NoConstants, Objective, ScoredBatch


def _ascent(batch: ScoredBatch, constants: NoConstants) -> Losses:
    return Losses(batch.policy.sums())


ASCENT = Objective("gradient_ascent", data="demonstration", reference=False, normalise="tokens", loss=_ascent)
"""Gradient ascent on the cross-entropy of bad answers: what unlearning methods are compared with."""


@dataclass(frozen=True)
class MarkedWorld:
    """Copying with a mark.

    Attributes:
        seed: of everything that is drawn.
        marked: share of answers with the mark.
    """

    seed: int
    marked: float = 0.4

    @cached_property
    def copying(self) -> CopyingWorld:
        """Prompts, copies and gold."""
        return CopyingWorld(self.seed, copy_rates=(0.8,), longest_tail=2)

    @property
    def mark(self) -> list[int]:
        """Two tokens beyond the letters."""
        return [self.copying.vocabulary, self.copying.vocabulary + 1]

    def answers(self, n: int, purpose: str, marked: float) -> list[Example]:
        """`n` prompts with an answer each, a share of them marked."""
        draw = torch.rand(n, generator=stream(self.seed, f"marks/{purpose}")) < marked
        plain = self.copying.demonstrations(n, purpose)
        marks = draw.tolist()
        return [_marked(one, self.mark) if bad else one for one, bad in zip(plain, marks, strict=True)]

    def base_model(self, steps: int = 700) -> nn.Module:
        """A two-layer transformer of width 48, trained from scratch on answers of both kinds."""
        model = self.copying.untrained_model(len(self.mark))
        return pretrained(model, self.answers(steps * 64, "base", self.marked), self.seed, steps=steps)

    def measure(self, model: nn.Module, reference: nn.Module | None = None, samples: int = 4) -> Measures:
        """Samples to held-out prompts: share with a mark, gold and length of those without (0 where there are none);
        and the cross-entropy of held-out answers without a mark, nats a token. Nothing is compared with a
        `reference`.
        """
        _, answers, gold = self.copying.evaluated(model, samples)
        good = torch.tensor([[one[0] not in self.mark for one in row] for row in answers])
        held_out = responses_of_examples(self.answers(self.copying.held_out, "held out", 0.0))
        likelihood = frozen_logps(model, held_out).token_logps.mean()
        return {
            "marked": 1 - float(good.double().mean()),
            "gold": float(gold[good].mean()) if good.any() else 0.0,
            "nll": -float(likelihood),
        }


def unlearning(seed: int, *, prompts: int = 800, samples: int = 5, more: int = 11) -> Start[MarkedWorld]:
    """World, starting model, its samples and the marked answers of a seed.

    The panels are `anchors`: rankings of the model's own samples (value 1) and the marked answer (0), samples equal to
    it left out; `more anchors`: of other and more samples; `pairs`: the first of the anchors against the marked answer;
    `bad`: the marked answers alone.
    """
    world = MarkedWorld(seed)
    base = world.base_model()
    bad = world.answers(prompts, "bad", 1.0)
    rankings = _anchored(world, base, bad, samples, "anchors")
    pairs = []
    for one in rankings:
        record = one.contexts[0]
        first, negative = record.response_ids[0], record.response_ids[-1]
        pairs.append(example(record.prompt_ids, [first, negative], [1.0, 0.0]))
    panels = {"anchors": rankings, "pairs": pairs, "bad": bad}
    if more:
        panels["more anchors"] = _anchored(world, base, bad, more, "more anchors")
    return start_with(world, base, panels, compared=panels.keys() - {"bad"})


def _anchored(
    world: MarkedWorld, model: nn.Module, bad: list[Example], samples: int, purpose: str
) -> list[Example]:
    """Rankings of `samples` samples of `model` (value 1), without those equal to the bad answer, and that answer (0)."""
    asked = [one.contexts[0].prompt_ids for one in bad]
    own = world.copying.responses(model, asked, samples, purpose)
    rankings = []
    for one, drawn in zip(bad, own, strict=True):
        record = one.contexts[0]
        negative = record.response_ids[0]
        anchors = [answer for answer in drawn if answer != negative]
        if anchors:
            rankings.append(example(record.prompt_ids, [*anchors, negative], [*[1.0] * len(anchors), 0.0]))
    return rankings


unlearning_arm = partial(training_arm, steps=200, order="unlearning/order")
"""Training on the records of a panel in steps of 32 at 3e-4."""


def _marked(one: Example, mark: list[int]) -> Example:
    record = one.contexts[0]
    return example(record.prompt_ids, [[*mark, *record.response_ids[0]]])
