"""CTC alignment: where in a recording each token of a text is spoken, and how sure of it the model is.

Two topologies. `segment` is the loose one of CTC-segmentation (Kürzinger et al. 2020, arXiv 2007.09127): audio before
and after the text is free, and a state stays on a blank or on its own token, whichever is likelier; made for long
recordings and for texts that do not quite fit. `forced_align` is the CTC lattice itself: every frame is explained,
blanks between tokens are optional, and mandatory between equal ones; made for one utterance.

Both are exact within their band. `utterance_segments` turns a loose path into start, end and confidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from coalign.core.errors import CoalignError
from coalign.core.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT_CELLS = 400_000_000
"""Frames times states up to which the band is everything: below half a second of work."""
BAND_FRAMES = 32_000
"""Default width of the band in frames, else: a path may be half of it before or behind an even rate of speech."""
NO_SCORE = -1e10
"""Confidence of an utterance without a frame."""
SCORING_FRAMES = 30
"""L: a confidence is the lowest mean over so many frames in a row. Source: the official codes."""
REACH_SECONDS = 0.5
"""How far an utterance may reach beyond its first and last token. Source: CTC-segmentation."""

Floats: TypeAlias = "NDArray[np.floating[Any]]"
Ints: TypeAlias = "NDArray[np.int64]"


class TextTooLongError(CoalignError):
    """A text has more tokens than the audio has frames."""


@dataclass(frozen=True)
class LoosePath:
    """The best path of the loose topology.

    Attributes:
        frames: [C] frame in which each state is entered; 0 for the preamble, state 0.
        logps: [T] log-probability of the transition taken in every frame: of the blank in the preamble, 0 in frame 0
            and after the path's end. Means over a span of an utterance are its confidence.
        score: sum over the path, the preamble free.
    """

    frames: Ints
    logps: Floats
    score: float


@dataclass(frozen=True)
class Span:
    """Frames `start` to `end` (exclusive) of a token, and its mean probability in [0, 1]."""

    token: int
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Segment:
    """An utterance in the recording: seconds, and its confidence as a mean log-probability (at most 0)."""

    start: float
    end: float
    score: float


def ground_truth(utterances: Sequence[Sequence[int]], blank: int) -> tuple[Ints, Ints]:
    """The states of `segment` for utterances of token ids: -1 (preamble), blank, tokens, blank, tokens, ..., blank.

    Returns:
        states [C], and [utterances + 1] the places of the blanks around the utterances. An utterance without tokens
        shares its blank with the next one.
    """
    states, begins = [-1], []
    for tokens in utterances:
        if states[-1] != blank:
            states.append(blank)
        begins.append(len(states) - 1)
        states.extend(tokens)
    if states[-1] != blank:
        states.append(blank)
    begins.append(len(states) - 1)
    return np.array(states, dtype=np.int64), np.array(begins, dtype=np.int64)


def segment(logps: Floats, states: Ints, blank: int, *, band: int | None = None) -> LoosePath:
    """The best path of `states` through a recording (equations of CTC-segmentation, section 2).

    `k[t, c] = max(k[t-1, c] + max(lp[t, blank], lp[t, s_c]), k[t-1, c-1] + lp[t, s_c])`, `k[t, 0] = 0`; the path ends
    where the last state is best. Ties stay.

    Args:
        logps: [T, V] log-probabilities of the model, float32 or float64; sums are float64.
        states: [C] from `ground_truth`.
        band: width in frames of the band around an even rate of speech; it is doubled while the path touches its
            edge. By default everything up to `EXACT_CELLS`, else `BAND_FRAMES`.

    Raises:
        TextTooLongError: more states than frames.
        CoalignError: no path of finite score.
    """
    kernels = require_kernels()
    frames, count = len(logps), len(states)
    if count > frames:
        raise TextTooLongError(
            f"The text has {count} states (tokens, and a blank around each utterance), the audio {frames} frames.",
            hint="The text does not belong to this audio, or lines are missing in between.",
        )
    labels = np.where(states < 0, blank, states).astype(np.uint32)
    block = _block(frames)
    width = band if band is not None else (frames if frames * count <= EXACT_CELLS else BAND_FRAMES)
    while True:
        low, high = _band(frames, count, width)
        kept, end, score = kernels.loose_forward(logps, labels, blank, low, high, block)
        if end >= 0:
            path = kernels.loose_backward(logps, labels, blank, low, high, block, kept, end)
            if width >= frames or not _touches(path[: end + 1], low, high, count):
                break
        elif width >= frames:
            raise CoalignError(
                "No path through the audio has a finite probability: are the log-probabilities NaN?"
            )
        width *= 2
    return LoosePath(*_entered(logps, states, blank, path, end), float(score))


def _entered(logps: Floats, states: Ints, blank: int, path: Ints, end: int) -> tuple[Ints, Floats]:
    """Entry frame of every state and log-probability of every frame of a path."""
    frames = np.zeros(len(states), dtype=np.int64)
    taken = np.zeros(len(logps))
    times = np.arange(1, end + 1)
    now = path[1 : end + 1]
    new = now != path[:end]
    frames[now[new]] = times[new]
    own = logps[times, np.maximum(states[now], 0)]
    blanks = logps[times, blank]
    stay = np.where(now == 0, blanks, np.maximum(blanks, own))
    taken[1 : end + 1] = np.where(new, own, stay)
    return frames, taken


def utterance_segments(
    path: LoosePath, begins: Ints, frame_seconds: float, *, scoring_frames: int = SCORING_FRAMES
) -> list[Segment]:
    """Start, end and confidence of every utterance (CTC-segmentation, section 2.3).

    An utterance starts half-way between its blank's entry and the state before, at most `REACH_SECONDS` before its
    first token; it ends likewise. Its confidence is the lowest mean of `path.logps` over `scoring_frames` frames in a
    row, the plain mean of a shorter one, `NO_SCORE` of an empty one.

    Args:
        begins: from `ground_truth`.
        frame_seconds: duration of a frame.
    """
    times = path.frames * frame_seconds
    sums = np.concatenate([[0.0], np.cumsum(path.logps, dtype=np.float64)])
    found = []
    for begin, close in itertools.pairwise(begins):
        start = max(
            times[min(begin + 1, len(times) - 1)] - REACH_SECONDS, (times[begin] + times[begin - 1]) / 2
        )
        end = min(times[close - 1] + REACH_SECONDS, (times[close] + times[close - 1]) / 2)
        first, last = round(float(start / frame_seconds)), round(float(end / frame_seconds))
        score = NO_SCORE
        if first < last <= first + scoring_frames:
            score = (sums[last] - sums[first]) / (last - first)
        elif last > first:
            window = sums[first + scoring_frames : last] - sums[first : last - scoring_frames]
            score = min(0.0, window.min() / scoring_frames)
        found.append(Segment(float(start), float(end), float(score)))
    return found


def forced_align(logps: Floats, tokens: Sequence[int], blank: int) -> tuple[list[Span], float]:
    """The best path of `tokens` through the CTC lattice: every frame explained, nothing skipped.

    Args:
        logps: [T, V] log-probabilities, float32 or float64; sums are float64.
        tokens: ids without blanks.

    Returns:
        A span for every token (the frames that emit it; blanks after it belong to none), and the log-probability of
        the path.

    Raises:
        TextTooLongError: fewer frames than tokens plus equal neighbours, which need a blank between them.
    """
    kernels = require_kernels()
    ids = np.asarray(tokens, dtype=np.int64)
    needed = len(ids) + int((ids[1:] == ids[:-1]).sum())
    if len(logps) < max(needed, 1):
        raise TextTooLongError(
            f"The text needs {needed} frames (tokens, and a blank between equal neighbours), the audio has {len(logps)}."
        )
    labels = np.full(2 * len(ids) + 1, blank, dtype=np.uint32)
    labels[1::2] = ids
    skips = np.full(len(labels), kernels.NEVER)
    skips[3::2] = np.where(ids[1:] != ids[:-1], 0.0, kernels.NEVER)
    low, high = _reachable(len(logps), len(labels))
    block = _block(len(logps))
    kept, last, score = kernels.strict_forward(logps, labels, skips, low, high, block)
    path = kernels.strict_backward(logps, labels, skips, low, high, block, kept, last)
    spans = []
    edges = np.searchsorted(path, np.arange(len(labels) + 1))
    for place, token in enumerate(ids.tolist()):
        start, end = int(edges[2 * place + 1]), int(edges[2 * place + 2])
        spans.append(Span(token, start, end, float(np.exp(logps[start:end, token]).mean())))
    return spans, float(score)


def collapse(path: Sequence[int], blank: int) -> list[int]:
    """Equal neighbours merged, then blanks dropped: the tokens that an alignment stands for."""
    ids = np.asarray(path)
    if not len(ids):
        return []
    keep = np.concatenate([[True], ids[1:] != ids[:-1]]) & (ids != blank)
    return ids[keep].tolist()


def greedy(logps: Floats, blank: int) -> list[int]:
    """Token ids of the likeliest alignment of [T, V] log-probabilities."""
    return collapse(logps.argmax(axis=-1).tolist(), blank)


def emission_frames(path: Iterable[int], blank: int) -> list[int]:
    """The first frame of every token that an alignment stands for."""
    frames, before = [], blank
    for frame, label in enumerate(path):
        if label not in (blank, before):
            frames.append(frame)
        before = label
    return frames


def require_kernels() -> Any:
    """`coalign.speech.ctc.viterbi`.

    Raises:
        MissingExtraError: numba is not installed.
    """
    require("numba", "speech")
    from coalign.speech.ctc import viterbi

    return viterbi


def _block(frames: int) -> int:
    """Frames between kept rows: about the square root, within what fits the processor's caches."""
    return min(1024, max(64, math.isqrt(frames)))


def _band(frames: int, states: int, width: int) -> tuple[Ints, Ints]:
    """The band of `width` frames around an even rate; everything that can be reached at all when it is wider."""
    t = np.arange(frames)
    if width >= frames:
        return np.zeros(frames, dtype=np.int64), np.minimum(t + 1, states)
    centre = t * states // frames
    half = max(width * states // (2 * frames), 1)
    low, high = np.clip(centre - half, 0, states - 1), np.clip(centre + half, 1, states)
    return low.astype(np.int64), np.minimum(high, t + 1).astype(np.int64)


def _reachable(frames: int, states: int) -> tuple[Ints, Ints]:
    """States of the CTC lattice that lie on some whole path."""
    t = np.arange(frames, dtype=np.int64)
    return np.maximum(states - 2 * (frames - t), 0), np.minimum(2 * t + 2, states)


def _touches(path: Ints, low: Ints, high: Ints, states: int) -> bool:
    """Whether the path lies at an edge of the band that cuts off states it could have gone to."""
    t = np.arange(len(path))
    bottom = (path == low[: len(path)]) & (path > 0)
    top = (path == high[: len(path)] - 1) & (path < states - 1) & (path < t)
    return bool(bottom.any() or top.any())
