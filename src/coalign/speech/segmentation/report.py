"""Files, pages and report of aligned recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, timings
from coalign.models.files.places import full_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, figure_of, judged
from coalign.speech.audio.latency import error_rows
from coalign.speech.audio.recordings import Recording, Usable, reasons_text
from coalign.speech.ctc.vocabulary import outside_message
from coalign.speech.segmentation.outputs import write_alignment
from coalign.speech.segmentation.page import LOWEST_SHOWN, write_page

MEASURED = "On the clips of --eval-data, greedy decoding. Intervals are over the mean of clips."


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
        write_alignment(kept, recording.end, folder / name, config.formats)
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
    errors = _errors(rounds)
    figures = [
        doc.Figure("Kept utterances", len(kept), unit="integer", note=f"of {len(utterances)} aligned"),
        doc.Figure("Kept speech", seconds, unit="seconds", note=f"of {total / 60:.1f} minutes"),
        doc.Figure("Lines not aligned", len(unaligned), unit="integer", better="lower"),
    ]
    characters = errors[-1] if errors else None
    if characters:
        figures.append(figure_of(characters, f"{characters.n} clips"))
    publish(
        run,
        config,
        title=f"{len(rows)} recording{'s' * (len(rows) != 1)} aligned with text",
        facts={"Model": full_name(config.model), "Data": str(config.data), "Rounds": str(config.rounds)},
        verdict=judged(
            characters.difference if characters else None,
            text,
            figures,
            n=characters.n if characters else None,
            better="lower",
        ),
        sections=[
            *(
                [doc.Comparison("The recogniser before and after", note=MEASURED, scale="row", rows=errors)]
                if errors
                else []
            ),
            _table(config, rows, found),
            doc.Distribution(
                "Confidence",
                note=f"Lowest mean log-probability over 30 frames; kept from {config.min_score:g} on, shown from "
                f"{LOWEST_SHOWN:g}.",
                samples=[
                    doc.Values(
                        f"round {one.number}",
                        [
                            max(utterance["score"], LOWEST_SHOWN)
                            for row in one.read("generate")
                            for utterance in row["utterances"]
                        ],
                    )
                    for one in rounds
                ],
                x_label="mean log-probability",
            ),
            doc.TableSection(
                "Not aligned",
                note="Every line of text is an utterance above or stands here."
                + (f" {outside_message(outside)}" if outside else ""),
                columns=["recording", "line", "text", "why"],
                rows=[[name, one["row"] + 1, one["text"], one["reason"]] for name, one in unaligned],
            ),
            *curves([("loss", "CTC loss")], {f"round {one.number}": one.read("history") for one in rounds}),
        ],
        rounds=timings(rounds, STAGES),
        then=[
            doc.Command(f"ls {run.path / 'alignments'}", "subtitles, TextGrids, labels, and a page to listen")
        ],
    )


def _table(config: Any, rows: Sequence[dict[str, Any]], found: Usable) -> doc.TableSection:
    reasons = reasons_text(found.left_out)
    conversions = Counter(one for row in rows for one in row["conversions"])
    notes = [
        f"Recordings left out: {reasons}." if reasons else "",
        f"Converted: {reasons_text(conversions)}." if conversions else "",
    ]
    return doc.TableSection(
        "Recordings",
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


def _errors(rounds: Sequence[Round]) -> list[doc.ComparisonRow]:
    """Word and character errors of the first and the last measured round, where two are."""
    measured = [one.read("baseline") for one in rounds if one.read("baseline")]
    return error_rows(measured[0], measured[-1]) if len(measured) > 1 else []
