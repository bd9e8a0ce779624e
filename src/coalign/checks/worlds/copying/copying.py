"""A world of copying: a prompt has three letters, a response should begin with the same three.

Gold is the share of the three that are right; how the response goes on, and for how long, does not matter. The
starting model learns from noisy copies of any length, so its samples differ in gold and in length, and preferences
between them come from gold with noise, optionally with a reward for length. Prompts may be of several classes that
demonstrations copy more or less rightly; the token that ends a prompt names its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, pretrained, start_with
from coalign.checks.steps import example, frozen_logps
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.models.types import Responses
from coalign.training.batches import Example, responses_of_examples

END, SEPARATOR, FIRST_LETTER = 0, 1, 2

Samples = list[list[list[int]]]
"""For each prompt its responses, token ids."""


@dataclass(frozen=True)
class CopyingWorld:
    """24 tokens: the end of a response, the end of a prompt, 22 letters; one more for each further class of prompts.

    Attributes:
        seed: of everything that is drawn.
        copy_rates: for each class of prompts the share of letters that demonstrations copy rightly; the classes take
            turns.
        longest_tail: letters that may follow the copy; their number is uniform.
        label_noise: standard deviation of the noise on the scores that make preferences.
        max_new_tokens: where a sample is cut.
        held_out: fresh prompts that models are measured on.
    """

    seed: int
    vocabulary: int = 24
    copied: int = 3
    copy_rates: tuple[float, ...] = (0.62,)
    longest_tail: int = 10
    label_noise: float = 0.25
    max_new_tokens: int = 24
    held_out: int = 400

    @property
    def separators(self) -> list[int]:
        """The token that ends a prompt, for each class."""
        return [SEPARATOR, *range(self.vocabulary, self.vocabulary + len(self.copy_rates) - 1)]

    def prompts(self, n: int, purpose: str) -> list[list[int]]:
        """`n` prompts of three letters and the separator of their class; another purpose draws others."""
        letters = self._letters((n, self.copied), stream(self.seed, f"prompts/{purpose}")).tolist()
        ends = self.separators
        return [[*row, ends[place % len(ends)]] for place, row in enumerate(letters)]

    def classes(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """The class of each prompt, from 0."""
        return [self.separators.index(prompt[-1]) for prompt in prompts]

    def demonstrations(self, n: int, purpose: str, rates: Tensor | None = None) -> list[Example]:
        """`n` prompts, each with a noisy copy and a tail of random letters.

        Args:
            rates: [n] share of letters that each copies rightly, in place of that of its class.
        """
        prompts = self.prompts(n, purpose)
        generator = stream(self.seed, f"responses/{purpose}")
        if rates is None:
            rates = torch.tensor(self.copy_rates)[self.classes(prompts)]
        right = torch.rand(n, self.copied, generator=generator) < rates[:, None]
        letters = torch.tensor(prompts)[:, : self.copied]
        copies = torch.where(right, letters, self._letters((n, self.copied), generator)).tolist()
        tails = self._letters((n, self.longest_tail), generator).tolist()
        lengths = torch.randint(self.longest_tail + 1, (n,), generator=generator).tolist()
        return [
            example(prompt, [[*copy, *tail[:length], END]])
            for prompt, copy, tail, length in zip(prompts, copies, tails, lengths, strict=True)
        ]

    def untrained_model(self, more_tokens: int = 0) -> nn.Module:
        """A two-layer transformer of width 48 with 4 heads and random weights; `more_tokens` than the world's own."""
        tokens = self.vocabulary + len(self.copy_rates) - 1 + more_tokens
        return seeded(lambda: tiny_transformer(tokens, width=48, layers=2, heads=4), self.seed)

    def base_model(self, steps: int = 700) -> nn.Module:
        """The starting model: trained from scratch on demonstrations, each seen once."""
        return pretrained(
            self.untrained_model(), self.demonstrations(steps * 64, "base"), self.seed, steps=steps
        )

    def responses(self, model: nn.Module, prompts: list[list[int]], n: int, purpose: str) -> Samples:
        """`n` responses to every prompt, sampled at temperature 1."""
        generator = stream(self.seed, f"samples/{purpose}")
        return sample(model, prompts, generator, n=n, max_new_tokens=self.max_new_tokens, end=END)

    def gold(self, prompts: list[list[int]], responses: Samples) -> Tensor:
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

    def candidates(
        self, model: nn.Module, n: int = 1200, samples: int = 5, *, length_reward: float = 0.0
    ) -> Candidates:
        """`n` prompts with `samples` responses of `model` each, scored by gold and noise.

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
        return Candidates(self, prompts, responses, scores, chosen.tolist(), rejected.tolist())

    def pairs(
        self, model: nn.Module, n: int = 1200, samples: int = 5, *, length_reward: float = 0.0
    ) -> list[Example]:
        """Preference pairs: see `candidates` and `Candidates.pairs`."""
        return self.candidates(model, n, samples, length_reward=length_reward).pairs()

    def evaluated(self, model: nn.Module, samples: int = 4) -> tuple[list[list[int]], Samples, Tensor]:
        """The held-out prompts, `samples` responses of `model` to each, and their gold [P, samples]."""
        prompts = self.prompts(self.held_out, "evaluation")
        responses = self.responses(model, prompts, samples, "evaluation")
        return prompts, responses, self.gold(prompts, responses)

    def measure(self, model: nn.Module, reference: nn.Module, samples: int = 4) -> Measures:
        """Samples of `model` on the held-out prompts: mean gold (also by class of prompts, where there are several),
        mean length in tokens (the end counted), and the KL divergence from `reference` in nats a response.
        """
        prompts, responses, gold = self.evaluated(model, samples)
        flat = [one for row in responses for one in row]
        owners = [index for index, row in enumerate(responses) for _ in row]
        scored = Responses(prompts, flat, owners)
        ratios = frozen_logps(model, scored).sums() - frozen_logps(reference, scored).sums()
        return {
            "gold": float(gold.mean()),
            **self._by_class(gold, prompts),
            "length": sum(map(len, flat)) / len(flat),
            "kl": float(ratios.mean()),
        }

    def _by_class(self, gold: Tensor, prompts: list[list[int]]) -> Measures:
        classes = torch.tensor(self.classes(prompts))
        several = range(len(self.copy_rates)) if len(self.copy_rates) > 1 else ()
        return {f"gold, class {one}": float(gold[classes == one].mean()) for one in several}

    def _letters(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(FIRST_LETTER, self.vocabulary, shape, generator=generator)


@dataclass(frozen=True)
class Candidates:
    """Prompts with scored samples, and the records of every kind that can be made of them.

    Attributes:
        scores: [P, n] what labels come from: gold and noise, higher is better.
        chosen, rejected: of two samples to each prompt, drawn at random, the places of the better and of the worse.
    """

    world: CopyingWorld
    prompts: list[list[int]]
    responses: Samples
    scores: Tensor
    chosen: list[int]
    rejected: list[int]

    def pairs(self, *, scored: bool = False) -> list[Example]:
        """The chosen and the rejected response to each prompt, of values 1 and 0, or their scores."""
        return [
            example(
                self.prompts[row],
                [self.responses[row][place] for place in places],
                [float(self.scores[row, place]) for place in places] if scored else [1.0, 0.0],
            )
            for row, places in enumerate(zip(self.chosen, self.rejected, strict=True))
        ]

    def rankings(self) -> list[Example]:
        """All samples to each prompt with their scores."""
        return [
            example(prompt, responses, scores)
            for prompt, responses, scores in zip(
                self.prompts, self.responses, self.scores.tolist(), strict=True
            )
        ]

    def thumbs(
        self, up: Sequence[int] | None = None, down: Sequence[int] | None = None, **columns: Sequence[float]
    ) -> list[Example]:
        """The chosen responses with thumbs up (value 1) and the rejected ones with thumbs down (0), one a record, in
        random order.

        Args:
            up, down: for each class of prompts, to how many of them the chosen (the rejected) response is taken; by
                default to all.
            columns: name to the value of each prompt.
        """
        taken = [
            (row, places[row], label)
            for places, label, counts in ((self.chosen, 1.0, up), (self.rejected, 0.0, down))
            for row in self._rows(counts)
        ]
        order = torch.randperm(len(taken), generator=stream(self.world.seed, "thumbs/order")).tolist()
        drawn = (taken[index] for index in order)
        return [self._labelled(row, place, label, columns) for row, place, label in drawn]

    def marked(self, bar: float, **columns: Sequence[float]) -> list[Example]:
        """The two drawn responses to each prompt, one a record: value 1 where the score reaches `bar`, else 0. So a
        prompt may have two thumbs up, or two down.

        Args:
            columns: name to the value of each prompt.
        """
        return [
            self._labelled(row, place, float(self.scores[row, place] >= bar), columns)
            for row, places in enumerate(zip(self.chosen, self.rejected, strict=True))
            for place in places
        ]

    def _labelled(
        self, row: int, place: int, label: float, columns: Mapping[str, Sequence[float]]
    ) -> Example:
        values = {name: of_prompts[row] for name, of_prompts in columns.items()}
        return example(self.prompts[row], [self.responses[row][place]], [label], **values)

    def _rows(self, counts: Sequence[int] | None) -> list[int]:
        """The first prompts of each class, so many; all of them without a number."""
        classes = self.world.classes(self.prompts)
        if counts is None:
            return list(range(len(classes)))
        rows = [[row for row, one in enumerate(classes) if one == number] for number in range(len(counts))]
        return [row for found, count in zip(rows, counts, strict=True) for row in found[:count]]


def start(seed: int, panels: Mapping[str, float]) -> Start[CopyingWorld]:
    """World, starting model and pairs of a seed; `panels` maps a name to its reward per token of length."""
    world = CopyingWorld(seed)
    base = world.base_model()
    pairs = {name: world.pairs(base, length_reward=reward) for name, reward in panels.items()}
    return start_with(world, base, pairs, compared=pairs)


def mean_gold(world: CopyingWorld, model: nn.Module) -> float:
    """Mean gold of four samples to each held-out prompt."""
    return float(world.evaluated(model)[2].mean())


def pair_changes(material: Start[CopyingWorld], model: nn.Module, panel: str) -> Measures:
    """How the summed log-probabilities of the chosen and of the rejected responses of a panel of pairs changed from
    the starting model to `model`: means over pairs, in nats.
    """
    scored = responses_of_examples(material.panels[panel])
    before, after = (
        torch.tensor([float(one.sum()) for one in frozen_logps(policy, scored).split()])
        for policy in (material.base, model)
    )
    changes = (after - before).reshape(-1, 2).mean(dim=0)
    return {"chosen, change": float(changes[0]), "rejected, change": float(changes[1])}
