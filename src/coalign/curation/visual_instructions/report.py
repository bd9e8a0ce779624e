"""The report of a curated set of visual instructions: what each stage kept, what was rewritten, and what that changed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coalign.core.errors import RecordProblem
from coalign.core.files import stream_rows
from coalign.core.runs import Run
from coalign.curation.visual_instructions.conversations import questions_text
from coalign.curation.visual_instructions.likelihoods import measure_likelihoods, rewritten_turns
from coalign.curation.visual_instructions.rewriting import pair_text
from coalign.data.media.pictures import Picture
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel
from coalign.loops.rows import Row
from coalign.models.backends.options import is_address
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import counted, curves, estimate, outcome_of, paired, too_few
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail

CHARTS = (("loss", "Loss"), ("grad_norm", "Gradient norm"))


def write_curation_report(
    run: Run,
    config: Any,
    rewards: Mapping[str, Any],
    done: Curated | None,
    *,
    problems: Sequence[RecordProblem] = (),
) -> None:
    """Write the report.

    Args:
        rewards: side to what `learning.learn_rewards` told.
        done: the pipeline; None where only rewards were learnt.
        problems: annotations that were left out.
    """
    rows = list(done.rows()) if done else []
    turns = [turn for row in rows for turn in row["turns"]]
    rewriting = done is not None and config.rewrite != "none"
    likely = _likelihoods(run, config, rows) if rewriting else []
    change = (
        paired("Nats a token of the answers", *_columns(likely), unit="number", better="lower")
        if likely
        else None
    )
    publish(
        run,
        config,
        title="Visual instructions that people would choose, in the model's words",
        facts={
            "Data": ", ".join(config.data or config.annotations),
            "Rewards": config.rewards or (config.reward_model if rewards else "none"),
            "Rewritten by": config.model if rewriting else "nobody",
            "Seed": str(config.seed),
        },
        verdict=_headline(done, rows, turns, rewards, change),
        sections=[
            *_rewards(rewards),
            *([funnel(done.manifest, title="Stages")] if done else []),
            *(_types(done, rows) if done else []),
            *_rewritten(turns, change),
            *_texts(rows, config.examples),
            *(_pictures(done, rows, config.examples) if done else []),
            *curves(CHARTS, {side: one["history"] for side, one in rewards.items()}),
        ],
        notes=[f"{len(problems)} annotations were left out: {problems[0]}"] if problems else (),
        limitations=[
            "The rewards know what the annotators preferred and nothing else; kept and rejected pictures are shown for a look.",
            *(["The guard sees numbers, colours, places, names and words of your own; a changed meaning can pass it.",
               "A likelier answer can be a blander one: length and facts stand beside it."] if rewriting else []),
        ],
        then=_then(run, done),
        figures=_figures(done, rows, turns),
    )  # fmt: skip


def _columns(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row["before"] for row in rows], [row["after"] for row in rows]


def _likelihoods(run: Run, config: Any, rows: Sequence[Row]) -> list[Row]:
    if not config.likelihood or is_address(config.model):
        return []
    return measure_likelihoods(
        run.artefacts / "likelihoods.json", rewritten_turns(rows), config.model, config.device
    )


def _headline(
    done: Curated | None,
    rows: Sequence[Row],
    turns: Sequence[Row],
    rewards: Mapping[str, Any],
    change: doc.ComparisonRow | None,
) -> doc.Headline:
    if done is None:
        parts = [
            f"{side}s {100 * one['accuracy']['mean']:.0f} %"
            for side, one in rewards.items()
            if one["accuracy"]
        ]
        told = f" Held-out pairs in the people's order: {', '.join(parts)}." if parts else ""
        return doc.Headline("neutral", f"Both rewards are learnt.{told}", _accuracies(rewards))
    read = done.manifest["steps"][0]["in"]
    text = f"{len(rows):,} of {read:,} records are kept."
    figures = [doc.Figure("Kept", len(rows), unit="integer", note=f"of {read:,}", better="neither")]
    if any("rewritten" in turn for turn in turns):
        count = sum(turn["rewritten"] for turn in turns)
        text += f" {count} of {len(turns)} turns are in the model's words."
        figures.append(doc.Figure("Turns rewritten", count / len(turns), unit="percent", better="neither"))
    outcome: doc.Outcome = "neutral"
    if change is not None:
        outcome = outcome_of(change.difference, "lower", n=change.n)
        text += too_few(change.n or 0)
        figures.append(
            doc.Figure(
                change.name, change.after.value, before=change.before.value, difference=change.difference,
                better="lower", note=f"{change.n} rewritten answers",
            )
        )  # fmt: skip
    return doc.Headline(outcome, text, [*figures, *_accuracies(rewards)])


def _accuracies(rewards: Mapping[str, Any]) -> list[doc.Figure]:
    return [
        doc.Figure(
            f"Held-out pairs of {side}s in order",
            one["accuracy"]["mean"],
            unit="percent",
            note=f"{one['held out']} groups",
        )
        for side, one in rewards.items()
        if one["accuracy"]
    ]


def _rewards(rewards: Mapping[str, Any]) -> list[doc.TableSection]:
    rows = []
    for side, one in rewards.items():
        found = estimate(one["accuracy"])
        rows.append(
            [
                side,
                one["groups"],
                one["pairs"],
                one["augmented"],
                one["held out"],
                found.value,
                found.low,
                found.high,
            ]
        )
    columns = (
        "reward of",
        "groups",
        "pairs",
        "corrupted copies",
        "held-out groups",
        "pairs in order",
        "low",
        "high",
    )
    units: dict[str, doc.Unit] = {
        **dict.fromkeys(columns[1:5], "integer"),
        **dict.fromkeys(columns[5:], "percent"),
    }
    note = "Pairs of different rank on held-out pictures; equal scores count half, intervals are over groups."
    return (
        [doc.TableSection(title="Rewards", note=note, columns=columns, rows=rows, units=units)]
        if rows
        else []
    )


def _types(done: Curated, rows: Sequence[Row]) -> list[doc.TableSection]:
    """Records of each type of instruction, read and kept, with the rewards of those that are kept."""
    kept = Counter(row["type"] for row in rows)
    lost = Counter(one["row"].get("type", "") for _, one in stream_rows(done.rejects))
    if not any(kept.keys() | lost.keys()):
        return []
    table = []
    for kind in sorted(kept.keys() | lost.keys()):
        scores = [
            [row[name] for row in rows if row["type"] == kind and name in row] for name in ("r_Q", "r_A")
        ]
        means = [sum(each) / len(each) if each else None for each in scores]
        table.append([kind or "not said", kept[kind] + lost[kind], kept[kind], *means])
    columns = ("type", "read", "kept", "mean r_Q", "mean r_A")
    return [
        doc.TableSection(
            title="Types of instruction",
            columns=columns,
            rows=table,
            units=dict.fromkeys(columns[1:3], "integer"),
        )
    ]


def _rewritten(turns: Sequence[Row], change: doc.ComparisonRow | None) -> list[doc.AnySection]:
    """Why turns are as they are, and what rewriting did to length, facts and likelihood."""
    told = [turn for turn in turns if "rewritten" in turn]
    if not told:
        return []
    reasons = Counter("rewritten" if turn["rewritten"] else turn["why"].partition(",")[0] for turn in told)
    taken = [turn for turn in told if turn["rewritten"]]
    sections: list[doc.AnySection] = [
        counted(
            "Rewriting",
            ("what became of a turn", "turns"),
            dict(reasons.most_common()),
            note="Of facts the first one is named.",
        )
    ]
    if taken:
        before, after = ([len(_answer(turn, side).split()) for turn in taken] for side in ("before", "after"))
        questions = [
            [len(each.split()) for each in side]
            for side in zip(
                *((turn["original"]["question"], turn["question"]) for turn in taken), strict=True
            )
        ]
        rows = [
            paired(
                "Words of an answer",
                [*map(float, before)],
                [*map(float, after)],
                unit="number",
                better="neither",
            ),
            paired(
                "Words of a question",
                *([*map(float, side)] for side in questions),
                unit="number",
                better="neither",
            ),
            paired(
                "Facts of the answer that are there",
                [1.0] * len(taken),
                [turn["facts_kept"] for turn in taken],
            ),
            *([change] if change else []),
        ]
        sections.append(
            doc.Comparison(
                title="What rewriting changed",
                rows=rows,
                scale="row",
                note="Of turns whose rewriting was taken.",
            )
        )
    return sections


def _answer(turn: Row, side: str) -> str:
    return (turn["original"] if side == "before" else turn)["answers"][0]


def _texts(rows: Sequence[Row], most: int) -> list[doc.Samples]:
    turns = [turn for row in rows for turn in row["turns"] if "rewritten" in turn]
    taken = [turn for turn in turns if turn["rewritten"]]
    refused = [turn for turn in turns if not turn["rewritten"]]
    shown = [
        doc.Sample(
            "taken",
            [
                doc.Output(pair_text(turn["original"]["question"], _answer(turn, "before"))),
                doc.Output(pair_text(turn["question"], _answer(turn, "after"))),
            ],
        )
        for turn in taken[:most]
    ]
    shown += [
        doc.Sample(
            turn["why"],
            [doc.Output(pair_text(turn["question"], turn["answers"][0])), doc.Output(turn["reply"])],
        )
        for turn in refused[:most]
    ]
    return (
        [
            doc.Samples(
                title="Originals and replies", columns=["Original", "Reply"], rows=shown, better="neither"
            )
        ]
        if shown
        else []
    )


def _pictures(done: Curated, rows: Sequence[Row], most: int) -> list[Gallery]:
    """The best kept records, and for each stage the first that fell, with their pictures."""
    best = sorted(rows, key=lambda row: -row.get("r_A", 0.0))
    lost: dict[str, list[Row]] = {}
    for _, one in stream_rows(done.rejects):
        if one["row"].get("image") and one["step"].startswith("best"):
            found = lost.setdefault(one["step"], [])
            if len(found) < most:
                found.append(one["row"])
    sections = gallery(
        "Kept", itertools.islice(_shown(best), most), total=len(rows), note="By the reward of their answers."
    )
    for step, fallen in lost.items():
        sections += gallery(f"Fallen: {step}", _shown(fallen), note="The first ones.")
    return sections


def _shown(rows: Sequence[Row]) -> Iterator[Shown]:
    for row in rows:
        if row["image"] is None:
            continue
        scores = {name: round(row[name], 3) for name in ("r_Q", "r_A") if name in row}
        text = (
            questions_text(row)
            if len(row["turns"]) > 1
            else pair_text(row["turns"][0]["question"], row["turns"][0]["answers"][0])
        )
        yield Shown([thumbnail(Picture(row["image"]).open())], text, scores)


def _figures(done: Curated | None, rows: Sequence[Row], turns: Sequence[Row]) -> dict[str, Any]:
    if done is None:
        return {}
    found: dict[str, Any] = {"kept": len(rows)}
    if any("rewritten" in turn for turn in turns):
        found["rewritten"] = sum(turn["rewritten"] for turn in turns) / len(turns)
    return found


def _then(run: Run, done: Curated | None) -> list[doc.Command]:
    if done is None:
        return [
            doc.Command(
                f"coalign run align2llava --rewards {run.path} --data INSTRUCTIONS",
                "choose from a set with these rewards",
            )
        ]
    return [
        doc.Command(f"coalign data check {run.path}", "look at the records and their pictures"),
        doc.Command(
            f"coalign run sft --data {run.path} --model llava-hf/llava-1.5-7b-hf",
            "tune an image-text-to-text model on them",
        ),
    ]
