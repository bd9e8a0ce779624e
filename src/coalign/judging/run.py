"""Judging a file: pairs are compared in both orders, responses are rated; verdicts, figures and a report come out.

coalign judge --data pairs.jsonl --model default
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.options import EngineOptions
from coalign.core.engines.spool import Spool
from coalign.core.errors import ConfigError
from coalign.core.files import write_json
from coalign.core.options import Count, Seed, option, required
from coalign.core.runs import Run
from coalign.data.files.written import write_shards
from coalign.judging.items import ItemSet, paired_items, read_items
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.options import JudgeOptions, assert_judge_spreads, kept_judge, make_judge
from coalign.judging.protocol import (
    Choice,
    Judge,
    JudgeItem,
    Orders,
    PairOutcome,
    PairVerdict,
    check_failures,
    summarise,
)
from coalign.judging.report import write_pair_report, write_rating_report
from coalign.judging.spread_judge import SpreadJudge
from coalign.measures.agreement import accuracy, cohen_kappa, fleiss_kappa
from coalign.measures.statistics import Interval, bootstrap_mean, wilson_interval
from coalign.training.distributed.leading import led

BLOCK = 1024
"""Items that a language model judges before the next ones are read."""


@dataclass(kw_only=True)
class ItemOptions:
    """Which file is judged, and where its parts are."""

    __group__ = "Data"

    data: str = required(
        "file, folder or glob of pairs (a prompt, two responses) or of responses (a prompt, one response)"
    )
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

    verdict_format: Literal["jsonl", "parquet", "tar"] = option(
        "jsonl", "of the file of verdicts: JSON Lines, Parquet or a WebDataset tar"
    )
    shard_rows: Count | None = option(
        None, "verdicts of a file: verdicts-00000-of-00012.jsonl and so on, in place of one"
    )
    orders: Orders = option(
        "both", "compare as given and swapped, or only as given", source="common practice"
    )
    seed: Seed = option(0, "of the bootstrap intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "ray":
            assert_judge_spreads(self)


@led
def run(config: Config, run: Run) -> None:
    """Judge a file, and write `verdicts.jsonl`, `results.json` and the report.

    Raises:
        DataError: the file cannot be judged.
        CoalignError: too many verdicts are missing; the replies are kept.
    """
    found = items_of(config, run, many=True)
    if config.judge in ("model", "stored"):  # replies are kept, or there are none to be had again
        judge = make_judge(config, run)
    else:
        judge = kept_judge(config, config, run)
    if found.kind == "responses":
        scale = config.scale if config.judge == "model" else None
        ratings = Spool(_judged(judge, found.items, config, "rate", rubric=config.rubric, scale=scale))
        _write_verdicts(run, config, map(asdict, ratings), len(ratings))
        check_failures(ratings, limit=config.max_failures)
        scores = array("d", (one.score for one in ratings if one.score is not None))
        results = {"n": len(ratings), "score": bootstrap_mean(scores, seed=config.seed).to_dict()}
        write_json(run.artefacts / "results.json", results)
        write_rating_report(run, config, found, ratings)
        return
    terms: Any = {"rubric": config.rubric, "orders": config.orders}
    comparisons = Spool(_judged(judge, found.items, config, "compare", **terms))
    _write_verdicts(run, config, map(verdict_row, comparisons, found.labels), len(comparisons))
    check_failures(comparisons, limit=config.max_failures)
    results = pair_results(comparisons, found.labels, seed=config.seed)
    write_json(run.artefacts / "results.json", results)
    write_pair_report(run, config, found, comparisons, results)


def _judged(
    judge: Judge, items: Sequence[JudgeItem], config: Config, verb: Literal["rate", "compare"], **terms: Any
) -> Iterator[Any]:
    """The verdicts on items that lie on disk; a block of them is held at a time."""
    if isinstance(judge, SpreadJudge):
        yield from (judge.ratings if verb == "rate" else judge.comparisons)(items, **terms)
        return
    # workers load their models anew for every block
    block = BLOCK if config.engine == "local" else max(BLOCK, 256 * config.worker_rows)
    for start in range(0, len(items), block):
        label = {}
        if len(items) > block:
            part = f"part {start // block + 1} of {-(-len(items) // block)}"
            label = {"label": f"{'Rating' if verb == 'rate' else 'Comparing'}, {part}"}
        asked = judge
        if isinstance(judge, LanguageModelJudge):  # each request draws from a stream of its own
            first = start * (2 if verb == "compare" and config.orders == "both" else 1)
            asked = replace(judge, sampling=replace(judge.sampling, first=first))
        yield from getattr(asked, verb)(items[start : start + block], **terms, **label)


def _write_verdicts(run: Run, config: Config, rows: Iterable[dict[str, Any]], count: int) -> None:
    out = run.artefacts / f"verdicts.{config.verdict_format}"
    write_shards(out, rows, count, config.shard_rows)


def configured_items(config: ItemOptions, rejects: Path | None = None, *, many: bool = False) -> ItemSet:
    """The items of the configured file.

    Args:
        rejects: file of the rows that were left out.
        many: as of `read_items`.
    """
    chosen = {one.name: getattr(config, one.name) for one in fields(ItemOptions)}
    source, against = chosen.pop("data"), chosen.pop("against")
    if against is not None and config.pair_columns:
        raise ConfigError("pair_columns has no effect with against, whose files have one response a row.")
    found = read_items(source, rejects=rejects, many=many, **chosen)
    if against is None:
        return found
    return paired_items(found, read_items(against, many=many, **{**chosen, "limit": None}))


def items_of(config: ItemOptions, run: Run, *, many: bool = False) -> ItemSet:
    """The items of the configured file; what was left out is logged."""
    found = configured_items(config, run.artefacts / "rejects.jsonl", many=many)
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
    comparisons: Collection[PairVerdict], labels: Collection[Sequence[Choice]], *, seed: int = 0
) -> dict[str, Any]:
    """The figures of compared pairs, with 95 % intervals.

    Consistency is over all pairs, a failed order counting as not consistent. Agreement with people is over the pairs
    on which a majority of them agrees; a pair without a verdict of the judge counts as wrong.
    """
    summary = summarise(comparisons)
    both = consistent = 0
    for one in comparisons:
        both += len(one.opinions) > 1
        consistent += one.consistent is True
    results: dict[str, Any] = {
        "pairs": summary.n,
        "outcomes": dict(summary.outcomes),
        "consistency": wilson_interval(consistent, both).to_dict() if both else None,
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
    comparisons: Iterable[PairVerdict], labels: Iterable[Sequence[Choice]], *, seed: int = 0
) -> dict[str, Any] | None:
    """Accuracy and Cohen's kappa of the judge against the majority, and Fleiss' kappa among people; None without them.

    Kappa treats `inconsistent` and `failed` as verdicts that no person gives.
    """
    choices: list[Choice | None] = []
    outcomes: list[PairOutcome] = []
    truth: list[Choice] = []
    people: list[tuple[Choice, ...]] = []
    each: dict[tuple[Choice, ...], tuple[Choice, ...]] = {}
    for comparison, said in zip(comparisons, labels, strict=True):
        if said:
            people.append(each.setdefault(tuple(said), tuple(said)))
        if (label := majority(said)) is not None:
            choices.append(comparison.choice)
            outcomes.append(comparison.outcome)
            truth.append(label)
    if not truth:
        return None
    decided = [(one, label) for one, label in zip(choices, truth, strict=True) if one is not None]
    found: dict[str, Interval | int | None] = {
        "pairs": len(truth),
        "without_majority": len(people) - len(truth),
        "accuracy": accuracy(choices, truth, seed=seed),
        "accuracy_where_consistent": accuracy(*zip(*decided, strict=True), seed=seed) if decided else None,
        "cohen_kappa": cohen_kappa(outcomes, truth, seed=seed),
    }
    if any(len(said) > 1 for said in each):
        found["fleiss_kappa_of_people"] = fleiss_kappa(people, seed=seed)
    return {key: one.to_dict() if isinstance(one, Interval) else one for key, one in found.items()}
