"""From CTC log-probabilities to tokens: the best path."""

from __future__ import annotations

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
