"""Compress & Align: keep the tenth of a corpus of image-text pairs that people would call well described.

Compress & Align: Curating Image-Text Data with Human Knowledge (arXiv 2312.06726; later versions: Filter & Align).

    coalign run compress-align --annotations ranked.jsonl --encoder openai/clip-vit-base-patch32
    coalign run compress-align --reward runs/compress-align-20260101-1 --data shards/ --keep 0.12
    coalign run compress-align --annotations ranked.jsonl --encoder Salesforce/blip-itm-base-coco --data pairs.jsonl

People rank the captions of a picture, ties allowed. A reward of picture and text learns their order; it then scores every
pair of a corpus, and the best share is kept: no caption is rewritten and no pair weighed. The run stands for the kept pairs
(`--data RUN` elsewhere). Broken pictures are dropped and counted, pairs with the same pixels and caption are kept once. The
quantiles of all scores lie beside the checkpoint, since a threshold is one checkpoint's own; `--threshold stored` cuts further
shards where the earlier corpus was cut. `--by clip-score`, `itm` and `random` are the baselines at the same share.

Reconstruction: there is no official code. Layers of the reward, learning rates, which BLIP layers stay frozen, the exclusion
of ties (`--ties half` draws them together) and the average over pictures (`--average pairs`) are ours. On a dual encoder such
as CLIP or SigLIP a head learns on frozen features, which takes minutes; on BLIP the upper layers learn too, as in the paper.
Scores are standardised on the training captions. BLIP was run on random weights alone here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import Count, Fraction, option, options_of
from coalign.core.runs import Run, is_main_process
from coalign.curation.image_text.scorers import DEFAULT_ENCODER, By, reward_folder
from coalign.curation.image_text.training import RewardTrainingOptions

if TYPE_CHECKING:
    from coalign.curation.image_text.corpus import PairCorpus
    from coalign.curation.image_text.encoders import Encoder
    from coalign.curation.image_text.scorers import PairScorer
    from coalign.loops.pipeline import Curated

ARTEFACT = "curation"
"""Folder of the artefacts that the pipeline works in."""


@dataclass(kw_only=True)
class Config(RewardTrainingOptions):
    """Options of `coalign run compress-align`."""

    __group__ = "Method"

    annotations: list[str] = option(
        [],
        "captions of pictures, ranked by people: files, folders or globs; a reward learns from them",
        split=False,
    )
    data: list[str] = option(
        [],
        "pairs to score and cut: JSON Lines, Parquet or CSV with image and caption, WebDataset shards, folders, hub ids",
        split=False,
    )
    encoder: str | None = option(
        None,
        "what the reward is learnt on, or what a baseline scores with: CLIP, SigLIP or BLIP by hub id or folder; by default "
        f"{DEFAULT_ENCODER} (the paper's is BLIP)",
    )
    revision: str | None = option(None, "of the encoder on the hub", only_with="encoder")
    reward: str | None = option(None, "a reward that was learnt before: a run or its folder `model`")
    by: By = option(
        "reward",
        "what scores: the reward; or as a baseline the cosine of the encoder, BLIP's matching head, or the lot",
    )
    keep: Fraction = option(
        0.3,
        "share of the pairs that is kept",
        source="paper, figure; 0.12 for its headline",
        only_with="data",
    )
    threshold: float | Literal["stored"] | None = option(
        None,
        "keep what scores so much in place of a share; stored: where the corpus whose quantiles lie beside the reward was cut "
        "at `keep`",
        only_with="data",
    )
    duplicates: Literal["drop", "keep"] = option(
        "drop", "pairs with the same pixels and the same caption: keep one, or all", only_with="data"
    )
    shards: Count | None = option(
        None, "also write the kept pairs as WebDataset shards of so many pairs each", only_with="data"
    )
    image_column: str | None = option(None, "column of the picture; by default by its name", only_with="data")
    caption_column: str | None = option(
        None, "column of the caption; by default by its name", only_with="data"
    )
    origin_column: str = option(
        "origin", "column that says where a caption comes from, where there is one", only_with="data"
    )
    limit: Count | None = option(None, "read only so many pairs, of each source", only_with="data")
    score_batch: Count = option(64, "pairs that are scored at a time", only_with="data")
    workers: Count | None = option(None, "threads that decode pictures; by default up to 8", only_with="data")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at rows that cannot be used, or count them; broken pictures are always counted"
    )
    examples: Count = option(12, "pairs of either side shown in the report", only_with="data")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.annotations and not self.data:
            return  # `run` says that there is nothing to do
        if not self.annotations:
            used = {"seed"} if self.by == "random" else set()
            self.refuse({one.name for one in options_of(RewardTrainingOptions)} - used, "without annotations")
        elif self.reward is not None:
            raise ValueError("reward and annotations exclude each other: a reward is learnt, or was before")
        if self.by != "reward" and (self.annotations or self.reward):
            raise ValueError(f"by: {self.by} scores without a reward: give neither annotations nor reward")
        if self.by == "reward" and not self.annotations and not self.reward:
            raise ValueError("by: reward needs annotations to learn it from, or reward, where it lies")
        if self.reward is not None or self.by == "random":
            self.refuse(("encoder", "revision"), f"with {'reward' if self.reward else 'by: random'}")
        if self.threshold is not None:
            self.refuse(() if self.threshold == "stored" else ("keep",), "with a threshold")
        if self.threshold == "stored" and self.reward is None:
            raise ValueError("threshold: stored needs reward, beside which the quantiles of a corpus lie")


def run(config: Config, run: Run) -> None:
    """Learn the reward, where there are annotations; score and cut the corpus, where there is one; report.

    Raises:
        ConfigError: neither is given.
        DataError: annotations or pairs that cannot be used.
        ModelError: the encoder or the reward cannot be loaded, or the encoder is not the one that the reward was learnt on.
    """
    from coalign.curation.image_text.annotations import read_annotations
    from coalign.curation.image_text.learning import learn_reward
    from coalign.curation.image_text.report import Outcome, write_report

    if not config.annotations and not config.data:
        raise ConfigError(
            "There is nothing to do: neither --annotations (rankings to learn from) nor --data (pairs to score) is given."
        )
    corpus = None
    if config.data:
        from coalign.curation.image_text.corpus import PairCorpus

        corpus = PairCorpus.of(config)
        corpus.assert_readable()
    learnt, problems = None, []
    if config.annotations:
        records, problems = read_annotations(config.annotations, skip_bad=config.on_bad_record == "skip")
        learnt = learn_reward(records, _encoder(config), config, run)
    if not is_main_process():
        return
    done = None
    if corpus is not None:
        done = curate(config, run, corpus)
    write_report(run, config, Outcome(learnt, problems, done, corpus))


def curate(config: Config, run: Run, corpus: PairCorpus) -> Curated:
    """Score every pair of the corpus and cut it; what is kept is what the run stands for."""
    from coalign.curation.image_text.cutting import ScorePairs, cutting_steps
    from coalign.curation.image_text.outputs import write_outputs
    from coalign.loops.pipeline import run_pipeline

    distinct = config.duplicates == "drop"
    score = ScorePairs(
        "score", lambda: _scorer(config, run), corpus.picture,
        batch=config.score_batch, hashed=distinct, workers=config.workers,
    )  # fmt: skip
    steps = [*corpus.steps, score, *cutting_steps(config.keep, _threshold(config, run), distinct=distinct)]
    done = run_pipeline(run.artefacts / ARTEFACT, corpus, steps, batch=config.score_batch)
    write_outputs(config, run, done, corpus)
    run.publish_records(done.kept)
    return done


def _scorer(config: Config, run: Run) -> PairScorer:
    from coalign.curation.image_text.encoders import open_reward
    from coalign.curation.image_text.scorers import Blip, CosineScorer, MatchScorer, RandomScorer

    if config.by == "reward":
        return open_reward(reward_folder(config.reward, run), config.device)
    if config.by == "random":
        return RandomScorer(config.seed)
    reads = _encoder(config).reads
    if config.by == "itm":
        if not isinstance(reads, Blip):
            raise ConfigError(
                "by: itm needs BLIP, which has a matching head.",
                hint="--encoder Salesforce/blip-itm-base-coco",
            )
        return MatchScorer(reads)
    if isinstance(reads, Blip):
        raise ConfigError(
            "by: clip-score needs a dual encoder such as CLIP or SigLIP.", hint="BLIP scores --by itm."
        )
    return CosineScorer(reads)


def _encoder(config: Config) -> Encoder:
    from coalign.curation.image_text.encoders import open_encoder

    return open_encoder(config.encoder or DEFAULT_ENCODER, config.revision, config.device)


def _threshold(config: Config, run: Run) -> float | None:
    """The score that is enough, where a share is not asked for.

    Raises:
        ModelError: no corpus was scored with the reward before.
    """
    from coalign.curation.image_text.outputs import read_quantiles
    from coalign.curation.image_text.quality import threshold_of

    if config.threshold != "stored":
        return config.threshold
    folder = reward_folder(config.reward, run)
    stored = read_quantiles(folder)
    if stored is None or not stored["quantiles"]:
        raise ModelError(
            f"{folder}: no quantiles of a corpus lie beside the reward.",
            hint="They are written where a reward is learnt and a corpus scored in one run; or give --threshold a number.",
        )
    return threshold_of(stored, config.keep)
