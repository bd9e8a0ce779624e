"""Sentences placed in their videos: by the aligner, and by the frozen features alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.progress import progress
from coalign.video.grounding.losses import moments
from coalign.video.grounding.training import Examples, collate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from coalign.video.grounding.features import Features
    from coalign.video.grounding.network import Aligner
    from coalign.video.grounding.records import Video
    from coalign.video.grounding.training import Example


def by_features(example: Example) -> Tensor:
    """Cosines of the frozen features as they are; they need one width for both."""
    return (
        torch.nn.functional.normalize(example.text, dim=-1)
        @ torch.nn.functional.normalize(example.visual, dim=-1).T
    )


def by_aligner(model: Aligner, ordered: bool) -> Callable[[Example], Tensor]:
    """Cosines in the aligner's space, a video at a time, on the model's device."""

    def found(example: Example) -> Tensor:
        device = next(model.parameters()).device
        batch = {
            name: one.to(device) for name, one in collate([example]).items() if isinstance(one, torch.Tensor)
        }
        with torch.inference_mode():
            return model.similarity(batch, ordered=ordered)[0].float().cpu()

    return found


def placed(
    videos: Sequence[Video],
    features: Features,
    similarity: Callable[[Example], Tensor],
    *,
    temperature: float,
    done: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """A row a video: `id`, `fps`, `frames`, and `sentences`, each with `text`, `time` (s), `score` (the peak of its curve),
    `similarity` (the cosine there), `curve` (the softmax over the seconds of the video), and, where its interval is known,
    `start`, `end`, and `hit`: whether the time lies inside (null where it does not count).

    Args:
        similarity: see `by_features` and `by_aligner`.
        done: ids of videos that have a row.
    """
    examples = Examples(videos, features)
    with progress(len(videos), "Placing sentences", "video") as bar:
        for place, video in enumerate(videos):
            bar.note(video.id)
            if video.id not in done:
                yield _row(video, examples[place], features.fps(video), similarity, temperature)
            bar.advance()


def _row(
    video: Video,
    example: Example,
    fps: float,
    similarity: Callable[[Example], Tensor],
    temperature: float,
) -> dict[str, Any]:
    cosines = similarity(example)
    nothing = torch.zeros(1, cosines.shape[1], dtype=torch.bool)
    found, curves = moments(cosines[None], nothing, temperature=temperature)
    sentences = []
    for at, sentence in enumerate(video.sentences):
        frame = int(found[0, at])
        sentences.append(
            {
                "text": sentence.text,
                "time": round(frame / fps, 3),
                "score": round(float(curves[0, at, frame]), 5),
                "similarity": round(float(cosines[at, frame]), 5),
                "start": sentence.start,
                "end": sentence.end,
                "hit": bool(example.inside[at, frame]) if sentence.timed else None,
                "curve": [round(one, 4) for one in curves[0, at].tolist()],
            }
        )
    return {"id": video.id, "fps": fps, "frames": cosines.shape[1], "sentences": sentences}


def hits(rows: Sequence[dict[str, Any]]) -> list[float]:
    """1 or 0 for every sentence that counts, in the order of rows and sentences."""
    return [float(one["hit"]) for row in rows for one in row["sentences"] if one["hit"] is not None]
