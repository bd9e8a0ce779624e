"""The report of rounds of criticism: what the critic found, held-out answers before and after, curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core.runs import Run
from coalign.loops.labelling import Labelling
from coalign.loops.rounds import STAGES, Round, timings
from coalign.measures.statistics import paired_bootstrap
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, estimate, judged

Rows = Sequence[Mapping[str, Any]]
CHARTS = (
    ("loss", "Loss"),
    ("inappropriate", "Share of tokens found inappropriate"),
    ("contrast", "Contrast of plain and judged prompt"),
    ("nll/token", "Negative log-likelihood, nats a token"),
)


def write_judged_report(run: Run, loop: Labelling[Any], rounds: Sequence[Round]) -> doc.Report:
    """Write `report.html`, the model card and the headline of `status.json`."""
    config = loop.config
    before, after = loop.before(run), loop.after(rounds[-1])
    return publish(
        run,
        config,
        title=f"{len(rounds)} rounds of criticism on {short_name(config.model)}",
        verdict=_headline(before, after, rounds),
        facts={
            "Model": full_name(config.model),
            "Prompts": f"{len(loop.training)} to train, {len(loop.held_out)} held out",
            "Critic": config.critic or "constraints, checked by programs",
            "Seed": str(config.seed),
        },
        sections=[
            _rounds_table(loop, rounds),
            *([_samples(before, after)] if before else []),
            *curves(CHARTS, {f"round {one.number}": one.read("history") for one in rounds}),
        ],
        rounds=timings(rounds, STAGES),
        limitations=["Answers are fine where the critic says so: read the samples."],
        then=[doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side")],
        figures={"fine_before": _fine(before), "fine_after": _fine(after)},
        trained_on=f"{len(loop.training)} prompts ({config.prompts}), answered by the model itself and criticised.",
    )


def _fine(rows: Rows) -> float | None:
    known = [bool(row["label"]) for row in rows if row["label"] is not None]
    return fmean(known) if known else None


def _headline(before: Rows, after: Rows, rounds: Sequence[Round]) -> doc.Headline:
    pairs = [
        (float(one["label"]), float(other["label"]))
        for one, other in zip(before, after, strict=True)
        if one["label"] is not None and other["label"] is not None
    ]
    if not pairs:
        count = sum(_counts(one)["criticised"] for one in rounds)
        text = f"{count} criticised answers were learned from. Nothing was held out, so nothing is claimed."
        return doc.Headline("neutral", text)
    old, new = ([one[side] for one in pairs] for side in (0, 1))
    change = paired_bootstrap(old, new)
    fault_free = doc.Figure(
        "Held-out answers without fault",
        fmean(new),
        before=fmean(old),
        unit="percent",
        difference=estimate(change),
        note=f"{len(pairs)} prompts, greedy answers",
    )
    return judged(
        change,
        f"The critic finds no fault in {100 * fmean(new):.1f} % of {len(pairs)} held-out answers, "
        f"{100 * fmean(old):.1f} % before.",
        [fault_free],
        n=len(pairs),
    )


def _counts(round: Round) -> dict[str, int]:
    return json.loads((round.folder / "counts.json").read_text(encoding="utf-8"))


def _rounds_table(loop: Labelling[Any], rounds: Sequence[Round]) -> doc.TableSection:
    table: list[dict[str, doc.Cell]] = []
    for one in rounds:
        counts = _counts(one)
        trained = json.loads((one.folder / "model.json").read_text(encoding="utf-8"))["trained"]
        found = [row["inappropriate"] for row in one.read("history") if "inappropriate" in row]
        table.append(
            {
                "round": one.number,
                "judged": counts["judged"],
                "criticised": counts["criticised"],
                "trained on": trained,
                "without words": counts["without_words"],
                "without verdict or text": counts["without_verdict_or_text"],
                "inappropriate tokens": fmean(found) if found else None,
                "held-out answers without fault": _fine(loop.after(one)),
            }
        )
    return doc.TableSection(
        "Rounds",
        note="Judged answers, those with a fault, and those trained on (all with a fault and some without). Left out: "
        "faulty answers of which nothing is said, and answers that are empty or have no verdict.",
        columns=[*table[0]],
        rows=[[*row.values()] for row in table],
        units={"inappropriate tokens": "percent", "held-out answers without fault": "percent"},
    )


def _samples(before: Rows, after: Rows) -> doc.Samples:
    return doc.Samples(
        "Held-out prompts side by side",
        note="Greedy answers and what the critic says of them.",
        columns=["Before", "After"],
        rows=[
            doc.Sample(one["prompt"][-1]["content"], [_output(one), _output(other)])
            for one, other in zip(before, after, strict=True)
        ],
        score_name="without fault",
    )


def _output(row: Mapping[str, Any]) -> doc.Output:
    said = f"\n\nCritic: {row['judgment']}" if row["judgment"] else ""
    fine = row["label"]
    return doc.Output(row["responses"][0] + said, None if fine is None else float(fine))
