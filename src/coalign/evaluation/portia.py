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
from typing import Any, Literal

import numpy as np

from coalign.checks.arms import Measures, keep_items, kept_items, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, most_seeds, paired_gaps
from coalign.checks.worlds.answer_world import answer_pairs
from coalign.core.catalogue import get
from coalign.core.errors import ConfigError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, option
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Message
from coalign.evaluation.position_bias.parts import (
    common_parts,
    length_cuts,
    parts_of,
    pieces_of,
    semantic_cuts,
)
from coalign.judging.options import JudgeOptions, make_judge
from coalign.judging.order_bias import OrderValues, bias_difference, bias_share, order_values, paired_gain
from coalign.judging.protocol import (
    Comparison,
    Judge,
    JudgeItem,
    Orders,
    Rating,
    Rubric,
    Scale,
    check_failures,
)
from coalign.judging.run import ItemOptions, items_of, pair_results, verdict_row

Stage = Literal["length", "semantic", "none"]


@dataclass(kw_only=True)
class Config(ItemOptions, JudgeOptions):
    """Options of `coalign run portia`."""

    __group__ = "Method"

    parts: Count = option(3, "parts of an answer (k)", source="paper: best of 1 to 4")
    seed: int = option(0, "of the bootstrap intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge != "model":
            raise ValueError(
                f"judge: {self.judge} never sees the order of the answers, so there is nothing to align"
            )


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What came of a pair.

    Attributes:
        comparison: of the last stage that was judged; its cost is that of all stages.
        stage: whose verdict it is; `none` where both orders never agreed.
        parts: how many (k, or fewer where an answer is shorter).
        cuts: of both answers, in pieces, in the last stage.
    """

    comparison: Comparison
    stage: Stage
    parts: int
    cuts: tuple[tuple[int, ...], tuple[int, ...]]


def in_parts(item: JudgeItem, k: int, *, semantic: bool) -> tuple[JudgeItem, int, Any]:
    """The item with its answers in aligned parts, how many there are, and the cuts. One part leaves it as it is."""
    first, second = map(pieces_of, item.responses)
    count = common_parts(first, second, k)
    if semantic:
        found = semantic_cuts(first, second, count)
        cuts = (found.first, found.second)
    else:
        cuts = (length_cuts(first, count), length_cuts(second, count))
    if count == 1:
        return replace(item, parts=()), 1, cuts
    return replace(item, parts=(parts_of(first, cuts[0]), parts_of(second, cuts[1]))), count, cuts


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
        self._judge, self._k = judge, k

    def rate(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        scale: Scale | None = None,
        label: str = "Rating",
    ) -> list[Rating]:
        """The judge's own ratings: a single response has nothing to be aligned with."""
        return self._judge.rate(items, rubric=rubric, scale=scale, label=label)

    def compare(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        orders: Orders = "both",
        label: str = "Comparing",
    ) -> list[Comparison]:
        """See `split_and_merge`.

        Raises:
            ConfigError: only one order is wanted.
        """
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


PAIRS_A_SEED = 16
SHORT = """{% block user %}
Question: {{ question }}
{% if parts %}
Two answers, A and B, in turn:
PARTS
{% else %}
Answer A: {{ answers[0] }}
Answer B: {{ answers[1] }}
{% endif %}
Which answer is better? The order does not matter. Reply with one letter: A or B.
{% endblock %}
"""
IN_TURN = """{% for first, second in parts %}
Answer A, part {{ loop.index }}: {{ first }}
Answer B, part {{ loop.index }}: {{ second }}
{% endfor %}"""
IN_BLOCKS = """{% for place in (0, 1) %}
{% for part in parts %}
Answer {{ "AB"[place] }}, part {{ loop.index }}: {{ part[place] }}
{% endfor %}
{% endfor %}"""
"""The control: the same parts, not in turn."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Aligned parts make the verdicts of a small language model depend less on the order of the answers.

    The judge is the default model (SmolLM2-135M-Instruct), its verdict the difference of the log-probabilities of A and
    B, less that for empty answers.
    """
    arms = {
        "plain": lambda seed: _check_arm(run, seed, "plain"),
        "equal parts": lambda seed: _check_arm(run, seed, "equal parts"),
        "PORTIA": lambda seed: _check_arm(run, seed, "PORTIA"),
        "parts, not in turn": lambda seed: _check_arm(run, seed, "parts, not in turn"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=lambda seed: seed, arms=arms)
    pairs = {name: _pair_values(run, name, seeds) for name in arms}
    gain = paired_gain(pairs["plain"][:, 2], pairs["PORTIA"][:, 2])
    bias = bias_difference(pairs["plain"], pairs["PORTIA"])
    gaps = paired_gaps(rows, "bias share", "PORTIA", "plain")
    rates = paired_gaps(rows, "consistent", "PORTIA", "plain")
    by_rate = (
        gain.mean >= 0.05
        and (gain.p_value or 0.0) < 0.05
        and most_seeds({s: g >= 0 for s, g in rates.items()})
    )
    by_bias = bias.mean <= -0.05 and bias.high < 0 and most_seeds({s: g < 0 for s, g in gaps.items()})
    near = abs(gain.mean) <= 0.02 and abs(bias.mean) <= 0.02
    return Verdict(
        slug="portia",
        outcome=decide(
            seen=by_rate or by_bias, not_seen=not (by_rate or by_bias) and (near or gain.mean < 0)
        ),
        claim=get("portia").claim,
        rule="Over all pairs of all seeds. Seen: PORTIA's consistency is above the plain prompt's by 5 points or more "
        "with p < 0.05 (one-sided bootstrap over pairs) and not below it in at least 4 of 5 seeds; or its bias share is "
        "lower by 0.05 or more with a 95 % bootstrap interval below 0, and lower in at least 4 of 5 seeds. Not seen: "
        "consistency is lower, or within 2 points with the bias share within 0.02. Mixed: between.",
        setting=f"Judge: SmolLM2-135M-Instruct, d = log P(A) - log P(B) of the first token of its reply, less d for "
        f"empty answers. {PAIRS_A_SEED} pairs a seed of a full and a thin answer of four sentences; k = 3. Bias share: "
        "mean |d12 + d21| / (mean |d12 + d21| + mean |d12 - d21|), d21 with the answers swapped.",
        measures=rows,
        summary={
            "pairs": len(pairs["plain"]),
            "consistency, PORTIA - plain": gain.mean,
            "p": gain.p_value,
            "bias share, PORTIA - plain": bias.mean,
            "interval, low": bias.low,
            "interval, high": bias.high,
            "bias share, parts not in turn - plain": mean_of(
                paired_gaps(rows, "bias share", "parts, not in turn", "plain")
            ),
            "right where consistent, plain": _right(pairs["plain"]),
            "right where consistent, PORTIA": _right(pairs["PORTIA"]),
        },
        seconds=seconds_spent(run),
    )


def _check_arm(run: Run, seed: int, arm: str) -> Measures:
    """Judge the pairs of a seed; what each came to is kept."""
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.store import Deferred, ReplyStore
    from coalign.models.backends.open import open_transformers
    from coalign.models.options import ModelOptions

    template = run.artefacts / ("blocks.j2" if arm == "parts, not in turn" else "turns.j2")
    template.write_text(SHORT.replace("PARTS", IN_BLOCKS if "not" in arm else IN_TURN), encoding="utf-8")
    items = [
        JudgeItem(
            id=f"{seed}-{place}",
            prompt=[Message(role="user", content=one.question)],
            responses=one.answers,
            extra={"better": one.better},
        )
        for place, one in enumerate(answer_pairs(seed, PAIRS_A_SEED))
    ]
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        judge = LanguageModelJudge(
            Deferred(lambda: open_transformers(ModelOptions(device="cpu"))),
            name="default",
            store=store,
            template=template,
            readout="logprobs",
            calibrate=True,
        )
        if arm == "PORTIA":
            found = [one.comparison for one in split_and_merge(judge, items)]
        elif arm == "plain":
            found = judge.compare(items)
        else:
            found = judge.compare([in_parts(item, 3, semantic=False)[0] for item in items])
    better = ("first", "second")
    values = np.array(
        [
            [*order_values(one), float(one.outcome == better[item.extra["better"]])]
            for one, item in zip(found, items, strict=True)
        ]
    )
    keep_items(run, arm, seed, values=values.tolist())
    return {
        "consistent": float(values[:, 2].mean()),
        "bias share": bias_share(values),
        "for the first": float(np.mean([one.shown_choice == "first" for c in found for one in c.opinions])),
        "right where consistent": _right(values),
    }


def _right(values: OrderValues) -> float:
    """Share of the full answer among consistent verdicts; 0 where there are none."""
    return float(values[:, 3].sum() / max(values[:, 2].sum(), 1.0))


def _pair_values(run: Run, arm: str, seeds: int) -> OrderValues:
    """[pairs, 4] of all seeds."""
    return np.array([row for one in kept_items(run, arm, seeds) for row in one["values"]])
