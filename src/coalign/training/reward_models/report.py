"""What a reward model is worth on held-out records: order, calibration and temperature, of each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.data.media.gallery import record_gallery
from coalign.measures.calibration import (
    BINS,
    both_orders,
    calibration_error,
    cross_fitted,
    fitted_temperature,
    reliability,
)
from coalign.measures.statistics import wilson_interval
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, held_out, judged
from coalign.training.learning_report import PICTURED

if TYPE_CHECKING:
    from coalign.training.job import FitResult
    from coalign.training.material import Material

ALL = "all"
_CHARTS = (
    ("loss", "Loss"),
    ("rewards/accuracies", "Pairs in the right order"),
    ("rewards/margins", "Reward margin"),
    ("rewards/chosen", "Reward of the best response"),
    ("rewards/rejected", "Reward of the worst response"),
    ("grad_norm", "Gradient norm"),
)


FEWEST = 20
"""Pairs below which no temperature is fitted: a few pairs in order ask for none, a few out of order for an infinite one."""


@dataclass(frozen=True)
class Quality:
    """Order and calibration of one data set's held-out pairs.

    Attributes:
        pairs: pairs of different value.
        accuracy: share in the right order; a tie of the rewards counts half.
        ece: by number of bins, the expected calibration error of `sig(r_i - r_j)`, each pair in both orders.
        temperature: what rewards are to be divided by, fitted on these pairs; None below `FEWEST` pairs.
        scaled_ece: 10 bins, after temperatures that were fitted on the other half of the pairs; likewise.
    """

    pairs: int
    accuracy: float
    ece: dict[int, float]
    temperature: float | None
    scaled_ece: float | None


def margins_of(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Reward of the better response minus that of the worse, of every pair of different value.

    Args:
        rows: with `values` and `rewards`.
    """
    return [
        row["rewards"][i] - row["rewards"][j]
        for row in rows
        for i, one in enumerate(row["values"])
        for j, other in enumerate(row["values"])
        if one > other
    ]


def quality(margins: Sequence[float]) -> Quality:
    """Order and calibration of pairs, at least one."""
    hits = sum(1.0 if one > 0 else 0.5 if one == 0 else 0.0 for one in margins)
    probabilities, labels = both_orders(margins)
    few = len(margins) < FEWEST
    return Quality(
        len(margins),
        hits / len(margins),
        {bins: calibration_error(probabilities, labels, bins=bins).ece for bins in BINS},
        None if few else fitted_temperature(margins),
        None if few else calibration_error(*both_orders(cross_fitted(margins))).ece,
    )


def qualities(rows: Sequence[Mapping[str, Any]]) -> dict[str, Quality]:
    """The quality of each tag, where there are several, and of all together under `all`, which comes first."""
    tags = sorted({row["tag"] for row in rows})
    groups = {ALL: rows} | (
        {tag: [row for row in rows if row["tag"] == tag] for tag in tags} if len(tags) > 1 else {}
    )
    found = {name: margins_of(part) for name, part in groups.items()}
    return {name: quality(margins) for name, margins in found.items() if margins}


def write_reward_report(
    run: Run,
    config: Any,
    material: Material,
    result: FitResult,
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str = "Reward model",
    sections: Sequence[doc.AnySection] = (),
    limitations: Sequence[str] = (),
) -> doc.Report:
    """Write report, model card, headline and `quality.json`.

    Args:
        rows: held-out records with `tag`, `values` and `rewards`.
        sections: put after the figures.
    """
    found = qualities(rows)
    write_json(run.artefacts / "quality.json", {name: asdict(one) for name, one in found.items()})
    logged = {"training": result.history, "held out": held_out(result.history)}
    return publish(
        run,
        config,
        title=f"{title} on {short_name(config.model)}",
        verdict=_headline(found, result, rows),
        facts={
            "Model": full_name(config.model),
            "Records": f"{len(material.training)} to train, {len(material.held_out)} held out",
            "Steps": str(result.steps),
            "Seed": str(config.seed),
        },
        sections=[
            *(_quality_sections(found, rows) if found else []),
            *sections,
            *curves(_CHARTS, logged),
            *record_gallery(material.training, "Records with pictures", most=PICTURED),
        ],
        notes=material.notes,
        limitations=[
            "Rewards are comparable between responses to one prompt; between prompts they are not.",
            *limitations,
        ],
        then=[
            doc.Command(
                f"coalign judge --judge reward --model {run.path} --data responses.jsonl",
                "judge responses with it",
            ),
            doc.Command(
                f"coalign generate --method best-of-n --reward model:{run.path} --prompts prompts.jsonl --out best.jsonl",
                "answer with the best of several samples",
            ),
        ],
        figures={name: one.accuracy for name, one in found.items()},
        trained_on=" ".join(one if one.endswith(".") else f"{one}." for one in material.notes),
        method_title=title,
    )


def _headline(
    found: Mapping[str, Quality], result: FitResult, rows: Sequence[Mapping[str, Any]]
) -> doc.Headline:
    if ALL not in found:
        return doc.Headline("neutral", f"{result.steps} steps. Nothing was held out, so nothing is claimed.")
    one = found[ALL]
    if len({reward for row in rows for reward in row["rewards"]}) == 1:
        return doc.Headline(
            "neutral",
            f"Every held-out response has the same reward after {result.steps} steps: the model has learnt nothing.",
        )
    interval = wilson_interval(round(one.accuracy * one.pairs), one.pairs)
    ahead = doc.Estimate(one.accuracy - 0.5, interval.low - 0.5, interval.high - 0.5)
    calibration, figures = _calibration(one)
    return judged(
        ahead,
        f"Held-out pairs in the right order: {100 * one.accuracy:.1f} % of {one.pairs} after {result.steps} steps (95 % "
        f"interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %; by chance 50 %). {calibration}",
        [
            doc.Figure(
                "Held-out pairs in the right order", one.accuracy, unit="percent", note=f"of {one.pairs}"
            ),
            *figures,
        ],
        n=one.pairs,
    )


def _calibration(one: Quality) -> tuple[str, list[doc.Figure]]:
    """What is said of it: nothing can be where there are few pairs."""
    if one.temperature is None or one.scaled_ece is None:
        return f"Too few pairs to tell the calibration, which takes {FEWEST}.", []
    said = f"Calibration error {one.ece[10]:.3f}, after temperature scaling {one.scaled_ece:.3f}."
    scaled = doc.Figure(
        "after temperature scaling", one.scaled_ece, better="lower", note=f"T = {one.temperature:.3g}"
    )
    return said, [doc.Figure("Calibration error (10 bins)", one.ece[10], better="lower"), scaled]


def _quality_sections(
    found: Mapping[str, Quality], rows: Sequence[Mapping[str, Any]]
) -> list[doc.TableSection | doc.Curves]:
    columns = (
        "data set", "pairs", "in order", "95 % interval", *(f"ECE, {bins} bins" for bins in BINS), "temperature",
        "ECE scaled",
    )  # fmt: skip
    table = []
    for name, one in found.items():
        interval = wilson_interval(round(one.accuracy * one.pairs), one.pairs)
        ends = f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"
        errors = [one.ece[bins] for bins in BINS]
        table.append([name, one.pairs, one.accuracy, ends, *errors, one.temperature, one.scaled_ece])
    margins = margins_of(rows)
    points = {"as trained": reliability(*both_orders(margins))}
    if len(margins) >= FEWEST:
        points["temperature scaled"] = reliability(*both_orders(cross_fitted(margins)))
    return [
        doc.TableSection(
            title="Held-out pairs",
            note="Probability of a pair: the sigmoid of the difference of its rewards; each pair counts in both orders. "
            "ECE scaled: 10 bins, after dividing by a temperature that was fitted on the other half of the pairs.",
            columns=columns,
            rows=table,
            units={"pairs": "integer", "in order": "percent"},
        ),
        doc.Curves(
            title="Reliability",
            note="Share of pairs in that order over the probability that the model gives it; the diagonal is calibrated.",
            charts=[
                doc.Chart(
                    "Frequency over probability",
                    [
                        doc.Series(name, [bin.probability for bin in bins], [bin.share for bin in bins])
                        for name, bins in points.items()
                    ]
                    + [doc.Series("calibrated", [0.0, 1.0], [0.0, 1.0])],
                    x_label="probability",
                    marks=True,
                )
            ],
        ),
    ]
