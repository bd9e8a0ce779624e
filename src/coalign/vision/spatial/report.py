"""The report of spatial captions and fine-tuning: figures before and after, by relation, with the pictures beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import open_picture
from coalign.loops.rounds import STAGES, Round, timings
from coalign.measures.media.spatial import RELATIONS
from coalign.measures.statistics import paired_bootstrap
from coalign.models.files.places import full_name
from coalign.report.model import (
    AnySection,
    Command,
    Comparison,
    ComparisonRow,
    Figure,
    Headline,
    TableSection,
)
from coalign.report.page import publish
from coalign.report.parts import compared, counted, curves, figure_of, outcome_of, too_few
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail
from coalign.vision.spatial.captions import relation_shares
from coalign.vision.spatial.measuring import figures_of
from coalign.vision.spatial.options import SpatialOptions
from coalign.vision.spatial.stages import CAPTIONS, captions_of, facts_of, training_pictures

Row = dict[str, Any]
SHOWN = 40
"""Descriptions with their pictures, and captioned pictures, in the report."""
NAMES = {
    "OA": "Both objects (OA)",
    "VISOR_cond": "Right where both are (VISOR cond)",
    "VISOR_uncond": "Right of all (VISOR uncond)",
    "spatial score": "Spatial score (T2I-CompBench)",
}
SHORT = ("OA", "VISOR cond", "VISOR uncond", "spatial score")
"""The same in a table."""
CHARTS = (("loss", "Loss"), ("spatial captions", "Share of spatial captions"), ("grad_norm", "Gradient norm"))


def write_spatial_report(config: SpatialOptions, run: Run, round: Round) -> None:
    """Report and model card; every figure is read from the artefacts."""
    before, after = round.read("baseline"), round.read("evaluate")
    trained = round.is_done("fit")
    prepared = round.is_done("build")
    rows = _rows(before, after) if after else []
    publish(
        run,
        config,
        title="Pictures that obey spatial words" if trained else "Where things stand in pictures",
        facts={
            **({"Model": full_name(config.model)} if config.model else {}),
            **({"Data": str(config.data)} if config.data else {}),
            "Seed": str(config.seed),
        },
        verdict=_headline(before, after, rows, round, prepared),
        sections=[
            *_comparison(rows, after),
            *_relations(before, after),
            *_pictures(config, round, before, after),
            *(_captions(config, round) if prepared else []),
            *(curves(CHARTS, {"training": round.read("history")}) if trained else []),
        ],
        rounds=timings([round], STAGES),
        limitations=_limitations(before, _trained_on_too(round, before) if trained else None),
        then=_commands(config, run, prepared, trained),
        trained_on=_trained_on(config, round) if trained else None,
        summary=f"A copy of {config.model} that was fine-tuned on general and spatial captions.",
        task="text-to-image",
        figures={name: value for name, value in figures_of(after or before).items() if value is not None}
        or None,
    )


def _rows(before: Sequence[Row], after: Sequence[Row]) -> list[ComparisonRow]:
    """Figures of both models; differences with an interval over the descriptions, which both drew from the same noise."""
    one, two = figures_of(before), figures_of(after)
    found = []
    for name, words in NAMES.items():
        change = None
        if name != "VISOR_cond":  # a ratio whose whole changes has no mean over descriptions
            pairs = [_means(rows, name) for rows in (before, after)]
            change = paired_bootstrap(*pairs) if len(pairs[0]) > 1 else None
        elif one[name] is not None and two[name] is not None:
            change = float(two[name] or 0) - float(one[name] or 0)
        count = len(before) if name == "spatial score" else sum(row["relation"] != "near" for row in before)
        found.append(compared(words, one[name], two[name], change, n=count, emphasis=name == "VISOR_uncond"))
    return found


def _means(rows: Sequence[Row], name: str) -> list[float]:
    """For each description the mean of a figure over its pictures."""

    def value(one: Row) -> float:
        if name == "spatial score":
            return one["score"]
        both = one["first"] is not None and one["second"] is not None
        return float(both and (name == "OA" or one["correct"]))

    kept = rows if name == "spatial score" else [row for row in rows if row["relation"] != "near"]
    return [sum(map(value, row["outcomes"])) / len(row["outcomes"]) for row in kept]


def _headline(
    before: Sequence[Row], after: Sequence[Row], rows: Sequence[ComparisonRow], round: Round, prepared: bool
) -> Headline:
    if rows:
        by_name = {row.name: row for row in rows}
        decisive = by_name[NAMES["VISOR_uncond"]]
        directed = decisive.before.value is not None
        decisive = decisive if directed else by_name[NAMES["spatial score"]]
        outcome = outcome_of(decisive.difference, n=len(before))
        first, second = (one.value or 0.0 for one in (decisive.before, decisive.after))
        text = (
            f"{first:.1%} of the pictures were right before, {second:.1%} after the fine-tuning"
            if directed
            else f"The spatial score was {first:.3f} before, {second:.3f} after the fine-tuning"
        )
        return Headline(outcome, f"{text}.{too_few(len(before))}", [figure_of(row) for row in rows])
    if before:
        found = figures_of(before)
        shown = [
            Figure(words, found[name], unit="percent")
            for name, words in NAMES.items()
            if found[name] is not None
        ]
        text = f"{found['both']:.0f} pictures of {len(before)} descriptions have both objects."
        return Headline("neutral", text, shown)
    shares = _shares(round) if prepared else {}
    spatial = sum(bool(row["spatial_caption"]) for row in captions_of(round)) if prepared else 0
    text = f"{spatial} pictures have a spatial caption; {shares.get('spatial', {}).get('any', 0.0):.0%} of these captions name a relation."
    return Headline("neutral", text, [Figure("spatial captions", float(spatial), unit="integer")])


def _comparison(rows: Sequence[ComparisonRow], after: Sequence[Row]) -> list[Comparison]:
    if not rows:
        return []
    note = (
        "Both models draw every picture from the same noise. Intervals are over the descriptions. VISOR has no rule for "
        "near, which counts in the spatial score alone; of several boxes with a label the one with the highest score counts."
    )
    return [Comparison(title="Before and after", note=note, rows=rows, names=("start", "fine-tuned"))]


def _relations(before: Sequence[Row], after: Sequence[Row]) -> list[TableSection]:
    if not before:
        return []
    table: list[list[Any]] = []
    for relation in RELATIONS:
        for name, rows in (("start", before), ("fine-tuned", after)):
            own = [row for row in rows if row["relation"] == relation]
            if own:
                found = figures_of(own)
                table.append([relation, name, len(own), found["both"], *(found[one] for one in NAMES)])
    each = [name for name in figures_of(before) if name.startswith("VISOR_") and name[6:].isdigit()]
    counts = [
        [f"{name[6:]} or more pictures right", *(figures_of(rows)[name] for rows in (before, after) if rows)]
        for name in each
    ]
    names = ["start", "fine-tuned"] if after else ["start"]
    percent = dict.fromkeys(SHORT, "percent")
    return [
        TableSection(
            title="By relation",
            note="Pictures with both objects are few where the detector finds little: the share of right ones is then noise.",
            columns=["relation", "model", "descriptions", "with both", *SHORT],
            rows=table,
            units={**percent, "descriptions": "integer", "with both": "integer"},  # type: ignore[dict-item]
        ),
        *(
            [
                TableSection(
                    title="Descriptions by right pictures",
                    columns=["VISOR_n", *names],
                    rows=counts,
                    units=dict.fromkeys(names, "percent"),  # type: ignore[arg-type]
                )
            ]
            if counts
            else []
        ),
    ]


def _pictures(
    config: SpatialOptions, round: Round, before: Sequence[Row], after: Sequence[Row]
) -> list[Gallery]:
    """The first picture of each description, before and after, and whether it is right."""
    items = []
    for place, row in enumerate(before[:SHOWN]):
        sides = [("before", row), *([("after", after[place])] if after else [])]
        shown = []
        for name, one in sides:
            source = one["pictures"][0] if config.pictures else round.folder / name / one["pictures"][0]
            try:
                label = f"{name}: {_said(one['outcomes'][0])}" if after else _said(one["outcomes"][0])
                shown.append(thumbnail(open_picture(source), label))
            except MediaError:  # of a picture that is only in the records
                continue
        right = sides[-1][1]["outcomes"][0]["correct"]
        if shown:
            items.append(Shown(shown, caption=row["text"], tone="good" if right else "bad"))
    note = "The first picture of each, before and after." if after else "The first picture of each."
    return gallery("Pictures", items, note=note, total=len(before))


def _said(outcome: Row) -> str:
    if outcome["first"] is None or outcome["second"] is None:
        lacking = [name for name in ("first", "second") if outcome[name] is None]
        return f"no {' and no '.join(lacking)} object"
    return "right" if outcome["correct"] else "wrong"


def _shares(round: Round) -> dict[str, dict[str, float]]:
    rows = captions_of(round)
    return {
        "general": relation_shares(row["caption"] for row in rows if row["caption"]),
        "spatial": relation_shares(row["spatial_caption"] for row in rows if row["spatial_caption"]),
    }


def _captions(config: SpatialOptions, round: Round) -> list[AnySection]:
    """Which words the captions have, and a sample of them beside their pictures, to be looked through."""
    facts, rows, shares = facts_of(round), captions_of(round), _shares(round)
    table = [[word, shares["general"][word], shares["spatial"][word]] for word in shares["general"]]
    counts = {"pictures": facts["count"], **facts["counts"]}
    cut = facts.get("cut")
    note = (
        f"Longer than {facts['tokens']} tokens, so that their end is not read: {cut['caption']:.1%} of the general captions, "
        f"{cut['spatial_caption']:.1%} of the spatial ones."
        if cut
        else ""
    )
    items = []
    values = training_pictures(round) if config.tune else None
    for place, row in enumerate(rows[:SHOWN]):
        try:
            picture = values[place].transpose(1, 2, 0) if values is not None else open_picture(row["image"])
        except MediaError:
            continue
        items.append(Shown([thumbnail(picture)], caption=row["spatial_caption"] or row["caption"]))
    return [
        TableSection(
            title="Words for relations",
            note=f"Share of the captions with each. {note}".strip(),
            columns=["word", "general captions", "spatial captions"],
            rows=table,
            units={"general captions": "percent", "spatial captions": "percent"},
        ),
        *gallery(
            "Captioned pictures",
            items,
            note="Captions of a model are often wrong: look through them before you trust them.",
            total=len(rows),
        ),
        counted("Training pictures", ("what", "count"), counts),
    ]


def _limitations(before: Sequence[Row], seen: int | None) -> list[str]:
    """What the figures do not say.

    Args:
        seen: descriptions that are captions of the training as well; None without a training.
    """
    found = []
    if before:
        found.append(
            "A picture counts as the detector sees it: what it misses or confuses is counted against the model."
        )
    if before and seen:
        found.append(
            f"{seen} of {len(before)} descriptions that are measured are captions that were trained on, word for word."
        )
    return found


def _trained_on_too(round: Round, before: Sequence[Row]) -> int:
    """How many of the descriptions are captions of the training, case and white space aside."""
    captions = {
        _plain(row[name])
        for row in captions_of(round)
        for name in ("caption", "spatial_caption")
        if row[name]
    }
    return sum(_plain(row["text"]) in captions for row in before)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _trained_on(config: SpatialOptions, round: Round) -> str:
    facts = facts_of(round)
    return (
        f"{facts['count']} pictures of {config.data}, {facts['size']} pixels square; the spatial caption with probability "
        f"{config.spatial_share:g}, the general one otherwise."
    )


def _commands(config: SpatialOptions, run: Run, prepared: bool, trained: bool) -> list[Command]:
    found = []
    if prepared and not trained:
        path = run.artefacts / "round-1" / CAPTIONS
        found.append(
            Command(f"coalign run spright --data {path} --model PIPELINE", "fine-tune on these captions")
        )
    if trained:
        command = f"coalign run spright --no-tune --model {run.path} --prompts FILE --detector MODEL"
        found.append(Command(command, "measure the model on other descriptions"))
    return found
