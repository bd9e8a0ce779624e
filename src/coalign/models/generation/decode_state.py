"""What has been sampled so far for the rows of a batch, and which rows go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.models.generation.endings import Endings
from coalign.models.generation.sampling import row_uniforms, sample_tokens, token_logps, top_token_logps, wide
from coalign.models.grammars.matching import Matcher, only_allowed
from coalign.models.types import Generation, Sampling

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[int, int]
"""(prompt index, sample index)."""
LEAVE_SHARE = 8
"""Ended rows leave the batch once they are one in so many: leaving copies the cache of those that stay."""


@dataclass(frozen=True)
class Decoded:
    """What was sampled for one row.

    Attributes:
        ids: its tokens.
        ended: it ended by itself, not at the most new tokens.
        logps: of each token, when asked for.
        tops: ids and log-probabilities of the most probable tokens at each place, when asked for.
    """

    ids: list[int]
    ended: bool
    logps: list[float] | None = None
    tops: list[list[tuple[int, float]]] | None = None


def generation_of(one: Decoded, endings: Endings, before: int | None) -> Generation:
    """The sample that was decoded; `before`: see `Endings.text`."""
    text, cut = endings.text(one.ids, before)
    tops = None
    if one.tops is not None:
        tops = [[(endings.alternative(token), logp) for token, logp in place] for place in one.tops]
    return Generation(
        text,
        one.ids,
        "stop" if one.ended or cut else "length",
        one.logps,
        endings.tokens(one.ids, before) if one.logps is not None else None,
        tops,
    )


class DecodeState:
    """Tokens of the rows of one decode. `live` [L] says which row each place of the batch holds.

    Args:
        matchers: where each row stands in its grammar, where they follow one.
    """

    def __init__(
        self,
        rows: list[Row],
        sampling: Sampling,
        device: torch.device,
        matchers: list[Matcher] | None = None,
    ) -> None:
        self._sampling, self._matchers = sampling, matchers
        shape = (len(rows), sampling.max_new_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.long, device=device)
        self.live = torch.arange(len(rows), device=device)
        self._ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        self._n_ended = 0
        self._lengths = torch.zeros(len(rows), dtype=torch.long, device=device)  # 0: not ended
        self._logps = (
            torch.zeros(shape, dtype=wide(device), device=device) if sampling.wants_logprobs else None
        )
        self._tops: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # a step: rows [L], ids [L, C], log-probabilities
        self._uniforms = None
        if sampling.temperature > 0:
            self._uniforms = row_uniforms(sampling.seed, rows, sampling.max_new_tokens).to(device)

    def draw(self, step: int, logits: Tensor) -> Tensor:
        """[L] the next tokens."""
        uniforms = self.live if self._uniforms is None else self._uniforms[self.live, step]
        one = self._sampling
        followed = [self._matchers[row] for row in self.live.tolist()] if self._matchers else []
        allowed = only_allowed(logits, followed) if followed else logits
        tokens = sample_tokens(allowed, uniforms, one.temperature, one.top_k, one.top_p)
        for matcher, token in zip(followed, tokens.tolist() if followed else [], strict=True):
            matcher.take(token)
        self.tokens[self.live, step] = tokens
        if self._logps is not None:
            self._logps[self.live, step] = token_logps(logits, tokens).to(self._logps.dtype)
        if one.top_logprobs:
            self._tops.append((self.live, *top_token_logps(logits, one.top_logprobs)))
        return tokens

    def is_complete(self) -> Tensor:
        """[L] whether a row's grammar allows nothing more."""
        whole = [bool(self._matchers and self._matchers[row].is_complete) for row in self.live.tolist()]
        return torch.tensor(whole, device=self.live.device)

    def end(self, step: int, ended: Tensor) -> tuple[int, int]:
        """Mark rows as ended [L]. Returns how many ended now and how many go on."""
        now = ended & ~self._ended
        self._lengths[self.live] = torch.where(now, step + 1, self._lengths[self.live])
        self._ended |= ended
        gone = int(now.sum())
        self._n_ended += gone
        return gone, len(self.live) - self._n_ended

    def compact(self) -> Tensor | None:
        """Let ended rows leave when they are many enough. Returns the places that stay, None when all do."""
        if self._n_ended * LEAVE_SHARE < len(self.live) or not self._n_ended:
            return None
        keep = (~self._ended).nonzero().squeeze(1)
        self.live = self.live[keep]
        self._ended = self._ended[keep]
        self._n_ended = 0
        return keep

    def results(self) -> list[Decoded]:
        """For every row what was sampled."""
        lengths = self._lengths.tolist()
        tokens = self.tokens.tolist()
        logps = self._logps.tolist() if self._logps is not None else None
        tops = self._top_rows(len(lengths)) if self._tops else None
        ends = [length or self._sampling.max_new_tokens for length in lengths]
        return [
            Decoded(
                tokens[row][:end],
                lengths[row] > 0,
                logps[row][:end] if logps else None,
                tops[row][:end] if tops else None,
            )
            for row, end in enumerate(ends)
        ]

    def _top_rows(self, count: int) -> list[list[list[tuple[int, float]]]]:
        rows: list[list[list[tuple[int, float]]]] = [[] for _ in range(count)]
        for live, ids, logps in self._tops:
            for row, one, values in zip(live.tolist(), ids.tolist(), logps.tolist(), strict=True):
                rows[row].append(list(zip(one, values, strict=True)))
        return rows
