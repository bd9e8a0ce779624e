"""Numbers of sentence-to-time alignment: which frames belong to a sentence, the loss, the moment, the recall."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

MASKED = -6e4
"""What stands in place of a masked similarity; finite in every float format. Source: the official code."""


def time_mask(starts: Tensor, ends: Tensor, frames: int, fps: float = 1.0) -> Tensor:
    """[S, T] whether frame t, shown at `t / fps` seconds, lies in a sentence's interval, both ends included.

    An interval between two frames has none. Times of -1 (unknown) have none either.

    Args:
        starts, ends: [S] seconds.
        frames: T.
    """
    times = torch.arange(frames, dtype=torch.float64) / fps
    return (times >= starts.double()[:, None]) & (times <= ends.double()[:, None])


def mil_nce(
    similarity: Tensor, positives: Tensor, frame_padding: Tensor, *, temperature: float = 0.07
) -> Tensor:
    """[R] MIL-NCE of each sentence over the frames of the batch, in nats:
    `-(logsumexp over its positive frames - logsumexp over all frames)` of `similarity / temperature`.

    Sentences are contrasted with frames, frames not with sentences. A sentence without a positive frame gives 0 and no
    gradient. Source: paper, section 3; official code, loss.py.

    Args:
        similarity: [R, C] cosines of the R sentences with the C frames of all videos of the batch.
        positives: [R, C] frames of the sentence's own video inside its interval.
        frame_padding: [C] True on frames that only fill up.
    """
    logits = similarity / temperature
    known = positives.any(-1)
    every = logits.masked_fill(frame_padding[None], MASKED).logsumexp(-1)
    # rows without a positive would give a gradient of nothing to everything: they read all frames instead
    own = logits.masked_fill(~(positives | ~known[:, None]) | frame_padding[None], MASKED).logsumexp(-1)
    return torch.where(known, every - own, torch.zeros_like(every))


def batch_positives(inside: Tensor) -> Tensor:
    """[B * S, B * T] the intervals of each video, [B, S, T], on the diagonal of a batch; no other video's frame is positive."""
    batch, sentences, frames = inside.shape
    own = torch.eye(batch, dtype=torch.bool, device=inside.device)
    return (own[:, None, :, None] & inside[:, :, None, :]).reshape(batch * sentences, batch * frames)


def moments(similarity: Tensor, frame_padding: Tensor, *, temperature: float = 0.07) -> tuple[Tensor, Tensor]:
    """([B, S] the frame of each sentence, [B, S, T] its curve): the argmax, of equal frames the first, and the softmax over
    the video's own frames of `similarity / temperature`.

    Args:
        similarity: [B, S, T] cosines.
        frame_padding: [B, T] True on frames that only fill up.
    """
    logits = (similarity / temperature).masked_fill(frame_padding[:, None], MASKED)
    return logits.argmax(-1), logits.softmax(-1)


def alignment_recall(found: Tensor, inside: Tensor, counted: Tensor) -> float:
    """Share of the counted sentences whose frame lies in their interval (R@1, the pointing game); NaN without any.

    A counted sentence whose interval holds no frame is wrong.

    Args:
        found: [..., S] frames.
        inside: [..., S, T] frames inside the interval.
        counted: [..., S] sentences that count (HTM-Align: the alignable ones).
    """
    hit = inside.gather(-1, found[..., None]).squeeze(-1)
    counted = counted.bool()
    return float(hit[counted].double().mean()) if bool(counted.any()) else float("nan")
