"""The report of a run of reinforcement learning: held-out rewards before and after, curves, what was left out, samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.data.sources import named
from coalign.loops.held_out import held_out_folder, held_out_rows
from coalign.loops.rows import read_answers
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, curves, figure_of, judged, paired
from coalign.training.job import FitResult
from coalign.training.online.policy_gradient import OnlineMethod

_CHARTS = (
    ("reward", "Reward"),
    ("kl/policy_reference", "Divergence from the start model, nats a response"),
    ("entropy", "Entropy, nats a token"),
    ("length/response", "Length, tokens"),
    ("clip/fraction", "Tokens at the clip"),
    ("values/all_equal", "Prompts whose responses all have one reward"),
    ("responses/truncated", "Responses that ran out of tokens"),
    ("sampler/gap", "Log-probability, sampler against trainer"),
    ("rewards/accuracies", "Pairs in the right order"),
    ("grad_norm", "Gradient norm"),
)
LIMITATION = (
    "Held-out responses are sampled as in training and valued by the rewards that were trained on: what these do not "
    "see can have become worse."
)
SHOWN = 24
"""Held-out prompts whose responses the report shows."""


def write_online_report(
    run: Run, config: Any, method: OnlineMethod, result: FitResult, *, n_training: int, n_held_out: int
) -> doc.Report:
    """Write `report.html`, the model card and the headline of `status.json`."""
    rows = held_out_rows(run)
    note = _data_note(config, result.history, n_training, n_held_out)
    comparison = _comparison(rows)
    held_out = [{"step": row["step"], "reward": row["reward"], "length/response": row["length"],
                 "kl/policy_reference": row["kl"], "responses/truncated": row["truncated"]} for row in rows if row["reward"] is not None]  # fmt: skip
    return publish(
        run,
        config,
        title=f"{method.name} on {short_name(config.model)}",
        verdict=_headline(rows, comparison, result),
        facts={
            "Model": full_name(config.model),
            "Rewards": ", ".join(map(str, config.reward)),
            "Prompts": f"{n_training} to train, {n_held_out} held out",
            "Steps": str(result.steps),
            "Seed": str(config.seed),
        },
        sections=[
            *([comparison] if comparison else []),
            *curves(_CHARTS, {"training": result.history, "held out": held_out}),
            *_samples(run, rows),
        ],
        notes=[event["note"] for event in run.events("data")] + note,
        limitations=[LIMITATION],
        then=[doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side")],
        figures={key: rows[-1][key] for key in ("reward", "kl", "length")} if rows else {},
        trained_on=f"Prompts of {named(config.prompts)}, with responses of the model itself, rewarded by {', '.join(map(str, config.reward))}.",
        method_title=method.name,
    )


def _data_note(
    config: Any, history: Sequence[Mapping[str, float]], training: int, held_out: int
) -> list[str]:
    """What became of the responses, counted over the run."""

    def share(name: str) -> float:
        found = [row[name] for row in history if name in row]
        return statistics.fmean(found) if found else 0.0

    told = {"keep": "counted with their reward", "mask": "were left out of group, mean and divisor",
            "penalise": f"lost {config.truncation_penalty:g} of their reward"}  # fmt: skip
    equal = "was replaced" if config.dynamic_sampling else (
        "had no say and was left out of the divisor" if getattr(config, "equal_groups", "count") == "leave out"
        else "had no say, and counted in the divisor"
    )  # fmt: skip
    return [
        f"{share('responses/truncated'):.1%} of the responses ran out of tokens: they {told[config.truncated]}.",
        f"{share('values/all_equal'):.1%} of the prompts had responses of one reward only: such a group {equal}.",
        f"{share('responses/not_scorable'):.1%} of the responses could not be scored: they were left out of group, mean and divisor.",
    ]


def _comparison(rows: Sequence[Mapping[str, Any]]) -> doc.Comparison | None:
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    both = [
        (one, other)
        for one, other in zip(first["rewards"], last["rewards"], strict=True)
        if one is not None and other is not None
    ]
    table = [
        paired(
            "Reward", [one for one, _ in both], [other for _, other in both], unit="number", emphasis=True
        ),
        compared(
            "Divergence from the start model, nats a response",
            first["kl"],
            last["kl"],
            unit="number",
            better="neither",
        ),
        compared("Length, tokens", first["length"], last["length"], unit="number", better="neither"),
        compared("Ran out of tokens", first["truncated"], last["truncated"], better="lower"),
        compared("Not scorable", first["not_scorable"], last["not_scorable"], better="lower"),
    ]
    return doc.Comparison(
        "Held-out prompts", note="Means over prompts, with 95 % intervals.", scale="row", rows=table
    )


def _headline(
    rows: Sequence[Mapping[str, Any]], comparison: doc.Comparison | None, result: FitResult
) -> doc.Headline:
    if comparison is None:
        rewards = [row["reward"] for row in result.history if "reward" in row]
        said = (
            f" Reward {rewards[0]:.3f} in the first step, {rewards[-1]:.3f} in the last." if rewards else ""
        )
        return doc.Headline(
            "neutral", f"{result.steps} steps.{said} Nothing was held out, so nothing is claimed."
        )
    row = comparison.rows[0]
    first, last = rows[0], rows[-1]
    text = (
        f"Held-out reward: {_number(first['reward'])} before, {_number(last['reward'])} after {result.steps} steps, at "
        f"{last['kl']:.2f} nats a response from the start model."
    )
    return judged(row.difference, text, [figure_of(row)], n=row.n)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _samples(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[doc.AnySection]:
    """What held-out prompts were answered before and after, the first response to each."""
    if len(rows) < 2:
        return []
    folder = held_out_folder(run)
    sides = []
    for row in (rows[0], rows[-1]):
        stem = f"step-{row['step']:06d}"
        scored = read_answers(folder / f"{stem}-scored.jsonl")
        sides.append(list(zip(read_answers(folder / f"{stem}.jsonl"), scored, strict=True)))
    shown = [
        doc.Sample(last_message(pair[0][0]["prompt"]), [_output(*one) for one in pair])
        for pair in list(zip(*sides, strict=True))[:SHOWN]
    ]
    title, note = "Held-out prompts side by side", "The first response to each prompt, and its reward."
    return [
        doc.Samples(
            title, note=note, columns=["Before", "After"], rows=shown, score_name="reward", unit="number"
        )
    ]


def last_message(prompt: Any) -> str:
    """The text of a prompt, or of its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _output(row: Mapping[str, Any], scored: Mapping[str, Any]) -> doc.Output:
    checks = {name: values[0] for name, values in scored["values"].items()}
    ended = row["finish_reasons"][0] != "length"
    return doc.Output(row["responses"][0], scored["rewards"][0], checks={**checks, "ended": ended})
