"""The world of classes and replies with a model that also grades: three of ten replies that it learned answer the class,
the others go on with noise and speakers' marks, and some rows show a task, a reply and a grade from 1 to 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import TinyGRU, seeded, stream
from coalign.checks.worlds.replies.replies import Replies, ReplyWorld
from coalign.training.batches import Example

GRADES = 10


@dataclass(frozen=True)
class GradedWorld(ReplyWorld):
    """After the content symbols follow the marks of speakers, the sign that asks for a grade and the ten grades.

    Attributes:
        marks: symbols of speakers.
        answers: share of the base model's rows that answer.
        noise: largest error of a grade that the base model is shown.
    """

    content: int = 24
    marks: int = 2
    answers: float = 0.3
    noise: int = 1

    @property
    def asks(self) -> int:
        """The sign that asks for a grade."""
        return 1 + self.classes + self.content + self.marks

    @property
    def vocabulary(self) -> int:
        return self.asks + 1 + GRADES

    @cached_property
    def _good(self) -> Tensor:
        """[classes, vocabulary] whether a symbol is good for a class."""
        table = torch.zeros(self.classes, self.vocabulary, dtype=torch.bool)
        return table.scatter(1, self.order[:, : self.good] + 1 + self.classes, True)

    def quality(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] share of a reply's symbols that are good for its class; the truth, which no arm sees."""
        classes = torch.tensor(prompts)[:, 0] - 1
        return self._good[classes[:, None, None], torch.tensor(replies)].float().mean(dim=-1)

    def rows(self, n: int, purpose: str) -> tuple[list[list[int]], Replies]:
        """`n` prompts with a reply each, of which the share `answers` is good throughout."""
        prompts = self.prompts(n, purpose)
        generator = stream(self.seed, f"rows/{purpose}")
        classes = torch.tensor(prompts)[:, 0] - 1
        place = torch.randint(self.good, (n, self.length), generator=generator)
        good = self.order[classes].gather(1, place)
        noise = torch.randint(self.content + self.marks, (n, self.length), generator=generator)
        answers = torch.rand(n, 1, generator=generator) < self.answers
        return prompts, (torch.where(answers, good, noise) + 1 + self.classes)[:, None].tolist()

    def graded(self, n: int, purpose: str) -> list[Example]:
        """`n` tasks with a reply whose quality is uniform, and its grade, off by up to `noise`."""
        shown = self.demonstrations(n, purpose)
        prompts = [one.contexts[0].prompt_ids for one in shown]
        replies = [one.contexts[0].response_ids for one in shown]
        error = torch.randint(
            -self.noise, self.noise + 1, (n,), generator=stream(self.seed, f"grades/{purpose}")
        )
        grades = (1 + (GRADES - 1) * self.quality(prompts, replies)[:, 0]).round() + error
        return [
            example([*prompt, *reply, self.asks], [[self.asks + int(grade)]])
            for prompt, (reply,), grade in zip(
                prompts, replies, grades.clamp(1, GRADES).tolist(), strict=True
            )
        ]

    def base(self, rows: int, graded: int, epochs: int) -> TinyGRU:
        """A two-layer GRU of width 96, trained from scratch on both."""
        prompts, replies = self.rows(rows, "base")
        shown = [example(*one) for one in zip(prompts, replies, strict=True)]
        shown += self.graded(graded, "base")
        model = seeded(lambda: TinyGRU(self.vocabulary, width=96, layers=2), self.seed)
        return pretrained(model, shown, self.seed, steps=epochs * len(shown) // 64)

    @torch.no_grad()
    def grades(self, model: nn.Module, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P] the likeliest grade of the first reply to each prompt, and behind the point how sure it is."""
        rows = [[*prompt, *several[0], self.asks] for prompt, several in zip(prompts, replies, strict=True)]
        logits = model(input_ids=torch.tensor(rows), logits_to_keep=1).logits[:, -1, self.asks + 1 :]
        return logits.argmax(dim=-1) + 1 + 0.99 * logits.softmax(dim=-1).amax(dim=-1)

    def measure(
        self, model: nn.Module, reference: nn.Module | None = None, prompts: int = 300, samples: int = 4
    ) -> Measures:
        """Mean true quality of samples on held-out prompts. Nothing is compared with a `reference`."""
        held_out = self.prompts(prompts, "evaluation")
        replies = self.replies(model, held_out, samples, "evaluation")
        return {"quality": float(self.quality(held_out, replies).mean())}
