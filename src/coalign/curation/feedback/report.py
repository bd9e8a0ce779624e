"""The report of preferences that were mined from logs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from coalign.core.runs import Run
from coalign.curation.feedback.steps import category_of
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel, pipeline_sections
from coalign.loops.rounds import STAGES, Round, timings
from coalign.loops.rows import Row
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import counted, curves, estimate, judged


def write_feedback_report(run: Run, config: Any, last: Round, pairs: Curated, logs: Curated) -> None:
    """Write `report.html`, the model card and the headline of `status.json`."""
    training, held_out = last.read("training"), last.read("held-out")
    path = run.artefacts / "results.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    read = json.loads(last.path("logs", ".json").read_text(encoding="utf-8"))
    text = f"{len(training)} pairs to learn from out of {logs.manifest['kept']} usable conversations."
    view = found.get("with the list", {})
    change = (
        {end: view[end] - 0.5 for end in ("mean", "low", "high") if view.get(end) is not None}
        if view
        else None
    )
    if view.get("mean") is not None:
        text += f" With the lists in view the judge prefers the trained model's reply in {100 * view['mean']:.1f} % of {view['requests']} held-out requests, ties half."
    else:
        text += " Nothing was held out, so nothing is claimed of the model."
    publish(
        run,
        config,
        title=f"{short_name(config.model)} aligned by what its users said",
        verdict=judged(
            change if change and len(change) == 3 else None,
            text,
            [
                doc.Figure("Pairs", len(training), unit="integer", better="neither"),
                *(doc.Figure(f"Win rate {name}", one.get("mean"), unit="percent") for name, one in found.items()),
            ],
            n=view.get("requests"),
        ),
        facts={"Model": full_name(config.model), "Version": config.version, "Judge": str(config.judge_model), "Seed": str(config.seed)},
        sections=[
            *([_win_rates(found)] if found else []),
            funnel(logs.manifest, title="Conversations"),
            *pipeline_sections(pairs, shown, title="From feedback to pairs"),
            counted(
                "Signs of dissatisfaction", ("sign", "pairs"),
                dict(Counter(category_of(row["made_of"]) for row in training).most_common()),
                note="The first one that was named, of pairs to learn from.",
            ),
            counted("Languages", ("language", "conversations"), read["languages"], note="As the logs say."),
            *([counted("Masked personal data", ("kind", "masked"), read["masked"])] if config.personal_data == "mask" else []),
            *curves((("loss", "Loss"), ("rewards/accuracies", "Pairs in order"), ("grad_norm", "Gradient norm")), {"pairs": last.read("history")}),
        ],
        rounds=timings([last], STAGES),
        limitations=[
            "Signals, lists and verdicts are a judge's: the paper finds kappa 0.69 and 0.50 with people for GPT-4o; a smaller judge has less.",
            "Users who say nothing are not in these pairs, and corrections outnumber thanks.",
            f"{len(held_out)} requests of other conversations were held out and judged by the same judge that made the lists.",
            "Masking finds what has the form of personal data; names and addresses stay." if config.personal_data == "mask" else "Personal data was not masked.",
        ],
        then=[
            doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side"),
            doc.Command(f"coalign run dpo --data {run.path}", "train another model on the pairs"),
        ],
        figures={"pairs": len(training), **{name.replace(" ", "_"): one.get("mean") for name, one in found.items()}},
        trained_on=f"{len(training)} preference pairs mined from logs of conversations ({config.data}): better replies of "
        f"{config.expert if config.version == 'expert' else 'the model itself, shown what the user wants'}.",
    )  # fmt: skip


def _win_rates(found: Mapping[str, Any]) -> doc.TableSection:
    rows = []
    for name, one in found.items():
        rate = estimate(one) if one.get("mean") is not None else doc.Estimate(None)
        counts = [one["outcomes"][each] for each in ("win", "tie", "lose")]
        rows.append(
            [
                name,
                rate.value,
                rate.low,
                rate.high,
                *counts,
                one["unread"],
                one["consistency"],
                one["first shown"],
            ]
        )
    shares = ("win rate", "low", "high", "both orders agree", "first shown wins")
    columns = (
        "judged",
        "win rate",
        "low",
        "high",
        "win",
        "tie",
        "lose",
        "unread",
        "both orders agree",
        "first shown wins",
    )
    return doc.TableSection(
        "Trained model against start model",
        note="Held-out requests, both orders; ties count half.",
        columns=columns,
        rows=rows,
        units={
            **dict.fromkeys(shares, "percent"),
            **dict.fromkeys(("win", "tie", "lose", "unread"), "integer"),
        },
    )


def shown(row: Row) -> str:
    """A record of any step as text."""
    if "chosen" in row and "rejected" in row:
        beside = row.get("made_of", row)
        points = "\n".join(f"- {one}" for one in beside.get("checklist", ()))
        return f"{row['prompt'][-1]['content']}\n\nThe user then: {beside['feedback']}\n{points}\n\n+ {row['chosen']}\n\n- {row['rejected']}"
    if "feedback" in row:
        return f"{row['prompt'][-1]['content']}\n\n→ {row['judged']}\n\nThe user then: {row['feedback']} ({row['polarity']})"
    return "\n\n".join(f"[{one['role']}] {one['content']}" for one in row.get("turns", ())[:6])
