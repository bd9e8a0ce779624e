"""Search by description, as a run: pseudo-texts of pictures, pretraining on them, fine-tuning on captions, retrieval."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.errors import DataError
from coalign.core.files import atomic_path, write_json
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.data.media.records import MediaRecord, MediaSet, read_media
from coalign.loops.rounds import Round, run_rounds
from coalign.measures.retrieval import retrieval_figures, warn_of_equal_texts
from coalign.models.devices import pick_device
from coalign.pairs.encoders import ImageTextEncoder
from coalign.pairs.features import FeatureCache, encoder_identity, image_features, stacked, text_features
from coalign.training.checkpoints import Keys
from coalign.training.modules import fit_module
from coalign.vision.search.lexicon import Lexicon, label, read_lexicon
from coalign.vision.search.report import write_search_report
from coalign.vision.search.towers import TowerSettings, TwoTowers, open_towers
from coalign.vision.search.training import (
    FineTuning,
    Identities,
    Pretraining,
    View,
    gallery_features,
    query_features,
    search_scores,
)

if TYPE_CHECKING:
    from torch import Tensor

KS = (1, 5, 10)
SHOWN = 10
"""Pictures that are kept of what a query found."""


def run_search(config: Any, run: Run) -> None:
    """The stages `build` (pseudo-texts), `fit` (both trainings) and `evaluate` of one round, and the report."""
    lexicon = read_lexicon(config.lexicon)
    data = read_media(config.data, kind="image", split=config.split, on_bad_record=config.on_bad_record)
    captioned = _identified(config, config.captions, config.split)
    test = _identified(config, config.test, config.test_split)
    read = [one for one in (data, captioned, test) if one is not None]
    run.log("data", pictures=[len(one) for one in read], left_out=sum(len(one.problems) for one in read))

    def build(round: Round) -> None:
        round.write("pseudo_texts", pseudo_texts(config, data.records, lexicon))

    def fit(round: Round) -> None:
        if not (round.folder / "pretrained").exists():
            _pretrain(config, round, data.records)
        if captioned is not None and not (round.folder / "tuned").exists():
            _tune(config, round, captioned.records)

    def evaluate(round: Round) -> None:
        stages = ["pretrained", *(["tuned"] if captioned is not None else [])]
        searched = {stage: _search(config, round, stage, test.records) for stage in stages} if test else {}
        write_json(
            round.path("retrieval", ".json"), {stage: figures for stage, (figures, _) in searched.items()}
        )
        round.write("evaluate", searched[stages[-1]][1] if searched else [])

    stages = {"build": build} if config.label_only else {"build": build, "fit": fit, "evaluate": evaluate}
    (round,) = run_rounds(run, stages)
    run.publish_records(round.path("pseudo_texts"))
    if not config.label_only:
        run.publish_model(round.folder / ("tuned" if captioned is not None else "pretrained"))
    write_search_report(config, run, round, lexicon, data, captioned, test)


def pseudo_texts(config: Any, records: Sequence[MediaRecord], lexicon: Lexicon) -> list[dict[str, Any]]:
    """A row a picture: `id`, `phrases` and how `sure` each is, `captions`."""
    encoder = ImageTextEncoder.load(config.model, device=config.device)
    cache = FeatureCache(encoder_identity(encoder))
    images = stacked(
        image_features(
            encoder, [one.picture for one in records], cache=cache, batch_size=config.scoring_batch
        )
    )
    phrases = [stacked(text_features(encoder, one.prompts(), cache=cache)) for one in lexicon.categories]
    scale = config.scale or float(encoder.scale)
    found = label(images, phrases, lexicon, scale=scale, threshold=config.optional_threshold)
    rows: list[dict[str, Any]] = []
    for record, chosen in zip(records, found, strict=True):
        draw = random.Random(f"{config.seed}/{record.id}")
        places = {name: place for name, (place, _) in chosen.items()}
        rows.append(
            {
                "id": record.id,
                "image": record.picture.called if record.picture else "",
                "phrases": lexicon.phrases(places),
                "sure": {name: round(share, 4) for name, (_, share) in chosen.items()},
                "captions": [lexicon.sentence(places, draw) for _ in range(config.sentences)],
            }
        )
    return rows


def _identified(config: Any, source: str | None, split: str) -> MediaSet | None:
    """Pictures with captions and an identity."""
    if source is None:
        return None
    found = read_media(
        source, kind="image", needs=("captions", "label"), split=split, on_bad_record=config.on_bad_record,
        columns={"label": config.identity},
    )  # fmt: skip
    warn_of_equal_texts([text for one in found.records for text in one.captions])
    return found


def _pretrain(config: Any, round: Round, records: Sequence[MediaRecord]) -> None:
    height, width = config.image_size
    settings = TowerSettings(
        width=config.width, height=height, image_width=width, text_length=config.text_length,
        pool_mask=config.pool_mask, parts=config.parts,
    )  # fmt: skip
    towers = open_towers(config.image_tower, config.text_tower, settings, seed=config.seed)
    towers.to(pick_device(config.device))
    task = Pretraining(
        towers, [row["captions"] for row in round.read("pseudo_texts")], _view(towers, records),
        temperature=config.temperature, word_weight=config.word_weight, word_share=config.word_share,
        positives=config.equal_captions == "positives", flip=config.flip, seed=config.seed,
    )  # fmt: skip
    fitted = fit_module(
        towers, task, Keys(len(records)), config, round.run, name="pretraining", adam_beta2=0.98
    )
    round.write("history-pretraining", fitted.history)
    with atomic_path(round.folder / "pretrained") as folder:
        towers.save(folder, stage="pretrained")


def _tune(config: Any, round: Round, records: Sequence[MediaRecord]) -> None:
    towers = TwoTowers.load(round.folder / "pretrained").to(pick_device(config.device))
    names = {name: at for at, name in enumerate(dict.fromkeys(str(one.label) for one in records))}
    if len(names) < 2:
        raise DataError(f"{config.captions}: {len(names)} identity, expected at least 2 to tell apart.")
    rows = [(one, text) for one in records for text in one.captions]
    task = FineTuning(
        towers, [text for _, text in rows], [names[str(one.label)] for one, _ in rows],
        _view(towers, [one for one, _ in rows]), margin=config.margin, identity_weight=config.identity_weight,
        part_weight=config.part_weight, flip=config.flip, seed=config.seed,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = Identities(towers, len(names)).to(pick_device(config.device))
    options = config.tuning(config)
    fitted = fit_module(
        module, task, Keys(len(rows)), options, round.run, name="fine-tuning", adam_beta2=0.98
    )
    round.write("history-fine-tuning", fitted.history)
    with atomic_path(round.folder / "tuned") as folder:
        towers.save(folder, stage="tuned", identities=len(names))


def _search(
    config: Any, round: Round, stage: str, records: Sequence[MediaRecord]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of the texts over the gallery, and a row a query with what it found."""
    towers = TwoTowers.load(round.folder / stage).to(pick_device(config.device))
    queries = [(one, text) for one in records for text in one.captions]
    batches = _batches(towers, records, config.scoring_batch, f"gallery, {stage}")
    gallery = gallery_features(towers, batches)
    scores = search_scores(
        query_features(towers, [text for _, text in queries], config.scoring_batch), gallery
    ).numpy()
    shown = np.asarray([one.label for one in records])
    positives = np.asarray([one.label for one, _ in queries])[:, None] == shown[None, :]
    figures = retrieval_figures(scores, positives, ks=[k for k in KS if k <= max(len(records), 1)])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN]
    best = np.where(positives, scores, -np.inf).max(1, keepdims=True)
    ranks = ((scores >= best) & ~positives).sum(1) + 1
    rows = [
        {
            "query": text,
            "identity": one.label,
            "rank": int(rank),
            "found": [records[place].id for place in places],
            "right": [bool(row[place]) for place in places],
        }
        for (one, text), rank, places, row in zip(
            queries, ranks.tolist(), order.tolist(), positives, strict=True
        )
    ]
    return {
        **{f"Rank-{k}": value for k, value in figures.recall.items()},
        "mAP": figures.mean_average_precision,
        "median rank": figures.median_rank,
        "queries": figures.queries,
        "gallery": len(records),
    }, rows


def _view(towers: TwoTowers, records: Sequence[MediaRecord]) -> View:
    def view(index: int, mirrored: bool) -> Tensor:
        picture: Any = records[index].picture
        pixels = towers.pixels(picture.open())
        return pixels.flip(-1) if mirrored else pixels

    return view


def _batches(towers: TwoTowers, records: Sequence[MediaRecord], size: int, label: str) -> Iterator[Tensor]:
    view = _view(towers, records)
    with progress(len(records), label, "picture") as bar:
        for start in range(0, len(records), size):
            places = range(start, min(start + size, len(records)))
            yield torch.stack([view(place, False) for place in places])
            bar.advance(len(places))
