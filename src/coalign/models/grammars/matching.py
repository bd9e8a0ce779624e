"""Which tokens may come next where a text must follow a grammar, and logits without the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.core.extras import require
from coalign.models.grammars.schemas import EXTRA, Grammar

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MOST_KEPT = 64
"""Compiled grammars that are kept."""


class Grammars:
    """Grammars over the tokens of one tokenizer, compiled once each.

    Args:
        tokenizer: a fast one.
        stop_ids: tokens that end a text; they may come wherever it is whole.

    Raises:
        ConfigError: a tokenizer without a fast form.
        MissingExtraError: the extra `grammar` is not installed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> None:
        self._library: Any = require("llguidance", EXTRA)
        wrapped: Any = require("llguidance.hf", EXTRA)
        try:
            self._tokenizer: Any = wrapped.from_tokenizer(tokenizer, eos_token=list(stop_ids) or None)
        except (AttributeError, ValueError) as error:
            raise ConfigError(f"A grammar cannot be followed with this tokenizer: {error}.") from error
        self._compiled: dict[str, Any] = {}

    def matcher(self, grammar: Grammar) -> Matcher:
        """What follows a grammar through one text.

        Raises:
            ConfigError: it is too large, or no token can begin it.
        """
        if grammar.text not in self._compiled:
            if len(self._compiled) >= MOST_KEPT:
                self._compiled.clear()
            made = self._library.LLMatcher(
                self._tokenizer, self._library.LLMatcher.grammar_from_lark(grammar.text), log_level=0
            )
            if made.is_error():
                raise ConfigError(f"grammar: {made.get_error().strip().splitlines()[0]}")
            self._compiled[grammar.text] = made
        return Matcher(self._compiled[grammar.text].deep_copy())


class Matcher:
    """Where a text stands in its grammar. Make one with `Grammars.matcher`."""

    def __init__(self, state: Any) -> None:
        self._state = state

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole and nothing can follow."""
        return self._state.is_stopped()

    def allowed(self, size: int) -> Tensor:
        """[size] which tokens may come next.

        Raises:
            ConfigError: none can.
            ModelError: the grammar's limits were reached.
        """
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        self._assert_good()
        mask = np.zeros(size, dtype=bool)
        flags = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        mask[: len(flags)] = flags
        if not mask.any():
            raise ConfigError("grammar: no token of the model's tokenizer goes on with the text.")
        return torch.from_numpy(mask)

    def take(self, token: int) -> None:
        """Go on by a token that was allowed."""
        if not self.is_complete:
            self._state.consume_token(token)
            self._assert_good()

    def _assert_good(self) -> None:
        if self._state.is_error():
            raise ModelError(f"grammar: {self._state.get_error().strip().splitlines()[0]}")


def only_allowed(logits: Tensor, matchers: Sequence[Matcher | None]) -> Tensor:
    """Logits [B, V] of which those of tokens that a row's grammar does not allow are -inf; rows without one stay."""
    allowed = torch.ones(logits.shape, dtype=torch.bool)
    for row, one in enumerate(matchers):
        if one is not None and not one.is_complete:
            allowed[row] = one.allowed(logits.shape[1])
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)
