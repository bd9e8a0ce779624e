"""The report of a reward of image-text pairs and of a corpus that was cut by a score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import RecordProblem
from coalign.core.files import stream_rows
from coalign.core.runs import Run
from coalign.curation.image_text.cutting import BROKEN, reasons_of
from coalign.curation.image_text.outputs import SHARDS, score_table
from coalign.curation.image_text.scorers import DEFAULT_ENCODER, read_settings, reward_folder
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import estimate, outcome_of, too_few

if TYPE_CHECKING:
    from coalign.curation.image_text.corpus import PairCorpus
    from coalign.curation.image_text.quality import ScoreTable
    from coalign.curation.image_text.training import Learnt

MOST_VALUES = 20_000
"""Scores that the histogram is drawn of."""
STRONG = 0.5
"""Rank correlation with the length of the caption from which a warning is given."""
LIMITATIONS = (
    "A reward is known up to a constant and a unit: its thresholds are its own and say nothing under another checkpoint.",
    (
        "What is kept is what the annotators' captions would prefer, not what a model learns most from: compare a training on "
        "it with one on as many pairs drawn at random (--by random), under the same number of steps."
    ),
    "Scores of image-text models favour pictures that have text in them: look at the pairs that were kept and dropped.",
)


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    learnt: Learnt | None
    problems: Sequence[RecordProblem]
    done: Curated | None
    corpus: PairCorpus | None


def write_report(run: Run, config: Any, outcome: Outcome) -> doc.Report:
    """Write `report.html` and the headline of `status.json`."""
    sections: list[doc.AnySection] = []
    sentences: list[str] = []
    figures: list[doc.Figure] = []
    told: doc.Outcome = "neutral"
    numbers: dict[str, Any] = {}
    notes: list[str] = []
    if outcome.learnt is not None:
        preferences = json.loads((run.artefacts / "preferences.json").read_text(encoding="utf-8"))
        told = _tell_reward(outcome.learnt, preferences, sentences, figures, sections, numbers)
        notes += _annotation_notes(outcome.learnt, outcome.problems)
    if outcome.done is not None and outcome.corpus is not None:
        _tell_corpus(run, config, outcome.done, outcome.corpus, sentences, figures, sections, numbers)
        notes += _corpus_notes(run, config, outcome.done, outcome.learnt)
    title = (
        "What people would keep of " + ", ".join(config.data)
        if config.data
        else "A reward of image-text pairs"
    )
    return publish(
        run,
        config,
        title=title,
        verdict=doc.Headline(told, " ".join(sentences), figures[:6]),
        facts=_facts(config, outcome),
        sections=sections,
        notes=notes,
        limitations=LIMITATIONS,
        then=_commands(run, config),
        figures=numbers,
    )


def _facts(config: Any, outcome: Outcome) -> dict[str, str]:
    found = {"Scores": config.by}
    if config.reward is not None:
        found["Reward"] = config.reward
    elif config.by != "random":
        found["Encoder"] = config.encoder or DEFAULT_ENCODER
    if outcome.learnt is not None:
        found["Seed"] = str(config.seed)
    return found


def _tell_reward(
    learnt: Learnt,
    preferences: dict[str, Any],
    sentences: list[str],
    figures: list[doc.Figure],
    sections: list[doc.AnySection],
    numbers: dict[str, Any],
) -> doc.Outcome:
    """The reward on pictures that were held out, beside what the encoder says without it."""
    scores = preferences["scores"]
    accuracy = scores.get("reward", {}).get("accuracy")
    sections.append(
        doc.Curves(
            title="Training",
            charts=[
                doc.Chart(name, [doc.Series("training", *map(list, zip(*points, strict=True)))])
                for name, points in _curves(learnt.history).items()
            ],
        )
    )
    if accuracy is None:
        sentences.append(
            f"A reward was learnt from {learnt.pairs:,} pairs of captions; nothing was held out to measure it."
        )
        return "neutral"
    plain = next(name for name in scores if name not in ("reward", "length"))
    gap = preferences[f"reward - {plain}"]
    rows = []
    for name, one in scores.items():
        matched, short = one["accuracy, same length"], one["shortcuts"]
        rows.append(
            [name, one["accuracy"]["mean"], one["accuracy"]["low"], one["accuracy"]["high"], matched and matched["mean"],
             short["length"], short.get("origin")]
        )  # fmt: skip
    sections.insert(
        0,
        doc.TableSection(
            title="Held-out preferences",
            note=f"Share of {preferences['pairs']:,} pairs of captions of {preferences['pictures']:,} pictures that a score orders "
            "as people do, equal scores counting half, with a 95 % interval over pictures; the same among captions that differ "
            "by at most one word; rank correlation of the score with the words of the caption; share of its variance between "
            "the captions' origins.",
            columns=("score", "pairs in order", "low", "high", "same length", "with length", "by origin"),
            rows=rows,
            units=dict.fromkeys(("pairs in order", "low", "high", "same length", "by origin"), "percent"),
        ),
    )
    figures.append(
        doc.Figure(
            "Pairs in order", accuracy["mean"], unit="percent", before=scores[plain]["accuracy"]["mean"],
            difference=estimate(gap), note=f"before: {plain}",
        )
    )  # fmt: skip
    verb = "orders" if accuracy["mean"] >= scores[plain]["accuracy"]["mean"] else "orders only"
    sentences.append(
        f"The reward {verb} {accuracy['mean']:.1%} of held-out pairs of captions as people do; {plain} "
        f"{scores[plain]['accuracy']['mean']:.1%}.{too_few(preferences['pictures'])}"
    )
    length = scores["reward"]["shortcuts"]["length"]
    if abs(length) >= STRONG:
        sentences.append(f"Much of it is the length of the caption (rank correlation {length:.2f}).")
    numbers |= {"accuracy": accuracy["mean"], f"accuracy, {plain}": scores[plain]["accuracy"]["mean"]}
    return outcome_of(gap, n=preferences["pictures"])


def _curves(history: Sequence[dict[str, float]]) -> dict[str, list[tuple[float, float]]]:
    names = ("loss", "rewards/accuracies")
    return {
        name: points
        for name in names
        if (points := [(row["step"], row[name]) for row in history if name in row and "step" in row])
    }


def _annotation_notes(learnt: Learnt, problems: Sequence[RecordProblem]) -> list[str]:
    notes = [
        f"{learnt.pictures:,} annotated pictures with {learnt.pairs:,} strict pairs were learnt from, {learnt.held_out:,} held out."
    ]
    if learnt.untold:
        notes.append(
            f"{learnt.untold:,} pictures whose captions are all tied teach nothing and were left out."
        )
    if problems:
        notes.append(f"{len(problems):,} annotations could not be used; the first: {problems[0]}.")
    if learnt.broken:
        notes.append(
            f"{len(learnt.broken):,} annotated pictures could not be opened; the first: {learnt.broken[0]}"
        )
    return notes


def _tell_corpus(
    run: Run,
    config: Any,
    done: Curated,
    corpus: PairCorpus,
    sentences: list[str],
    figures: list[doc.Figure],
    sections: list[doc.AnySection],
    numbers: dict[str, Any],
) -> None:
    """What became of the corpus."""
    from coalign.curation.image_text.pictures import picture_sections

    manifest, table = done.manifest, score_table(run)
    first, kept = manifest["steps"][0]["in"], manifest["kept"]
    lowest = float(table.scores[table.kept].min()) if table.kept.any() else None
    sentences.append(f"{kept:,} of {first:,} pairs were kept.")
    figures += [
        doc.Figure("Pairs", first, unit="integer", better="neither"),
        doc.Figure("Kept", kept, unit="integer", better="neither"),
        doc.Figure("Lowest kept score", lowest, better="neither"),
        doc.Figure("Pairs a second", _pace(manifest), note="the whole cut, decoding included"),
    ]
    sections.append(funnel(manifest, title="What became of the pairs"))
    samples = [
        doc.Values(name, values.tolist())
        for name, values in (
            ("kept", table.scores[table.kept][:MOST_VALUES]),
            ("dropped", table.scores[~table.kept][:MOST_VALUES]),
        )
        if len(values)
    ]
    if samples:
        sections.append(doc.Distribution(title="Scores", x_label=config.by, samples=samples))
    sections += _origin_section(table)
    sections += picture_sections(done, corpus, config.examples)
    numbers |= {"pairs": first, "kept": kept, "lowest": lowest}


def _origin_section(table: ScoreTable) -> list[doc.AnySection]:
    """What the score has to do with the length of captions and with where they come from."""
    found = table.shortcuts
    if not found:
        return []
    told = f"Rank correlation of the score with the words of the caption: {found['length']:.2f}."
    if "origin" in found:
        told += f" Share of the scores' variance between origins: {found['origin']:.0%}."
    rows = [
        [one["origin"], one["pairs"], one["kept"], one["kept"] / one["pairs"], one["score"], one["words"]]
        for one in table.by_origin()
    ]
    return [
        doc.TableSection(
            title="By origin",
            note=f"Where captions come from, as the corpus says. {told}",
            columns=("origin", "pairs", "kept", "share kept", "mean score", "mean words"),
            rows=rows,
            units={"pairs": "integer", "kept": "integer", "share kept": "percent"},
        )
    ]


def _pace(manifest: dict[str, Any]) -> float | None:
    seconds = manifest["seconds"]
    return round(manifest["steps"][0]["in"] / seconds, 1) if seconds else None


def _corpus_notes(run: Run, config: Any, done: Curated, learnt: Learnt | None) -> list[str]:
    notes = []
    broken = reasons_of(
        [
            one["steps"][-1].get("problem", "")
            for _, one in stream_rows(done.rejects)
            if one["reason"] == BROKEN and one.get("steps")
        ]
    )
    if broken:
        worst = "; ".join(f"{why} ({count:,})" for why, count in broken.most_common(3))
        notes.append(f"{broken.total():,} pairs were dropped because their picture cannot be opened: {worst}")
    taught = _taught_origins(config, learnt, run)
    shared = sorted(taught & {one for one in score_table(run).origins if one}) if taught else []
    if shared:
        notes.append(
            f"The reward was learnt from captions of {', '.join(shared)}, which also wrote captions of this corpus: it may know "
            "their style."
        )
    if config.shards is not None:
        notes.append(f"The kept pairs also lie as WebDataset shards in {run.path / SHARDS}.")
    return notes


def _taught_origins(config: Any, learnt: Learnt | None, run: Run) -> set[str]:
    if config.by != "reward":
        return set()
    if learnt is not None:
        return {*learnt.origins}
    return {*read_settings(reward_folder(config.reward, run)).get("origins", ())}


def _commands(run: Run, config: Any) -> list[doc.Command]:
    if not config.data:
        return [
            doc.Command(
                f"coalign run compress-align --reward {run.path} --data PAIRS",
                "score and cut a corpus with it",
            )
        ]
    found = [doc.Command(f"coalign data check {run.path}", "look at what was kept")]
    if config.by == "reward":
        found.append(
            doc.Command(
                f"coalign run compress-align --by random --data {' '.join(config.data)} --keep {config.keep:g}",
                "as many pairs by lot, to compare a training with",
            )
        )
    return found
