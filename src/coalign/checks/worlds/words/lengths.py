"""A world of ordered lengths: a prompt names a subject and a number of words, a reply should have as many.

The starting model knows replies of both kinds: most are short whatever was ordered, some keep to the order. Records to
learn from are long; a fifth has the ordered length, the others anything from 0.3 to 3 times as many words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.data.records import Demonstration, Source
from coalign.training.batches import Example

END, SEPARATOR = 0, 1
WORDS = [f"{first}{second}" for first in "kmpt" for second in "aeio"]
SUBJECTS = 4
FIRST_WORD, FIRST_LENGTH = 2, 2 + len(WORDS)
SHORTEST, LONGEST = 6, 32
MOST = 3 * LONGEST
VOCABULARY = FIRST_LENGTH + LONGEST - SHORTEST + 1
SHARE_SHORT = 0.85
SHARE_KEPT_TO = 0.2


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        subject: which words its replies prefer.
        length: words that it orders.
    """

    subject: int
    length: int

    @property
    def ids(self) -> list[int]:
        return [FIRST_WORD + self.subject, FIRST_LENGTH + self.length - SHORTEST, SEPARATOR]

    @property
    def text(self) -> str:
        return f"Write about {WORDS[self.subject]} in {self.length} words"


@dataclass(frozen=True)
class LengthWorld:
    """Prompts and replies of a seed."""

    seed: int

    def asked(self, count: int, purpose: str) -> list[Asked]:
        """Prompts; another purpose draws others."""
        draw = stream(self.seed, f"asked/{purpose}")
        subjects = torch.randint(SUBJECTS, (count,), generator=draw).tolist()
        lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=draw).tolist()
        return [Asked(*one) for one in zip(subjects, lengths, strict=True)]

    def replies(self, prompts: Sequence[Asked], lengths: Sequence[int], purpose: str) -> list[list[int]]:
        """A reply of so many words to each prompt: three of four are those of its subject."""
        draw = stream(self.seed, f"replies/{purpose}")
        found = []
        for asked, length in zip(prompts, lengths, strict=True):
            own = torch.rand(length, generator=draw) < 0.75
            offsets = torch.randint(len(WORDS) // SUBJECTS, (length,), generator=draw)
            others = torch.randint(len(WORDS), (length,), generator=draw)
            words = torch.where(own, asked.subject * len(WORDS) // SUBJECTS + offsets, others)
            found.append([*(FIRST_WORD + words).tolist(), END])
        return found

    def start(self, *, examples: int, steps: int) -> LlamaForCausalLM:
        """A model that mostly answers shortly."""
        prompts = self.asked(examples, "start")
        draw = stream(self.seed, "start/lengths")
        short = torch.rand(examples, generator=draw) < SHARE_SHORT
        few = torch.randint(3, 13, (examples,), generator=draw)
        wanted = torch.tensor([one.length for one in prompts])
        lengths = torch.where(short, few, wanted).tolist()
        model = seeded(lambda: tiny_transformer(VOCABULARY, 64, 2, 4, positions=MOST + 8), self.seed)
        return pretrained(
            model, self.examples(prompts, self.replies(prompts, lengths, "start")), self.seed,
            steps=steps, learning_rate=2e-3,
        )  # fmt: skip

    def records(self, count: int) -> tuple[list[Asked], list[list[int]]]:
        """Prompts and replies to learn from."""
        prompts = self.asked(count, "records")
        draw = stream(self.seed, "records/lengths")
        kept = torch.rand(count, generator=draw) < SHARE_KEPT_TO
        factors = torch.where(kept, 1.0, 0.3 + 2.7 * torch.rand(count, generator=draw))
        lengths = [
            max(1, round(one.length * factor)) for one, factor in zip(prompts, factors.tolist(), strict=True)
        ]
        return prompts, self.replies(prompts, lengths, "records")

    def examples(self, prompts: Sequence[Asked], replies: Sequence[list[int]]) -> list[Example]:
        return [example(one.ids, [reply]) for one, reply in zip(prompts, replies, strict=True)]

    def written(
        self, model: LlamaForCausalLM, prompts: Sequence[Asked], temperature: float
    ) -> list[list[int]]:
        """A sampled reply to each prompt, without its end; cut after `MOST` words."""
        draw: torch.Generator = stream(self.seed, "written")
        rows = sample(
            model,
            [one.ids for one in prompts],
            draw,
            n=1,
            max_new_tokens=MOST,
            temperature=temperature,
            end=END,
        )
        return [[token for token in row if token != END] for (row,) in rows]


def as_text(reply: Sequence[int]) -> str:
    """A reply in words; what is no word is left out."""
    return " ".join(WORDS[one - FIRST_WORD] for one in reply if FIRST_WORD <= one < FIRST_LENGTH)


def as_records(prompts: Sequence[Asked], replies: Sequence[list[int]]) -> list[Demonstration]:
    """Prompts and replies as text, for the filter."""
    return [
        Demonstration(
            source=Source("world", None, place),
            prompt=[{"role": "user", "content": asked.text}],
            completion=as_text(reply),
        )
        for place, (asked, reply) in enumerate(zip(prompts, replies, strict=True))
    ]
