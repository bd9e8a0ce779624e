"""The kernels of CTC alignment: best paths in memory that grows with the square root of the length, in numba.

A forward pass keeps one row of scores, and a copy of it every `block` frames. The path is then found block by block
from the end: a path moves at most a state or two a frame, so a block is computed again only over the states that can
lead to where the block after it begins. No table of frames times states is ever held.

Scores are float64. All kernels work on a band of states `[low[t], high[t])` a frame; both ends never fall.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NEVER = -1e30
"""Log-probability of what cannot be; finite, so that sums of it stay comparable."""


@njit(cache=True, nogil=True, error_model="numpy")
def _loose_row(before, after, first, last, emissions, labels, blank_logp):  # type: ignore[no-untyped-def]
    """States first .. last - 1 of the next frame; `first` is at least 1."""
    for state in range(first, last):
        emission = emissions[labels[state]]
        stay = before[state] + max(blank_logp, emission)
        enter = before[state - 1] + emission
        after[state] = max(stay, enter)


@njit(cache=True, nogil=True, error_model="numpy")
def loose_forward(logps, labels, blank, low, high, block):  # type: ignore[no-untyped-def]
    """Scores of the loose topology (see `coalign.speech.ctc.align`).

    Args:
        logps: [T, V] log-probabilities.
        labels: [C] uint32 label of every state; that of state 0 (the preamble) is not read.
        low, high: [T] the band.
        block: frames between two kept rows.

    Returns:
        kept [blocks, W] rows of frames 0, block, 2 block, ..., each from its `low` on; the frame at which the last
        state is best (the earliest of equals, -1 where it is out of reach); its score.
    """
    frames, states = len(logps), len(labels)
    width = 0
    for t in range(0, frames, block):
        width = max(width, high[t] - low[t])
    kept = np.full(((frames + block - 1) // block, width), NEVER)
    before, after = np.full(states, NEVER), np.full(states, NEVER)
    before[0] = 0.0
    kept[0, 0] = 0.0
    best_frame, best = -1, NEVER / 2
    for t in range(1, frames):
        if low[t] > 0 and low[t] == low[t - 1]:
            before[low[t] - 1] = NEVER  # left over from a frame in which the band began earlier
        _loose_row(before, after, max(low[t], 1), high[t], logps[t], labels, logps[t, blank])
        if low[t] == 0:
            after[0] = 0.0
        before, after = after, before
        if high[t] == states and before[states - 1] > best:
            best_frame, best = t, before[states - 1]
        if t % block == 0:
            kept[t // block, : high[t] - low[t]] = before[low[t] : high[t]]
    return kept, best_frame, best


@njit(cache=True, nogil=True, error_model="numpy")
def loose_backward(logps, labels, blank, low, high, block, kept, last_frame):  # type: ignore[no-untyped-def]
    """The best path that is in the last state at `last_frame`.

    Returns:
        [T] state of every frame (-1 after `last_frame`). Staying is preferred to entering where both are equal.
    """
    states = np.full(len(logps), -1, dtype=np.int64)
    state = len(labels) - 1
    end = last_frame
    entered = np.zeros((block, block + 2), dtype=np.bool_)
    while end > 0:
        start = (end - 1) // block * block
        first = max(state - (end - start), 0)  # no lower state can lead to `state`
        width = state - first + 1
        before, after = np.full(width + 1, NEVER), np.full(width + 1, NEVER)  # shifted by one: [0] is outside
        for one in range(max(first, low[start]), min(state + 1, high[start])):
            before[one - first + 1] = kept[start // block, one - low[start]]
        for t in range(start + 1, end + 1):
            blank_logp = logps[t, blank]
            after[:] = NEVER
            for one in range(max(first, low[t]), min(state + 1, high[t])):
                place = one - first + 1
                if one == 0:
                    after[place] = 0.0
                    entered[t - start - 1, place] = False
                    continue
                emission = logps[t, labels[one]]
                stay = before[place] + max(blank_logp, emission)
                enter = before[place - 1] + emission
                entered[t - start - 1, place] = enter > stay
                after[place] = max(stay, enter)
            before, after = after, before
        for t in range(end, start, -1):
            states[t] = state
            if entered[t - start - 1, state - first + 1]:
                state -= 1
        end = start
    states[0] = state
    return states


@njit(cache=True, nogil=True, error_model="numpy")
def strict_forward(logps, labels, skips, low, high, block):  # type: ignore[no-untyped-def]
    """Scores of the CTC lattice, blanks between labels optional.

    Args:
        logps: [T, V] log-probabilities.
        labels: [S] uint32 label of every state, blanks at even places (S = 2 labels + 1).
        skips: [S] 0.0 where a state may be entered from two states before, else `NEVER`.
        low, high: [T] the band.
        block: frames between two kept rows.

    Returns:
        kept [blocks, W] rows as in `loose_forward`, the state in which the path ends, its score.
    """
    frames, count = len(logps), len(labels)
    width = 0
    for t in range(0, frames, block):
        width = max(width, high[t] - low[t])
    kept = np.full(((frames + block - 1) // block, width), NEVER)
    before, after = (
        np.full(count + 2, NEVER),
        np.full(count + 2, NEVER),
    )  # shifted by two: [0], [1] are outside
    for state in range(min(2, count)):
        before[state + 2] = logps[0, labels[state]]
    kept[0, : high[0] - low[0]] = before[low[0] + 2 : high[0] + 2]
    for t in range(1, frames):
        emissions = logps[t]
        if low[t] == low[t - 1]:
            before[low[t]] = before[low[t] + 1] = NEVER
        elif low[t] == low[t - 1] + 1:
            before[low[t]] = NEVER
        for state in range(low[t], high[t]):
            step = max(before[state + 2], before[state + 1])
            after[state + 2] = max(step, before[state] + skips[state]) + emissions[labels[state]]
        before, after = after, before
        if t % block == 0:
            kept[t // block, : high[t] - low[t]] = before[low[t] + 2 : high[t] + 2]
    last = count - 1
    if count > 1 and before[count] > before[count + 1]:
        last = count - 2
    return kept, last, before[last + 2]


@njit(cache=True, nogil=True, error_model="numpy")
def strict_backward(logps, labels, skips, low, high, block, kept, last):  # type: ignore[no-untyped-def]
    """[T] state of every frame on the best path that ends in state `last`; of equals the shorter step is taken."""
    frames = len(logps)
    states = np.empty(frames, dtype=np.int64)
    state, end = last, frames - 1
    steps = np.zeros((block, 2 * block + 3), dtype=np.uint8)
    while end > 0:
        start = (end - 1) // block * block
        first = max(state - 2 * (end - start), 0)
        width = state - first + 1
        before, after = np.full(width + 2, NEVER), np.full(width + 2, NEVER)
        for one in range(max(first, low[start]), min(state + 1, high[start])):
            before[one - first + 2] = kept[start // block, one - low[start]]
        for t in range(start + 1, end + 1):
            after[:] = NEVER
            for one in range(max(first, low[t]), min(state + 1, high[t])):
                place = one - first + 2
                best, step = before[place], 0
                if before[place - 1] > best:
                    best, step = before[place - 1], 1
                if before[place - 2] + skips[one] > best:
                    best, step = before[place - 2] + skips[one], 2
                after[place] = best + logps[t, labels[one]]
                steps[t - start - 1, place - 2] = step
            before, after = after, before
        for t in range(end, start, -1):
            states[t] = state
            state -= steps[t - start - 1, state - first]
        end = start
    states[0] = state
    return states
