"""From CTC log-probabilities to text: the best path, or a beam over prefixes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from coalign.speech.ctc.align import collapse

if TYPE_CHECKING:
    from numpy.typing import NDArray

Logps: TypeAlias = "NDArray[np.floating[Any]]"


def greedy(logps: Logps, blank: int) -> list[int]:
    """Token ids of the likeliest alignment."""
    return collapse(logps.argmax(axis=-1).tolist(), blank)


def emission_frames(path: Iterable[int], blank: int) -> list[int]:
    """The first frame of every token that an alignment stands for."""
    frames, before = [], blank
    for frame, label in enumerate(path):
        if label not in (blank, before):
            frames.append(frame)
        before = label
    return frames


def beam_search(logps: Logps, blank: int, *, width: int = 16, keep: float = 12.0) -> tuple[list[int], float]:
    """The likeliest token sequence, all its alignments summed (prefix beam search, Hannun et al. 2014, arXiv 1408.2873).

    Args:
        logps: [T, V] log-probabilities.
        width: prefixes kept after a frame.
        keep: tokens less likely than the best of a frame by more than this (nats) are not tried.

    Returns:
        Token ids and their log-probability under the beam.
    """
    beam: dict[tuple[int, ...], tuple[float, float]] = {
        (): (0.0, -math.inf)
    }  # ends in blank, ends in its last token
    for frame in logps:
        tried = np.flatnonzero(frame >= frame.max() - keep).tolist()
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(prefix: tuple[int, ...], in_blank: float, in_token: float, grown: Any = grown) -> None:
            old = grown.get(prefix, (-math.inf, -math.inf))
            grown[prefix] = (_add(old[0], in_blank), _add(old[1], in_token))

        for prefix, (in_blank, in_token) in beam.items():
            both = _add(in_blank, in_token)
            for token in tried:
                logp = float(frame[token])
                if token == blank:
                    add(prefix, both + logp, -math.inf)
                elif prefix and token == prefix[-1]:
                    add(prefix, -math.inf, in_token + logp)
                    add((*prefix, token), -math.inf, in_blank + logp)
                else:
                    add((*prefix, token), -math.inf, both + logp)
        best = sorted(grown.items(), key=lambda one: -_add(*one[1]))
        beam = dict(best[:width])
    prefix, ends = next(iter(beam.items()))
    return list(prefix), _add(*ends)


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
