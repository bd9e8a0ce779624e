"""The work beside the trainings: pairs out of prompts, answers of every model to held-out prompts, the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.errors import CoalignError
from coalign.core.runs import Run
from coalign.data.media.conversations import showing
from coalign.data.records import Record
from coalign.data.writers import write_records
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel
from coalign.loops.prompts import open_values
from coalign.loops.rows import Row, answer_rows
from coalign.measures.length_control import length_controlled_win_rate
from coalign.models.backends.open import open_generator, open_named
from coalign.models.options import ModelOptions
from coalign.platform.language_feedback.improvement import finished, improve, pairs_of
from coalign.platform.language_feedback.pairs import tell_pairs
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, outcome_of, paired

IMPROVEMENT, PAIRS, MEASURED = "improvement", "pairs.jsonl", "measured.json"
SHOWN = 8
"""Records that the report shows."""
START = "start"
_CHARTS = (("loss", "Loss"), ("rewards/accuracies", "Pairs in the right order"), ("reward", "Reward"))


def make_pairs(config: Any, run: Run, prompts: Sequence[Record], trained: Run | None) -> None:
    """Self-improvement, and its pairs as records: what the run stands for.

    Args:
        trained: the stage that trained a feedback model; None: `config` names one, or the model criticises itself.

    Raises:
        CoalignError: no pair is left.
    """
    base = ModelOptions.of(config)

    def open_critic() -> Any:
        if config.critic_endpoint is not None:
            return open_named(config.critic, endpoint=config.critic_endpoint)
        name = str(trained.path) if trained is not None else config.critic
        return open_generator(base if name is None else base.at(name))

    done = improve(
        run.artefacts / IMPROVEMENT,
        prompts,
        lambda: open_generator(base),
        open_critic,
        refine_on=config.refine_on,
        sampling=config.sampling(seed=config.seed),
        critique_sampling=config.sampling(seed=config.seed, max_new_tokens=config.critique_tokens),
        batch=config.request_batch,
    )
    pairs = pairs_of(done.rows())
    if not pairs:
        raise CoalignError(
            f"No pair is left. Most fell for: {done.most_reasons() or 'there was none'}.",
            hint=f"All are in {done.rejects}.",
        )
    write_records(run.artefacts / PAIRS, pairs, form="conversational")
    run.publish_records(run.artefacts / PAIRS)


def answered(
    config: Any, run: Run, prompts: Sequence[Record], done: Mapping[str, Run]
) -> dict[str, list[Row]]:
    """Model to its answers to the held-out prompts, with a column `values` where something measures them."""
    base = ModelOptions.of(config)
    models = {START: base} | {
        name: base.at(one.path) for name, one in done.items() if name in ("dpo", "ppo", "labelled")
    }
    value = open_values(config.measure, prompts, unscorable="leave out")
    asked = [showing(one.prompt, one.pictures) for one in prompts]
    found = {}
    for name, model in models.items():
        rows = answer_rows(
            run.artefacts / f"answers-{name}.jsonl",
            prompts,
            lambda model=model: open_generator(model),
            config.sampling(seed=config.seed),
            label=f"Answers: {name}",
            asked=asked,
        )
        values = value(prompts, rows) if value else [[]] * len(rows)
        found[name] = [{**row, "values": each} for row, each in zip(rows, values, strict=True)]
    return found


def duel(
    before: Sequence[float], after: Sequence[float], texts: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """How often the second of two texts has the higher value, a tie half, and the same under length control (words). Pairs
    without both values do not count; empty without any.
    """
    known = [
        (float(b > a) + 0.5 * (a == b), len(two.split()), len(one.split()))
        for a, b, (one, two) in zip(before, after, texts, strict=True)
        if a == a and b == b
    ]
    if not known:
        return {}
    wins, mine, others = zip(*known, strict=True)
    return {
        "win rate": statistics.fmean(wins),
        "win rate, length-controlled": length_controlled_win_rate(wins, mine, others),
        "compared": float(len(known)),
    }


def measured_pairs(config: Any, run: Run, rows: Sequence[Row]) -> dict[str, float]:
    """How often a refinement is better than its response by what `config.measure` names."""
    records = [one for one in pairs_of(rows)]
    value = open_values(config.measure, records, unscorable="leave out")
    if value is None or not rows:
        return {}
    asked = [
        {
            "id": record.id,
            "prompt": record.prompt,
            "responses": [row["response"], row["refinement"]],
            "finish_reasons": [row["finish_reasons"][name] for name in ("response", "refinement")],
        }
        for record, row in zip(records, rows, strict=True)
    ]
    values = value(records, asked)
    texts = [(row["response"], row["refinement"]) for row in rows]
    return duel([one[0] for one in values], [one[1] for one in values], texts)


def report(
    config: Any,
    run: Run,
    done: Mapping[str, Run],
    answers: Mapping[str, Sequence[Row]],
    notes: Sequence[str],
    *,
    published: str | None,
) -> None:
    """Write the report."""
    improved = Curated(run.artefacts / IMPROVEMENT) if config.improves else None
    rows = list(improved.rows()) if improved else []
    told: dict[str, float] = {"pairs": float(len(rows)), **tell_pairs(rows)} if rows else {}
    if rows:
        told["refinements finished"] = finished(rows, "refinement")
        told |= {f"refinement, {name}": value for name, value in measured_pairs(config, run, rows).items()}
    tests = _tests(answers)
    publish(
        run,
        config,
        title=f"{config.model} aligned by language feedback",
        facts={"Model": config.model, "Feedback": _critic(config), "Seed": str(config.seed)},
        verdict=_headline(rows, improved, tests, done, published),
        sections=[
            *_figures(told),
            *([funnel(improved.manifest, title="Self-improvement")] if improved else []),
            *_held_out(answers, tests),
            *_texts(rows),
            *_stages(run, done),
        ],
        notes=notes,
        limitations=[
            "Nothing checks that a refinement is better than its response: the pair is learnt as it is.",
            "A critique may give the whole answer away: its overlap with the refinement says how much of it.",
            *(["Held-out answers were not measured: name a --measure."] if answers and not config.measure else []),
        ],
        then=[
            *([doc.Command(f"coalign chat {run.path}", "talk to the model")] if published else []),
            *([doc.Command(f"coalign run dpo --data {run.path}", "learn from the same pairs again")] if rows else []),
        ],
        figures=told | {name: one.after.value for name, one in tests.items()},
        trained_on=f"{len(rows)} pairs of a refinement and the response before it." if published and rows
        else "Records that the report names." if published else None,
    )  # fmt: skip


def _critic(config: Any) -> str:
    if not config.improves:
        return "pairs of another run" if config.pairs else "none"
    return "learnt here" if config.data else config.critic or config.critic_endpoint or "the model itself"


def _tests(answers: Mapping[str, Sequence[Row]]) -> dict[str, doc.ComparisonRow]:
    """Model to its values against those of the start."""
    found = {}
    for name, rows in answers.items():
        both = [
            (one["values"][0], two["values"][0])
            for one, two in zip(answers[START], rows, strict=True)
            if one["values"] and one["values"][0] == one["values"][0] and two["values"][0] == two["values"][0]
        ]
        if name != START and both:
            before, after = ([one[side] for one in both] for side in (0, 1))
            found[name] = paired(name, before, after, unit="number")
    return found


def _held_out(
    answers: Mapping[str, Sequence[Row]], tests: Mapping[str, doc.ComparisonRow]
) -> list[doc.AnySection]:
    if not answers:
        return []
    names = ("win rate", "win rate, length-controlled")
    lines = []
    for name, rows in answers.items():
        words = statistics.fmean(len(row["responses"][0].split()) for row in rows)
        told: dict[str, float] = {}
        if name in tests:
            sides = [[row["values"][0] for row in one] for one in (answers[START], rows)]
            texts = [
                (one["responses"][0], two["responses"][0])
                for one, two in zip(answers[START], rows, strict=True)
            ]
            told = duel(*sides, texts)
        lines.append([name, len(rows), words, *(told.get(one) for one in names)])
    table = doc.TableSection(
        "Held-out answers",
        note="Win rates are against the start, ties half; under length control as between answers of equal length.",
        columns=["Model", "Prompts", "Mean words", "Win rate", "Length-controlled"],
        rows=lines,
        units={"Win rate": "percent", "Length-controlled": "percent"},
    )
    compared = [doc.Comparison("What was measured", rows=list(tests.values()))] if tests else []
    return [table, *compared]


def _figures(told: Mapping[str, float]) -> list[doc.AnySection]:
    if not told:
        return []
    shares = ("overlap", "finished", "win rate")
    lines = [
        [name.capitalize(), f"{100 * value:.1f} %" if any(one in name for one in shares) else f"{value:,.4g}"]
        for name, value in told.items()
    ]
    return [doc.TableSection("Pairs", columns=["Figure", "Value"], rows=lines)]


def _texts(rows: Sequence[Row]) -> list[doc.AnySection]:
    if not rows:
        return []
    shown = [
        doc.Sample(
            "\n\n".join(one["content"] for one in row["prompt"]),
            [doc.Output(row[name]) for name in ("response", "critique", "refinement")],
        )
        for row in rows[:SHOWN]
    ]
    columns = ["Response", "Critique", "Refinement"]
    return [
        doc.Samples("Responses, critiques and refinements", columns=columns, rows=shown, better="neither")
    ]


def _stages(run: Run, done: Mapping[str, Run]) -> list[doc.AnySection]:
    if not done:
        return []
    lines = [[name, str(one.status()["method"]), str(one.status().get("headline", "")), str(one.path)] for name, one in done.items()]  # fmt: skip
    histories = {
        name: [one for one in stage.events("train") if "loss" in one] for name, stage in done.items()
    }
    return [
        doc.TableSection("Stages", columns=["Stage", "Method", "Result", "Folder"], rows=lines),
        *curves(_CHARTS, histories),
    ]


def _headline(
    rows: Sequence[Row],
    improved: Curated | None,
    tests: Mapping[str, doc.ComparisonRow],
    done: Mapping[str, Run],
    published: str | None,
) -> doc.Headline:
    parts, figures = [], []
    if improved is not None:
        asked = improved.manifest["steps"][0]["in"]
        parts.append(f"{len(rows):,} pairs came of {asked:,} prompts.")
        figures.append(
            doc.Figure("Pairs", len(rows), unit="integer", note=f"of {asked:,} prompts", better="neither")
        )
    if done:
        parts.append(f"Trained: {', '.join(done)}.")
    outcome: doc.Outcome = "neutral"
    row = tests.get(published or "")
    if row is not None:
        outcome = outcome_of(row.difference, n=row.n)
        parts.append(
            f"On held-out prompts {published} is at {row.after.value:.3g}, the start at {row.before.value:.3g}."
        )
    return doc.Headline(outcome, " ".join(parts), figures)
