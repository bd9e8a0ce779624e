"""Files, pages and report of aligned recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, timings
from coalign.report.html import write_report
from coalign.report.model import (
    Chart,
    Command,
    Comparison,
    ComparisonRow,
    Curves,
    Distribution,
    Estimate,
    Figure,
    Headline,
    KeyValues,
    Report,
    Series,
    Stage,
    TableSection,
    Timings,
    Values,
)
from coalign.speech.audio.latency import rates
from coalign.speech.audio.recordings import Recording, Usable
from coalign.speech.ctc.vocabulary import outside_message
from coalign.speech.segmentation.outputs import write_alignment
from coalign.speech.segmentation.page import LOWEST_SHOWN, write_page


def write_outputs(config: Any, run: Run, round: Round, recordings: Sequence[Recording]) -> None:
    """`alignments/ID.*` in every format with the utterances that were kept, and a page with all of them."""
    folder = run.path / "alignments"
    rows = {row["id"]: row for row in round.read("generate")}
    for recording in recordings:
        row = rows[recording.id]
        marked = [{**one, "kept": one["score"] >= config.min_score} for one in row["utterances"]]
        name = recording.id.replace("/", "_")
        kept = [
            {"id": f"{recording.id}-{index}", "audio": row["audio"], **one}
            for index, one in enumerate(marked)
            if one["kept"]
        ]
        write_alignment(kept, recording.seconds, folder / name, config.formats)
        if config.page_sound != "none":
            write_page(
                folder / f"{name}.html",
                title=recording.id,
                audio=recording.audio,
                utterances=marked,
                unaligned=row["unaligned"],
                sound=config.page_sound,
            )


def write_alignment_report(config: Any, run: Run, rounds: Sequence[Round], found: Usable) -> None:
    """`report.html` of the run."""
    rows = rounds[-1].read("generate")
    utterances = [one for row in rows for one in row["utterances"]]
    kept = [one for one in utterances if one["score"] >= config.min_score]
    unaligned = [(row["id"], one) for row in rows for one in row["unaligned"]]
    seconds = sum(one["end"] - one["start"] for one in kept)
    total = sum(row["seconds"] for row in rows)
    outside = sum((Counter(row["outside"]) for row in rows), Counter())
    text = (
        f"{len(kept)} of {len(utterances)} aligned utterances are kept, {seconds / 60:.1f} minutes of "
        f"{total / 60:.1f}; {len(unaligned)} lines were not aligned."
    )
    errors = [rates(one.read("baseline"))[1].rate for one in rounds if one.read("baseline")]
    figures = [
        Figure(
            label="Kept utterances", value=len(kept), unit="integer", note=f"of {len(utterances)} aligned"
        ),
        Figure(label="Kept speech", value=seconds, unit="seconds", note=f"of {total / 60:.1f} minutes"),
        Figure(label="Lines not aligned", value=len(unaligned), unit="integer", better="lower"),
    ]
    if len(errors) > 1:
        figures.append(
            Figure(
                label="Character error rate",
                value=errors[-1],
                before=errors[0],
                unit="percent",
                better="lower",
                note=f"{len(rounds[0].read('baseline'))} clips",
            )
        )
    outcome = "neutral"
    if len(errors) > 1:
        outcome = "improved" if errors[-1] < errors[0] else "not improved"
    sections = [
        *_errors(rounds),
        _table(config, rows, found),
        Distribution(
            title="Confidence",
            note=f"Lowest mean log-probability over 30 frames; kept from {config.min_score:g} on, shown from "
            f"{LOWEST_SHOWN:g}.",
            samples=[
                Values(
                    name=f"round {one.number}",
                    values=[
                        max(utterance["score"], LOWEST_SHOWN)
                        for row in one.read("generate")
                        for utterance in row["utterances"]
                    ],
                )
                for one in rounds
            ],
            x_label="mean log-probability",
        ),
        TableSection(
            title="Not aligned",
            note="Every line of text is an utterance above or stands here."
            + (f" {outside_message(outside)}" if outside else ""),
            columns=["recording", "line", "text", "why"],
            rows=[[name, one["row"] + 1, one["text"], one["reason"]] for name, one in unaligned],
        ),
        *_curves(rounds),
        Timings(
            title="Time and memory",
            stages=[
                Stage(
                    name=f"{row['stage']}, round {row['round']}",
                    seconds=row["seconds"],
                    peak_bytes=int(row["peak_mb"] * 2**20),
                )
                for row in timings(rounds, STAGES)
            ],
        ),
        KeyValues(title="Configuration", items=options.to_dict(config)),
        KeyValues(title="Environment", items=run.environment()),
    ]
    report = Report(
        title=f"{len(rows)} recording{'s' * (len(rows) != 1)} aligned with text",
        method="pseudo-forced-alignment",
        arxiv=get("pseudo-forced-alignment").arxiv,
        facts={"Model": config.model, "Data": str(config.data), "Rounds": str(config.rounds)},
        verdict=Headline(outcome=outcome, text=text, figures=figures),
        sections=sections,
        next_commands=[
            Command(
                command=f"ls {run.path / 'alignments'}",
                purpose="subtitles, TextGrids, labels, and a page to listen",
            )
        ],
    )
    write_report(report, run.report)
    run.set_status(headline=text)


def _table(config: Any, rows: Sequence[dict[str, Any]], found: Usable) -> TableSection:
    reasons = "; ".join(f"{count} x {reason}" for reason, count in found.left_out.items())
    conversions = Counter(one for row in rows for one in row["conversions"])
    notes = [
        f"Recordings left out: {reasons}." if reasons else "",
        "Converted: " + "; ".join(f"{count} x {what}" for what, count in conversions.items()) + "."
        if conversions
        else "",
    ]
    return TableSection(
        title="Recordings",
        note=" ".join(filter(None, notes)),
        columns=["recording", "duration", "windows", "aligned", "kept", "not aligned"],
        rows=[
            [
                row["id"],
                row["seconds"],
                row["windows"],
                len(row["utterances"]),
                sum(one["score"] >= config.min_score for one in row["utterances"]),
                len(row["unaligned"]),
            ]
            for row in rows
        ],
        units={"duration": "seconds"},
    )


def _errors(rounds: Sequence[Round]) -> list[Comparison]:
    measured = [one.read("baseline") for one in rounds if one.read("baseline")]
    if len(measured) < 2:
        return []
    before, after = rates(measured[0]), rates(measured[-1])
    return [
        Comparison(
            title="The recogniser before and after",
            note="On the clips of --eval-data, greedy decoding.",
            scale="row",
            rows=[
                ComparisonRow(
                    name=name,
                    before=Estimate(before[place].rate),
                    after=Estimate(after[place].rate),
                    difference=Estimate(after[place].rate - before[place].rate),
                    n=len(measured[0]),
                    better="lower",
                )
                for place, name in enumerate(("Word error rate", "Character error rate"))
            ],
        )
    ]


def _curves(rounds: Sequence[Round]) -> list[Curves]:
    series = []
    for one in rounds:
        history = [row for row in one.read("history") if "loss" in row]
        if history:
            steps, losses = [row["step"] for row in history], [row["loss"] for row in history]
            series.append(Series(name=f"round {one.number}", steps=steps, values=losses))
    return [Curves(title="Training", charts=[Chart(title="CTC loss", series=series)])] if series else []
