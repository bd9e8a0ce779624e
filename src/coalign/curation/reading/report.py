"""The report of a reader and a reranker: what passages do, who answers how well from which, and every test answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.curation.reading.knowledge import effects
from coalign.data.questions import Question
from coalign.loops.rounds import STAGES, Round, timings
from coalign.measures.statistics import paired_bootstrap
from coalign.models.files.places import short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import counted, curves, figure_of, judged, paired

NAMES = {
    "without": "Without passages",
    "retriever": "The retriever's first",
    "reranker": "The reranker's first",
    "tuned": "Trained reader, the reranker's first",
}


def write_reading_report(
    run: Run, config: Any, round: Round, test: Sequence[Question], results: Mapping[str, Any]
) -> None:
    """Write `report.html` and the headline of `status.json`."""
    answers, hits = results["answers"], results["hits"]
    last = "tuned" if "tuned" in answers else "reranker"
    rows = [
        paired(
            f"Answers right: {NAMES[name].lower()}",
            answers["retriever"],
            answers[name],
            emphasis=name == last,
        )
        for name in answers
        if name != "retriever"
    ]
    rows += [
        paired(f"hit@{k}: an answer is in the first {k}", hits["retriever"][k], hits["reranker"][k])
        for k in hits["retriever"]
    ]
    share = {name: sum(one) / len(one) for name, one in answers.items()}
    labels, rewrites = round.read("build"), round.read("propose")
    history = json.loads((run.artefacts / "reranker.json").read_text(encoding="utf-8"))["history"]
    told = [*config.losses, *(f"weight/{one}" for one in config.losses)]
    publish(
        run,
        config,
        title=f"Passages that help {short_name(config.model)}",
        verdict=judged(
            paired_bootstrap(answers["retriever"], answers[last]),
            f"With its first {config.top_k} passages the reader is right in {share['retriever']:.1%} of {len(test)} test questions, with the "
            f"reranker's in {share['reranker']:.1%}" + (f", after its training in {share['tuned']:.1%}." if last == "tuned" else "."),
            [figure_of(one) for one in rows[:4]],
            n=len(test),
        ),
        sections=[
            doc.Comparison("Test questions", note="Against the first passages of the retriever, paired by question.", rows=rows,
                           names=("Retriever", "Compared")),
            counted("What passages do to the reader", ("effect", "passages"), effects(labels),
                    note="Aligned: it is right only with the passage. Unaligned: only without."),
            *curves([(key, key) for key in told], {"training": history}, title="The reranker's training"),
            _answers(round, test, results),
        ],
        facts={"Reader": str(config.model), "Reranker": config.reranker, "Test questions": str(len(test))},
        notes=[
            *_rewritten(rewrites),
            *(event["note"] for event in run.events("data")),
        ],
        limitations=[
            "Labels belong to this reader, its prompt and greedy decoding: another reader needs its own.",
            "An answer is right where it holds a gold answer; a passage is a hit where it does, whatever else it says.",
        ],
        rounds=timings([round], STAGES),
        then=[doc.Command(f"coalign chat {run.path}", "talk to the trained reader")] if "tuned" in answers else [],
        figures={name: float(f"{one:.4f}") for name, one in share.items()},
    )  # fmt: skip


def _rewritten(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    queries, dropped = sum(len(row["queries"]) for row in rows), sum(row["contradicted"] for row in rows)
    return [f"{queries} rewritten queries; those of {dropped} questions were dropped as contradictions."]


def _answers(round: Round, test: Sequence[Question], results: Mapping[str, Any]) -> doc.Samples:
    names = list(results["answers"])
    texts = {name: {row["id"]: row["responses"][0] for row in round.read(f"test-{name}")} for name in names}
    rows = []
    for place, one in enumerate(test):
        right = {name: results["answers"][name][place] for name in names}
        change = right[names[-1]] - right["retriever"]
        rows.append(
            doc.Sample(
                f"{one.question}\nGold: {', '.join(one.answers[:3])}",
                [doc.Output(texts[name][one.id], right[name]) for name in names],
                tags=["mended" if change > 0 else "broken" if change < 0 else "as before"],
            )
        )
    return doc.Samples("Answers", columns=[NAMES[name] for name in names], rows=rows, score_name="right")
