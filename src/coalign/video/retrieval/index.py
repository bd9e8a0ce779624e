"""Stored features of a collection: clips and texts are encoded once, in parts that a killed run goes on after, and searched."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import DataError, RunError
from coalign.core.files import atomic_path, read_rows, write_rows
from coalign.core.progress import progress
from coalign.data.media.errors import MediaError
from coalign.video.retrieval.interaction import ClipFeatures, TextFeatures, score
from coalign.video.retrieval.ranking import best_columns

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.video.retrieval.network import Retriever
    from coalign.video.retrieval.records import CaptionedClip
    from coalign.video.retrieval.training import Reader

PART = 256
"""Clips or texts in one file."""
CLIPS = "clips.jsonl"


def encode_clips(
    model: Retriever, reader: Reader, clips: Sequence[CaptionedClip], folder: Path, batch: int
) -> ClipFeatures:
    """Features of clips, a file of `PART` at a time in `folder`; files that are there are read.

    Raises:
        DataError: naming every clip that cannot be decoded.
    """
    problems = []

    def readable(one: CaptionedClip) -> bool:
        try:
            reader.clips([one])
        except MediaError as error:
            problems.append(one.problem("video", str(error.message).rstrip("."), "a clip"))
            return False
        return True

    def encoded(part: Sequence[CaptionedClip]) -> dict[str, Tensor]:
        try:
            read = reader.clips(part)
        except MediaError:
            _ = [readable(one) for one in part]
            raise DataError(f"{len(problems)} clips cannot be used.", problems) from None
        pixels, mask = (read[name].to(reader.encoder.device) for name in ("pixels", "mask"))
        frames, concepts = model.clips(pixels, mask)
        wide = reader.frames - frames.shape[1]
        frames = torch.nn.functional.pad(frames, (0, 0, 0, wide))
        found = {"frames": frames, "mask": torch.nn.functional.pad(mask, (0, wide))}
        return found if concepts is None else {**found, "concepts": concepts}

    found = _parts(clips, encoded, folder, "clips", batch)
    return ClipFeatures(found["frames"], found["mask"], found.get("concepts"))


def encode_texts(
    model: Retriever, reader: Reader, texts: Sequence[str], batch: int, folder: Path | None = None
) -> TextFeatures:
    """Features of texts, kept in `folder` where one is given."""

    def encoded(part: Sequence[str]) -> dict[str, Tensor]:
        read = reader.texts(part)
        pooled, concepts = model.texts(*(read[name].to(reader.encoder.device) for name in ("ids", "words")))
        return {"pooled": pooled} if concepts is None else {"pooled": pooled, "concepts": concepts}

    found = _parts(texts, encoded, folder, "texts", batch)
    return TextFeatures(found["pooled"], found.get("concepts"))


def save_clip_rows(folder: Path, clips: Sequence[CaptionedClip]) -> None:
    """What the rows of the features are: paths, stretches and captions."""
    write_rows(
        folder / CLIPS,
        [
            {
                "id": one.id,
                "video": str(one.frames.video),
                "start": one.frames.start,
                "end": one.frames.end,
                "captions": list(one.captions),
            }
            for one in clips
        ],
    )


def search(
    run: Path, texts: Sequence[str], *, count: int = 10, device: str = "auto"
) -> list[list[dict[str, Any]]]:
    """For each text the best clips of a run's index, best first: rows `rank`, `score`, `id`, `video`, `start`, `end`, `captions`.

    Raises:
        RunError: the run has no index.
        ModelError: its model cannot be loaded.
    """
    from coalign.video.retrieval.network import load_retriever
    from coalign.video.retrieval.training import Reader

    folder = run / "artefacts" / "index"
    rows = read_rows(folder / CLIPS)
    if not rows:
        raise RunError(
            f"{run} has no index of clips.", hint="`coalign run glscl` makes one; let the run end first."
        )
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    model, _ = load_retriever(Path(about["model"] or run), device=device)
    reader = Reader(model.encoder, about["frames"], about["fps"], about["words"])
    clips = read_clips(folder)
    found = encode_texts(model, reader, texts, len(texts))
    scores = score(found, clips, temperature=about["temperature"], local_weight=about["local_weight"])
    return [
        [
            {"rank": rank, "score": round(float(scores[row, place]), 5), **rows[place]}
            for rank, place in enumerate(places, start=1)
        ]
        for row, places in enumerate(best_columns(scores, count))
    ]


def read_clips(folder: Path) -> ClipFeatures:
    """The clips of an index."""
    found = _joined(sorted(folder.glob("clips-*.safetensors")))
    return ClipFeatures(found["frames"], found["mask"], found.get("concepts"))


def _parts(
    items: Sequence[Any],
    encode: Callable[[Sequence[Any]], dict[str, Tensor]],
    folder: Path | None,
    kind: str,
    batch: int,
) -> dict[str, Tensor]:
    from safetensors.torch import load_file, save_file

    made = []
    with progress(len(items), f"Encoding {kind}", kind.rstrip("s")) as bar, torch.inference_mode():
        for start in range(0, len(items), PART):
            part = items[start : start + PART]
            path = folder / f"{kind}-{start // PART:05d}.safetensors" if folder else None
            if path is not None and path.exists():
                made.append(load_file(str(path)))
            else:
                pieces = [encode(part[at : at + batch]) for at in range(0, len(part), batch)]
                whole = {
                    name: torch.cat([one[name] for one in pieces]).float().cpu().contiguous()
                    for name in pieces[0]
                }
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_path(path) as temporary:
                        save_file(whole, str(temporary))
                made.append(whole)
            bar.advance(len(part))
    return {name: torch.cat([one[name] for one in made]) for name in made[0]}


def _joined(paths: Sequence[Path]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    made = [load_file(str(one)) for one in paths]
    return {name: torch.cat([one[name] for one in made]) for name in made[0]}
