"""The report of answers that two models wrote: how much was nudged and where, who wrote what, why answers ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core.runs import Run
from coalign.decoding.collaboration.guided import NUDGING, shares_by_place
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import counted

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


def write_guided_report(run: Run, config: Any, rows: Sequence[Mapping[str, Any]]) -> doc.Report:
    """Write `report.html` and the headline figures of `status.json`.

    Args:
        rows: as `artefacts/answers.jsonl` holds them.
    """
    tokens, nudged = (sum(row["tokens"][0] for row in rows), sum(row["nudge_tokens"] for row in rows))
    words = fmean(row["nudge_ratio"] for row in rows) if rows else None
    share = nudged / tokens if tokens else None
    ended = Counter(row["stop_reason"] for row in rows)
    turn_ends = Counter(end for row in rows for end in row["ends"] if end)
    by_itself = ended["nudging_model_stop"] / len(rows) if rows else None
    length = tokens / len(rows) if rows else None
    mixed = config.combine != "nudging"
    base = config.endpoint_model or config.model
    title = f"{config.combine} of {config.nudging_model} and {base}"
    figures = [
        doc.Figure("Nudged tokens", share, unit="percent", better="neither"),
        doc.Figure("Nudged words, mean over answers", words, unit="percent", better="neither"),
        doc.Figure("Ended by the aligned model", by_itself, unit="percent", better="neither"),
        doc.Figure("Mean length in tokens", length, better="neither"),
    ]
    turns = counted(
        "Why turns of the base model ended",
        ("reason", "turns"),
        {ENDS[reason]: n for reason, n in turn_ends.most_common()},
        note="Guards stop a base model that repeats itself.",
    )
    fewer = f"coalign run {run.status()['method']} --gamma 0.2 ..."
    return publish(
        run,
        config,
        title=title[:1].upper() + title[1:],
        verdict=doc.Headline(
            "neutral", _summary(len(rows), share, ended, mixed=mixed), figures[2:] if mixed else figures
        ),
        facts={
            "Base model": base,
            "Aligned model": config.nudging_model,
            "Gamma": f"{config.gamma:g}",
            "Prompts": str(len(rows)),
        },
        sections=[
            *([] if mixed else _where(rows)),
            _answers(rows, mixed=mixed),
            counted(
                "Why answers ended",
                ("reason", "answers"),
                {STOPS[reason]: n for reason, n in ended.most_common()},
            ),
            *([] if mixed else [turns]),
        ],
        limitations=[
            "Who wrote a word says nothing about its quality: compare the answers with those of each model alone.",
            "Certainty is the largest next-token probability at temperature 1. A base model can be sure and wrong.",
        ],
        then=[] if mixed else [doc.Command(fewer, "the same with fewer nudges (a larger gamma gives more)")],
        headline=f"{len(rows)} answers"
        + ("" if mixed or share is None else f", {100 * share:.1f} % of tokens nudged"),
        figures={"nudged_tokens": share, "nudged_words": words, "answers": len(rows)},
    )


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


def _where(rows: Sequence[Mapping[str, Any]]) -> list[doc.AnySection]:
    """The curve over the answer, and how much was nudged answer by answer."""
    shares = shares_by_place(((len(row["responses"][0]), _spans(row)) for row in rows), PLACES)
    steps = [100 * (place + 0.5) / PLACES for place in range(PLACES)]
    place = doc.Chart(
        "Share of the aligned model", [doc.Series("share", steps, shares)], x_label="place in the answer, %"
    )
    return [
        doc.Curves(
            "Where the aligned model spoke",
            note="Share of the text that it wrote, by place in the answer; the ends of answers included.",
            charts=[place],
        ),
        doc.Distribution(
            "Nudged words by answer",
            note="The closing words of the aligned model do not count, as in the paper's statistic.",
            samples=[doc.Values("share of nudged words", [row["nudge_ratio"] for row in rows])],
            x_label="share of words",
        ),
    ]


def _answers(rows: Sequence[Mapping[str, Any]], *, mixed: bool) -> doc.Samples:
    return doc.Samples(
        "Answers",
        note="" if mixed else "Marked: words of the aligned model. The rest is the base model's.",
        columns=["Answer"],
        rows=[
            doc.Sample(
                "\n".join(one["content"] for one in row["prompt"]),
                [doc.Output(row["responses"][0])]
                if mixed
                else [doc.Output(row["responses"][0], row["nudge_ratio"], marks=marks_of(row))],
                tags=[STOPS[row["stop_reason"]]],
            )
            for row in rows
        ],
        score_name="nudged words",
        better="neither",
        marks={} if mixed else {NUDGED: "s1", CLOSING: "s2"},
    )


def marks_of(row: Mapping[str, Any]) -> list[doc.Mark]:
    """The stretches of an answer that the aligned model wrote."""
    spans = _spans(row)
    closing = row["stop_reason"] == "nudging_model_stop"
    return [
        doc.Mark(start, end, CLOSING if closing and place == len(spans) - 1 else NUDGED)
        for place, (start, end, side) in enumerate(spans)
        if side == NUDGING
    ]


def _spans(row: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    return [(start, end, side) for start, end, side in row["spans"]]
