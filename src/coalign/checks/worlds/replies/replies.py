"""A world of classes and replies: a prompt names a class, a reply of eight symbols is good when it shows the class's
good symbols. Quality can be computed exactly, some of it can be hidden from what a method sees.

Each class has six good symbols, hidden from verifiers and rewards, within twelve allowed ones. The base model learns
from replies of mixed quality: row by row a share q, uniform in [0, 1], of the symbols is drawn from the good ones and
the rest from all. So its samples differ in quality, and it could do better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, pretrained, start_with, training_arm
from coalign.checks.steps import best_only, example
from coalign.checks.tiny_models import TinyGRU, sample, seeded, stream
from coalign.training.batches import Example

Replies = list[list[list[int]]]
"""For each prompt its replies, token ids."""


@dataclass(frozen=True)
class ReplyWorld:
    """Token 0 is padding, 1 .. classes are the prompts, the content symbols follow.

    Attributes:
        seed: of everything that is drawn.
        content: content symbols; 36 make a vocabulary of 45.
        temperature: of every sample.
        shared: the classes have the same good symbols.
    """

    seed: int
    content: int = 36
    classes: int = 8
    good: int = 6
    allowed: int = 12
    length: int = 8
    temperature: float = 0.8
    shared: bool = False

    @property
    def vocabulary(self) -> int:
        return 1 + self.classes + self.content

    @property
    def order(self) -> Tensor:
        """[classes, content] content symbols of each class: first the good ones, then the other allowed ones."""
        generator = stream(self.seed, "symbols")
        orders = [torch.randperm(self.content, generator=generator) for _ in range(self.classes)]
        return torch.stack([orders[0]] * self.classes if self.shared else orders)

    def prompts(self, n: int, purpose: str) -> list[list[int]]:
        """`n` prompts of one token each; another purpose draws others."""
        drawn = torch.randint(self.classes, (n,), generator=stream(self.seed, f"prompts/{purpose}"))
        return (drawn[:, None] + 1).tolist()

    def demonstrations(
        self, n: int, purpose: str, quality: tuple[float, float] = (0.0, 1.0)
    ) -> list[Example]:
        """`n` prompts with a reply each; the share of good draws is uniform in `quality`, row by row."""
        prompts = self.prompts(n, purpose)
        generator = stream(self.seed, f"replies/{purpose}")
        low, high = quality
        share = low + (high - low) * torch.rand(n, 1, generator=generator)
        from_good = torch.rand(n, self.length, generator=generator) < share
        place = torch.randint(self.good, (n, self.length), generator=generator)
        good = self.order[torch.tensor(prompts)[:, 0] - 1].gather(1, place)
        other = torch.randint(self.content, (n, self.length), generator=generator)
        replies = torch.where(from_good, good, other) + 1 + self.classes
        return [example(prompt, [reply]) for prompt, reply in zip(prompts, replies.tolist(), strict=True)]

    def base_model(self, rows: int = 4000, epochs: int = 3) -> TinyGRU:
        """A two-layer GRU of width 96, trained from scratch on replies of mixed quality."""
        model = seeded(lambda: TinyGRU(self.vocabulary, width=96, layers=2), self.seed)
        steps = epochs * rows // 32
        return pretrained(model, self.demonstrations(rows, "base"), self.seed, steps=steps, batch_size=32)

    def replies(self, model: nn.Module, prompts: list[list[int]], n: int, purpose: str) -> Replies:
        """`n` sampled replies to every prompt."""
        return sample(
            model,
            prompts,
            stream(self.seed, f"samples/{purpose}"),
            n=n,
            max_new_tokens=self.length,
            temperature=self.temperature,
        )

    def task_scores(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] share of the class's good symbols that a reply shows. What a method aims at and never sees."""
        symbols, order = self._symbols(prompts, replies)
        present = symbols[..., None] == order[:, None, None, : self.good]
        return present.any(dim=2).float().mean(dim=-1)

    def good_shares(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] share of a reply's symbols that are good ones of its class, repeated ones included."""
        return self._shares_of(self.good, prompts, replies)

    def allowed_shares(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] share of a reply's symbols that its class allows."""
        return self._shares_of(self.allowed, prompts, replies)

    def _shares_of(self, first: int, prompts: list[list[int]], replies: Replies) -> Tensor:
        symbols, order = self._symbols(prompts, replies)
        return (symbols[..., None] == order[:, None, None, :first]).any(dim=-1).float().mean(dim=-1)

    def distinct_shares(self, replies: Replies) -> Tensor:
        """[P, n] share of distinct symbols in a reply."""
        ordered = torch.tensor(replies).sort(dim=-1).values
        return 1 - (ordered[..., 1:] == ordered[..., :-1]).sum(dim=-1) / ordered.shape[-1]

    def satisfaction(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] mean of the two constraints: only allowed symbols, no repetition."""
        return (self.allowed_shares(prompts, replies) + self.distinct_shares(replies)) / 2

    def measure(
        self, model: nn.Module, reference: nn.Module | None = None, prompts: int = 300, samples: int = 4
    ) -> Measures:
        """Mean constraint satisfaction and hidden task score of samples on held-out prompts. Nothing is compared with a
        `reference`.
        """
        held_out = self.prompts(prompts, "evaluation")
        replies = self.replies(model, held_out, samples, "evaluation")
        return {
            "satisfaction": float(self.satisfaction(held_out, replies).mean()),
            "task score": float(self.task_scores(held_out, replies).mean()),
        }

    def _symbols(self, prompts: list[list[int]], replies: Replies) -> tuple[Tensor, Tensor]:
        """[P, n, length] content symbols (negative for others) and [P, content] their order for the prompt's class."""
        order = self.order[torch.tensor(prompts)[:, 0] - 1]
        return torch.tensor(replies) - 1 - self.classes, order


def sampled_replies(seed: int, prompts: int = 400, samples: int = 4) -> Start[ReplyWorld]:
    """World, base model and its own replies to unlabelled prompts, with 24 content symbols. The panels are `all` replies
    of each prompt with their satisfaction, the `best` of them, and the `first`.
    """
    world = ReplyWorld(seed, content=24)
    base = world.base_model()
    drawn = world.prompts(prompts, "training")
    replies = world.replies(base, drawn, samples, "training")
    return start_with(world, base, panels_of(world, drawn, replies), compared=())


def panels_of(world: ReplyWorld, prompts: list[list[int]], replies: Replies) -> dict[str, list[Example]]:
    """See `sampled_replies`."""
    scores = world.satisfaction(prompts, replies).tolist()
    rankings = [example(*one) for one in zip(prompts, replies, scores, strict=True)]
    first = [example(prompt, row[:1]) for prompt, row in zip(prompts, replies, strict=True)]
    return {"all": rankings, "best": best_only(rankings), "first": first}


self_training_arm = partial(training_arm, epochs=2, learning_rate=1e-3, order="training/order")
"""Training for two epochs at 1e-3 on a panel; prompts in the same order for every arm, `batch_size` of them a step."""
