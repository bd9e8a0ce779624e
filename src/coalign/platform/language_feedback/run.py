"""Preference pairs without labels: a model answers, a feedback model criticises, the model writes anew; the rewriting is preferred.

    coalign run language-feedback --prompts prompts.jsonl --model Qwen/Qwen2-VL-7B-Instruct --critic runs/critic
    coalign run dpo --data runs/language-feedback-20260101-1

Self-improvement of Align Anything (arXiv 2412.15838): one sample of each of the three, at temperature 1. Without `--critic` the model
criticises itself. Prompts may show pictures: then both are image-text-to-text models, or a server's that take pictures. What
was made is kept row by row; pairs whose sides are empty or the same are rejected with a reason. Nothing checks that a refinement is
better: `--measure` says how often it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import CoalignError, DataError
from coalign.core.options import Count, Seed, option, required
from coalign.core.runs import Run
from coalign.data.checking.usable import repeated_ids, undecodable
from coalign.data.records import Record
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.data.writers import write_records
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel
from coalign.loops.prompts import check_values, open_values
from coalign.loops.rows import Row
from coalign.models.backends.open import open_generator, open_named
from coalign.models.files.places import full_name
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.platform.language_feedback.duels import duel
from coalign.platform.language_feedback.improvement import finished, improve, pairs_of
from coalign.platform.language_feedback.pairs import tell_pairs
from coalign.platform.language_feedback.prompts import RefineOn, neutral, request_text
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.training.distributed.leading import led
from coalign.training.material import ReadingOptions, announce, read_sources

IMPROVEMENT, PAIRS = "improvement", "pairs.jsonl"
SHOWN = 8
"""Records that the report shows."""
_SHARES = ("overlap", "finished", "win rate")


@dataclass(kw_only=True)
class FeedbackOptions(SamplingOptions):
    """Who criticises, and how everything is sampled."""

    __group__ = "Feedback"

    critic: str | None = option(None, "the feedback model; by default the model criticises itself")
    critic_endpoint: str | None = option(
        None, "address of an OpenAI-compatible server with the feedback model"
    )
    refine_on: RefineOn = option(
        "x,y,c",
        "prompt, response and critique, or prompt and critique alone",
        source="official code; x,c: paper's text",
    )
    max_new_tokens: Count = option(
        2048, "most tokens of a response or a refinement", source="official code", group="Sampling"
    )
    critique_tokens: Count = option(
        4096, "most tokens of a critique", source="official code", group="Sampling"
    )
    request_batch: Count = option(32, "prompts at a time: what a kill may cost", group="Sampling")
    measure: list[str] = option(
        [],
        "a reward (NAME:ARGUMENTS) that nothing is learned from: how often refinements and held-out answers are better",
        split=False,
        group="Evaluation",
    )

    def check_measure(self) -> None:
        """Find what is wrong with `measure` before anything is loaded; errors are those of `check_values`."""
        check_values(self.measure)


@dataclass(kw_only=True)
class Config(FeedbackOptions, ReadingOptions, ModelOptions):
    """Options of `coalign run language-feedback`."""

    __group__ = "Method"

    prompts: DataSources = required(
        "prompts without labels: a file, a folder, a hub id; given several times, a mix"
    )
    seed: Seed = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        self.refuse(["kind"], "here: prompts are read")
        self.prompts = canonical_sources(self.prompts, "prompts", weights=False)
        self.check_measure()


@led
def run(config: Config, run: Run) -> None:
    """Responses, critiques, refinements; the pairs are what the run stands for; report.

    Raises:
        DataError: prompts that cannot be used, with their places.
        CoalignError: no pair is left, with what most fell for.
    """
    notes: list[str] = []
    prompts = read_prompts(config, config.prompts, notes, run)
    announce(notes, run)
    base = ModelOptions.of(config)

    def open_critic() -> Any:
        if config.critic_endpoint is not None:
            return open_named(config.critic, endpoint=config.critic_endpoint)
        return open_generator(base if config.critic is None else base.at(config.critic))

    done = improve(
        run.artefacts / IMPROVEMENT,
        prompts,
        lambda: open_generator(base),
        open_critic,
        refine_on=config.refine_on,
        sampling=config.sampling(seed=config.seed),
        critique_sampling=config.sampling(seed=config.seed, max_new_tokens=config.critique_tokens),
        batch=config.request_batch,
    )
    rows = list(done.rows())
    if not rows:
        raise CoalignError(
            f"No pair is left. Most fell for: {done.most_reasons() or 'there was none'}.",
            hint=f"All are in {done.rejects}.",
        )
    write_records(run.artefacts / PAIRS, pairs_of(rows), form="conversational")
    run.publish_records(run.artefacts / PAIRS)
    _report(config, run, done, rows, notes)


def read_prompts(
    reading: ReadingOptions, sources: DataSources, notes: list[str], run: Run | None = None
) -> list[Record]:
    """The prompts of an option, with ids of their own.

    Raises:
        DataError: a source that cannot be read, two prompts with one id, a picture that cannot be decoded, or no prompt.
    """
    parts = read_sources(ReadingOptions.of(reading, kind=None), sources, "prompt", notes, run=run)
    records = [one for part in parts for one in part.records]
    if problems := [*repeated_ids(records), *undecodable(records)]:
        raise DataError(f"{len(problems)} prompts cannot be used.", problems)
    if not records:
        raise DataError(f"{named(sources)}: no prompt.")
    return records


def measured(config: FeedbackOptions, rows: Sequence[Row]) -> dict[str, float]:
    """How often a refinement is better than its response by what `config.measure` names."""
    records = pairs_of(rows)
    value = open_values(config.measure, records, unscorable="leave out")
    if value is None:
        return {}
    asked = [
        {
            "id": record.id,
            "prompt": record.prompt,
            "responses": [row["response"], row["refinement"]],
            "finish_reasons": [row["finish_reasons"][name] for name in ("response", "refinement")],
        }
        for record, row in zip(records, rows, strict=True)
    ]
    values = value(records, asked)
    texts = [(row["response"], row["refinement"]) for row in rows]
    return duel([one[0] for one in values], [one[1] for one in values], texts)


def figure_table(title: str, told: Mapping[str, float]) -> doc.TableSection:
    """Figures of pairs, shares in per cent."""
    lines = [
        [name, f"{100 * value:.1f} %" if any(one in name for one in _SHARES) else f"{value:,.4g}"]
        for name, value in told.items()
    ]
    return doc.TableSection(title, columns=["Figure", "Value"], rows=lines)


def _report(config: Config, run: Run, done: Curated, rows: Sequence[Row], notes: Sequence[str]) -> None:
    asked = done.manifest["steps"][0]["in"]
    told = {
        "pairs": float(len(rows)),
        **tell_pairs(rows),
        "refinements finished": finished(rows, "refinement"),
    }
    told |= {f"refinement, {name}": value for name, value in measured(config, rows).items()}
    shown = [
        doc.Sample(
            neutral(request_text(row["prompt"])),
            [doc.Output(row[name]) for name in ("response", "critique", "refinement")],
        )
        for row in rows[:SHOWN]
    ]
    columns = ["Response", "Critique", "Refinement"]
    publish(
        run,
        config,
        title="Pairs from language feedback",
        facts={
            "Model": full_name(config.model),
            "Critic": config.critic or config.critic_endpoint or "the model itself",
        },
        verdict=doc.Headline(
            "neutral",
            f"{len(rows):,} pairs came of {asked:,} prompts.",
            [doc.Figure("Pairs", len(rows), unit="integer", note=f"of {asked:,} prompts", better="neither")],
        ),
        sections=[
            figure_table("Pairs", told),
            funnel(done.manifest, title="Steps"),
            doc.Samples(
                "Responses, critiques and refinements", columns=columns, rows=shown, better="neither"
            ),
        ],
        notes=notes,
        limitations=[
            "Nothing checks that a refinement is better than its response.",
            "A critique may give the whole answer away: its overlap with the refinement says how much of it.",
        ],
        then=[
            doc.Command(f"coalign run dpo --data {run.path} --model {config.model}", "learn from the pairs")
        ],
        figures=told,
    )
