"""The report of a decoding method that works for rewards: reward before and after, fluency, cost, samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.decoding.search.ways import Arms
from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.models.files.places import full_name, locate
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import effect, estimate, judged, paired

KEYWORDS = (
    "What was searched for is what is measured: rewards rise by construction, and keyword rewards can be met with stuffed "
    "text. Log-probability and the answers themselves are the guard: read them."
)
UNFINISHED = (
    "A reward model judges unfinished text during the search, which is not what it was trained on; a longer lookahead "
    "helps."
)
Rows = Sequence[dict[str, Any]]
FLUENCY_TOLERANCE = 1.0
"""Nats a token by which the mean log-probability may fall before the guard speaks."""


def write_reward_report(run: Run, config: Any, arms: Arms) -> doc.Report:
    """Write `report.html` and the headline figures; the last arm is compared with the first one."""
    rows = {name: arms.rows(name) for name in arms.names}
    first, last = arms.names[0], arms.names[-1]
    rewards = [_numbers(rows[name], "reward") for name in (first, last)]
    change, (before, after) = estimate(paired_bootstrap(*rewards)), map(_mean, rewards)
    drop = _fluency_drop(rows[first], rows[last])
    return publish(
        run,
        config,
        title=f"Search for rewarded text with {locate(config.model).name}",
        verdict=_headline(rows[first], rows[last], change, drop),
        facts={
            "Model": full_name(config.model),
            "Prompts": str(len(arms.tasks)),
            "Rewards": "; ".join(f"{one.reward.name} ({one.weight:g})" for one in arms.rewards.rewards),
            "Seed": str(config.seed),
        },
        sections=[
            doc.Comparison(
                "Rewards",
                note="Mean over prompts with bootstrap intervals; the change is paired by prompt.",
                names=(_title(first), _title(last)),
                rows=_rewards(rows[first], rows[last], arms.rewards.names),
                scale="row",
            ),
            doc.Comparison(
                "Fluency guard",
                note="A reward that is met with broken language shows here: the answers' log-probability under the model "
                "itself, without any alignment prompt.",
                names=(_title(first), _title(last)),
                rows=_fluency(rows[first], rows[last]),
                scale="row",
            ),
            _all_arms(rows, arms),
            doc.Samples(
                "Answers side by side",
                columns=[_title(name) for name in arms.names],
                rows=[_sample(arms, rows, place) for place in range(len(arms.tasks))],
                score_name="reward",
                unit="number",
            ),
        ],
        limitations=[KEYWORDS, UNFINISHED],
        headline=f"reward {before:.3f} to {after:.3f}",
        figures={
            "reward_before": before,
            "reward_after": after,
            "difference": change.value,
            "low": change.low,
            "high": change.high,
            "logp_drop": drop,
        },
    )


def _headline(first: Rows, last: Rows, change: doc.Estimate, drop: float | None) -> doc.Headline:
    sides = (first, last)
    reward = [_mean(_numbers(rows, "reward")) for rows in sides]
    logp = [_mean(_measured(rows)) for rows in sides]
    tokens = [_mean(_tokens(rows)) for rows in sides]
    fluent = drop is not None and drop <= FLUENCY_TOLERANCE
    text = f"The reward of the answers is {reward[1]:.3f}, {reward[0]:.3f} with plain decoding. "
    said = effect(change, "higher")
    if said != "better":
        text += "It got worse. " if said == "worse" else "The interval of the change does not exclude zero. "
    if drop is None:
        text += "Fluency could not be measured: answers are empty."
    elif fluent:
        text += f"The mean log-probability of a token changed by {-drop:+.2f} nats."
    else:
        text += f"Fluency suffered: a token's mean log-probability fell by {drop:.2f} nats. Read the answers."
    return judged(
        change,
        text,
        [
            doc.Figure("Reward", reward[1], before=reward[0], difference=change, note=f"{len(last)} prompts"),
            doc.Figure("Log-probability of a token (nats)", logp[1], before=logp[0], better="neither"),
            doc.Figure("Tokens of an answer", tokens[1], before=tokens[0], better="neither"),
        ],
        n=len(last),
        guard=fluent,
    )


def _rewards(first: Rows, last: Rows, names: Sequence[str]) -> list[doc.ComparisonRow]:
    def values(rows: Rows, name: str) -> list[float]:
        return [one["values"][name] for one in rows]

    together = (_numbers(first, "reward"), _numbers(last, "reward"))
    made = [paired("All together", *together, unit="number", emphasis=True)]
    return made + [paired(name, values(first, name), values(last, name), unit="number") for name in names]


def _fluency(first: Rows, last: Rows) -> list[doc.ComparisonRow]:
    pairs = [
        (one["logp"], other["logp"])
        for one, other in zip(first, last, strict=True)
        if one["logp"] is not None and other["logp"] is not None
    ]
    made = []
    if pairs:
        before, after = map(list, zip(*pairs, strict=True))
        made.append(paired("Log-probability of a token (nats)", before, after, unit="number"))
    return [
        *made,
        paired("Tokens of an answer", _tokens(first), _tokens(last), unit="number", better="neither"),
    ]


def _all_arms(rows: dict[str, Any], arms: Arms) -> doc.TableSection:
    made = []
    for name in arms.names:
        mine, facts = rows[name], arms.facts(name)
        reward = estimate(bootstrap_mean(_numbers(mine, "reward")))
        ended = _mean([float(one["finish_reasons"][0] == "stop") for one in mine])
        measured = [reward.value, reward.low, reward.high, _mean(_measured(mine)), ended]
        made.append([_title(name), *measured, facts.get("tokens_tried"), facts["seconds"]])
    return doc.TableSection(
        "All ways to answer",
        note="Tokens tried are those computed after the prompts; time is that of the session that finished the row.",
        columns=[
            "way", "reward", "low", "high", "log-probability of a token", "ended by itself", "tokens tried", "time",
        ],
        rows=made,
        units={"ended by itself": "percent", "tokens tried": "integer", "time": "seconds"},
    )  # fmt: skip


def _sample(arms: Arms, rows: dict[str, Any], place: int) -> doc.Sample:
    task = arms.tasks[place]
    return doc.Sample(
        task.prompt[-1]["content"] if task.prompt else "",
        [
            doc.Output(one["responses"][0], one["reward"], checks=one["values"])
            for one in (rows[name][place] for name in arms.names)
        ],
    )


def _fluency_drop(before: Rows, after: Rows) -> float | None:
    old, new = _mean(_measured(before)), _mean(_measured(after))
    return None if old is None or new is None else old - new


def _title(name: str) -> str:
    return name[0].upper() + name[1:]


def _numbers(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(one[key]) for one in rows]


def _tokens(rows: Rows) -> list[float]:
    return [float(one["tokens"][0] or 0) for one in rows]


def _measured(rows: Rows) -> list[float]:
    return [one["logp"] for one in rows if one["logp"] is not None]


def _mean(values: Sequence[float]) -> Any:
    return sum(values) / len(values) if values else None
