"""The page of scored claims: which sentence is not supported, and where in the source the others are."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.runs import Run
from coalign.evaluation.factuality.text_pairs import PairSet, TextPair
from coalign.measures.detection import best_threshold, bootstrap_of, roc_auc, spearman
from coalign.measures.statistics import bootstrap_mean
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, held_out

if TYPE_CHECKING:
    from coalign.evaluation.factuality.training import Trained

SHOWN = 2000
"""Most claims with their sources on the page; the rows file has all."""
SUPPORTED, DOUBTFUL, UNSUPPORTED, SOURCE = "supported", "doubtful", "not supported", "best support"
MARKS: dict[str, doc.Tone] = {SUPPORTED: "good", DOUBTFUL: "s1", UNSUPPORTED: "bad", SOURCE: "s0"}
DOUBT = 0.2
"""A supported sentence within this of the threshold is called doubtful."""

AGREEMENT = {"roc_auc": "Area under the ROC curve", "spearman": "Spearman's correlation"}
CHARTS = (
    ("loss", "Loss"),
    ("bin", "Two-way head"),
    ("tri", "Three-way head"),
    ("reg", "Regression head"),
    ("mlm", "Masked tokens"),
    ("accuracy/bin", "Accuracy, two-way"),
    ("accuracy/tri", "Accuracy, three-way"),
)

Row = Mapping[str, Any]


def summarise(rows: Sequence[Row], threshold: float) -> dict[str, Any]:
    """Figures over scored rows with 95 % intervals (bootstrap over claims).

    Where rows have labels of two values (of which the higher is positive) there is the area under the ROC curve and the
    threshold with the best balanced accuracy on these rows; where they have labels of more, Spearman's correlation.
    """
    return _figures(_Numbers.of(rows), threshold)


@dataclass
class _Numbers:
    """What is kept of rows, which may be read from disk once: numbers.

    Attributes:
        lowest: score of the weakest sentence of each claim.
        labels: NaN where there is none.
        truncated: pairs that were cut off, of each claim.
    """

    scores: array[float]
    sentences: array[float]
    lowest: array[float]
    labels: array[float]
    truncated: array[float]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> _Numbers:
        found = cls(*(array("d") for _ in fields(cls)))
        for row in rows:
            found.scores.append(row["score"])
            found.sentences.extend(one["score"] for one in row["sentences"])
            found.lowest.append(_lowest(row))
            found.labels.append(np.nan if row["label"] is None else float(row["label"]))
            found.truncated.append(row["truncated"])
        return found


def _figures(numbers: _Numbers, threshold: float) -> dict[str, Any]:
    sentences, truncated = np.array(numbers.sentences), np.array(numbers.truncated)
    result: dict[str, Any] = {
        "claims": len(numbers.scores),
        "sentences": len(sentences),
        "score": bootstrap_mean(numbers.scores).to_dict(),
        "threshold": threshold,
        "sentences_below": int((sentences < threshold).sum()),
        "claims_with_a_sentence_below": int((np.array(numbers.lowest) < threshold).sum()),
        "truncated_pairs": int(truncated.sum()),
        "claims_with_truncation": int((truncated > 0).sum()),
    }
    labels = np.array(numbers.labels)
    known = ~np.isnan(labels)
    if not known.any():
        return result
    labels, scores = labels[known], np.array(numbers.scores)[known]
    result["labelled"] = len(labels)
    values = np.unique(labels)
    if len(values) == 2:
        positive = labels == values[1]
        result["roc_auc"] = bootstrap_of(roc_auc, positive, scores).to_dict()
        best, accuracy = best_threshold(positive, scores)
        result["best_threshold"] = {"threshold": best, "balanced_accuracy": accuracy}
    elif len(values) > 2:
        result["spearman"] = bootstrap_of(spearman, labels, scores).to_dict()
    return result


def claim_report(
    rows: Sequence[Row], pairs: Sequence[TextPair], threshold: float
) -> tuple[doc.Headline, list[doc.AnySection]]:
    """The headline and the sections of the page."""
    numbers = _Numbers.of(rows)
    found = _figures(numbers, threshold)
    score, below, weak = found["score"], found["sentences_below"], found["claims_with_a_sentence_below"]
    figures = [
        doc.Figure("Mean score", score["mean"], note=_interval(score)),
        doc.Figure(
            f"Sentences below {threshold:g}",
            below,
            unit="integer",
            note=f"of {found['sentences']}",
            better="lower",
        ),
        doc.Figure(
            "Claims with such a sentence", weak, unit="integer", note=f"of {found['claims']}", better="lower"
        ),
    ]
    for key, name in AGREEMENT.items():
        if key in found:
            figures.append(doc.Figure(name, found[key]["mean"], note=_interval(found[key])))
    text = (
        f"{weak} of {found['claims']} claims have a sentence that its source does not support (score below "
        f"{threshold:g})."
    )
    sections: list[doc.AnySection] = _labels(found)
    if found["truncated_pairs"]:
        note = (
            f"{found['truncated_pairs']} pairs of chunk and sentence in {found['claims_with_truncation']} claims did not fit "
            "the encoder: the end of the chunk was not read. A smaller --words-per-chunk avoids it, unless a single sentence "
            "is that long."
        )
        sections.append(doc.Text("Cut off", paragraphs=[note]))
    sections += [
        doc.Distribution(
            "Scores",
            samples=[
                doc.Values("claims", numbers.scores),
                doc.Values("sentences", numbers.sentences),
            ],
            x_label="alignment score",
        ),
        claim_samples(rows, pairs, threshold),
    ]
    return doc.Headline("neutral", text, figures), sections


def claim_samples(rows: Sequence[Row], pairs: Sequence[TextPair], threshold: float) -> doc.Samples:
    """Claims with their sentences marked, the worst sentence first, beside sources with the chunks that support them.

    Args:
        rows: one a pair, in their order.
    """
    weakest = heapq.nsmallest(SHOWN, enumerate(rows), key=lambda one: _lowest(one[1]))
    note = "The claim with the weakest sentence first. Point at a mark, or click it, for its score."
    if len(rows) > SHOWN:
        note += f" The first {SHOWN:,} of {len(rows):,}; the file of the rows has all."
    return doc.Samples(
        "Claims",
        note=note,
        columns=["Claim", "Source"],
        rows=[_sample(row, pairs[place], threshold) for place, row in weakest],
        score_name="score",
        unit="number",
        marks=MARKS,
    )


def _sample(row: Row, pair: TextPair, threshold: float) -> doc.Sample:
    weak = [one for one in row["sentences"] if one["score"] < threshold]
    tags = ["all supported" if not weak else "not supported", *(["cut off"] if row["truncated"] else [])]
    label = "" if row["label"] is None else f", label {row['label']:g}"
    claim_marks = [
        doc.Mark(
            one["start"],
            one["end"],
            _name(one["score"], threshold),
            f"{one['score']:.3f}, best chunk {one['chunk'] + 1} of {len(row['chunks'])}",
        )
        for one in row["sentences"]
        if one["end"] > one["start"]
    ]
    return doc.Sample(
        f"{pair.id}: {len(weak)} of {len(row['sentences'])} sentences not supported{label}",
        [
            doc.Output(pair.claim, row["score"], marks=claim_marks),
            doc.Output(pair.context, marks=_source_marks(row)),
        ],
        tags=tags,
    )


def _source_marks(row: Row) -> list[doc.Mark]:
    """A mark for each chunk that supports a sentence best; its note names them."""
    supported: dict[int, list[str]] = {}
    for number, one in enumerate(row["sentences"], start=1):
        supported.setdefault(one["chunk"], []).append(f"sentence {number} ({one['score']:.3f})")
    chunks = {chunk: row["chunks"][chunk] for chunk in sorted(supported)}
    return [
        doc.Mark(one["start"], one["end"], SOURCE, f"chunk {chunk + 1}, of {', '.join(supported[chunk])}")
        for chunk, one in chunks.items()
        if one["end"] > one["start"]
    ]


def _name(score: float, threshold: float) -> str:
    if score < threshold:
        return UNSUPPORTED
    return DOUBTFUL if score < threshold + DOUBT * (1 - threshold) else SUPPORTED


def _lowest(row: Row) -> float:
    return min(one["score"] for one in row["sentences"])


def _interval(value: Mapping[str, Any]) -> str:
    if value["low"] is None or value["high"] is None:
        return f"of {value['n']}; no interval"
    return f"{value['low']:.3f} to {value['high']:.3f} (95 % interval)"


def _labels(found: Mapping[str, Any]) -> list[doc.AnySection]:
    if "labelled" not in found:
        return []
    rows: list[list[doc.Cell]] = [
        [name, *(found[key][one] for one in ("mean", "low", "high"))]
        for key, name in AGREEMENT.items()
        if key in found
    ]
    if best := found.get("best_threshold"):
        optimistic = "Balanced accuracy there (optimistic: chosen on the same rows)"
        rows += [
            ["Best threshold on these rows", best["threshold"], None, None],
            [optimistic, best["balanced_accuracy"], None, None],
        ]
    if not rows:
        return [doc.Text("Labels", paragraphs=["All labels are the same: nothing can be compared."])]
    return [
        doc.TableSection(
            "Agreement with labels",
            note=f"{found['labelled']} claims with a label; 95 % bootstrap intervals over claims.",
            columns=["Measure", "Value", "Low", "High"],
            rows=rows,
        )
    ]


def training_sections(result: Trained) -> list[doc.Curves]:
    """Curves of a training."""
    rows = [{key.removeprefix("losses/"): one for key, one in row.items()} for row in result.history]
    note = "Cross-entropies in units of chance (1 is guessing), the regression's squared error, nats for masked tokens."
    cut = [f"{result.truncated} pairs were cut to --max-length."] if result.truncated else []
    return curves(
        CHARTS, {"training": rows, "held out": held_out(result.history)}, note=" ".join([note, *cut])
    )


def write_claim_report(
    run: Run,
    config: Any,
    pairs: PairSet | None,
    rows: Sequence[Row],
    *,
    sections: Sequence[doc.AnySection] = (),
    then: Sequence[doc.Command] = (),
) -> None:
    """Write `report.html` and the headline of `status.json`."""
    headline, found = doc.Headline("neutral", "Trained; nothing was scored."), []
    if pairs is not None:
        headline, found = claim_report(rows, pairs.pairs, config.threshold)
        if pairs.problems:
            found.append(doc.Text("Skipped rows", paragraphs=[str(one) for one in pairs.problems[:20]]))
    publish(
        run,
        config,
        title="Alignment function" if pairs is None else "Factual consistency",
        verdict=headline,
        sections=[*found, *sections],
        then=then,
    )
