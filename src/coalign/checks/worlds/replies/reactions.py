"""Dialogues in which users with a wish of their own react to replies, in words; replies are symbols.

A user wants one of five manners, and a cue of it stands in every request beside the topic. A reply is four to eight symbols
of the topic, one mark of a manner and an end. The assistant whose dialogues are logged meets the wish in 40 % of its replies;
after a complaint it mends the next one in 80 %. The user's next turn is a sentence: satisfied, dissatisfied, or in 30 % a new
question whatever the reply was.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import TinyGRU, sample, seeded, stream
from coalign.checks.worlds.texts import read_texts

Reaction = Literal["sat", "dsat", "none"]
SENTENCES: dict[Reaction, list[str]] = read_texts("reactions")
TOPICS, MANNERS, SYMBOLS = 8, 5, 4
_CUE, _MARK = TOPICS, TOPICS + MANNERS
_FIRST = _MARK + MANNERS
END = _FIRST + TOPICS * SYMBOLS
VOCABULARY = END + 1
LONGEST = 10
COMPLIES, MENDS, NEUTRAL = 0.4, 0.8, 0.3
TURNS = 3
HELD_OUT = 4
"""Sentences of each kind that the detector does not learn from."""


@dataclass(frozen=True)
class Turn:
    """A request, the reply to it, and how the user reacts in the next turn.

    Attributes:
        sentence: place of the reaction among the sentences of its kind.
    """

    prompt: tuple[int, int]
    reply: tuple[int, ...]
    reaction: Reaction
    sentence: int


@dataclass(frozen=True)
class ReactionWorld:
    """What the arms of a seed share.

    Attributes:
        base: what the logged assistant is like: it meets a wish in 40 % of its replies.
        dialogues: three turns each.
        order: kind of reaction to the places of its sentences; the last `HELD_OUT` are not learned from.
    """

    seed: int
    base: nn.Module
    dialogues: list[list[Turn]]
    order: dict[Reaction, list[int]]

    def prompts(self, count: int, purpose: str) -> list[tuple[int, int]]:
        """Requests of new users."""
        draw = stream(self.seed, purpose)
        return [(_integer(TOPICS, draw), _CUE + _integer(MANNERS, draw)) for _ in range(count)]

    def met(self, model: nn.Module, prompts: Sequence[tuple[int, int]], samples: int = 2) -> list[float]:
        """[prompts] share of sampled replies that are in the manner which the user wants."""
        draw = stream(self.seed, "test replies")
        found = sample(model, prompts, draw, n=samples, max_new_tokens=LONGEST, end=END)
        return [
            sum(meets(one, prompt) for one in several) / samples
            for prompt, several in zip(prompts, found, strict=True)
        ]


def meets(reply: Sequence[int], prompt: tuple[int, int]) -> bool:
    """Whether a reply ends, has the mark of the wanted manner and no other, and else symbols of the topic alone."""
    topic, cue = prompt
    marks = [one for one in reply if _MARK <= one < _FIRST]
    rest = [one for one in reply[:-1] if not _MARK <= one < _FIRST]
    first = _FIRST + topic * SYMBOLS
    return (
        reply[-1] == END
        and marks == [_MARK + cue - _CUE]
        and all(first <= one < first + SYMBOLS for one in rest)
    )


def written(prompt: tuple[int, int], manner: int, draw: torch.Generator) -> tuple[int, ...]:
    """A reply in a manner, of a drawn length."""
    first = _FIRST + prompt[0] * SYMBOLS
    body = [first + _integer(SYMBOLS, draw) for _ in range(4 + _integer(5, draw))]
    body.insert(_integer(len(body) + 1, draw), _MARK + manner)
    return (*body, END)


def compliant(prompt: tuple[int, int], draw: torch.Generator) -> tuple[int, ...]:
    """A reply that an expert writes who was told what the user wants."""
    return written(prompt, prompt[1] - _CUE, draw)


def make_reaction_world(
    seed: int, *, dialogues: int = 400, rows: int = 6000, steps: int = 500
) -> ReactionWorld:
    """The dialogues, and the base model trained on replies like the logged ones."""
    draw = stream(seed, "demonstrations")
    shown = []
    for _ in range(rows):
        prompt = (_integer(TOPICS, draw), _CUE + _integer(MANNERS, draw))
        shown.append(example(prompt, [_logged(prompt, COMPLIES, draw)]))
    base = seeded(lambda: TinyGRU(VOCABULARY, 96, 1), seed)
    base = pretrained(
        base, shown, seed, steps=steps, batch_size=64, learning_rate=3e-3, order="demonstrations/order"
    )
    order: dict[Reaction, list[int]] = {
        kind: torch.randperm(len(one), generator=stream(seed, kind)).tolist()
        for kind, one in SENTENCES.items()
    }
    draw = stream(seed, "dialogues")
    return ReactionWorld(seed, base, [_dialogue(draw) for _ in range(dialogues)], order)


def _dialogue(draw: torch.Generator) -> list[Turn]:
    cue = _CUE + _integer(MANNERS, draw)
    turns: list[Turn] = []
    for _ in range(TURNS):
        prompt = (_integer(TOPICS, draw), cue)
        complained = bool(turns) and turns[-1].reaction == "dsat"
        reply = _logged(prompt, MENDS if complained else COMPLIES, draw)
        kind: Reaction = "sat" if meets(reply, prompt) else "dsat"
        kind = "none" if float(torch.rand(1, generator=draw)) < NEUTRAL else kind
        turns.append(Turn(prompt, reply, kind, _integer(len(SENTENCES[kind]), draw)))
    return turns


def _logged(prompt: tuple[int, int], chance: float, draw: torch.Generator) -> tuple[int, ...]:
    wanted = prompt[1] - _CUE
    if float(torch.rand(1, generator=draw)) < chance:
        return written(prompt, wanted, draw)
    return written(prompt, (wanted + 1 + _integer(MANNERS - 1, draw)) % MANNERS, draw)


@functools.cache
def sentence_embeddings() -> dict[Reaction, Tensor]:
    """[sentences, D] of every kind, by the default encoder."""
    from coalign.models.embedding import load_encoder

    encoder = load_encoder(device="cpu")
    return {kind: encoder.encode(texts) for kind, texts in SENTENCES.items()}


def _integer(below: int, draw: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=draw))
