"""TVTA: find the moment of each sentence in a long video, from frozen features of its frames and of the sentences.

A Strong Baseline for Temporal Video-Text Alignment (arXiv 2312.14055; later Multi-Sentence Grounding for Long-term Instructional
Video). A transformer over the frames, one over the sentences that looks at them, and a contrast of each sentence with all frames
of the batch.

    coalign run tvta --data videos.jsonl --encoder openai/clip-vit-large-patch14
    coalign run tvta --data new.jsonl --model runs/tvta --encoder openai/clip-vit-large-patch14
    coalign run tvta --data talks/ --steps --endpoint http://127.0.0.1:8000/v1 --encoder openai/clip-vit-large-patch14

Records name a video (or ready features) and its sentences, with `start` and `end` where they are known: these are learnt from.
Every sentence of the held-out videos (with `--model`: of all) gets a time and a curve over the seconds, as JSON, WebVTT and a
page that plays the clip. `--steps` cleans transcripts: a language model writes the steps, the transcript's times and then the
trained aligner say when they are shown (`artefacts/steps.jsonl`, records for a further training: `--data RUN`).

Differences from the authors' code: the heads without a loss (`alignable_head`, `timestamp_head`) are left out; the README's two
settings are `--order ordered` and `shuffled`, the code's coin is `coin`; frames have a rate, so that a place is a time. Prompt and
thresholds of `--steps` are reconstructions from memory, and options.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import DataError
from coalign.core.files import write_rows
from coalign.core.options import option, required
from coalign.core.runs import Run
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.models.devices import pick_device
from coalign.training.distributed.leading import led
from coalign.training.modules import fit_module
from coalign.training.processes import assert_one_process
from coalign.video.grounding.features import FeatureOptions, Features
from coalign.video.grounding.page import assert_embeddable
from coalign.video.grounding.placing import by_aligner, by_features, placed
from coalign.video.grounding.records import Sentence, Video, read_videos
from coalign.video.grounding.report import write_moment_files, write_moment_report
from coalign.video.grounding.steps import FILE, StepOptions, placed_steps, timed_steps, written_steps
from coalign.video.grounding.training import (
    AlignerOptions,
    AlignerTraining,
    Alignment,
    Examples,
    reads_ordered,
)

if TYPE_CHECKING:
    from coalign.models.types import Generator
    from coalign.video.grounding.network import Aligner


@dataclass(kw_only=True)
class Config(FeatureOptions, AlignerOptions, AlignerTraining, StepOptions):
    """Options of `coalign run tvta`."""

    __group__ = "Method"

    data: str = required(
        "videos with sentences: records, or a folder of videos with .srt, .vtt, .json or .txt beside"
    )
    eval_data: str | None = option(None, "videos to place and measure on; by default a share of the data")
    model: str | None = option(
        None, "a trained aligner (run or folder): nothing is trained, and all videos are placed"
    )
    page_video: Literal["link", "embed", "none"] = option(
        "link", "pages: the clip linked beside, inside the page, or no pages at all"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            return
        if self.eval_data is not None:
            self.refuse(["eval_data"], "with model: all videos of data are placed")
        fixed = {"read_as", "temperature", "seed"}
        self.refuse([one for one in AlignerOptions.__dataclass_fields__ if one not in fixed], "with model")
        self.refuse([one for one in AlignerTraining.__dataclass_fields__ if one not in fixed], "with model")


class Material:
    """What the stages of a run share: the videos, and their features. Made again after a kill."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.videos = read_videos(config.data, longest=config.max_seconds, transcripts=config.steps)
        self.given = read_videos(config.eval_data, longest=config.max_seconds) if config.eval_data else []
        if config.page_video == "embed":
            assert_embeddable([*self.videos, *self.given])
        self.features = Features(config, [*self.videos, *self.given])

    @cached_property
    def split(self) -> tuple[list[Video], list[Video]]:
        """Videos to learn from, and to place."""
        if self.config.model is not None:
            return [], self.videos
        if self.given:
            return self.videos, self.given
        order = list(range(len(self.videos)))
        random.Random(self.config.seed).shuffle(order)
        count = max(round(self.config.eval_fraction * len(order)), 1) if self.config.eval_fraction else 0
        held_out = {*order[: min(count, len(order) - 1)]}
        parts: tuple[list[Video], list[Video]] = ([], [])
        for place, one in enumerate(self.videos):
            parts[place in held_out].append(one)
        return parts


def run(config: Config, run: Run) -> None:
    """Read, write steps where they are asked for, train, place, measure; write files, pages, report and model.

    Raises:
        DataError: videos that cannot be used, or none with a time to learn from.
        ConfigError: features that nothing gives.
        ModelError: an aligner or an encoder that cannot be loaded.
    """
    if config.model is None:
        assert_one_process("tvta contrasts a sentence with all frames of a batch, and trains")
    _place(config, run)


@led
def _place(config: Config, run: Run) -> None:
    material = Material(config)
    (round,) = run_rounds(run, make_stages(config, material))
    if (round.folder / "model").exists():
        run.publish_model(round.folder / "model")
    videos = {one.id: one for one in [*material.videos, *material.given]}
    rows = round.read("evaluate")
    if config.steps:
        kept = [
            placed_steps(row, videos[row["id"]], window=config.window, least=config.least_score)
            for row in rows
        ]
        write_rows(run.artefacts / FILE, [record for record, _ in kept if record["sentences"]])
        run.publish_records(run.artefacts / FILE)
    write_moment_files(config, run, rows, videos)
    write_moment_report(run, config, round, videos)


def make_stages(config: Config, material: Material) -> dict[str, Stage]:
    """The stages of the one round: `propose` and `build` make steps, `fit` trains, `evaluate` places sentences by the frozen
    features alone (rows `baseline`) and by the aligner.
    """

    def steps_of(round: Round) -> dict[str, list[str]]:
        def writer() -> Generator:
            from coalign.models.backends.open import open_generator
            from coalign.models.options import ModelOptions

            return open_generator(ModelOptions(model=config.writer, device=config.device), config)

        return written_steps(round.path("propose"), material.videos, config, writer)

    def propose(round: Round) -> None:
        steps_of(round)

    def build(round: Round) -> None:
        steps, embed = steps_of(round), material.features.of_texts
        rows = [
            {"id": one.id, "steps": [vars(step) for step in timed_steps(one, steps[one.id], embed, config)]}
            for one in material.videos
        ]
        if not any(row["steps"] for row in rows):
            hint = f"Look at {round.path('propose')}, and give another --writer or --prompt."
            raise DataError("The writer found no step in any transcript.", hint=hint)
        round.write("build", rows)

    def parts(round: Round) -> tuple[list[Video], list[Video]]:
        learnt, tested = material.split
        if not config.steps:
            return learnt, tested
        made = {row["id"]: row["steps"] for row in round.read("build")}
        return with_steps(learnt, made), with_steps(tested, made)

    def fit(round: Round) -> None:
        train_aligner(config, round, *parts(round), material.features)

    def evaluate(round: Round) -> None:
        learnt, tested = parts(round)
        features = material.features
        wanted = features.prepare([*learnt, *tested] if config.steps else tested)
        model, ordered = read_aligner(config, round)
        features.assert_fits(wanted, model.sizes.visual_width, model.sizes.text_width)
        ways = {"evaluate": by_aligner(model, ordered)}
        if features.share_a_width(wanted):
            ways = {"baseline": by_features, **ways}
        for name, similarity in ways.items():
            done = [row["id"] for row in round.read(name)]
            for row in placed(wanted, features, similarity, temperature=config.temperature, done=done):
                round.append(name, [row])

    stages: dict[str, Stage] = {"evaluate": evaluate}
    if config.model is None:
        stages["fit"] = fit
    return {"propose": propose, "build": build, **stages} if config.steps else stages


def with_steps(videos: Sequence[Video], made: Mapping[str, list[dict[str, Any]]]) -> list[Video]:
    """The videos with the steps that were made in place of their sentences; those of which none was made are left out, those
    of other data keep their sentences.
    """
    return [
        one.with_sentences(tuple(Sentence(**step) for step in made[one.id])) if one.id in made else one
        for one in videos
        if made.get(one.id, one)
    ]


def train_aligner(
    config: Config, round: Round, learnt: Sequence[Video], tested: Sequence[Video], features: Features
) -> None:
    """Train an aligner on the videos with a sentence whose time is known, and save it in the round.

    Raises:
        DataError: there is no such video.
    """
    from coalign.video.grounding.network import Aligner, AlignerSizes, save_aligner

    usable = [one for one in learnt if any(sentence.timed for sentence in one.sentences)]
    if not usable:
        raise DataError(
            f"{config.data}: no sentence has a start and an end to learn from.",
            hint="Give times, or --model with a trained aligner, or --steps where there are transcripts.",
        )
    first = features.prepare([*usable, *tested])[0]
    widths = features.visual(first).shape[1], features.text(first).shape[1]
    sizes = {one.name: getattr(config, one.name) for one in fields(AlignerSizes) if hasattr(config, one.name)}
    torch.manual_seed(config.seed)
    model = Aligner(AlignerSizes(*widths, **sizes)).to(pick_device(config.device))
    measured = [one for one in tested if any(sentence.timed for sentence in one.sentences)]
    fitted = fit_module(
        model,
        Alignment(config, config.seed),
        Examples(usable, features),
        config,
        round.run,
        held_out=Examples(measured, features),
    )
    round.write("history", fitted.finite().history)
    save_aligner(model, round.folder / "model", order=config.order, read_as=config.read_as, fps=config.fps)


def read_aligner(config: Config, round: Round) -> tuple[Aligner, bool]:
    """The aligner of the round, or the one that `config.model` names, and whether it reads sentences in their order."""
    from coalign.video.grounding.network import load_aligner

    model, settings = load_aligner(Path(config.model) if config.model else round.folder / "model")
    read_as = settings["read_as"] if config.read_as == "auto" else config.read_as
    return model.to(pick_device(config.device)), reads_ordered(settings["order"], read_as)
