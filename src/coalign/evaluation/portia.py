"""PORTIA: verdicts that do not turn with the order of the answers, from the judge that you have.

Split and Merge: Aligning Position Biases in Large Language Model based Evaluators (arXiv 2310.01432). Both answers are
cut into k parts and shown in turn, part by part; first in parts of equal length, and where the verdict still turns with
the order, in parts that are as similar as possible. The judge stays as it is.

    coalign run portia --data pairs.jsonl --endpoint http://127.0.0.1:8000/v1

Reconstruction: no official code is public. Ours are the rule that cuts into equal lengths, the overlap measure (Jaccard
of word sets), the order in which equal optima are taken, fewer parts where an answer has fewer sentences, and that a
block of code is never cut (the paper cuts it between statements). A pair of which an order has no verdict goes on to the
second stage like one whose verdicts differ. Where an answer is one sentence, both are shown whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Unpack

from coalign.core.errors import ConfigError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, Seed, option
from coalign.core.runs import Run
from coalign.evaluation.position_bias.parts import Merged, in_parts
from coalign.judging.options import JudgeOptions, make_judge
from coalign.judging.protocol import (
    ComparingTerms,
    Judge,
    JudgeItem,
    PairVerdict,
    Rubric,
    check_failures,
    comparing_terms,
)
from coalign.judging.run import ItemOptions, items_of, pair_results, verdict_row
from coalign.training.distributed.leading import led


@dataclass(kw_only=True)
class Config(ItemOptions, JudgeOptions):
    """Options of `coalign run portia`."""

    __group__ = "Method"

    parts: Count = option(3, "parts of an answer (k)", source="paper: best of 1 to 4")
    seed: Seed = option(0, "of the bootstrap intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge != "model":
            raise ValueError(
                f"judge: {self.judge} never sees the order of the answers, so there is nothing to align"
            )


def split_and_merge(
    judge: Judge, items: Sequence[JudgeItem], *, k: int = 3, rubric: Rubric | None = None
) -> list[Merged]:
    """Judge every item in parts of equal length, and those without a common verdict in similar parts (Algorithm 1).

    Raises:
        ConfigError: k below 1, or a judge that cannot show parts.
    """
    if k < 1:
        raise ConfigError(f"parts is {k}, expected at least 1.")
    plain = [in_parts(item, k, semantic=False) for item in items]
    found = judge.compare([item for item, _, _ in plain], rubric=rubric, label="Judging in equal parts")
    merged = [
        Merged(comparison=one, stage="length" if one.consistent else "none", parts=count, cuts=cuts)
        for one, (_, count, cuts) in zip(found, plain, strict=True)
    ]
    open_places = [place for place, one in enumerate(merged) if one.stage == "none" and one.parts > 1]
    again = [in_parts(items[place], k, semantic=True) for place in open_places]
    second = judge.compare([item for item, _, _ in again], rubric=rubric, label="Judging in similar parts")
    for place, one, (_, count, cuts) in zip(open_places, second, again, strict=True):
        opinions = [
            replace(new, cost=new.cost + old.cost)
            for new, old in zip(one.opinions, merged[place].comparison.opinions, strict=True)
        ]
        merged[place] = Merged(
            comparison=replace(one, opinions=tuple(opinions)),
            stage="semantic" if one.consistent else "none",
            parts=count,
            cuts=cuts,
        )
    return merged


class SplitMergeJudge:
    """Any judge that reads, with answers shown in aligned parts; a judge like every other, for tournaments and loops."""

    def __init__(self, judge: Judge, *, k: int = 3) -> None:
        self.name = f"{judge.name} with {k} aligned parts"
        self.rate = judge.rate  # a single response has nothing to be aligned with
        self._judge, self._k = judge, k

    def compare(self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]) -> list[PairVerdict]:
        """See `split_and_merge`.

        Raises:
            ConfigError: only one order is wanted.
        """
        rubric, orders, _ = comparing_terms(**terms)
        if orders != "both":
            raise ConfigError("Aligned parts are judged in both orders; give orders: both.")
        return [one.comparison for one in split_and_merge(self._judge, items, k=self._k, rubric=rubric)]


def correction(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float | None]:
    """Rates over pairs.

    Args:
        before, after: whether each pair got the same verdict in both orders.

    Returns:
        `rate_before`, `rate_after`; `fixed_coverage`, the share of inconsistent pairs that became consistent (None
        where there was none); `relative_improvement`, (after - before) / before (None where before is 0).

    Raises:
        ValueError: different lengths, or no pair.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} pairs before and {len(after)} after, expected as many, at least one")
    rates = sum(before) / len(before), sum(after) / len(after)
    open_pairs = [one for old, one in zip(before, after, strict=True) if not old]
    return {
        "rate_before": rates[0],
        "rate_after": rates[1],
        "fixed_coverage": sum(open_pairs) / len(open_pairs) if open_pairs else None,
        "relative_improvement": (rates[1] - rates[0]) / rates[0] if rates[0] else None,
    }


@led
def run(config: Config, run: Run) -> None:
    """Judge every pair plainly and in parts, both orders each; verdicts, rates and a report.

    Raises:
        DataError: the file holds no pairs.
        CoalignError: too many verdicts are missing; the replies are kept.
    """
    from coalign.evaluation.position_bias.report import write_portia_report

    found = items_of(config, run)
    if found.kind != "pairs":
        raise ConfigError(f"{config.data}: {found.recognised}, expected pairs of responses.")
    judge = make_judge(config, run)
    plain = judge.compare(found.items, rubric=config.rubric, label="Judging whole answers")
    merged = split_and_merge(judge, found.items, k=config.parts, rubric=config.rubric)
    final = [one.comparison for one in merged]
    write_rows(
        run.artefacts / "verdicts.jsonl",
        (
            {
                "id": item.id,
                "outcome": one.comparison.outcome,
                "stage": one.stage,
                "parts": one.parts,
                "cuts": one.cuts,
                "labels": list(said),
                "plain": verdict_row(old)["opinions"],
                "merged": [asdict(each) for each in one.comparison.opinions],
            }
            for item, old, one, said in zip(found.items, plain, merged, found.labels, strict=True)
        ),
    )
    check_failures([*plain, *final], limit=config.max_failures)
    consistent = [[one.consistent is True for one in side] for side in (plain, final)]
    stages = [one.stage for one in merged]
    results = {
        **correction(*consistent),
        "lost": sum(old and not new for old, new in zip(*consistent, strict=True)),
        "stages": {stage: stages.count(stage) for stage in ("length", "semantic", "none")},
        "plain": pair_results(plain, found.labels, seed=config.seed),
        "merged": pair_results(final, found.labels, seed=config.seed),
    }
    write_json(run.artefacts / "results.json", results)
    write_portia_report(run, config, found, plain, merged, results)
