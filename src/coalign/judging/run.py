"""Judging a file: pairs are compared in both orders, responses are rated; verdicts, figures and a report come out.

coalign judge --data pairs.jsonl --model default
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.options import EngineOptions
from coalign.core.errors import ConfigError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, Seed, option, required
from coalign.core.runs import Run
from coalign.judging.items import ItemSet, paired_items, read_items
from coalign.judging.options import JudgeOptions, assert_judge_spreads, make_judge
from coalign.judging.protocol import Choice, Orders, PairVerdict, check_failures, summarise
from coalign.judging.report import write_pair_report, write_rating_report
from coalign.measures.agreement import accuracy, cohen_kappa, fleiss_kappa
from coalign.measures.statistics import Interval, bootstrap_mean, wilson_interval


@dataclass(kw_only=True)
class ItemOptions:
    """Which file is judged, and where its parts are."""

    __group__ = "Data"

    data: str = required("file of pairs (a prompt, two responses) or of responses (a prompt, one response)")
    against: str | None = option(
        None,
        "file of another model's responses to the same prompts: each in data is compared with the one to its prompt",
    )
    pair_columns: list[str] = option([], "names of the two columns of responses, where they are not found")
    label_columns: list[str] = option(
        [], "columns with verdicts of people; by default label, winner and annotator1, annotator2, ..."
    )
    label_zero: Literal["tie", "first"] | None = option(
        None, "what a verdict 0 says, where a file has only 0 and 1: a tie, or the first response"
    )
    reference_column: str = option("reference", "column with an answer that is known to be good, if any")
    rubric_column: str = option("rubric", "column with what to judge a row by, if any")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail",
        "what to do with rows that cannot be judged; skip counts them and keeps them in the run folder",
    )
    limit: Count | None = option(None, "judge only the first rows")


@dataclass(kw_only=True)
class Config(ItemOptions, JudgeOptions, EngineOptions):
    """Options of `coalign judge`."""

    __group__ = "Method"

    orders: Orders = option(
        "both", "compare as given and swapped, or only as given", source="common practice"
    )
    seed: Seed = option(0, "of the bootstrap intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "ray":
            assert_judge_spreads(self)


def run(config: Config, run: Run) -> None:
    """Judge a file, and write `verdicts.jsonl`, `results.json` and the report.

    Raises:
        DataError: the file cannot be judged.
        CoalignError: too many verdicts are missing; the replies are kept.
    """
    found = items_of(config, run)
    judge = make_judge(config, run)
    if found.kind == "responses":
        scale = config.scale if config.judge == "model" else None
        ratings = judge.rate(found.items, rubric=config.rubric, scale=scale)
        write_rows(run.artefacts / "verdicts.jsonl", [asdict(one) for one in ratings])
        check_failures(ratings, limit=config.max_failures)
        scores = [one.score for one in ratings if one.score is not None]
        results = {"n": len(ratings), "score": bootstrap_mean(scores, seed=config.seed).to_dict()}
        write_json(run.artefacts / "results.json", results)
        write_rating_report(run, config, found, ratings)
        return
    comparisons = judge.compare(found.items, rubric=config.rubric, orders=config.orders)
    write_rows(run.artefacts / "verdicts.jsonl", map(verdict_row, comparisons, found.labels))
    check_failures(comparisons, limit=config.max_failures)
    results = pair_results(comparisons, found.labels, seed=config.seed)
    write_json(run.artefacts / "results.json", results)
    write_pair_report(run, config, found, comparisons, results)


def configured_items(config: ItemOptions, rejects: Path | None = None) -> ItemSet:
    """The items of the configured file; `rejects`: file of the rows that were left out."""
    chosen = {one.name: getattr(config, one.name) for one in fields(ItemOptions)}
    source, against = chosen.pop("data"), chosen.pop("against")
    if against is not None and config.pair_columns:
        raise ConfigError("pair_columns has no effect with against, whose files have one response a row.")
    found = read_items(source, rejects=rejects, **chosen)
    if against is None:
        return found
    return paired_items(found, read_items(against, **{**chosen, "limit": None}))


def items_of(config: ItemOptions, run: Run) -> ItemSet:
    """The items of the configured file; what was left out is logged."""
    found = configured_items(config, run.artefacts / "rejects.jsonl")
    run.log("data", source=found.source, rows=len(found.items), left_out=found.n_bad)
    return found


def verdict_row(comparison: PairVerdict, labels: Sequence[Choice] = ()) -> dict[str, Any]:
    """What `verdicts.jsonl` holds of a comparison."""
    return {
        "id": comparison.id,
        "outcome": comparison.outcome,
        "labels": list(labels),
        "opinions": [asdict(one) for one in comparison.opinions],
    }


def pair_results(
    comparisons: Sequence[PairVerdict], labels: Sequence[Sequence[Choice]], *, seed: int = 0
) -> dict[str, Any]:
    """The figures of compared pairs, with 95 % intervals.

    Consistency is over all pairs, a failed order counting as not consistent. Agreement with people is over the pairs
    on which a majority of them agrees; a pair without a verdict of the judge counts as wrong.
    """
    summary = summarise(comparisons)
    both = [one for one in comparisons if len(one.opinions) > 1]
    consistent = sum(one.consistent is True for one in both)
    results: dict[str, Any] = {
        "pairs": summary.n,
        "outcomes": dict(summary.outcomes),
        "consistency": wilson_interval(consistent, len(both)).to_dict() if both else None,
        "first_shown": summary.first_shown,
        "second_shown": summary.second_shown,
        "ties": summary.ties,
        "failures": dict(summary.failures),
        "cost": asdict(summary.cost),
    }
    people = agreement_with_people(comparisons, labels, seed=seed)
    return results | ({"people": people} if people else {})


def majority(labels: Sequence[Choice]) -> Choice | None:
    """What more than half of the labels say; None where there is no such verdict."""
    if not labels:
        return None
    choice, count = Counter(labels).most_common(1)[0]
    return choice if 2 * count > len(labels) else None


def agreement_with_people(
    comparisons: Sequence[PairVerdict], labels: Sequence[Sequence[Choice]], *, seed: int = 0
) -> dict[str, Any] | None:
    """Accuracy and Cohen's kappa of the judge against the majority, and Fleiss' kappa among people; None without them.

    Kappa treats `inconsistent` and `failed` as verdicts that no person gives.
    """
    pairs = [
        (comparison, label)
        for comparison, said in zip(comparisons, labels, strict=True)
        if (label := majority(said)) is not None
    ]
    if not pairs:
        return None
    truth = [label for _, label in pairs]
    choices = [comparison.choice for comparison, _ in pairs]
    decided = [(one, label) for one, label in zip(choices, truth, strict=True) if one is not None]
    found: dict[str, Interval | int | None] = {
        "pairs": len(pairs),
        "without_majority": sum(bool(said) for said in labels) - len(pairs),
        "accuracy": accuracy(choices, truth, seed=seed),
        "accuracy_where_consistent": accuracy(*zip(*decided, strict=True), seed=seed) if decided else None,
        "cohen_kappa": cohen_kappa([one.outcome for one, _ in pairs], truth, seed=seed),
    }
    if any(len(said) > 1 for said in labels):
        found["fleiss_kappa_of_people"] = fleiss_kappa([list(said) for said in labels], seed=seed)
    return {key: one.to_dict() if isinstance(one, Interval) else one for key, one in found.items()}
