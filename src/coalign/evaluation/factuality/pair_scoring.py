"""Scores of text pairs under an encoder: every distinct pair once, batched by length, truncation reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.progress import progress
from coalign.models.batching import length_batches

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[str, str]
Ids = tuple[list[int], list[int]]
"""Token ids and the type id of each."""
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 16384}
"""Rows times the longest row of a batch. More does not make a CPU faster; its caches are small."""


@dataclass(frozen=True)
class PairScores:
    """Scores of pairs, in their order.

    Attributes:
        scores: one number a pair.
        truncated: whether tokens of the pair were cut off.
    """

    scores: list[float]
    truncated: list[bool]


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair with the special tokens, and which text each belongs to."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool


@dataclass
class PairEncoder:
    """Token ids of text pairs as the tokenizer makes them, with every text tokenised once.

    A pair that is too long loses the end of its first text; where the second alone leaves no room for the first, both
    are cut as the tokenizer's `longest_first` does.

    Args:
        tokenizer: of Hugging Face.
        max_length: most tokens of a pair, special ones included.

    Raises:
        ValueError: max_length leaves no room for text.
    """

    tokenizer: Any
    max_length: int
    _frame: tuple[Ids, ...] = field(init=False, repr=False)
    _types: tuple[int, int] = field(init=False, repr=False)
    _ids: dict[str, list[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._frame, self._types = _frame(self.tokenizer)
        if self.max_length < self.special_tokens + 2:
            raise ValueError(f"max_length is {self.max_length}, expected at least {self.special_tokens + 2}")

    @property
    def special_tokens(self) -> int:
        return sum(len(ids) for ids, _ in self._frame)

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """The pairs' token ids; texts are kept tokenised until `forget`."""
        self._learn([text for pair in pairs for text in pair])
        return [self._pair(self._ids[first], self._ids[second]) for first, second in pairs]

    def forget(self) -> None:
        self._ids.clear()

    def pad(self, batch: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """[B, T] inputs as the tokenizer's model takes them, padded on the right to the longest row."""
        width = max(len(one.ids) for one in batch)
        ids = torch.full((len(batch), width), self.tokenizer.pad_token_id)
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, one in enumerate(batch):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            types[row, : len(one.ids)] = torch.tensor(one.type_ids)
            mask[row, : len(one.ids)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        if "token_type_ids" not in self.tokenizer.model_input_names:
            del inputs["token_type_ids"]
        return inputs

    def _learn(self, texts: Sequence[str]) -> None:
        new = [one for one in dict.fromkeys(texts) if one not in self._ids]
        if new:
            made = self.tokenizer(new, add_special_tokens=False, verbose=False)["input_ids"]
            self._ids.update(zip(new, made, strict=True))

    def _pair(self, first: list[int], second: list[int]) -> EncodedPair:
        room = self.max_length - self.special_tokens
        cut = len(first) + len(second) > room
        if cut:
            keep, keep_second = kept_lengths(len(first), len(second), room)
            first, second = first[:keep], second[:keep_second]
        before, between, after = self._frame
        texts = [(text, [kind] * len(text)) for text, kind in zip((first, second), self._types, strict=True)]
        pieces = (before, texts[0], between, texts[1], after)
        ids, type_ids = (list(chain.from_iterable(part)) for part in zip(*pieces, strict=True))
        return EncodedPair(ids, type_ids, cut)


def kept_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay when together they exceed `room`.

    The first text alone gives way while one of its tokens is left; otherwise both are cut as `longest_first` of the
    `tokenizers` library does.
    """
    if first + second <= room:
        return first, second
    if room - second >= 1:
        return room - second, second
    short = min(first, second)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    return (long, short) if first > second else (short, long)


def _frame(tokenizer: Any) -> tuple[tuple[Ids, ...], tuple[int, int]]:
    """The special tokens before, between and after two texts with their type ids, and the texts' type ids.

    Raises:
        ValueError: the tokenizer puts a pair together in another way.
    """
    first, second = (
        tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"] for one in ("a", "b")
    )
    both = tokenizer("a", "b", return_token_type_ids=True, verbose=False)
    ids, types = list(both["input_ids"]), list(both.get("token_type_ids") or [0] * len(both["input_ids"]))
    for start in range(len(ids) - len(first) + 1):
        for place in range(start + len(first), len(ids) - len(second) + 1):
            if (
                ids[start : start + len(first)] == first
                and ids[place : place + len(second)] == second
                and not set(ids[:start]) & set(first)
            ):
                pieces = ((0, start), (start + len(first), place), (place + len(second), len(ids)))
                frame = tuple((ids[low:high], types[low:high]) for low, high in pieces)
                return frame, (types[start], types[place])
    raise ValueError("the tokenizer does not keep the tokens of two texts in a pair")


@dataclass
class PairScorer:
    """Scores of pairs under one function of an encoder's inputs.

    Attributes:
        score: from the model's inputs (`input_ids`, `attention_mask` and, where the tokenizer has them,
            `token_type_ids`, each [B, T]) to [B] scores.
        batch_tokens: rows times longest row of a batch, one row at least.
    """

    tokenizer: Any
    score: Callable[[Mapping[str, Tensor]], Tensor]
    device: torch.device
    max_length: int
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        self.encoder = PairEncoder(self.tokenizer, self.max_length)
        self.limit = self.batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])

    def __call__(self, pairs: Sequence[Pair], *, label: str = "Scoring") -> PairScores:
        """Score pairs; identical ones are computed once."""
        distinct = list(dict.fromkeys(pairs))
        encoded = self.encoder.encode(distinct)
        self.encoder.forget()
        values = self._values(encoded, label)
        place = {pair: index for index, pair in enumerate(distinct)}
        rows = [place[pair] for pair in pairs]
        return PairScores([values[row] for row in rows], [encoded[row].truncated for row in rows])

    def inputs(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """The model's inputs for pairs as one batch."""
        return self._inputs(self.encoder.encode(pairs))

    def _values(self, encoded: Sequence[EncodedPair], label: str) -> list[float]:
        from coalign.models.scoring.products import inference

        values = [0.0] * len(encoded)
        with inference(), progress(len(encoded), label, unit="pair") as bar:
            for rows in length_batches(
                [len(one.ids) for one in encoded], lambda longest: self.limit // max(longest, 1)
            ):
                inputs = self._inputs([encoded[row] for row in rows])
                for row, value in zip(rows, self.score(inputs).cpu().double().tolist(), strict=True):
                    values[row] = value
                bar.advance(len(rows))
        return values

    def _inputs(self, batch: Sequence[EncodedPair]) -> dict[str, Tensor]:
        inputs = self.encoder.pad(batch)
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
