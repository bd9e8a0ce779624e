"""Which preference loss, from which start model, with how many pairs: a controlled comparison on your own data.

Insights into Alignment: Evaluating DPO and its Variants Across Multiple Tasks (arXiv 2404.14723). Every objective is
trained under three scenarios over a list of data sizes and several seeds, everything else equal, and every model is
measured on the same held-out material.

    coalign run dpo-insights --data pairs.jsonl --model HuggingFaceTB/SmolLM2-135M
    coalign run dpo-insights --data pairs.jsonl --sizes 250,1000,4000

Scenarios: `fine-tuned` (the pre-trained model, fine-tuned by us, then aligned), `pretrained` (aligned without
fine-tuning) and `instruction-tuned` (`--instruct-model`, aligned as it is). The reference is the start model in each.
The compared losses are those of `preference.pairwise` and `preference.binary`. KTO learns from single responses: every
pair gives it two records, so that methods are compared at equal pairs, not at equal steps. A larger size holds the
pairs of the smaller ones. One fine-tuned model serves all cells.

Measured are held-out pairs (order by implicit reward and by log-probability, margin), sampled answers (length, KL from
the start model) and, where files are given, multiple-choice questions and constraints that programs check: the paper's
thirteen benchmarks are judged by models or need downloads; give those that matter to you as `--questions`.

Reconstruction: the paper has no public code, and its search over constants could not be confirmed; defaults are
those of common libraries. IPO takes summed log-ratios as in its paper, where tau = 0.1 asks for 5 nats a response;
averaged (`--constants ipo.length_normalised=true`) the same tau asks for 5 nats a token, which no model reaches, so raise
it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from coalign.core.options import Count, Positive, option
from coalign.core.runs import Run
from coalign.data.convert import convert
from coalign.data.records import Preference, Record
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.models.options import ModelOptions
from coalign.preference.studies.cells import Cell, StudyOptions, assert_possible, read_study
from coalign.preference.studies.figures import size_findings
from coalign.preference.studies.fine_tuned import fine_tune
from coalign.preference.studies.grids import combinations, parse_grid
from coalign.preference.studies.report import run_study, size_sections
from coalign.training.distributed.leading import led
from coalign.training.material import LearningOptions, ReadingOptions, announce, read_sources, split_and_weigh

OBJECTIVES = ("dpo", "ipo", "kto", "cpo")
"""The compared objectives, by the names they are registered under."""
Compared = Literal["dpo", "ipo", "kto", "cpo", "cdpo", "hinge_ref", "simpo", "orpo", "slic_hf"]

StartPoint = Literal["fine-tuned", "pretrained", "instruction-tuned"]
START_POINTS: tuple[StartPoint, ...] = get_args(StartPoint)
"""Fine-tuned by us and then aligned; aligned without fine-tuning, from a base and from an instruction model."""
SHARES = (8, 4, 2, 1)
"""By default an eighth, a quarter, a half and all of the pairs."""


@dataclass(kw_only=True)
class Config(StudyOptions, LearningOptions):
    """Options of `coalign run dpo-insights`."""

    __group__ = "Method"

    objectives: list[Compared] = option([*OBJECTIVES], "what to compare", source="paper")
    starts: list[StartPoint] = option(
        [],
        "scenarios; by default all three where --model names a pre-trained model, else instruction-tuned alone",
        source="paper",
    )
    sizes: list[Count] = option(
        [], "numbers of pairs; by default an eighth, a quarter, a half and all of the training pairs"
    )
    constants: list[str] = option([], "constants in place of their defaults: `ipo.tau=0.5`, `dpo.beta=0.05`")
    instruct_model: str = option("default", "model of the scenario instruction-tuned, as --model")
    sft_data: DataSources | None = option(
        None, "demonstrations for the scenario fine-tuned; by default the chosen responses of the pairs"
    )
    sft_epochs: Positive = option(1.0, "passes over them", source="paper: one model for all cells")
    sft_learning_rate: Positive | None = option(
        None, "peak learning rate there; by default as --learning-rate"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sft_data is not None:
            self.sft_data = canonical_sources(self.sft_data, "sft_data")
        if not self.starts:
            self.starts = ["instruction-tuned"] if self.model == "default" else [*START_POINTS]
        for name in ("objectives", "starts", "sizes"):
            given = getattr(self, name)
            if len(given) > len({*given}) or not (given or name == "sizes"):
                raise ValueError(
                    f"{name}: {', '.join(map(str, given)) or 'nothing'}; expected each once, at least one"
                )
        if self.model == "default" and {*self.starts} != {"instruction-tuned"}:
            raise ValueError(
                "the scenarios fine-tuned and pretrained start from a pre-trained model, and the default model is "
                "instruction-tuned: name one with --model, or leave --starts out"
            )
        grids = parse_grid(self.constants, self.objectives, where="constants")
        several = [f"{name}.{key}" for name, grid in grids.items() for key in grid if len(grid[key]) > 1]
        if several:
            raise ValueError(
                f"constants: {several[0]} has several values; `coalign run ln-dpo --study` sweeps settings"
            )
        if "fine-tuned" not in self.starts:
            self.refuse(("sft_data", "sft_epochs", "sft_learning_rate"), "without the scenario fine-tuned")


@led
def run(config: Config, run: Run) -> None:
    """Train and measure every cell that is missing, and report.

    Raises:
        DataError: pairs, demonstrations or files to measure on that cannot be used.
        ConfigError: more pairs asked for than there are or constants out of range.
    """
    study, notes = read_study(config, run, start_models(config, run))
    cells = grid(config, len(study.pairs))
    assert_possible(study, cells)
    announce(notes, run)
    if "fine-tuned" in config.starts:
        notes = [*notes, _make_fine_tuned(config, run, study.pairs)]
    title = f"{', '.join(config.objectives)} from {len(config.starts)} start models"
    run_study(run, study, cells, notes, title=title, findings=size_findings, sections=size_sections)


def grid(config: Config, n_pairs: int) -> list[Cell]:
    """The trainings: scenario by scenario, size by size, so that a stopped study has whole comparisons."""
    sizes = config.sizes or sorted({max(1, n_pairs // share) for share in SHARES})
    settings = {
        name: combinations(one)[0]
        for name, one in parse_grid(config.constants, config.objectives, where="constants").items()
    }
    return [
        Cell(objective, start, size, config.seed + seed, settings[objective])
        for start in config.starts
        for size in sorted(sizes)
        for seed in range(config.seeds)
        for objective in config.objectives
    ]


def start_models(config: Config, run: Run) -> dict[str, ModelOptions]:
    """Scenario to the model it starts from; the fine-tuned one need not exist yet."""
    plain = ModelOptions.of(config)
    models = {
        "fine-tuned": plain.at(_fine_tuned(run)),
        "pretrained": plain,
        "instruction-tuned": plain.at(config.instruct_model),
    }
    return {name: models[name] for name in config.starts}


def _make_fine_tuned(config: Config, run: Run, pairs: Sequence[Preference]) -> str:
    """Make the start model of the scenario fine-tuned, unless it is there; what it learns from, for the report."""
    records: Sequence[Record] = convert(pairs, "preference", "demonstration")
    note = f"Fine-tuned on the chosen responses of all {len(records)} training pairs"
    if config.sft_data is not None:
        told: list[str] = []
        reading = ReadingOptions(split=config.split, on_bad_record=config.on_bad_record)
        files = {"run": run, "rejects": "sft_rejects.jsonl"}
        parts = read_sources(reading, config.sft_data, "demonstration", told, seed=config.seed, **files)
        records = [one for part, _ in split_and_weigh(parts, 0, config.seed) for one in part]
        announce(told, run)
        note = f"Fine-tuned on {len(records)} demonstrations of {named(config.sft_data)}"
    rate = config.sft_learning_rate or config.learning_rate
    fine_tune(config, records, run, _fine_tuned(run), epochs=config.sft_epochs, learning_rate=rate)
    return note


def _fine_tuned(run: Run) -> Path:
    return run.artefacts / "fine-tuned"
