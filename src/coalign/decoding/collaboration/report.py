"""The report of answers that two models wrote: how much was nudged and where, who wrote what, why answers ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.decoding.collaboration.guided import NUDGING, shares_by_place
from coalign.report.html import write_report
from coalign.report.model import (
    Chart,
    Command,
    Curves,
    Distribution,
    Figure,
    Headline,
    KeyValues,
    Mark,
    Output,
    Report,
    Sample,
    Samples,
    Series,
    TableSection,
    Text,
    Values,
)

PLACES = 20
NUDGED, CLOSING = "aligned model", "aligned model, end of the answer"
STOPS = {
    "nudging_model_stop": "the aligned model ended it",
    "length": "length limit (max_new_tokens)",
    "round": "most rounds (max_rounds)",
    "repeated_nudging_words": "the same nudge several rounds in a row",
    "stop_string": "a stop text",
    "context_full": "a model's context is full",
}
ENDS = {
    "uncertain": "next token uncertain",
    "no_turn": "uncertain after every word, or nothing to say",
    "base_stop": "the base model would end the answer",
    "repeated_chunk": "guard: chunk already in its turn",
    "repeated_words": "guard: words already in the answer",
    "length": "length limit",
    "context_full": "context full",
}


def write_guided_report(run: Run, config: Any, rows: Sequence[Mapping[str, Any]]) -> Report:
    """Write `report.html` and the headline figures of `status.json`.

    Args:
        rows: as `artefacts/answers.jsonl` holds them.
    """
    entry = get(run.status()["method"])
    tokens, nudged = (sum(row[name] for row in rows) for name in ("tokens", "nudge_tokens"))
    words = fmean(row["nudge_ratio"] for row in rows) if rows else None
    share = nudged / tokens if tokens else None
    ended = Counter(row["stop_reason"] for row in rows)
    mixed = config.combine != "nudging"
    title = f"{config.combine} of {config.nudging_model} and {config.endpoint_model or config.model}"
    report = Report(
        title=title[:1].upper() + title[1:],
        method=entry.slug,
        arxiv=entry.arxiv,
        verdict=Headline(
            outcome="neutral",
            text=_summary(len(rows), share, ended, mixed=mixed),
            figures=[
                Figure(label="Nudged tokens", value=share, unit="percent", better="neither"),
                Figure(
                    label="Nudged words, mean over answers", value=words, unit="percent", better="neither"
                ),
                Figure(
                    label="Ended by the aligned model",
                    value=ended["nudging_model_stop"] / len(rows) if rows else None,
                    unit="percent",
                    better="neither",
                ),
                Figure(
                    label="Mean length in tokens",
                    value=tokens / len(rows) if rows else None,
                    better="neither",
                ),
            ][2 if mixed else 0 :],
        ),
        facts={
            "Base model": config.endpoint_model or config.model,
            "Aligned model": config.nudging_model,
            "Gamma": f"{config.gamma:g}",
            "Prompts": str(len(rows)),
        },
        sections=[
            *([] if mixed else _where(rows)),
            _answers(rows, mixed=mixed),
            TableSection(
                title="Why answers ended",
                columns=["reason", "answers"],
                rows=[[STOPS[reason], n] for reason, n in ended.most_common()],
                units={"answers": "integer"},
            ),
            *([] if mixed else _turns(rows)),
            Text(
                title="Limitations",
                paragraphs=[
                    "Who wrote a word says nothing about its quality: compare the answers with those of each model alone.",
                    "Certainty is the largest next-token probability at temperature 1. A base model can be sure and wrong.",
                ],
            ),
            KeyValues(title="Configuration", items=options.to_dict(config)),
            KeyValues(title="Environment", items=run.environment()),
        ],
        next_commands=[
            Command(
                command=f"coalign run {entry.slug} --gamma 0.2 ...",
                purpose="the same with fewer nudges (a larger gamma gives more)",
            )
        ]
        if not mixed
        else [],
    )
    write_report(report, run.report)
    run.set_status(
        headline=f"{len(rows)} answers"
        + ("" if mixed or share is None else f", {100 * share:.1f} % of tokens nudged"),
        figures={"nudged_tokens": share, "nudged_words": words, "answers": len(rows)},
    )
    return report


def _summary(n: int, share: float | None, ended: Counter[str], *, mixed: bool) -> str:
    parts = [f"{n} answers."]
    if not mixed and share is not None:
        parts.append(
            f"The aligned model wrote {100 * share:.1f} % of the tokens before the ends of the answers."
        )
    cut = n - ended["nudging_model_stop"] - ended["stop_string"]
    if cut:
        parts.append(f"{cut} did not end by themselves: see why below.")
    return " ".join(parts)


def _where(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The curve over the answer, and how much was nudged answer by answer."""
    shares = shares_by_place(((len(row["answer"]), _spans(row)) for row in rows), PLACES)
    steps = [100 * (place + 0.5) / PLACES for place in range(PLACES)]
    return [
        Curves(
            title="Where the aligned model spoke",
            note="Share of the text that it wrote, by place in the answer; the ends of answers included.",
            charts=[
                Chart(
                    title="Share of the aligned model",
                    series=[Series(name="share", steps=steps, values=shares)],
                    x_label="place in the answer, %",
                )
            ],
        ),
        Distribution(
            title="Nudged words by answer",
            note="The closing words of the aligned model do not count, as in the paper's statistic.",
            samples=[Values(name="share of nudged words", values=[row["nudge_ratio"] for row in rows])],
            x_label="share of words",
        ),
    ]


def _turns(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    ends = Counter(end for row in rows for end in row["ends"] if end)
    return [
        TableSection(
            title="Why turns of the base model ended",
            note="Guards stop a base model that repeats itself.",
            columns=["reason", "turns"],
            rows=[[ENDS[reason], n] for reason, n in ends.most_common()],
            units={"turns": "integer"},
        )
    ]


def _answers(rows: Sequence[Mapping[str, Any]], *, mixed: bool) -> Samples:
    return Samples(
        title="Answers",
        note="" if mixed else "Marked: words of the aligned model. The rest is the base model's.",
        columns=["Answer"],
        rows=[
            Sample(
                prompt="\n".join(one["content"] for one in row["prompt"]),
                outputs=[
                    Output(
                        text=row["answer"],
                        score=None if mixed else row["nudge_ratio"],
                        marks=[] if mixed else marks_of(row),
                    )
                ],
                tags=[STOPS[row["stop_reason"]]],
            )
            for row in rows
        ],
        score_name="nudged words",
        better="neither",
        marks={} if mixed else {NUDGED: "s1", CLOSING: "s2"},
    )


def marks_of(row: Mapping[str, Any]) -> list[Mark]:
    """The stretches of an answer that the aligned model wrote."""
    spans = _spans(row)
    closing = row["stop_reason"] == "nudging_model_stop"
    return [
        Mark(
            start=start,
            end=end,
            name=CLOSING if closing and place == len(spans) - 1 else NUDGED,
        )
        for place, (start, end, side) in enumerate(spans)
        if side == NUDGING
    ]


def _spans(row: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    return [(start, end, side) for start, end, side in row["spans"]]
