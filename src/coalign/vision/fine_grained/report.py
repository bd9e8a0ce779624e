"""The report of a fine-grained evaluation: agreement with people, ranked generators, and pictures with what they missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import estimate
from coalign.report.pictures import Shown, gallery, thumbnail
from coalign.vision.fine_grained.elements import category_of, phrase_of
from coalign.vision.fine_grained.training import DEFAULT_BASE

if TYPE_CHECKING:
    from coalign.vision.fine_grained.items import Item, Items
    from coalign.vision.fine_grained.learning import Trained

LIMITATIONS = (
    "The score says whether a picture shows what its prompt asks for, not whether it is beautiful or well drawn.",
    (
        "People's overall scores and their element labels agree only in part with each other (rank correlation 0.73 in "
        "EvalMuse-40K): rankings by one and by the other may differ."
    ),
)


def write_evaluation_report(
    run: Run,
    config: Any,
    items: Items | None,
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    trained: Trained | None,
) -> doc.Report:
    """Write `report.html` and the headline of `status.json`."""
    text, figures = _headline(results, trained)
    sections: list[doc.AnySection] = []
    if items is not None:
        sections += [*_agreement(results), *_generators(results), *_categories(results)]
        sections += _missed(items.items, rows, config.threshold, config.examples)
        values = [row["score_result"] for row in rows]
        sections.append(
            doc.Distribution(
                title="Overall scores", x_label="score", samples=[doc.Values("pictures", values)]
            )
        )
    if trained is not None:
        sections += _training(trained)
    return publish(
        run,
        config,
        title="Pictures and their prompts: " + ", ".join(config.data or config.train),
        verdict=doc.Headline("neutral", text, figures),
        facts=_facts(config),
        sections=sections,
        notes=_notes(items, rows, trained),
        limitations=LIMITATIONS,
        then=_commands(run, config, results),
        figures={name: results[name] for name in ("items", "scored", "challenge") if name in results}
        | ({"srcc": results["overall"]["srcc"]} if "overall" in results else {}),
    )


def _headline(results: Mapping[str, Any], trained: Trained | None) -> tuple[str, list[doc.Figure]]:
    figures: list[doc.Figure] = []
    parts: list[str] = []
    overall, elements = results.get("overall"), results.get("elements")
    if results:
        parts.append(f"{results['scored']:,} of {results['items']:,} pictures have a score.")
    if overall is not None:
        parts.append(f"It ranks them as people do with a correlation of {overall['srcc']:.3f} (SRCC).")
        interval = estimate(overall["srcc_interval"])
        note = f"{interval.low:.3f} to {interval.high:.3f}" if interval.interval else ""
        figures += [
            doc.Figure("SRCC", overall["srcc"], note=note),
            doc.Figure("KRCC", overall["krcc"]),
            doc.Figure(
                "PLCC", overall["plcc"], note="after the logistic fit" if overall["fitted"] else "no fit: raw"
            ),
        ]
    if elements is not None:
        parts.append(
            f"Of {elements['n']:,} elements {elements['accuracy']:.1%} are on the side that people say; always saying the more "
            f"frequent one gives {elements['majority']:.1%}."
        )
        figures.append(
            doc.Figure(
                "Element accuracy",
                elements["accuracy"],
                unit="percent",
                note=f"majority {elements['majority']:.1%}",
            )
        )
    if len(results.get("generators", ())) > 1:
        parts.append(
            f"Best of {len(results['generators'])} generators: {results['generators'][0]['generator']}."
        )
    if trained is not None and not results:
        parts.append(f"A scorer was trained on {trained.items:,} items.")
    return " ".join(parts), figures


def _agreement(results: Mapping[str, Any]) -> list[doc.AnySection]:
    rows = []
    for name, label in (("overall", "overall"), ("combined", "overall + mean of the elements")):
        one = results.get(name)
        if one is not None:
            rows.append(
                [label, one["n"], *(one[key] for key in ("srcc", "krcc", "plcc", "plcc_raw", "rmse"))]
            )
    if not rows:
        return []
    note = "Rank correlations of the scores with people's means; Pearson's after a logistic curve and raw; RMSE raw."
    if not results["overall"]["fitted"]:
        note += " The curve could not be fitted: PLCC is the raw one."
    return [
        doc.TableSection(
            title="Agreement with people",
            note=note,
            columns=("score", "pictures", "SRCC", "KRCC", "PLCC", "PLCC raw", "RMSE"),
            rows=rows,
            units={"pictures": "integer"},
        )
    ]


def _generators(results: Mapping[str, Any]) -> list[doc.AnySection]:
    table = results.get("generators", ())
    if not table:
        return []
    categories = sorted({name for one in table for name in one["categories"]})
    note = "Mean overall score of each text-to-image model, best first, and the mean scores of its elements by category."
    if "generator_srcc" in results:
        note += (
            f" People's means rank them with a correlation of {results['generator_srcc']:.2f} (SRCC), "
            f"{results['generator_krcc']:.2f} (KRCC)."
        )
    return [
        doc.TableSection(
            title="Text-to-image models",
            note=note,
            columns=("model", "pictures", "score", "people", *categories),
            rows=[
                [
                    one["generator"],
                    one["items"],
                    one["score"],
                    one["human"],
                    *(one["categories"].get(name) for name in categories),
                ]
                for one in table
            ],
            units={"pictures": "integer"},
        )
    ]


def _categories(results: Mapping[str, Any]) -> list[doc.AnySection]:
    elements = results.get("elements")
    if elements is None:
        return []
    rows = [
        [one["category"], *(one[name] for name in ("n", "accuracy", "majority", "srcc", "score", "human"))]
        for one in ({**elements, "category": "all"}, *elements["categories"])
    ]
    return [
        doc.TableSection(
            title="Elements",
            note="Share of the elements on the same side of 0.5 as people's means; the share of the more frequent side; rank "
            "correlation; mean score and mean label.",
            columns=("category", "elements", "accuracy", "majority", "SRCC", "mean score", "people"),
            rows=rows,
            units={"elements": "integer", "accuracy": "percent", "majority": "percent"},
        )
    ]


def _missed(
    items: Sequence[Item], rows: Sequence[Mapping[str, Any]], threshold: float, examples: int
) -> list[doc.AnySection]:
    """Pictures whose elements were missed, those with most of them first; without elements those with the lowest score."""
    both = [(one, row) for one, row in zip(items, rows, strict=True) if row["score_result"] is not None]

    def worst(pair: tuple[Item, Mapping[str, Any]]) -> tuple[float, float]:
        scores = pair[1]["element_result"].values()
        return -sum(one < threshold for one in scores), pair[1]["score_result"]

    chosen = sorted(both, key=worst)
    note = f"✗ marks elements whose score is below {threshold:g}."
    return [*gallery("What was missed", islice(_shown(chosen, threshold), examples), note=note)]


def _shown(pairs: Sequence[tuple[Item, Mapping[str, Any]]], threshold: float) -> Iterator[Shown]:
    from coalign.data.media.errors import MediaError

    for one, row in pairs:
        try:
            picture = thumbnail(one.image.open(), one.generator)
        except MediaError:  # scored by a column, without looking
            continue
        values: dict[str, Any] = {"overall": round(row["score_result"], 2)}
        if "human" in row:
            values["people"] = round(row["human"], 2)
        for name, score in row["element_result"].items():
            said = row.get("element_human", {}).get(name)
            told = f"{phrase_of(name)}: {score:.2f}" + ("" if said is None else f", people {said:.2f}")
            values[told] = score >= threshold
        missed = any(score < threshold for score in row["element_result"].values())
        yield Shown([picture], one.prompt, values, "bad" if missed else None)


def _training(trained: Trained) -> list[doc.AnySection]:
    charts = []
    for name, label in (
        ("loss", "loss"),
        ("eval_loss", "loss on held-out prompts"),
        ("eval_overall_error", "error of the overall score, held out"),
    ):
        points = [(row["step"], row[name]) for row in trained.history if name in row]
        if len(points) > 1:
            charts.append(doc.Chart(label, [doc.Series(label, *map(list, zip(*points, strict=True)))]))
    return [doc.Curves(title="Training", charts=charts)] if charts else []


def _notes(items: Items | None, rows: Sequence[Mapping[str, Any]], trained: Trained | None) -> list[str]:
    notes = []
    for what, one in (("scored", items), ("learnt from", trained.read if trained is not None else None)):
        if one is not None and (one.problems or one.dropped):
            first = f"; the first: {one.problems[0]}" if one.problems else ""
            notes.append(
                f"Of the items to be {what} {len(one.problems):,} rows could not be used and {one.dropped:,} have a prompt "
                f"that means nothing{first}."
            )
    if trained is not None:
        notes += trained.notes
    broken = [row["problem"] for row in rows if "problem" in row]
    if broken:
        notes.append(
            f"{len(broken):,} pictures could not be opened and have no score; the first: {broken[0]}"
        )
    missing = Counter(category_of(name) for row in rows for name in row.get("missing", ()))
    if missing:
        notes.append(
            f"{missing.total():,} elements could not be scored: their phrase does not stand in the prompt (then 0), or no answer came."
        )
    disputed = sum(one.disputed for one in items.items) if items is not None else 0
    if disputed:
        notes.append(
            f"Annotators of {disputed:,} items differ by 2 points or more: the paper asks three more people there."
        )
    return notes


def _facts(config: Any) -> dict[str, str]:
    given = {
        "Scorer": config.model, "VQA": config.vqa or config.endpoint, "CLIPScore": config.clip_score, "Metric": config.metric,
        "Base": (config.base or DEFAULT_BASE) if config.train else None,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value}


def _commands(run: Run, config: Any, results: Mapping[str, Any]) -> list[doc.Command]:
    if config.train:
        return [
            doc.Command(
                f"coalign run evalmuse --model {run.path} --data ITEMS", "score other pictures with it"
            )
        ]
    if "overall" in results and not (config.metric or config.clip_score):
        return [
            doc.Command(
                f"coalign run evalmuse --clip-score openai/clip-vit-base-patch32 --data {' '.join(config.data)}",
                "the usual baseline on the same items",
            )
        ]
    return []
