"""Text in domains: which records belong to which, what the target and reference tasks have of each, and token examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import atomic_path
from coalign.core.options import Count, option, required
from coalign.core.runs import Run
from coalign.data.records import Record, responses_of
from coalign.data.sources import DataSources, canonical_sources, named, sources_of
from coalign.measures.clusters import kmeans, nearest, shares
from coalign.training.material import (
    LearningOptions,
    Material,
    overlap_note,
    read_sources,
    split_and_weigh,
    told_of_sources,
)
from coalign.training.objective import Objective
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from coalign.training.batches import Example, Prepared

TARGET = "target"
"""Tag of the target's records."""
ASSIGNED = "domains.npz"
"""Artefact with the domain of every training record, the domains' centroids and the shares of target and reference tasks."""


@dataclass(kw_only=True)
class DomainOptions(LearningOptions):
    """Which texts to learn from, by domain, and what they are to be good for."""

    __group__ = "Domains"

    target: DataSources = required(
        "a sample of the target task's text, as --data: what the mixture is chosen for"
    )
    domain_column: str | None = option(
        None, "column of --data that names each record's domain; by default each source is a domain"
    )
    clusters: Count | None = option(
        None,
        "make so many domains of --data: k-means over sentence embeddings",
        source="paper: 64, 4096 and 262144",
    )
    reference_tasks: DataSources | None = option(
        None,
        "texts of several tasks, a source each: their shares of the domains are the basis mixtures, and only weights of these "
        "are looked for, which is cheap for thousands of domains",
        source="paper: subject groups of MMLU",
    )
    encoder: str = option(
        "default-encoder", "sentence encoder of clusters and shares: hub id, folder or `default-encoder`"
    )
    long_texts: Literal["split", "cut"] = option(
        "split", "texts longer than --max-length: several examples, or the beginning alone"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("data", "target", "reference_tasks"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, canonical_sources(value, name, weights=False))
        if self.clusters is not None:
            self.refuse(["domain_column"], "beside clusters", advice="leave one of them out")
        if self.reference_tasks is not None and len(sources_of(self.reference_tasks)) == 1:
            raise ValueError("reference_tasks: one source leaves nothing to weigh, expected two or more")


@dataclass(frozen=True)
class Domains:
    """Records by domain.

    Attributes:
        names: of the domains.
        records: to train on; the tag of a record's source is its domain.
        target: records of the target that the gradients are taken of.
        held_out: to evaluate on; tagged.
        target_shares: [K] share of the target's records that is nearest to each domain; None where not asked for.
        basis: [N, K] the same of each reference task; None without.
        basis_names: of the reference tasks.
        centroids: [K, D] of clusters; None of other domains.
        notes: as of `Material`.
    """

    names: list[str]
    records: list[Record]
    target: list[Record]
    held_out: list[Record]
    target_shares: NDArray[np.float64] | None
    basis: NDArray[np.float64] | None
    basis_names: list[str]
    notes: list[str]
    centroids: NDArray[Any] | None = None

    @property
    def material(self) -> Material:
        return Material(self.records, self.held_out, self.notes)


def read_domains(config: DomainOptions, run: Run, *, shares_of_target: bool) -> Domains:
    """Read domains, target and reference tasks, hold records out and say which domain each record belongs to.

    Without `eval_data` the `eval_fraction` of every source and of the target is held out; what is held out of the target
    gives no gradient.

    Args:
        shares_of_target: also find the nearest domain of each of the target's records.

    Raises:
        ConfigError: there is one domain.
        DataError: records that cannot be used, a record without a domain, fewer than two domains, or nothing left of the
            target to take gradients of.
    """
    if config.clusters is None and config.domain_column is None and len(sources_of(config.data)) == 1:
        raise ConfigError(
            f"data: {named(config.data)} is one domain.",
            hint="Give several sources, --domain-column or --clusters.",
        )
    notes: list[str] = []

    def read(value: Any, rejects: str = "rejects.jsonl") -> list[Any]:
        return read_sources(config, value, "demonstration", notes, seed=config.seed, run=run, rejects=rejects)

    parts, target = read(config.data), read(config.target, "target_rejects.jsonl")
    evaluated = [] if config.eval_data is None else read(config.eval_data, "eval_rejects.jsonl")
    fraction = 0.0 if evaluated else config.eval_fraction
    sides = split_and_weigh([*parts, *target], fraction, config.seed)
    notes += told_of_sources(parts, sides[: len(parts)], run)
    domains, samples = sides[: len(parts)], sides[len(parts) :]
    training = [one for records, _ in domains for one in records]
    wanted: list[Record] = [one for records, _ in samples for one in records]
    held_out = [_tagged(one, TARGET) for _, records in samples for one in records]
    held_out += [_tagged(one, "domains") for _, records in domains for one in records]
    held_out += [
        one if one.source.tag else _tagged(one, TARGET) for part in evaluated for one in part.records
    ]
    if not training or not wanted:
        raise DataError(
            f"{named(config.target if training else config.data)}: no record is left to learn from."
        )
    notes.append(overlap_note([*training, *wanted], held_out, run))
    tasks = [] if config.reference_tasks is None else read(config.reference_tasks, "reference_rejects.jsonl")
    names, owners = _named_domains(config, training) if config.clusters is None else ([], [])
    names, owners, portions, centroids = _placed(
        config, run, names, owners, training, [*([wanted] if shares_of_target else []), *(one.records for one in tasks)]
    )  # fmt: skip
    if TARGET in names:
        raise DataError(
            f"A domain is named {TARGET}, as the target is.",
            hint="Give its source another tag, or its column another name.",
        )
    tagged = [_tagged(record, names[owner]) for record, owner in zip(training, owners, strict=True)]
    first = 1 if shares_of_target else 0
    return Domains(
        names=names,
        records=tagged,
        target=[_tagged(one, TARGET) for one in wanted],
        held_out=held_out,
        target_shares=portions[0] if shares_of_target else None,
        basis=np.stack(portions[first:]) if tasks else None,
        basis_names=[one.source.tag for one in tasks],
        notes=notes,
        centroids=None if config.clusters is None else centroids,
    )


def _tagged(record: Record, tag: str) -> Record:
    return replace(record, source=replace(record.source, tag=tag))


def _named_domains(config: DomainOptions, records: Sequence[Record]) -> tuple[list[str], list[int]]:
    """The domains that sources or a column name, and the domain of each record."""
    column = config.domain_column
    if column is None:
        found = [one.source.tag for one in records]
    else:
        missing = [one for one in records if one.extra.get(column) in (None, "")]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(records)} records do not say their domain.",
                [one.problem(column, "is missing", "the name of a domain") for one in missing],
            )
        found = [str(one.extra[column]) for one in records]
    names = list(dict.fromkeys(found))
    if len(names) < 2:
        raise DataError(f"{named(config.data)}: all records are of the domain {names[0]}, expected several.")
    place = {name: number for number, name in enumerate(names)}
    return names, [place[one] for one in found]


def _placed(
    config: DomainOptions,
    run: Run,
    names: list[str],
    owners: list[int],
    training: Sequence[Record],
    samples: Sequence[Sequence[Record]],
) -> tuple[list[str], list[int], list[NDArray[np.float64]], NDArray[Any] | None]:
    """Domains, the domain of each training record, of each sample its shares of them, and the domains' centroids; embedded
    once a run.

    Without clusters a domain stands at the mean of its records' embeddings.
    """
    if config.clusters is None and not samples:
        return names, owners, [], None
    path: Path = run.artefacts / ASSIGNED
    if not path.exists():
        from coalign.models.embedding import load_encoder

        encoder = load_encoder(config.encoder, device=config.device)

        def embedded(records: Sequence[Record]) -> NDArray[Any]:
            return encoder.encode([_text_of(one) for one in records]).numpy()

        points = embedded(training)
        if config.clusters is not None:
            try:
                centroids = kmeans(points, config.clusters, seed=config.seed)
            except ValueError as error:
                raise DataError(f"clusters: {error}.", hint="Ask for fewer clusters.") from error
            used, found = np.unique(nearest(points, centroids), return_inverse=True)
            centroids, owners = centroids[used], found.tolist()
        else:
            centroids = np.stack([points[np.array(owners) == place].mean(0) for place in range(len(names))])
        portions = [shares(nearest(embedded(one), centroids), len(centroids)) for one in samples]
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            shaped = np.array(portions).reshape(len(samples), len(centroids))
            np.savez(file, owners=owners, portions=shaped, centroids=centroids)
    with np.load(path) as kept:
        owners, portions, centroids = kept["owners"].tolist(), kept["portions"], kept["centroids"]
    if config.clusters is not None:
        names = [f"cluster-{place}" for place in range(portions.shape[1])]
    return names, owners, list(portions), centroids


def _text_of(record: Record) -> str:
    return "\n".join([*(one["content"] for one in record.prompt), *responses_of(record)])


def prepare_texts(
    records: Sequence[Record],
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    config: DomainOptions,
    what: str,
) -> Prepared:
    """Token examples of records. Text without a prompt that is longer than the length limit becomes several examples, of as
    many tokens as fit and the same beginning, unless `long_texts: cut` asks for the first alone.

    Raises:
        DataError: as of `coalign.training.examples.prepare_examples`.
    """
    from coalign.training.batches import Prepared
    from coalign.training.examples import prepare_examples

    options, longest = TrainingOptions.of(config), config.max_length
    if config.long_texts == "cut" or longest is None:
        return prepare_examples(records, objective, tokenizer, options, what=what)
    texts = [one for one in records if not one.prompt]
    others = [one for one in records if one.prompt]
    made = [prepare_examples(others, objective, tokenizer, options, what=what)] if others else []
    if texts:
        whole = prepare_examples(texts, objective, tokenizer, replace(options, max_length=None), what=what)
        pieces = [piece for one in whole.examples for piece in windows(one, longest)]
        made.append(replace(whole, examples=pieces))
    return Prepared(
        [one for part in made for one in part.examples],
        sum(one.truncated_prompts for one in made),
        sum(one.truncated_responses for one in made),
        tuple(problem for one in made for problem in one.dropped),
    )


def windows(example: Example, longest: int) -> list[Example]:
    """A text as examples of at most `longest` tokens, its beginning (BOS) before each piece.

    Raises:
        ConfigError: the limit leaves no room for text.
    """
    (record,) = example.contexts
    room = longest - len(record.prompt_ids)
    if room < 1:
        raise ConfigError(
            f"max_length: {longest} leaves no room for text, expected more than {len(record.prompt_ids)}"
        )
    (ids,) = record.response_ids
    return [
        replace(example, contexts=(replace(record, response_ids=[ids[start : start + room]]),))
        for start in range(0, max(len(ids), 1), room)
    ]


def assert_filled(names: Sequence[str], examples: Sequence[Example]) -> None:
    """Refuse domains of which no example is left.

    Raises:
        DataError: there is one.
    """
    counts = Counter(one.tag for one in examples)
    if empty := [name for name in names if not counts[name]]:
        raise DataError(
            f"{len(empty)} of {len(names)} domains have no record to learn from, first {empty[0]}.",
            hint="Hold out fewer records (--eval-fraction), or ask for fewer clusters.",
        )
