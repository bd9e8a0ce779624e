"""A world of copying: a prompt has three letters, a response should begin with the same three.

Gold is the share of the three that are right; how the response goes on, and for how long, does not matter. The
starting model learns from noisy copies of any length, so its samples differ in gold and in length, and preferences
between two of them come from gold with noise, optionally with a reward for length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.steps import LIKELIHOOD, SCORING_TOKENS, example, logps, reference_logps, trained
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.models.types import Responses
from coalign.training.batches import Example
from coalign.training.objective import Objective

END, SEPARATOR, FIRST_LETTER = 0, 1, 2


@dataclass(frozen=True)
class PreferenceWorld:
    """24 tokens: the end of a response, the end of a prompt, 22 letters.

    Attributes:
        seed: of everything that is drawn.
        copy_rate: share of letters that demonstrations copy rightly.
        longest_tail: letters that may follow the copy; their number is uniform.
        label_noise: standard deviation of the noise on the scores that make preferences.
        max_new_tokens: where a sample is cut.
        held_out: fresh prompts that models are measured on.
    """

    seed: int
    vocabulary: int = 24
    copied: int = 3
    copy_rate: float = 0.62
    longest_tail: int = 10
    label_noise: float = 0.25
    max_new_tokens: int = 24
    held_out: int = 400

    def prompts(self, n: int, purpose: str) -> list[list[int]]:
        """`n` prompts of three letters and the separator; another purpose draws others."""
        letters = self._letters((n, self.copied), stream(self.seed, f"prompts/{purpose}"))
        return [[*row, SEPARATOR] for row in letters.tolist()]

    def demonstrations(self, n: int, purpose: str) -> list[Example]:
        """`n` prompts, each with a noisy copy and a tail of random letters."""
        prompts = self.prompts(n, purpose)
        generator = stream(self.seed, f"responses/{purpose}")
        right = torch.rand(n, self.copied, generator=generator) < self.copy_rate
        letters = torch.tensor(prompts)[:, : self.copied]
        copies = torch.where(right, letters, self._letters((n, self.copied), generator)).tolist()
        tails = self._letters((n, self.longest_tail), generator).tolist()
        lengths = torch.randint(self.longest_tail + 1, (n,), generator=generator).tolist()
        return [
            example(prompt, [[*copy, *tail[:length], END]])
            for prompt, copy, tail, length in zip(prompts, copies, tails, lengths, strict=True)
        ]

    def base_model(self, steps: int = 700) -> nn.Module:
        """A two-layer transformer of width 48 with 4 heads, trained from scratch on demonstrations."""
        model = seeded(lambda: tiny_transformer(self.vocabulary, width=48, layers=2, heads=4), self.seed)
        return trained(
            model,
            self.demonstrations(steps * 64, "base"),
            LIKELIHOOD,
            steps=steps,
            batch_size=64,
            learning_rate=3e-3,
            generator=stream(self.seed, "base/order"),
        )

    def responses(
        self, model: nn.Module, prompts: list[list[int]], n: int, purpose: str
    ) -> list[list[list[int]]]:
        """`n` responses to every prompt, sampled at temperature 1."""
        generator = stream(self.seed, f"samples/{purpose}")
        return sample(model, prompts, generator, n=n, max_new_tokens=self.max_new_tokens, end=END)

    def gold(self, prompts: list[list[int]], responses: list[list[list[int]]]) -> Tensor:
        """[P, n] share of the prompt's letters that a response begins with, place by place."""
        return torch.tensor(
            [
                [
                    sum(a == b for a, b in zip(prompt[: self.copied], one, strict=False)) / self.copied
                    for one in row
                ]
                for prompt, row in zip(prompts, responses, strict=True)
            ]
        )

    def pairs(
        self, model: nn.Module, n: int = 1200, samples: int = 5, *, length_reward: float = 0.0
    ) -> list[Example]:
        """Preference pairs: of `samples` responses to each prompt two at random, the higher score chosen.

        Args:
            length_reward: added to the score per token of length; 0 for labels that look at gold alone.
        """
        prompts = self.prompts(n, "pairs")
        responses = self.responses(model, prompts, samples, "pairs")
        generator = stream(self.seed, "pairs/choice")
        first = torch.randint(samples, (n,), generator=generator)
        second = (first + torch.randint(1, samples, (n,), generator=generator)) % samples
        lengths = torch.tensor([[float(len(one)) for one in row] for row in responses])
        scores = self.gold(prompts, responses) + length_reward * lengths
        scores += self.label_noise * torch.randn(scores.shape, generator=generator)
        rows = torch.arange(n)
        swap = scores[rows, second] > scores[rows, first]
        chosen, rejected = torch.where(swap, second, first), torch.where(swap, first, second)
        return [
            example(prompt, [responses[row][chosen[row]], responses[row][rejected[row]]], [1.0, 0.0])
            for row, prompt in enumerate(prompts)
        ]

    def measure(self, model: nn.Module, reference: nn.Module, samples: int = 4) -> Measures:
        """Samples of `model` on the held-out prompts: mean gold, mean length in tokens (the end counted), and the KL
        divergence from `reference` in nats a response."""
        prompts = self.prompts(self.held_out, "evaluation")
        responses = self.responses(model, prompts, samples, "evaluation")
        flat = [one for row in responses for one in row]
        owners = [index for index, row in enumerate(responses) for _ in row]
        scored = Responses(prompts, flat, owners)
        with torch.no_grad():
            ratios = _sums(model, scored) - _sums(reference, scored)
        return {
            "gold": float(self.gold(prompts, responses).mean()),
            "length": sum(map(len, flat)) / len(flat),
            "kl": float(ratios.mean()),
        }

    def _letters(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(FIRST_LETTER, self.vocabulary, shape, generator=generator)


@dataclass(frozen=True)
class Start:
    """What the arms of a seed share.

    Attributes:
        base: the starting model, which also is the reference.
        pairs: panel to its preference pairs; panels differ in how labels value length.
        reference: panel to the log-probabilities of its pairs under `base`.
    """

    world: PreferenceWorld
    base: nn.Module
    pairs: dict[str, list[Example]]
    reference: dict[str, list[Tensor]]


def start(seed: int, panels: Mapping[str, float]) -> Start:
    """World, starting model and pairs of a seed; `panels` maps a name to its reward per token of length."""
    world = PreferenceWorld(seed)
    base = world.base_model()
    pairs = {name: world.pairs(base, length_reward=reward) for name, reward in panels.items()}
    return Start(world, base, pairs, {name: reference_logps(base, pairs[name]) for name in pairs})


def untrained_arm(material: Start) -> Measures:
    """The starting model itself."""
    return material.world.measure(material.base, material.base)


def pair_arm(
    objective: Objective, constants: Any, panel: str, *, steps: int = 300
) -> Callable[[Start], Measures]:
    """Training on the pairs of a panel in steps of 32 pairs at 3e-4, in the same order for every objective."""

    def measure(material: Start) -> Measures:
        policy = trained(
            material.base,
            material.pairs[panel],
            objective,
            constants,
            steps=steps,
            batch_size=32,
            learning_rate=3e-4,
            generator=stream(material.world.seed, "pairs/order"),
            reference=material.reference[panel] if objective.reference else None,
        )
        return material.world.measure(policy, material.base)

    return measure


def _sums(model: nn.Module, responses: Responses) -> Tensor:
    return logps(model, responses, batch_tokens=SCORING_TOKENS).sums()
