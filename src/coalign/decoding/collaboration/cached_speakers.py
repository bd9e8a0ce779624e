"""Local models that write texts together, many texts at a time, each model with its own tokenizer and cache.

What a speaker knows of a row (one text) is its tokens, their keys and values, and for tokens whose logits were
computed the token that it would put next. A question about a text is answered from there: the text is tokenised as a
whole, the row is cut back to where it differs, and only what is new is computed. Where the other model wrote what
this one would have written, nothing has to be computed twice: the other's words are a draft that is checked in one
pass, and its own earlier continuation still stands.

The next token is a function of the tokens before it and of the place (a draw uses the random number of its place),
so an answer does not depend on what was computed when, nor on the texts beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from coalign.core.errors import DataError
from coalign.decoding.collaboration.speakers import Ask, Chunk, Conversation, Token
from coalign.models.generation.endings import stop_token_ids
from coalign.models.generation.growing_text import GrowingText, TextEncoder, TokenTexts
from coalign.models.generation.sampling import row_uniforms, sample_tokens, wide
from coalign.models.modules import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
MOST_PARTS = 6
"""Tokens past the end of a chunk that may complete its last character."""
DRAWS = 4096
"""Random numbers of a row; places further on use them again."""


@dataclass(frozen=True)
class Next:
    """What follows a token: the token that the model puts next, the largest probability at that place, and the most
    probable tokens with theirs.
    """

    token: int
    top_prob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Pass:
    """Tokens of a row to compute, after its first `start`; what follows the last `keep` of them is wanted."""

    speaker: CachedSpeaker
    row: int
    start: int
    tokens: list[int]
    keep: int


Work = Generator[Pass, list[Next], T]


@dataclass
class _Row:
    """One text: its tokeniser, what follows each token where it is known, random numbers and where they begin."""

    text: GrowingText
    nexts: list[Next | None]
    prompt_tokens: int
    draws: Tensor | None


class CachedSpeaker:
    """A causal language model and its tokenizer, with a cache for each of several texts.

    Args:
        temperature, top_k, top_p: as in `Sampling`; `top_prob` of a token is always that of the undistorted
            distribution.
        alternatives: how many of the most probable tokens are reported at each place.
        seed: of the random numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        alternatives: int = 0,
        seed: int = 0,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)
        self._sampling = (temperature, top_k, top_p)
        self._alternatives = alternatives
        self._seed = seed
        self._special = frozenset(tokenizer.all_special_ids)
        self._stop = frozenset(stop_token_ids(unwrap(model), tokenizer))
        config: Any = unwrap(model).config
        self._context = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        self._texts: dict[int, str] = {}
        self.open(1)

    def open(self, rows: int) -> None:
        """Make room for so many texts at a time; what was there is forgotten."""
        from coalign.models.scoring.ragged_rows import RaggedRows

        self.rows = RaggedRows(self.model, rows)
        self._state: list[_Row | None] = [None] * rows

    def length(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self.encoder.pieces(text) if self.encoder.by_words else self.encoder.whole(text))

    def begin(self, row: int, prompt: str, stream: tuple[int, int]) -> None:
        """Put a prompt into a row; keys and values of a start that it shares with the text before are kept.

        Args:
            stream: (prompt, sample), which names the row's random numbers.

        Raises:
            DataError: the prompt is empty or longer than the model's context.
        """
        text = GrowingText(self.encoder, prompt)
        ids = text.ids("")
        if not ids:
            raise DataError(f"prompt {stream[0]} is empty: there is nothing to continue.")
        if self._context is not None and len(ids) >= self._context:
            raise DataError(
                f"prompt {stream[0]} has {len(ids)} tokens; the model's context is {self._context}.",
                hint="Shorten the prompt.",
            )
        draws = None
        if self._sampling[0] > 0:
            draws = row_uniforms(self._seed, [stream], DRAWS)[0]
        self._state[row] = _Row(text, [None] * len(self.rows.ids[row]), len(ids), draws)

    def verify(self, row: int, text: str) -> None:
        """Make sure that a finished text was tokenised rightly (see `GrowingText.verify`)."""
        self._row(row).text.verify(text)

    def answer(self, row: int, ask: Ask) -> Work[list[Chunk]]:
        """Chunks for the texts of a question; yields what has to be computed."""
        texts = [self._row(row).text.ids(text) for text in ask.texts]
        if len(texts) > 1 and self._has_room(texts[-1]):
            # The last text holds the others, so one pass computes what follows each of them.
            yield from self._reach(row, texts[-1], min(map(len, texts)))
        chunks = []
        for ids in texts:
            chunks.append((yield from self._chunk(row, ids, ask)))
        return chunks

    def compute(self, passes: Sequence[Pass]) -> list[list[Next]]:
        """Compute passes of different rows together: for each what follows its last `keep` tokens."""
        for one in passes:
            self.rows.cut(one.row, one.start)
        logits = self.rows.extend(
            [one.row for one in passes], [one.tokens for one in passes], [one.keep for one in passes]
        )
        flat = torch.cat(logits)
        probs = (flat.amax(-1) - flat.logsumexp(-1)).exp().tolist()
        tokens = sample_tokens(flat, self._uniforms(passes, flat.device), *self._sampling).tolist()
        others = self._top(flat) if self._alternatives else [()] * len(tokens)
        nexts = [Next(*one) for one in zip(tokens, probs, others, strict=True)]
        found = []
        for one in passes:
            mine, nexts = nexts[: one.keep], nexts[one.keep :]
            state = self._row(one.row)
            state.nexts[one.start :] = [*([None] * (len(one.tokens) - one.keep)), *mine]
            found.append(mine)
        return found

    def _chunk(self, row: int, ids: list[int], ask: Ask) -> Work[Chunk]:
        """What the model says after `ids`."""
        if not self._has_room(ids):
            return Chunk((), full=True)
        yield from self._reach(row, ids, len(ids))
        state = self._row(row)
        texts = TokenTexts(self.tokenizer, ids, self._special)
        said: list[Token] = []
        lowest, place, taken = 1.0, len(ids) - 1, 0
        while True:
            following = state.nexts[place]
            assert following is not None
            if following.token in self._stop:
                return Chunk(tuple(said), stopped=True)
            taken += 1
            lowest = min(lowest, following.top_prob)
            text = texts.push(following.token)
            if text is not None:
                others = tuple((self._text_of(token), prob) for token, prob in following.alternatives)
                said.append(Token(text, lowest, others))
                if taken >= ask.max_tokens:
                    return Chunk(tuple(said))
                if ask.need == "first" or (ask.need == "certain" and lowest < ask.certain):
                    return Chunk(tuple(said), partial=True)
                lowest = 1.0
            elif taken >= ask.max_tokens + MOST_PARTS:
                return Chunk(tuple(said))
            place += 1
            if self._context is not None and place >= self._context:
                return Chunk(tuple(said), full=True)
            known = self.rows.ids[row][place : place + 1] == [following.token]
            if not known or state.nexts[place] is None:
                yield Pass(self, row, place, [following.token], 1)

    def _reach(self, row: int, ids: list[int], first: int) -> Work[None]:
        """Bring a row to hold `ids`, with what follows each token from the `first`-th on known."""
        state, cached = self._row(row), self.rows.ids[row]
        have = shared_start(cached, ids)
        start = next((k for k in range(first - 1, have) if state.nexts[k] is None), have)
        if start < len(ids):
            yield Pass(self, row, start, ids[start:], len(ids) - max(start, first - 1))

    def _has_room(self, ids: list[int]) -> bool:
        return self._context is None or len(ids) <= self._context

    def _row(self, row: int) -> _Row:
        state = self._state[row]
        assert state is not None, "begin comes first"
        return state

    def _uniforms(self, passes: Sequence[Pass], device: torch.device) -> Tensor:
        if self._sampling[0] == 0:
            return torch.zeros(sum(one.keep for one in passes), dtype=wide(device), device=device)
        drawn = []
        for one in passes:
            state = self._row(one.row)
            assert state.draws is not None
            end = one.start + len(one.tokens) - state.prompt_tokens
            drawn.append(state.draws[torch.arange(end - one.keep, end) % DRAWS])
        return torch.cat(drawn).to(device)

    def _top(self, logits: Tensor) -> list[tuple[tuple[int, float], ...]]:
        top = logits.log_softmax(-1).topk(min(self._alternatives, logits.shape[-1]))
        return [
            tuple(zip(ids, probs, strict=True))
            for ids, probs in zip(top.indices.tolist(), top.values.exp().tolist(), strict=True)
        ]

    def _text_of(self, token: int) -> str:
        """A token's text inside a text, with the space that it brings."""
        if token not in self._texts:
            anchor = self.encoder.whole("a")
            self._texts[token] = TokenTexts(self.tokenizer, anchor, self._special).push(token) or ""
        return self._texts[token]


def converse(
    conversations: Sequence[Conversation[T]],
    speakers: Mapping[str, CachedSpeaker],
    *,
    rows: int,
    on_done: Callable[[int, T], None] | None = None,
) -> list[T]:
    """Run conversations, up to `rows` at a time; one that ends makes room for the next.

    At every step each model computes, in as few passes as its texts' lengths allow, what all conversations that wait
    for it need.

    Args:
        on_done: called with the index and the result of each conversation as it ends.
    """
    rows = max(1, min(rows, len(conversations)))
    for speaker in speakers.values():
        speaker.open(rows)
    results: dict[int, T] = {}
    waiting = list(range(len(conversations)))[::-1]
    working: dict[int, tuple[int, Work[T], Pass]] = {}

    def advance(row: int, index: int, work: Work[T], sent: list[Next] | None) -> None:
        try:
            working[row] = (index, work, next(work) if sent is None else work.send(sent))
        except StopIteration as end:
            working.pop(row, None)
            results[index] = end.value
            if on_done:
                on_done(index, end.value)

    while waiting or working:
        for row in range(rows):
            while row not in working and waiting:
                index = waiting.pop()
                advance(row, index, _work(conversations[index], row, speakers), None)
        for speaker in speakers.values():
            ready = {row: one for row, one in working.items() if one[2].speaker is speaker}
            if ready:
                found = speaker.compute([one[2] for one in ready.values()])
                for (row, (index, work, _)), nexts in zip(ready.items(), found, strict=True):
                    advance(row, index, work, nexts)
    return [results[index] for index in range(len(conversations))]


def _work(conversation: Conversation[T], row: int, speakers: Mapping[str, CachedSpeaker]) -> Work[T]:
    """A conversation as the passes that it needs."""
    for side, prompt in conversation.prompts.items():
        speakers[side].begin(row, prompt, conversation.stream)
    asked: dict[str, str] = {}
    try:
        ask = next(conversation.talk)
        while True:
            asked[ask.side] = ask.texts[-1]
            chunks = yield from speakers[ask.side].answer(row, ask)
            ask = conversation.talk.send(chunks)
    except StopIteration as end:
        for side, text in asked.items():
            speakers[side].verify(row, text)
        return end.value


def shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many entries two sequences share from the start."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is fast
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
