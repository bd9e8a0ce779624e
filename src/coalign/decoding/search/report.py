"""The report of a decoding method that works for rewards: reward before and after, fluency, cost, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.decoding.search.ways import Arms
from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.models.files.loading import locate
from coalign.report.html import write_report
from coalign.report.model import (
    Comparison,
    ComparisonRow,
    Estimate,
    Figure,
    Headline,
    KeyValues,
    Output,
    Report,
    Sample,
    Samples,
    TableSection,
    Text,
)

FLUENCY_TOLERANCE = 1.0
"""Nats a token by which the mean log-probability may fall before the guard speaks."""


def write_reward_report(run: Run, config: Any, arms: Arms) -> Report:
    """Write `report.html` and the headline figures; the last arm is compared with the first one."""
    rows = {name: arms.rows(name) for name in arms.names}
    first, last = arms.names[0], arms.names[-1]
    entry = get(run.status()["method"])
    change = paired_bootstrap(_numbers(rows[first], "reward"), _numbers(rows[last], "reward"))
    drop = _fluency_drop(rows[first], rows[last])
    report = Report(
        title=f"Search for rewarded text with {locate(config.model).name}",
        method=entry.slug,
        arxiv=entry.arxiv,
        verdict=_headline(rows, first, last, change, drop),
        facts={
            "Model": config.model,
            "Prompts": str(len(arms.tasks)),
            "Rewards": "; ".join(f"{one.reward.name} ({one.weight:g})" for one in arms.rewards.rewards),
            "Seed": str(config.seed),
        },
        sections=[
            _rewards(rows, first, last, arms.rewards.names),
            _fluency(rows, first, last),
            _all_arms(rows, arms),
            Samples(
                title="Answers side by side",
                columns=[_title(name) for name in arms.names],
                rows=[_sample(arms, rows, place) for place in range(len(arms.tasks))],
                score_name="reward",
                unit="number",
            ),
            Text(
                title="Limitations",
                paragraphs=[
                    (
                        "What was searched for is what is measured: rewards rise by construction, and keyword rewards can "
                        "be met with stuffed text. Log-probability and the answers themselves are the guard: read them."
                    ),
                    (
                        "A reward model judges unfinished text during the search, which is not what it was trained on; a "
                        "longer lookahead helps."
                    ),
                ],
            ),
            KeyValues(title="Configuration", items=options.to_dict(config)),
            KeyValues(title="Environment", items=run.environment()),
        ],
    )
    write_report(report, run.report)
    before, after = (_mean(_numbers(rows[name], "reward")) for name in (first, last))
    run.set_status(
        headline=f"reward {before:.3f} to {after:.3f}",
        figures={
            "reward_before": before,
            "reward_after": after,
            "difference": change.mean,
            "low": _finite(change.low),
            "high": _finite(change.high),
            "logp_drop": drop,
        },
    )
    return report


def _headline(rows: dict[str, Any], first: str, last: str, change: Any, drop: float | None) -> Headline:
    before, after = (_mean(_numbers(rows[name], "reward")) for name in (first, last))
    up = math.isfinite(change.low) and change.low > 0
    fluent = drop is not None and drop <= FLUENCY_TOLERANCE
    text = f"The reward of the answers is {after:.3f}, {before:.3f} with plain decoding. "
    text += "" if up else "The interval of the change does not exclude zero. "
    if drop is None:
        text += "Fluency could not be measured: answers are empty."
    elif fluent:
        text += f"The mean log-probability of a token changed by {-drop:+.2f} nats."
    else:
        text += f"Fluency suffered: a token's mean log-probability fell by {drop:.2f} nats. Read the answers."
    return Headline(
        outcome="improved" if up and fluent else "mixed" if up else "not improved",
        text=text,
        figures=[
            Figure(
                label="Reward",
                value=after,
                before=before,
                difference=_estimate(change),
                note=f"{len(rows[last])} prompts",
            ),
            Figure(
                label="Log-probability of a token (nats)",
                value=_mean(_measured(rows[last])),
                before=_mean(_measured(rows[first])),
                better="neither",
            ),
            Figure(
                label="Tokens of an answer",
                value=_mean(_tokens(rows[last])),
                before=_mean(_tokens(rows[first])),
                better="neither",
            ),
        ],
    )


def _rewards(rows: dict[str, Any], first: str, last: str, names: Sequence[str]) -> Comparison:
    def row(name: str, before: list[float], after: list[float], emphasis: bool = False) -> ComparisonRow:
        return ComparisonRow(
            name=name,
            before=_estimate(bootstrap_mean(before)),
            after=_estimate(bootstrap_mean(after)),
            difference=_estimate(paired_bootstrap(before, after)),
            n=len(before),
            unit="number",
            emphasis=emphasis,
        )

    def values(arm: str, name: str) -> list[float]:
        return [one["values"][name] for one in rows[arm]]

    made = [row("All together", _numbers(rows[first], "reward"), _numbers(rows[last], "reward"), True)]
    made += [row(name, values(first, name), values(last, name)) for name in names]
    return Comparison(
        title="Rewards",
        note="Mean over prompts with bootstrap intervals; the change is paired by prompt.",
        names=(_title(first), _title(last)),
        rows=made,
        scale="row",
    )


def _fluency(rows: dict[str, Any], first: str, last: str) -> Comparison:
    pairs = [
        (one["logp"], other["logp"])
        for one, other in zip(rows[first], rows[last], strict=True)
        if one["logp"] is not None and other["logp"] is not None
    ]
    made = []
    if pairs:
        before, after = map(list, zip(*pairs, strict=True))
        made.append(
            ComparisonRow(
                name="Log-probability of a token (nats)",
                before=_estimate(bootstrap_mean(before)),
                after=_estimate(bootstrap_mean(after)),
                difference=_estimate(paired_bootstrap(before, after)),
                n=len(pairs),
                unit="number",
            )
        )
    before, after = (_tokens(rows[name]) for name in (first, last))
    made.append(
        ComparisonRow(
            name="Tokens of an answer",
            before=_estimate(bootstrap_mean(before)),
            after=_estimate(bootstrap_mean(after)),
            difference=_estimate(paired_bootstrap(before, after)),
            n=len(before),
            unit="number",
            better="neither",
        )
    )
    return Comparison(
        title="Fluency guard",
        note="A reward that is met with broken language shows here: the answers' log-probability under the model "
        "itself, without any alignment prompt.",
        names=(_title(first), _title(last)),
        rows=made,
        scale="row",
    )


def _all_arms(rows: dict[str, Any], arms: Arms) -> TableSection:
    made = []
    for name in arms.names:
        mine, facts = rows[name], arms.facts(name)
        interval = bootstrap_mean(_numbers(mine, "reward"))
        made.append(
            [
                _title(name),
                interval.mean,
                _finite(interval.low),
                _finite(interval.high),
                _mean(_measured(mine)),
                _mean([float(one["finish_reasons"][0] == "stop") for one in mine]),
                facts.get("tokens_tried"),
                facts["seconds"],
            ]
        )
    return TableSection(
        title="All ways to answer",
        note="Tokens tried are those computed after the prompts; time is that of the session that finished the row.",
        columns=[
            "way", "reward", "low", "high", "log-probability of a token", "ended by itself", "tokens tried", "time",
        ],
        rows=made,
        units={"ended by itself": "percent", "tokens tried": "integer", "time": "seconds"},
    )  # fmt: skip


def _sample(arms: Arms, rows: dict[str, Any], place: int) -> Sample:
    task = arms.tasks[place]
    return Sample(
        prompt=task.prompt[-1]["content"] if task.prompt else "",
        outputs=[
            Output(
                text=rows[name][place]["responses"][0],
                score=rows[name][place]["reward"],
                checks=rows[name][place]["values"],
            )
            for name in arms.names
        ],
    )


def _fluency_drop(before: list[Any], after: list[Any]) -> float | None:
    old, new = _mean(_measured(before)), _mean(_measured(after))
    return None if old is None or new is None else old - new


def _title(name: str) -> str:
    return name[0].upper() + name[1:]


def _numbers(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(one[key]) for one in rows]


def _tokens(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [float(one["tokens"][0] or 0) for one in rows]


def _measured(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [one["logp"] for one in rows if one["logp"] is not None]


def _mean(values: Sequence[float]) -> Any:
    return sum(values) / len(values) if values else None


def _estimate(interval: Any) -> Estimate:
    return Estimate(interval.mean, _finite(interval.low), _finite(interval.high))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
