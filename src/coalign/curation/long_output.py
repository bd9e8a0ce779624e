"""A chat model that writes as much as it is asked for: few, length-obedient examples, a light training, and a score.

Minimum Tuning to Unlock Long Output from LLMs with High Quality Data as the Key (arXiv 2410.10210).

    coalign run long-output --data longwriter.jsonl --general chats.jsonl --orders longbench_write.jsonl
    coalign run long-output --data longwriter.jsonl --filter-only

The filter keeps records whose request names exactly one length and whose reply keeps to it (length score of 80 or more).
The model is fine-tuned on them, mixed with twenty times as many general ones (`--general`), with token cross-entropy over
all reply tokens of an optimizer step, accumulated or not, and noise on its embeddings (NEFTune). `--annealing-epochs` trains
on the kept records alone once more, at a lower rate. `--orders` are requests with lengths, answered before and after: S_L
says how answers keep to them, a judge (`--judge-model`) says S_Q.

What differs: an adapter by default where the paper trains all weights (`--tuning full`). A reply that `--max-length` cuts is
learnt without its end, so that it does not teach to stop early. Answers that a judge does not rate are left out of S_Q and
counted; the official code gives them 3 of 5 (`--missing-quality 3`). Lengths and words are read and counted by the official
rules, which misread "1,500 words" and know Chinese and English alone (`--reading extended`, `--counter all-scripts`).
Answers are sampled without a repetition penalty, as in the shipped configuration; repetition is measured.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option, options_of
from coalign.core.runs import Run
from coalign.curation.long_writing.lengths import Counter, Reading
from coalign.curation.long_writing.testing import OrderOptions, answers_of, rated
from coalign.data.readers import read_records
from coalign.data.sources import DataSources, canonical_sources
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.models.options import TRAINING
from coalign.training.distributed.leading import led
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.material import LearningOptions, announce, read_material, read_sources
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from coalign.curation.long_writing.answers import Order
    from coalign.data.records import Record
    from coalign.loops.pipeline import Curated

FILTERED, ANNEAL = "filtered", "anneal"
"""Folder of the filter, and name of the second training."""


@dataclass(kw_only=True)
class Config(OrderOptions, LearningOptions):
    """Options of `coalign run long-output`."""

    __group__ = "Method"

    threshold: NonNegative = option(
        80.0, "least length score of a record that is kept", source="official code"
    )
    reading: Reading = option(
        "official",
        "how a required length is read; extended: also 1,500 words, 500-word, five hundred words, 3千字",
    )
    counter: Counter = option("official", "how words are counted; all-scripts: of every language")
    filter_only: bool = option(False, "only filter: nothing is trained")
    general: DataSources | None = option(None, "demonstrations of general chat to mix in", group="Data")
    general_ratio: Positive = option(
        20.0,
        "general records to one that was kept",
        source="paper: 13,320 to 666",
        only_with="general",
        group="Data",
    )
    annealing_epochs: NonNegative = option(
        0.0, "then passes over the kept records alone", source="paper: 2 (setup 5)", group="Training"
    )
    annealing_rate: Positive | None = option(
        None,
        "its learning rate; by default a fifth of the first",
        source="paper: 2e-6 to 1e-5",
        group="Training",
    )
    tuning: Literal["auto", "lora", "full"] = option(
        "lora",
        "train an adapter (ours) or all weights (paper); auto: all where they fit on the GPU",
        group="Model",
    )
    learning_rate: Positive | None = option(
        None,
        "peak learning rate; by default 1e-4 for an adapter, else 1e-5",
        source="paper: 1e-5",
        group="Training",
    )
    epochs: Positive = option(2.0, "passes over the records", source="paper", group="Training")
    neftune_noise_alpha: Positive | None = option(
        5.0, "noise on the embeddings that are trained on", source="paper", group="Training"
    )
    batch_size: Count = option(1, "records in one forward pass", source="paper", group="Training")
    gradient_accumulation: Count = option(
        64, "forward passes in one optimizer step", source="paper", group="Training"
    )
    eval_fraction: Fraction = option(0.0, "not used here: the filter takes all records", group="Data")
    max_length: Count | None = option(
        28_672, "most tokens of prompt and reply together", source="paper", group="Training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.general is not None:
            self.general = canonical_sources(self.general, "general", weights=False)
        if not self.annealing_epochs:
            self.refuse(["annealing_rate"], "without annealing_epochs")
        self.refuse(["eval_fraction"], "here: the filter takes all records", advice="give eval_data")
        if self.filter_only:
            fitting = [one.name for one in options_of(TrainingOptions) if one.name != "seed"]
            others = ["model", "general", "orders", "annealing_epochs", "eval_data"]
            self.refuse([*fitting, *TRAINING, *others], "with filter_only")

    @property
    def rate(self) -> float:
        """Peak learning rate of the first training."""
        return self.learning_rate or (1e-4 if self.tuning == "lora" else 1e-5)


@led
def run(config: Config, run: Run) -> None:
    """Filter, train, answer before and after, report.

    Raises:
        DataError: records or requests that cannot be used, or none that is kept.
    """
    from coalign.curation.long_writing.answers import read_orders
    from coalign.curation.long_writing.report import write_long_output_report

    orders = read_orders(config.orders, config.reading) if config.orders else []
    one = run_rounds(run, make_stages(config, orders))[0]
    kept = filtered(one)
    run.publish_records(kept.kept)
    answers = {name: answers_of(config, one, name, orders) for name in ("baseline", "evaluate") if orders}
    write_long_output_report(run, config, one, kept, answers, rated(config, run, answers))


def make_stages(config: Config, orders: Sequence[Order]) -> dict[str, Stage]:
    """Answers of the start model, the filter, training, answers of the trained model."""

    def keep(round: Round) -> None:
        from coalign.curation.long_writing.filtering import filter_records

        material = read_material(config, "demonstration", round.run)
        announce(material.notes, round.run)
        kept = filter_records(
            round.folder / FILTERED, material.training,
            threshold=config.threshold, reading=config.reading, counter=config.counter,
        )  # fmt: skip
        if not kept.manifest["kept"]:
            told = ", ".join(f"{why}: {count}" for why, count in kept.reasons().items())
            raise DataError(
                f"{config.data}: no record is kept ({told}).",
                hint="Lower --threshold, or try --reading extended.",
            )

    def fit(round: Round) -> None:
        kept, general = kept_records(round), general_records(config, round)
        held_out = read_material(config, "demonstration").held_out
        first = round.run.artefacts / "before-annealing" if config.annealing_epochs else round.run.model
        job = Job(
            objective=get_objective("sft"),
            options=replace(config, learning_rate=config.rate),
            run=round.run,
            records=[*kept, *general],
            held_out=held_out,
        )
        round.write("history", train(job, first).history)
        if config.annealing_epochs:
            rate = config.annealing_rate or config.rate / 5
            options = replace(config.at(first), epochs=config.annealing_epochs, learning_rate=rate)
            again = replace(job, options=options, records=kept, name=ANNEAL)
            round.write(f"history-{ANNEAL}", train(again, round.run.model).history)

    def testing(stage: str) -> Stage:
        def write(round: Round) -> None:
            answers_of(config, round, stage, orders)

        return write

    stages: dict[str, Stage] = {"filter": keep}
    if orders:
        stages["baseline"] = testing("baseline")
    if not config.filter_only:
        stages["fit"] = fit
        if orders:
            stages["evaluate"] = testing("evaluate")
    return stages


def filtered(round: Round) -> Curated:
    """What the filter came to."""
    from coalign.loops.pipeline import Curated

    return Curated(round.folder / FILTERED)


def kept_records(round: Round) -> list[Record]:
    """The records that the filter kept."""
    return [*read_records(filtered(round).kept, kind="demonstration").records]


def general_records(config: Config, round: Round) -> list[Record]:
    """General records, `general_ratio` times as many as were kept, drawn by the seed; fewer where there are not so many."""
    if config.general is None:
        return []
    notes: list[str] = []
    parts = read_sources(config, config.general, "demonstration", notes, seed=config.seed)
    pool = [one for part in parts for one in part.records]
    wanted = int(config.general_ratio * filtered(round).manifest["kept"] + 0.5)
    drawn = random.Random(config.seed).sample(pool, min(wanted, len(pool)))
    announce(
        [*notes, f"{len(drawn):,} of {len(pool):,} general records are mixed in, {wanted:,} were wanted"],
        round.run,
    )
    return drawn
