"""Aligned models that vote on the records of a run: named in options, loaded when a score is missing, scored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coalign.core.options import Count, option, required
from coalign.core.runs import Run
from coalign.data.records import Demonstration, Record
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.places import locate
from coalign.models.options import ModelOptions
from coalign.preference.data.aligned_scores import (
    ALIGNED_LOGP,
    ScoredDemonstrations,
    Scorer,
    precompute_scores,
)
from coalign.training.material import Material, ObjectiveOptions


@dataclass(kw_only=True)
class VoterOptions(ObjectiveOptions):
    """Which aligned models vote."""

    __group__ = "Method"

    scorers: list[str] = required("aligned models that vote: hub ids (id@revision) or folders")
    scorer_max_length: Count = option(
        4096, "tokens of prompt and response that an aligned model reads", source="official code"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scorers or len(set(self.scorers)) < len(self.scorers):
            raise ValueError("scorers: expected one aligned model or more, each once")


def make_scorer(name: str, config: VoterOptions) -> Scorer:
    """The aligned model `name` (`id`, `id@revision` or a folder), which is loaded when a score is missing.

    Raises:
        ModelError: there is no such model.
    """
    model, _, revision = name.partition("@")
    place = locate(model, revision or None)
    options = ModelOptions.of(config, model=model, revision=revision or None)
    called = f"{place.name}@{revision}" if revision else place.name
    return Scorer(
        called,
        lambda: (load_model(options, training=False), load_tokenizer(options)),
        config.scorer_max_length,
    )


def with_votes(material: Material, config: VoterOptions, run: Run) -> Material:
    """The records with their scores. Scores lie in the run folder as they come: a killed run goes on there."""
    scorers = [make_scorer(name, config) for name in config.scorers]
    tokenizer = load_tokenizer(config)
    notes = list(material.notes)

    def score(records: Sequence[Record]) -> ScoredDemonstrations:
        return precompute_scores(
            [one for one in records if isinstance(one, Demonstration)],
            scorers,
            tokenizer,
            run.artefacts / "scores",
            max_length=config.max_length,
            max_prompt_length=config.max_prompt_length,
        )

    def voted(records: Sequence[Record]) -> list[Record]:
        scored = score(records)
        if scored.dropped:
            notes.append(
                f"{len(scored.dropped)} records have nothing to score; the first: {scored.dropped[0]}"
            )
        values = [one.extra[ALIGNED_LOGP] for one in scored.records]
        if values:
            mean, names = sum(values) / len(values), ", ".join(one.name for one in scorers)
            notes.append(f"{len(values)} records have a mean of {mean:.3f} nats per token under {names}")
        return [*scored.records]

    score([*material.training, *material.held_out])  # every model is loaded once, for both parts
    return Material(voted(material.training), voted(material.held_out), notes)
