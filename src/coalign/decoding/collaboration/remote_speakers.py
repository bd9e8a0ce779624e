"""Models behind a generation back end (an endpoint, vLLM) that write texts together.

Such a back end keeps no row for us: every question sends its prompt and the text so far, and asks for the tokens' most
probable alternatives. Questions of all texts that wait go out together, so the back end can work on them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from coalign.core.errors import ModelError
from coalign.data.records import Messages
from coalign.decoding.collaboration.speakers import Ask, Chunk, Conversation, Token
from coalign.models.types import Generation, Generator, Prompts, Sampling, is_prefilled

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 4
"""Of English text in tokenizers of today: the length of a text where no tokenizer is at hand."""


def approximate_length(text: str) -> int:
    """Tokens of a text, by its number of bytes."""
    return math.ceil(len(text.encode()) / CHARACTERS_PER_TOKEN)


@dataclass(frozen=True)
class RemoteSpeaker:
    """A model behind a back end.

    Attributes:
        generator: the back end.
        sampling: how to decode; length, samples and alternatives are set for each question.
        alternatives: how many of the most probable tokens are reported at each place, at least 1.
    """

    generator: Generator
    sampling: Sampling
    alternatives: int = 1

    def chunks(self, prompts: Prompts, texts: Sequence[str], max_tokens: int, *, cut: bool) -> list[Chunk]:
        """What follows each text after its prompt; `cut`: one token is enough for now."""
        settings = replace(
            self.sampling,
            max_new_tokens=1 if cut else max_tokens,
            n=1,
            stop=(),
            top_logprobs=max(1, self.alternatives),
        )
        begun = [continued(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        found = self.generator.generate(begun, settings, label="Asking")
        return [
            replace(chunk, partial=cut and max_tokens > 1 and not chunk.stopped)
            for chunk in (chunk_of(one[0]) for one in found)
        ]


def continued(prompt: Messages | str, text: str) -> Messages | str:
    """A prompt with the start of its answer."""
    if isinstance(prompt, str):
        return prompt + text
    if is_prefilled(prompt):
        return [*prompt[:-1], {"role": "assistant", "content": prompt[-1]["content"] + text}]
    return [*prompt, {"role": "assistant", "content": text}] if text else prompt


def chunk_of(sample: Generation) -> Chunk:
    """A sample with alternatives as a chunk; the token that ends a text is not part of it.

    Raises:
        ModelError: the back end gave no alternatives.
    """
    if sample.tokens is None or sample.top_logprobs is None or sample.logprobs is None:
        raise ModelError(
            "The back end gives no log-probabilities, which tell where a model is uncertain.",
            hint="Use a server that returns them for completions and chats, or a local model.",
        )
    tokens: list[Token] = []
    text, lowest = "", 1.0
    for piece, logp, top in zip(sample.tokens, sample.logprobs, sample.top_logprobs, strict=True):
        probs = [math.exp(one) for _, one in top] or [math.exp(logp)]
        lowest = min(lowest, max(probs))
        if not piece:  # part of a character
            continue
        if not sample.text.startswith(text + piece):  # an end-of-turn token, written out
            break
        text += piece
        others = tuple((other, math.exp(one)) for other, one in top)
        tokens.append(Token(piece, lowest, others))
        lowest = 1.0
    return Chunk(tuple(tokens), stopped=sample.finish_reason == "stop")


def converse_remotely(
    conversations: Sequence[Conversation[T]],
    speakers: Mapping[str, RemoteSpeaker],
    *,
    rows: int,
    on_done: Callable[[int, T], None] | None = None,
) -> list[T]:
    """Run conversations, up to `rows` at a time; see `cached_speakers.converse`."""
    results: dict[int, T] = {}
    waiting = list(range(len(conversations)))[::-1]
    asked: dict[int, Ask] = {}

    def advance(index: int, chunks: Sequence[Chunk] | None) -> None:
        talk = conversations[index].talk
        try:
            asked[index] = next(talk) if chunks is None else talk.send(chunks)
        except StopIteration as end:
            asked.pop(index, None)
            results[index] = end.value
            if on_done:
                on_done(index, end.value)

    while waiting or asked:
        while waiting and len(asked) < rows:
            advance(waiting.pop(), None)
        groups: dict[tuple[str, int, bool], list[int]] = {}
        for index, ask in asked.items():
            groups.setdefault((ask.side, ask.max_tokens, ask.need == "first"), []).append(index)
        for (side, max_tokens, cut), group in groups.items():
            pairs = [(conversations[i].prompts[side], text) for i in group for text in asked[i].texts]
            chunks = speakers[side].chunks(
                [one for one, _ in pairs], [text for _, text in pairs], max_tokens, cut=cut
            )
            for index in group:
                mine, chunks = chunks[: len(asked[index].texts)], chunks[len(asked[index].texts) :]
                advance(index, mine)
    return [results[index] for index in range(len(conversations))]
