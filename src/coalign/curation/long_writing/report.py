"""The report of a training for long output: what the filter kept, how answers keep to their lengths, what a judge says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.curation.long_writing.answers import Written, by_length, obedience
from coalign.curation.long_writing.quality import DIMENSIONS, answer_quality, quality_totals
from coalign.loops.pipeline_report import pipeline_sections
from coalign.loops.rounds import STAGES, Round, timings
from coalign.models.files.places import full_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, curves, figure_of, judged, paired

if TYPE_CHECKING:
    from coalign.curation.long_writing.quality import Scores
    from coalign.loops.pipeline import Curated
    from coalign.loops.rows import Row

Answers = Mapping[str, Sequence[Written]]
_SIDES = {"baseline": "before", "evaluate": "after"}
_GROUP_COLUMNS = ("required", "words", "S_L", "cut", "repetition", "answers")
_CONTROL = (
    "The report of the paper loses up to 9 points of MMLU: measure what the training costs elsewhere, and mix in general "
    "records (--general)."
)


def write_long_output_report(
    run: Run,
    config: Any,
    round: Round,
    kept: Curated,
    answers: Answers,
    ratings: Mapping[str, Sequence[Scores | None]],
) -> doc.Report:
    """Write `results.json`, `report.html` and the headline of `status.json`."""
    manifest = kept.manifest
    rows = _rows(config, answers, ratings)
    results = {
        "kept": manifest["kept"],
        "records": manifest["steps"][0]["in"],
        "obedience": {_SIDES[name]: obedience(some) for name, some in answers.items()},
        "by_length": {_SIDES[name]: by_length(some) for name, some in answers.items()},
        "quality": {
            _SIDES[name]: quality_totals(some, config.missing_quality) for name, some in ratings.items()
        },
        "not_rated": {_SIDES[name]: sum(one is None for one in some) for name, some in ratings.items()},
    }
    write_json(run.artefacts / "results.json", results)
    text = f"{results['kept']:,} of {results['records']:,} records name one length and keep to it."
    claim = rows[0] if rows else None
    if claim is not None and claim.before.value is not None and claim.after.value is not None:
        text = f"Length score S_L: {claim.after.value:.1f}, {claim.before.value:.1f} before. {text}"
    trained = run.model.exists()
    return publish(
        run,
        config,
        title="What was kept of long writing" if not trained else f"Long output of {config.model}",
        verdict=judged(
            claim.difference if claim else None,
            text,
            [figure_of(one) for one in rows] or [doc.Figure("Kept", results["kept"], unit="integer")],
            n=claim.n if claim else None,
            better=claim.better if claim else "higher",
        ),
        facts={"Model": full_name(config.model), "Seed": str(config.seed)}
        if trained
        else {"Threshold": f"{config.threshold:g}"},
        sections=[
            *([doc.Comparison(title="Before and after", scale="row", rows=rows)] if rows else []),
            *_curve(answers),
            *_groups(answers),
            *_quality(config, ratings),
            *_examples(answers),
            *pipeline_sections(kept, _text, title="Filter"),
            *curves(
                (("loss", "Loss"), ("nll/token", "Nats a token"), ("grad_norm", "Gradient norm")),
                {"training": round.read("history"), "annealing": round.read("history-anneal")},
            ),
        ],
        rounds=timings([round], STAGES),
        limitations=_limitations(config, answers, ratings),
        then=[
            *(
                [doc.Command(f"coalign chat {run.path} --compare base", "talk to both models")]
                if trained
                else []
            ),
            doc.Command(f"coalign run sft --data {run.path}", "train another model on what was kept"),
        ],
        figures={"kept": results["kept"], **{one.name: one.after.value for one in rows}},
        trained_on=f"{results['kept']} records that keep to the length that they were asked for."
        if trained
        else None,
    )


def _rows(
    config: Any, answers: Answers, ratings: Mapping[str, Sequence[Scores | None]]
) -> list[doc.ComparisonRow]:
    if len(answers) < len(_SIDES):
        return []
    before, after = (answers[name] for name in _SIDES)
    found = [
        paired(
            "S_L", [one.score for one in before], [one.score for one in after], unit="number", emphasis=True
        )
    ]
    if ratings:
        rated = [[answer_quality(one, config.missing_quality) for one in ratings[name]] for name in _SIDES]
        both = [(a, b) for a, b in zip(*rated, strict=True) if a is not None and b is not None]
        found.append(paired("S_Q", [a for a, _ in both], [b for _, b in both], unit="number"))
        scores = [(one.score, two.score) for one, two in zip(before, after, strict=True)]
        whole = [
            ((s + a) / 2, (t + b) / 2)
            for (s, t), a, b in zip(scores, *rated, strict=True)
            if a is not None and b is not None
        ]
        found.append(paired("S", [a for a, _ in whole], [b for _, b in whole], unit="number"))
    first, last = obedience(before), obedience(after)
    found.append(
        compared("correlation with the length", first["correlation"], last["correlation"], unit="number")
    )
    found.append(
        paired(
            "words",
            [float(one.words) for one in before],
            [float(one.words) for one in after],
            unit="number",
            better="neither",
        )
    )
    for name, title in (("cut", "ran out of tokens"), ("repetition", "repeated runs of four words")):
        values = [[float(getattr(one, name)) for one in some] for some in (before, after)]
        found.append(paired(title, *values, better="lower"))
    return found


def _curve(answers: Answers) -> list[doc.AnySection]:
    """Written words over required ones, a point a group of required lengths."""
    if not answers:
        return []
    lengths = sorted({float(one.order.length) for some in answers.values() for one in some})
    series = [doc.Series("as required", lengths, lengths)]
    for name, some in answers.items():
        groups = by_length(some)
        series.append(
            doc.Series(_SIDES[name], [row["required"] for row in groups], [row["words"] for row in groups])
        )
    chart = doc.Chart("Written words", series, x_label="required words", log=True, x_log=True, marks=True)
    return [doc.Curves(title="Length obedience", note="Means of groups of required lengths.", charts=[chart])]


def _groups(answers: Answers) -> list[doc.AnySection]:
    rows = [
        [_SIDES[name], f"{row['from']} to {row['to'] or '...'}", *(row[column] for column in _GROUP_COLUMNS)]
        for name, some in answers.items()
        for row in by_length(some)
    ]
    columns = ("model", "required words", *_GROUP_COLUMNS)
    units: dict[str, doc.Unit] = {"cut": "percent", "repetition": "percent", "answers": "integer"}
    return [doc.TableSection("By required length", columns=columns, rows=rows, units=units)] if rows else []


def _quality(config: Any, ratings: Mapping[str, Sequence[Scores | None]]) -> list[doc.AnySection]:
    if not ratings:
        return []
    totals = {name: quality_totals(some, config.missing_quality) or {} for name, some in ratings.items()}
    rows = [[name, *(one.get(name) for one in totals.values())] for name in (*DIMENSIONS, "total")]
    missing = ", ".join(
        f"{sum(one is None for one in some)} {_SIDES[name]}" for name, some in ratings.items()
    )
    note = f"(mean - 1) x 25 of scores from 1 to 5. Answers that were not rated: {missing}."
    columns = ("dimension", *(_SIDES[name] for name in totals))
    return [doc.TableSection("Quality by the judge (S_Q)", note=note, columns=columns, rows=rows)]


def _examples(answers: Answers) -> list[doc.AnySection]:
    if len(answers) < len(_SIDES):
        return []
    pairs = list(zip(*(answers[name] for name in _SIDES), strict=True))[:12]
    rows = [
        doc.Sample(one.order.request, [doc.Output(each.text, score=each.score / 100) for each in (one, two)])
        for one, two in pairs
    ]
    return [doc.Samples(title="Answers", columns=["Before", "After"], rows=rows, score_name="length score")]


def _limitations(config: Any, answers: Answers, ratings: Mapping[str, Sequence[Scores | None]]) -> list[str]:
    found = [] if config.filter_only else [_CONTROL]
    if answers and not ratings:
        found.append(
            "No judge was asked: S_L rewards text of the right length whatever it says; look at the repetition."
        )
    if any(one.cut for some in answers.values() for one in some):
        found.append(
            "Some answers ran out of tokens, which lowers S_L of the longest: raise --max-new-tokens."
        )
    return found


def _text(row: Row) -> str:
    asked = row["prompt"][-1]["content"] if row["prompt"] else ""
    return f"{asked}\n\n→ {row['completion'][:1500]}"
