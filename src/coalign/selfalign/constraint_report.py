"""Before and after on held-out prompts: constraint satisfaction, length, fluency, samples, and the report of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.judging.verifiers.tasks import ConstraintTask
from coalign.loops.labelling import Labelling
from coalign.loops.rounds import STAGES, Round, timings
from coalign.loops.rows import Row
from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.measures.texts.text_metrics import compare_distinct_n
from coalign.models.files.defaults import DEFAULTS
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.places import full_name, short_name
from coalign.models.fluency import text_logps
from coalign.models.options import ModelOptions
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, curves, effect, estimate, judged, median_first

CHARTS = (
    ("loss", "Loss"),
    ("rewards/accuracies", "Pairs in the right order"),
    ("grad_norm", "Gradient norm"),
)
SMALL_MODEL = (
    "A model of 135 million parameters writes much that is wrong, before and after: judge by it whether the form is "
    "learnt, not what it knows."
)
FLUENCY_TOLERANCE = 0.10
"""Perplexity may rise and distinct-2 may fall by this share before the guard speaks."""


def compare_runs(
    round: Round,
    before: Sequence[Row],
    after: Sequence[Row],
    *,
    model: ModelOptions,
    tasks: Sequence[ConstraintTask],
) -> None:
    """Write `comparison.json` into the round's folder.

    Perplexity is that of the base model, over the tokens of all texts of a side, each after its prompt.

    Args:
        before, after: measured answers to `tasks`.
    """
    sides = {"before": before, "after": after}
    base, tokenizer = load_model(model, training=False), load_tokenizer(model)
    texts = {side: [row["responses"] for row in rows] for side, rows in sides.items()}
    perplexity = {
        side: text_logps(
            base, tokenizer, [task.prompt for task in tasks], texts[side], label=f"Perplexity ({side})"
        )
        for side in sides
    }
    flat = {side: [text for group in texts[side] for text in group] for side in sides}
    distinct = compare_distinct_n(flat["before"], flat["after"], 2)
    means = {side: [_mean(row["csr"]) for row in rows] for side, rows in sides.items()}
    result = {
        "satisfaction": _compared(means["before"], means["after"]),
        "kinds": {
            kind: _compared(*(_values_of(kind, tasks, rows) for rows in sides.values()))
            for kind in sorted({tag for task in tasks for tag in task.tags})
        },
        "perplexity": [perplexity["before"].perplexity, perplexity["after"].perplexity],
        "distinct_2": list(distinct[:2]),
        "tokens": [_mean([tokens for row in sides[side] for tokens in row["tokens"]]) for side in sides],
        "unfinished": [
            _mean([reason == "length" for row in sides[side] for reason in row["finish_reasons"]])
            for side in sides
        ],
    }
    write_json(round.path("comparison", ".json"), result)


def fluent(result: dict[str, Any]) -> bool:
    """Whether perplexity and diversity stayed within `FLUENCY_TOLERANCE`."""
    before, after = result["perplexity"]
    old, new = result["distinct_2"]
    return after <= before * (1 + FLUENCY_TOLERANCE) and new >= old * (1 - FLUENCY_TOLERANCE)


def write_constraint_report(run: Run, loop: Labelling[ConstraintTask], rounds: Sequence[Round]) -> doc.Report:
    """Write `report.html`, the model card and the headline figures of `status.json`."""
    config, training, held_out = loop.config, loop.training, loop.held_out
    result = json.loads(rounds[-1].path("comparison", ".json").read_text(encoding="utf-8"))
    rows = {"before": loop.before(run), "after": loop.after(rounds[-1])}
    satisfaction, change = result["satisfaction"], result["satisfaction"]["difference"]
    before, after = satisfaction["before"]["mean"], satisfaction["after"]["mean"]
    return publish(
        run,
        config,
        title=f"Constraint alignment of {short_name(config.model)}",
        verdict=_headline(result, small=full_name(config.model) == DEFAULTS["chat"].hub_id),
        facts={
            "Model": full_name(config.model),
            "Training prompts": str(len(training)),
            "Held-out prompts": f"{len(held_out)}, {config.eval_samples} answers each",
            "Seed": str(config.seed),
        },
        sections=[
            _comparison(result),
            _fluency(result),
            median_first(
                doc.Samples(
                    "Held-out prompts side by side",
                    note="First answer to each prompt, that with the median change first. The score is the mean over all its "
                    "answers.",
                    columns=["Before", "After"],
                    rows=[
                        doc.Sample(task.text, [_output(task, row) for row in pair], tags=task.tags)
                        for task, *pair in zip(held_out, rows["before"], rows["after"], strict=True)
                    ],
                    score_name="satisfaction",
                )
            ),
            *curves(CHARTS, {f"round {one.number}": one.read("history") for one in rounds}),
            doc.Distribution(
                "Length of the answers",
                samples=[
                    doc.Values(name, [tokens for row in rows[side] for tokens in row["tokens"]])
                    for name, side in (("Before", "before"), ("After", "after"))
                ],
                x_label="tokens",
            ),
        ],
        rounds=timings(rounds, STAGES),
        limitations=[
            "Constraints are checked by programs, which see form and not sense: read the samples.",
            "Held-out prompts have other values and topics than the training prompts, but the same kinds of constraint.",
        ],
        then=[
            doc.Command(f"coalign chat {run.path}", "talk to the aligned model"),
            doc.Command(f"coalign chat {run.path} --compare base", "talk to both, side by side"),
        ],
        headline=f"constraint satisfaction {_percent(before)} to {_percent(after)}",
        figures={
            "satisfaction_before": before,
            "satisfaction_after": after,
            "difference": change["mean"],
            "low": change["low"],
            "high": change["high"],
            "perplexity_before": result["perplexity"][0],
            "perplexity_after": result["perplexity"][1],
            "distinct_2_before": result["distinct_2"][0],
            "distinct_2_after": result["distinct_2"][1],
        },
        trained_on=f"{len(training)} prompts with constraints ({config.prompts}); no labels.",
    )


def _headline(result: dict[str, Any], *, small: bool) -> doc.Headline:
    sides, change = result["satisfaction"], estimate(result["satisfaction"]["difference"])
    guard, said = fluent(result), effect(change, "higher")
    after, before = (sides[side]["mean"] for side in ("after", "before"))
    parts = [
        f"On held-out prompts the model satisfies {_percent(after)} of the constraints, {_percent(before)} before."
    ]
    if said != "better":
        parts.append("It got worse." if said == "worse" else "The interval of the change holds zero.")
    parts.append(
        "Fluency held: perplexity under the base model and diversity stayed within 10 %."
        if guard
        else "Fluency suffered: perplexity under the base model or diversity left the 10 % band. Read the samples."
    )
    if small:
        parts.append(SMALL_MODEL)
    perplexity, distinct, tokens = result["perplexity"], result["distinct_2"], result["tokens"]
    return judged(
        change,
        " ".join(parts),
        [
            doc.Figure(
                "Constraint satisfaction",
                after,
                unit="percent",
                before=before,
                difference=change,
                note=f"{sides['difference']['n']} held-out prompts",
            ),
            doc.Figure(
                "Perplexity under the base model", perplexity[1], before=perplexity[0], better="lower"
            ),
            doc.Figure("Distinct-2", distinct[1], before=distinct[0]),
            doc.Figure("Mean length in tokens", tokens[1], before=tokens[0], better="neither"),
        ],
        n=sides["difference"]["n"],
        guard=guard,
    )


def _comparison(result: dict[str, Any]) -> doc.Comparison:
    rows = [_row("All constraints", result["satisfaction"], emphasis=True)]
    rows += [_row(kind, values) for kind, values in result["kinds"].items()]
    return doc.Comparison(
        "Constraint satisfaction",
        note="Mean over held-out prompts with bootstrap intervals; the change is paired by prompt.",
        rows=rows,
    )


def _row(name: str, values: dict[str, Any], *, emphasis: bool = False) -> doc.ComparisonRow:
    sides = (values[side] for side in ("before", "after", "difference"))
    return compared(name, *sides, n=values["difference"]["n"], emphasis=emphasis)


def _fluency(result: dict[str, Any]) -> doc.Comparison:
    return doc.Comparison(
        "Fluency guard",
        note="A reward that is satisfied with broken language shows here: perplexity of the answers under the base "
        "model, and distinct word pairs at equal amount of text.",
        scale="row",
        rows=[
            compared("Perplexity under the base model", *result["perplexity"], unit="number", better="lower"),
            compared("Distinct-2", *result["distinct_2"], unit="number"),
            compared("Mean length (tokens)", *result["tokens"], unit="number", better="neither"),
            compared("Ran out of tokens", *result["unfinished"], better="lower"),
        ],
    )


def _output(task: ConstraintTask, row: dict[str, Any]) -> doc.Output:
    checks = {
        one.describe(): bool(value >= 1)
        for one, value in zip(task.constraints, row["values"][0], strict=True)
    }
    return doc.Output(row["responses"][0], _mean(row["csr"]), checks=checks)


def _values_of(kind: str, tasks: Sequence[ConstraintTask], rows: Sequence[dict[str, Any]]) -> list[float]:
    """Mean value of the constraints of a kind, for every prompt that has one."""
    values = []
    for task, row in zip(tasks, rows, strict=True):
        columns = [n for n, one in enumerate(task.constraints) if one.verifier.replace("_", " ") == kind]
        if columns:
            values.append(_mean([each[n] for each in row["values"] for n in columns]))
    return values


def _compared(before: list[float], after: list[float]) -> dict[str, Any]:
    return {
        "before": bootstrap_mean(before).to_dict(),
        "after": bootstrap_mean(after).to_dict(),
        "difference": paired_bootstrap(before, after).to_dict(),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
