"""Two or more models that write one text together: what a method asks of them, and how it is run.

A method is a generator that yields what it wants to hear (`Ask`) and is sent what was said (a `Chunk` for each text).
It knows nothing of models, token ids or caches, so the same method runs over plain functions (`hold`), over local
models with their caches, many texts at a time (`decoding.cached_speakers`), and over endpoints
(`decoding.endpoint_speakers`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

T = TypeVar("T")

Need = Literal["all", "certain", "first"]
"""How much of a chunk is needed now: all of it; its tokens up to the first uncertain one; its first token."""


@dataclass(frozen=True)
class Token:
    """One token of a chunk.

    Attributes:
        text: what it adds; never half a character.
        top_prob: the largest probability at its place, under the undistorted distribution. Where a character takes
            several tokens, the smallest of theirs.
        alternatives: (text, probability) of the most probable tokens at its place, in falling order, when asked for.
    """

    text: str
    top_prob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Chunk:
    """What a model says next.

    Attributes:
        tokens: in order.
        stopped: the model ended the text within the chunk.
        partial: only what was needed is there; more would follow.
        full: the model's context has no room for more.
    """

    tokens: tuple[Token, ...]
    stopped: bool = False
    partial: bool = False
    full: bool = False

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.tokens)


@dataclass(frozen=True)
class Ask:
    """A question to one model: how would you continue these texts?

    Attributes:
        side: name of the model.
        texts: beginnings of the answer, each to be continued by itself.
        max_tokens: length of a chunk.
        need: a model may stop early when it has what is needed; the chunk is then `partial`.
        certain: under `need="certain"` a token whose `top_prob` is below is uncertain.
    """

    side: str
    texts: tuple[str, ...]
    max_tokens: int
    need: Need = "all"
    certain: float = 0.0


Talk = Generator[Ask, Sequence[Chunk], T]
"""A method at work on one text."""
Speaker = Callable[[str, int], Chunk]
"""(text so far, number of tokens) to the whole chunk that follows."""


@dataclass(frozen=True)
class Conversation(Generic[T]):
    """A method at work on one text.

    Attributes:
        talk: the method.
        prompts: for each side what stands before the answer; for a local model a text, special tokens written out.
        stream: (prompt, sample), which names the random numbers.
    """

    talk: Talk[T]
    prompts: Mapping[str, Any]
    stream: tuple[int, int]


def hold(talk: Talk[T], speakers: Mapping[str, Speaker]) -> T:
    """Run a method over plain functions, one question at a time."""
    try:
        ask = next(talk)
        while True:
            ask = talk.send([speakers[ask.side](text, ask.max_tokens) for text in ask.texts])
    except StopIteration as end:
        return end.value


class Length(Protocol):
    """Length of a text in the unit of the limit (tokens of the base model, words, ...)."""

    def __call__(self, text: str) -> int: ...
