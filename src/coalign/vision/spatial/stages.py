"""The stages of spatial fine-tuning: measure, caption, prepare the pictures, train, measure again."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import set_seed

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import atomic_path, read_rows, write_json, write_rows
from coalign.core.progress import progress
from coalign.core.runs import is_main_process
from coalign.data.media.conversations import question_about
from coalign.data.media.errors import MediaError
from coalign.data.media.records import MediaRecord, MediaSet, read_media
from coalign.loops.rounds import Round
from coalign.loops.rows import fill_rows
from coalign.models.detection import Detector, count_objects, open_detector
from coalign.models.diffusion.files import load_pipeline, save_pipeline
from coalign.models.diffusion.pixels import decoded
from coalign.models.diffusion.text_to_image import text_to_image_of, tokens_of
from coalign.models.picture_questions import open_picture_answerer
from coalign.models.types import Generation, Sampling
from coalign.vision.spatial.captions import QUESTION, cleaned
from coalign.vision.spatial.measuring import measure_model, measure_pictures, read_descriptions
from coalign.vision.spatial.options import SpatialOptions
from coalign.vision.spatial.training import Captioned, CaptionedPictures, train_on_captions

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")
CAPTIONS = "captions.jsonl"


def measure_start(round: Round, config: SpatialOptions) -> None:
    """Pictures of the model as it comes, or those that were made elsewhere, and what is found in them."""
    detector = functools.cache(lambda: _detector(config))
    if config.pictures:
        measure_pictures(round.path("baseline"), None if config.detections else detector, config)
    elif config.prompts or config.objects:
        pipeline = functools.cache(lambda: _pipeline(config, str(config.model), config.revision))
        measure_model(
            round.path("baseline"),
            round.folder / "before",
            read_descriptions(config),
            pipeline,
            detector,
            config,
        )


def measure_trained(round: Round, config: SpatialOptions) -> None:
    """The same of the trained model, from the same noise."""
    pipeline = functools.cache(lambda: _pipeline(config, str(round.folder / "model"), None))
    detector = functools.cache(lambda: _detector(config))
    measure_model(
        round.path("evaluate"), round.folder / "after", read_descriptions(config), pipeline, detector, config
    )


def write_captions(round: Round, config: SpatialOptions) -> None:
    """Ask for a spatial caption of every picture that has none; one row a picture."""
    records = [one for one in read_pictures(config).records if not _spatial(one, config)]
    question = (
        config.caption_template.read_text(encoding="utf-8").strip() if config.caption_template else QUESTION
    )
    sampling = Sampling(
        max_new_tokens=config.caption_tokens, temperature=config.caption_temperature, seed=config.seed
    )

    def work(done: list[int], keep: Any) -> None:
        answerer = open_picture_answerer(
            config.captioner, device=config.device, endpoint=config.captioner_endpoint
        )

        def kept(found: dict[int, list[Generation]]) -> None:
            keep(
                {
                    place: {"caption": cleaned(one.text), "finish_reason": one.finish_reason}
                    for place, (one,) in found.items()
                }
            )

        asked = [question_about(one.picture, question) for one in records if one.picture is not None]
        answerer.generate(asked, sampling, done=done, on_batch=kept, label="Captioning")

    fill_rows(round.path("propose"), [one.id for one in records], work)


def prepare_pictures(round: Round, config: SpatialOptions) -> None:
    """Choose pictures by their objects, put general and spatial captions beside each other, decode what is trained on.

    Raises:
        DataError: pictures that cannot be decoded, or none that has a caption.
    """
    found = read_pictures(config)
    counts: Counter[str] = Counter()
    if found.problems:
        counts["records left out"] = len(found.problems)
    if config.more_objects_than is not None:
        found = _with_many_objects(round, found, config, counts)
    asked = {row["id"]: row["caption"] for row in read_rows(round.path("propose"))}
    rows = []
    for record in found.records:
        spatial = _spatial(record, config) or asked.get(record.id) or None
        path = record.picture.called if record.picture is not None else None
        rows.append({"id": record.id, "image": path, "caption": record.caption, "spatial_caption": spatial})
    kept = [row for row in rows if row["caption"] or row["spatial_caption"]]
    counts["without any caption"] = len(rows) - len(kept)
    counts["without a spatial caption"] = sum(not row["spatial_caption"] for row in kept)
    counts["without a general caption"] = sum(not row["caption"] for row in kept)
    if not kept:
        raise DataError(f"{config.data}: no picture has a caption.")
    facts: dict[str, Any] = {}
    if config.tune:
        if not any(row["spatial_caption"] for row in kept) and config.spatial_share > 0:
            raise ConfigError(
                f"{config.data}: no picture has a spatial caption (column {config.spatial_column}).",
                hint="--captioner MODEL writes them, --spatial-share 0 trains without.",
            )
        names = {row["id"] for row in kept}
        chosen = replace(found, records=[one for one in found.records if one.id in names])
        kept, facts = _decode(round, chosen, kept, config, counts)
    write_rows(round.folder / CAPTIONS, kept)
    round.run.publish_records(round.folder / CAPTIONS)
    write_json(round.path("build", ".json"), {**facts, "count": len(kept), "counts": dict(counts)})


def fit_model(round: Round, config: SpatialOptions) -> None:
    """Train on the mix of captions, and save the whole pipeline."""
    facts = facts_of(round)
    rows = captions_of(round)
    pipeline = _pipeline(config, str(config.model), config.revision, training=True)
    captions = [Captioned(row["id"], row["caption"], row["spatial_caption"]) for row in rows]
    set_seed(config.seed)
    pictures = CaptionedPictures(training_pictures(round), captions, config)
    fitted = train_on_captions(pipeline, str(config.model), pictures, config, round.run)
    if is_main_process():
        round.write("history", fitted.finite().history)
        save_pipeline(pipeline, round.folder / "model")
        write_json(round.path("training", ".json"), {"steps": fitted.steps, "pictures": facts["count"]})


def facts_of(round: Round) -> dict[str, Any]:
    """What `prepare_pictures` found: `count`, `counts`, and of a training `size` and the share of captions that were cut."""
    return json.loads(round.path("build", ".json").read_text(encoding="utf-8"))


def captions_of(round: Round) -> list[dict[str, Any]]:
    """A row a picture: `id`, `image`, `caption`, `spatial_caption`."""
    return read_rows(round.folder / CAPTIONS)


def training_pictures(round: Round) -> NDArray[np.uint8]:
    """[N, 3, size, size] bytes on disk, in the order of the captions."""
    facts = facts_of(round)
    shape = (facts["count"], 3, facts["size"], facts["size"])
    return np.memmap(round.path("build", ".bytes"), np.uint8, "r", shape=shape)


def read_pictures(config: SpatialOptions) -> MediaSet:
    """The pictures of `--data`."""
    return read_media(
        str(config.data),
        kind="image",
        split=config.split,
        limit=config.limit,
        on_bad_record=config.on_bad_record,
    )


def _spatial(record: MediaRecord, config: SpatialOptions) -> str | None:
    value = record.more.get(config.spatial_column)
    return cleaned(value) if isinstance(value, str) and value.strip() else None


def _with_many_objects(
    round: Round, found: MediaSet, config: SpatialOptions, counts: Counter[str]
) -> MediaSet:
    """The pictures with more objects than asked for; at most `most_pictures`, those with the most."""
    records = found.records

    def work(done: list[int], keep: Any) -> None:
        detector = _detector(config)
        with progress(len(records) - len(done), "Counting objects", "picture") as bar:
            for place, record in enumerate(records):
                if place not in done:
                    keep({place: {"objects": _objects(record, detector, config)}})
                    bar.advance()

    rows = fill_rows(round.path("objects"), [one.id for one in records], work)
    least = config.more_objects_than or 0
    chosen = [place for place, row in enumerate(rows) if (row["objects"] or 0) > least]
    counts[f"with {least} objects or fewer"] = len(records) - len(chosen)
    if config.most_pictures is not None and len(chosen) > config.most_pictures:
        counts["beyond the most pictures"] = len(chosen) - config.most_pictures
        chosen = sorted(sorted(chosen, key=lambda place: -rows[place]["objects"])[: config.most_pictures])
    if not chosen:
        raise DataError(f"{config.data}: none of {len(records)} pictures has more than {least} objects.")
    return replace(found, records=[records[place] for place in chosen])


def _objects(record: MediaRecord, detector: Detector, config: SpatialOptions) -> int | None:
    """How many objects a picture holds; None for one that cannot be decoded, which is told when it would be trained on."""
    assert record.picture is not None
    try:
        return count_objects(detector, record.picture.open(), config.count_labels, config.threshold)
    except MediaError:
        return None


def _decode(
    round: Round,
    found: MediaSet,
    rows: Sequence[dict[str, Any]],
    config: SpatialOptions,
    counts: Counter[str],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The pictures in one file; the rows of those that could be decoded, and the facts of the training."""
    pipeline = _pipeline(config, str(config.model), config.revision)
    text_to_image_of(pipeline, str(config.model))
    size = config.image_size or _own_size(pipeline)
    by_id = {row["id"]: row for row in rows}
    kept = []
    with atomic_path(round.path("build", ".bytes")) as path, path.open("wb") as file:
        for record, values in decoded(
            found, size, size, fit=config.fit, on_bad_record=config.on_bad_record, conversions=counts
        ):
            file.write(values.tobytes())
            kept.append(by_id[record.id])
    cut = {}
    for column in ("caption", "spatial_caption"):
        texts = [row[column] for row in kept if row[column]]
        cut[column] = sum(tokens_of(pipeline.tokenizer, texts)[1]) / len(texts) if texts else 0.0
    return kept, {"size": size, "cut": cut, "tokens": pipeline.tokenizer.model_max_length}


def _own_size(pipeline: Any) -> int:
    """The side of the pictures that a pipeline makes."""
    return int(pipeline.unet.config.sample_size) * int(getattr(pipeline, "vae_scale_factor", 1))


def _pipeline(config: SpatialOptions, name: str, revision: str | None, *, training: bool = False) -> Any:
    return load_pipeline(name, revision=revision, device=config.device, training=training, parts=PARTS)


def _detector(config: SpatialOptions) -> Detector:
    return open_detector(str(config.detector), device=config.device)
