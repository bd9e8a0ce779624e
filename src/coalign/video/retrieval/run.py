"""A run of a retriever: train it, index the clips, rank texts and clips both ways, report."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.measures.retrieval import match_ranks, positives_of
from coalign.training.modules import fit_module
from coalign.training.processes import assert_one_process
from coalign.video.retrieval.index import encode_clips, encode_texts, save_clip_rows
from coalign.video.retrieval.interaction import ClipFeatures, TextFeatures, score
from coalign.video.retrieval.ranking import best_columns, query_bank_normalised
from coalign.video.retrieval.records import CaptionedClip, pairs_of, read_clips
from coalign.video.retrieval.report import write_retrieval_report
from coalign.video.retrieval.training import Matching, Pairs, Reader

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.video.retrieval.network import Retriever

WEIGHTS, READING = ("temperature", "local_weight"), ("frames", "fps", "words")
"""What a retriever's folder says of its scores, and of how clips and texts are read."""
SHOWN = 5
"""Clips of a text that are kept for the report."""


class Material:
    """The clips of a run, to learn from and to index."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.clips = read_clips(config.data)
        self.given = read_clips(config.eval_data) if config.eval_data else []
        self.bank = read_clips(config.bank_data) if config.bank_data else []

    @cached_property
    def split(self) -> tuple[list[CaptionedClip], list[CaptionedClip]]:
        """Clips to learn from, and to index."""
        if self.config.model is not None:
            return [], self.clips
        if self.given:
            return self.clips, self.given
        order = list(range(len(self.clips)))
        random.Random(self.config.seed).shuffle(order)
        count = max(round(self.config.eval_fraction * len(order)), 1)
        held_out = {*order[: min(count, len(order) - 1)]}
        parts: tuple[list[CaptionedClip], list[CaptionedClip]] = ([], [])
        for place, one in enumerate(self.clips):
            parts[place in held_out].append(one)
        return parts


def run_retrieval(
    config: Any, run: Run, loss: Callable[[dict[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]]
) -> None:
    """All of a run; the system gives its loss. Errors are those of the parts."""
    assert_one_process(f"{run.status()['method']} contrasts whole batches")
    material = Material(config)
    (round,) = run_rounds(run, make_stages(config, material, loss))
    if (round.folder / "model").exists():
        run.publish_model(round.folder / "model")
    write_retrieval_report(run, config, round, material.split[1])


def make_stages(
    config: Any,
    material: Material,
    loss: Callable[[dict[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]],
) -> dict[str, Stage]:
    """`baseline` ranks by the mean frame of the untrained encoder, `fit` trains, `evaluate` indexes and ranks."""

    def baseline(round: Round) -> None:
        from coalign.video.retrieval.network import Retriever, new_head

        encoder = _encoder(config)
        plain = new_head(encoder, positions=config.frames, temporal_layers=0, decoder_layers=0)
        model = Retriever(encoder, plain).to(encoder.device).eval()
        reader, folder = Reader.of(encoder, config), round.folder / "start"
        texts, clips = encoded(model, reader, material.split[1], folder, config.encode_batch)
        mean = (clips.frames * clips.mask[..., None]).sum(1) / clips.mask.sum(1, keepdim=True)
        units = [torch.nn.functional.normalize(one, dim=-1) for one in (texts.pooled, mean)]
        round.write("baseline", ranked(material.split[1], units[0] @ units[1].T))

    def fit(round: Round) -> None:
        from coalign.video.retrieval.network import Retriever, new_head, save_retriever

        encoder = _encoder(config)
        encoder.model.requires_grad_(True).train()
        torch.manual_seed(config.seed)
        head = new_head(encoder, positions=config.frames, **config.sizes())
        model = Retriever(encoder, head, hides_padding=config.mask_memory).to(encoder.device)
        if config.gradient_checkpointing:
            encoder.model.gradient_checkpointing_enable()
        task = Matching(Reader.of(encoder, config), loss, encoder_rate=config.encoder_rate)
        learnt = Pairs(material.split[0])
        fitted = fit_module(
            model,
            task,
            learnt,
            config,
            round.run,
            dataloader_num_workers=config.workers,
            dataloader_drop_last=len(learnt) > config.batch_size,
        )
        round.write("history", fitted.finite().history)
        about = {name: getattr(config, name) for name in (*WEIGHTS, *READING)}
        save_retriever(model.eval(), round.folder / "model", **about)

    def evaluate(round: Round) -> None:
        from coalign.video.retrieval.network import load_retriever

        place = Path(config.model) if config.model else round.folder / "model"
        model, about = load_retriever(place, device=config.device)
        folder, clips = round.run.artefacts / "index", material.split[1]
        weights = {name: about[name] for name in WEIGHTS}
        reader = Reader(model.encoder, *(about[name] for name in READING))
        round.run.log("cut", texts=reader.cut([text for _, text in pairs_of(clips)]), words=reader.words)
        texts, found = encoded(model, reader, clips, folder, config.encode_batch)
        scores = score(texts, found, **weights)
        rows = ranked(clips, scores)
        if material.bank:
            bank_texts, bank_clips = encoded(
                model, reader, material.bank, round.folder / "bank", config.encode_batch
            )
            banks = score(bank_texts, found, **weights), score(texts, bank_clips, **weights)
            for row, both in zip(rows, _normalised(config, clips, scores, *banks), strict=True):
                row["normalised_rank"], row["normalised_clip_rank"] = both
        save_clip_rows(folder, clips)
        kept = str(place.resolve()) if config.model else None
        write_json(
            folder / "about.json",
            {"model": kept, **{name: about[name] for name in (*WEIGHTS, *READING)}},
        )
        round.write("evaluate", rows)

    if config.model is not None:
        return {"evaluate": evaluate}
    return {"baseline": baseline, "fit": fit, "evaluate": evaluate}


def ranked(clips: Sequence[CaptionedClip], scores: Tensor) -> list[dict[str, Any]]:
    """A row a caption: `id` of its clip, `text`, `rank` of the clip (a clip whose caption is equal counts as it), `clip_rank`, of the
    clip's best caption among all (the same for all its captions), and its best clips with their scores.
    """
    places, positives = matches(clips)
    by_text = match_ranks(scores.numpy(), positives)
    by_clip = match_ranks(scores.T.numpy(), positives.T)
    best = best_columns(scores, SHOWN)
    return [
        {
            "id": clips[place].id,
            "text": text,
            "rank": int(by_text[row]),
            "clip_rank": int(by_clip[place]),
            "found": [[clips[one].id, round(float(scores[row, one]), 5)] for one in best[row]],
        }
        for row, (place, text) in enumerate(places)
    ]


def matches(clips: Sequence[CaptionedClip]) -> tuple[list[tuple[int, str]], np.ndarray]:
    """(every caption with the place of its clip, [captions, clips] which belong together)."""
    places = pairs_of(clips)
    positives = positives_of(range(len(clips)), [text for _, text in places], [place for place, _ in places])
    return places, positives.T


def _encoder(config: Any) -> Any:
    from coalign.pairs.encoders import ImageTextEncoder

    return ImageTextEncoder.load(config.encoder, device=config.device)


def encoded(
    model: Retriever, reader: Reader, clips: Sequence[CaptionedClip], folder: Path, batch: int
) -> tuple[TextFeatures, ClipFeatures]:
    """All captions and all clips, kept in `folder`."""
    texts = [text for _, text in pairs_of(clips)]
    return encode_texts(model, reader, texts, batch, folder), encode_clips(
        model, reader, clips, folder, batch
    )


def _normalised(
    config: Any, clips: Sequence[CaptionedClip], scores: Tensor, bank_texts: Tensor, bank_clips: Tensor
) -> list[tuple[int, int]]:
    """Ranks with QB-Norm of each caption, and of its clip.

    Args:
        bank_texts: [N, clips] of the bank's captions; bank_clips: [captions, M] of the bank's clips.
    """
    places, positives = matches(clips)
    by_text, by_clip = (
        query_bank_normalised(one, bank, beta=config.qb_beta, least=least)
        for one, bank, least in zip(
            (scores, scores.T), (bank_texts, bank_clips.T), config.qb_least, strict=True
        )
    )
    text_ranks = match_ranks(by_text.numpy(), positives)
    clip_ranks = match_ranks(by_clip.numpy(), positives.T)
    return [(int(text_ranks[row]), int(clip_ranks[place])) for row, (place, _) in enumerate(places)]
