"""The report of tuning on few shots: accuracy of every arm with its spread over seeds, and pictures that were misnamed."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.loops.rounds import Round, timings
from coalign.models.files.places import full_name
from coalign.report.model import Command, Comparison, ComparisonRow, Headline, TableSection
from coalign.report.page import publish
from coalign.report.parts import curves, effect, figure_of, outcome_of, paired, too_few
from coalign.report.pictures import Shown, gallery, thumbnail
from coalign.vision.tuning.few_shot import harmonic_mean
from coalign.vision.tuning.material import Material

MOST_SHOWN = 60
STAGES = ("baseline", "fit", "evaluate")
HARMONIC = "harmonic mean"
LABEL_SPACES = (
    "Base and novel classes are two label spaces: a picture competes with the names of its own half alone, as in the"
    " paper. Accuracy over all names together would be lower."
)
Rows = Sequence[Mapping[str, Any]]


def accuracies(rows: Rows) -> dict[str, dict[str, float]]:
    """Arm to set to accuracy, with the harmonic mean where there are base and novel classes."""
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        right[row["arm"]][row["set"]].append(row["correct"])
    found: dict[str, dict[str, float]] = {}
    for arm, sets in right.items():
        means = {name: statistics.fmean(values) for name, values in sets.items()}
        if {"base", "novel"} <= means.keys():
            both = {"base": means.pop("base"), "novel": means.pop("novel")}
            means = both | {HARMONIC: harmonic_mean(*both.values())} | means
        found[arm] = means
    return found


def spread(by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Arm to quantity to mean and standard deviation over seeds; the deviation of one seed is 0."""
    return {
        arm: {
            name: (
                statistics.fmean(values := [one[arm][name] for one in by_seed]),
                statistics.stdev(values) if len(values) > 1 else 0.0,
            )
            for name in quantities
        }
        for arm, quantities in by_seed[0].items()
    }


def write_tuning_report(config: Any, run: Run, rounds: Sequence[Round], material: Material) -> None:
    """Write `result.json`, the report, the model card and the headline."""
    kept = config.arms[0]
    rows = [[*one.read("baseline"), *one.read("evaluate")] for one in rounds]
    by_seed = [accuracies(one) for one in rows]
    over = spread(by_seed)
    compared = compared_pictures(rows, kept)
    result = {
        "accuracy": {arm: {name: mean for name, (mean, _) in found.items()} for arm, found in over.items()},
        "deviation": {arm: {name: one for name, (_, one) in found.items()} for arm, found in over.items()},
        "seeds": {str(seed): found for seed, found in zip(config.seeds, by_seed, strict=True)},
    }
    write_json(run.artefacts / "result.json", result)
    length, depth, weight = config.resolved()
    read = [material.data, *filter(None, [material.test]), *material.transfer.values()]
    left_out = sum(len(one.problems) for one in read)
    shots = Counter(row["class"] for row in rounds[0].read("shots"))
    few = sum(count < config.shots for count in shots.values())
    publish(
        run,
        config,
        title=f"A classifier of {len(material.base)} classes from {config.shots} pictures each",
        facts={
            "Model": full_name(config.model),
            "Data": config.data,
            "Seeds": ", ".join(map(str, config.seeds)),
            "Prompts": f"{length} vectors in {depth} layers, weight {weight:g}",
        },
        verdict=_headline(compared, kept, over),
        sections=[
            Comparison(
                title=f"Zero-shot against {kept}",
                note="Over pictures, of each its mean over the seeds; differences are paired by picture.",
                rows=compared,
                names=("Zero-shot", kept),
            ),
            _arms(over, len(rounds)),
            *_seeds(config, by_seed),
            *_classes(rows, kept),
            *_misnamed(rows, kept, material),
            *curves(
                (
                    ("loss", "Loss"),
                    ("cross_entropy", "Cross-entropy"),
                    ("consistency", "Distance from the frozen model"),
                ),
                {f"{arm}, seed {config.seeds[0]}": rounds[0].read(f"history-{arm}") for arm in config.arms},
            ),
        ],
        notes=[
            *([f"{left_out} pictures could not be used and are left out."] if left_out else []),
            *(
                [f"{few} classes have fewer than {config.shots} pictures; all of theirs are shots."]
                if few
                else []
            ),
        ],
        rounds=timings(rounds, STAGES),
        limitations=[
            LABEL_SPACES,
            *(["One seed says nothing about the spread."] if len(rounds) == 1 else []),
        ],
        then=[Command(f"coalign report {run.path}", "see these figures in the terminal")],
        figures=result["accuracy"][kept],
        trained_on=f"{config.shots} pictures of each of {len(material.base)} classes of {config.data}. The folder holds"
        " prompts and adapters alone; `PromptedEncoder.load` puts them on the base model.",
    )


def compared_pictures(rows: Sequence[Rows], kept: str) -> list[ComparisonRow]:
    """A row a set: accuracy before and after, paired by picture. A picture that several seeds measured counts once, by its
    mean over them: its pixels are the same ones.

    Args:
        rows: of each seed.
        kept: the arm that is compared with `zero-shot`.
    """
    values: dict[str, dict[str, dict[str, list[bool]]]] = {}
    for row in (row for found in rows for row in found):
        if row["arm"] in (kept, "zero-shot"):
            arms = values.setdefault(row["set"], {"zero-shot": {}, kept: {}})
            arms[row["arm"]].setdefault(row["id"], []).append(row["correct"])
    means = {
        name: [[statistics.fmean(one) for one in arms[arm].values()] for arm in ("zero-shot", kept)]
        for name, arms in values.items()
    }
    return [
        paired(f"Accuracy, {name}", before, after, emphasis=name in ("base", "novel", "test"))
        for name, (before, after) in means.items()
    ]


def _headline(compared: Sequence[ComparisonRow], kept: str, over: Mapping[str, Any]) -> Headline:
    first, *others = compared
    novel = next((row for row in others if row.name.endswith("novel")), None)
    lost = novel is not None and effect(novel.difference, "higher") == "worse"
    said = {
        "better": f"{kept} names pictures of the tuned classes better than the model as it was.",
        "worse": f"{kept} names pictures of the tuned classes worse than the model as it was.",
        "unclear": "The interval of the change on the tuned classes holds zero.",
        "unknown": "The change on the tuned classes has no interval.",
    }[effect(first.difference, "higher")]
    if novel is not None:
        said += (
            " On novel classes it lost."
            if lost
            else " On novel classes it lost nothing that can be told from chance."
        )
        said += (
            f" Harmonic mean {over[kept][HARMONIC][0]:.1%}, zero-shot {over['zero-shot'][HARMONIC][0]:.1%}."
        )
    return Headline(
        outcome_of(first.difference, "higher", guard=not lost, n=first.n),
        f"{said}{too_few(first.n or 0)}",
        [figure_of(row) for row in compared[:6]],
    )


def _arms(over: Mapping[str, Mapping[str, tuple[float, float]]], seeds: int) -> TableSection:
    names = list(next(iter(over.values())))
    return TableSection(
        title="Every arm",
        note=f"Mean and standard deviation over {seeds} seeds; all arms of a seed have the same shots.",
        columns=["arm", *names],
        rows=[
            [arm, *(f"{100 * found[name][0]:.1f} ± {100 * found[name][1]:.1f}" for name in names)]
            for arm, found in over.items()
        ],
    )


def _seeds(config: Any, by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> list[TableSection]:
    if len(by_seed) < 2:
        return []
    names = list(next(iter(by_seed[0].values())))
    return [
        TableSection(
            title="Every seed",
            columns=["seed", "arm", *names],
            rows=[
                [str(seed), arm, *found[arm].values()]
                for seed, found in zip(config.seeds, by_seed, strict=True)
                for arm in found
            ],
            units=dict.fromkeys(names, "percent"),
        )
    ]


def _classes(rows: Sequence[Rows], kept: str) -> list[TableSection]:
    """The classes that changed most, with what they are taken for."""
    right: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    taken: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in (row for found in rows for row in found):
        key = (row["set"], row["class"])
        right[key][row["arm"]].append(row["correct"])
        if row["arm"] == kept and not row["correct"]:
            taken[key][row["predicted"]] += 1
    table = [
        [key[1], key[0], statistics.fmean(arms["zero-shot"]), statistics.fmean(arms[kept]),
         ", ".join(name for name, _ in taken[key].most_common(2))]
        for key, arms in right.items()
    ]  # fmt: skip
    table.sort(key=lambda row: float(row[3]))
    shown = table[:MOST_SHOWN]
    return [
        TableSection(
            title="Classes, the hardest first",
            note=f"{len(shown)} of {len(table)}." if len(shown) < len(table) else "",
            columns=["class", "set", "zero-shot", kept, "taken for"],
            rows=shown,
            units={"zero-shot": "percent", kept: "percent"},
        )
    ]


def _misnamed(rows: Sequence[Rows], kept: str, material: Material) -> Sequence[Any]:
    """Pictures of the first seed that the tuned model misnames, those that it lost first."""
    pictures = {(name, one.id): one for name, records in _sources(material).items() for one in records}
    before = {(row["set"], row["id"]): row["predicted"] for row in rows[0] if row["arm"] == "zero-shot"}
    wrong = [row for row in rows[0] if row["arm"] == kept and not row["correct"]]
    wrong.sort(key=lambda row: before[row["set"], row["id"]] != row["class"])

    def shown(row: Mapping[str, Any]) -> Shown:
        record = pictures[row["set"], row["id"]]
        first = before[row["set"], row["id"]]
        return Shown(
            [thumbnail(record.picture.open())],  # type: ignore[union-attr]
            f"{row['class']} ({row['set']})",
            {"taken for": row["predicted"], "zero-shot": first},
            tone="bad" if first == row["class"] else None,
        )

    return gallery(
        "Misnamed pictures",
        (shown(row) for row in wrong[:MOST_SHOWN]),
        note="Of the first seed; set apart are those that the model named rightly before.",
        total=len(wrong),
    )


def _sources(material: Material) -> dict[str, list[Any]]:
    test = (material.test or material.data).records
    sets: dict[str, list[Any]] = {"base": test, "novel": test, "test": test}
    return sets | {name: found.records for name, found in material.transfer.items()}
