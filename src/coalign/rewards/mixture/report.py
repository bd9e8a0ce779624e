"""The end of a mixture's training: rewards of the categories on one scale, the mixture's folder, held-out figures, report."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coalign.core.files import atomic_path, read_rows, write_json, write_rows
from coalign.data.records import Ranking
from coalign.measures.statistics import wilson_interval
from coalign.report.model import TableSection
from coalign.training.job import FitResult
from coalign.training.reward_models.report import margins_of, write_reward_report

if TYPE_CHECKING:
    from coalign.models.reward_mixture import Category, RewardMixture
    from coalign.rewards.mixture.phases import Phases
    from coalign.training.material import Material

MOST_SCALED = 200
"""Records of a category that its scale is measured on."""


def finish_mixture(
    phases: Phases,
    records: Mapping[str, Sequence[Ranking]],
    points: Mapping[str, Sequence[str]],
    material: Material,
) -> None:
    """Scale, assemble, measure and report; what is there already is not made again.

    Args:
        records: training records by category, in the order of the experts.
    """
    run, config = phases.run, phases.config
    held_out = cast("list[Ranking]", material.held_out)
    if not run.model.exists():
        _assemble(phases, records, points)
    path = run.artefacts / "held_out.jsonl"
    if not path.exists():
        write_rows(path, _held_out_rows(phases, held_out, [*records]))
    rows = list(read_rows(path))
    steps = [
        json.loads(one.read_text(encoding="utf-8")).get("steps", 0) for one in run.artefacts.glob("*.json")
    ]
    result = FitResult(sum(steps), [], 0.0)
    sections = [*_sections(rows), _parts(records, points)]
    write_reward_report(
        run, config, material, result, rows, title="Mixture of reward models", sections=sections
    )


def _assemble(
    phases: Phases, records: Mapping[str, Sequence[Ranking]], points: Mapping[str, Sequence[str]]
) -> None:
    from coalign.models.devices import pick_device
    from coalign.models.reward_mixture import MANIFEST, Category

    kept = []
    for number, (name, mine) in enumerate(records.items()):
        category = Category(
            name, tuple(points[name]), phases.experts(number), pick_device(phases.config.device)
        )
        found = _rewards(category, mine[:MOST_SCALED])
        spread = statistics.pstdev(found)
        kept.append(
            {
                "name": name,
                "points": list(points[name]),
                "mean": statistics.fmean(found),
                "deviation": spread or 1.0,
            }
        )
    with atomic_path(phases.run.model) as folder:
        shutil.copytree(phases.run.path / "router", folder)
        shutil.copytree(phases.folder / "experts", Path(folder) / "experts")
        write_json(Path(folder) / MANIFEST, {"categories": kept})


def _rewards(category: Category, records: Sequence[Ranking]) -> list[float]:
    """Rewards of all responses to the records, not scaled."""
    return category.rewards(category.parts[1].texts(records))


def _held_out_rows(phases: Phases, records: Sequence[Ranking], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each record its values, the mixture's rewards, those of the base of its category alone, and where it was routed."""
    from coalign.models.devices import pick_device
    from coalign.models.reward_mixture import BASE, load_reward_mixture
    from coalign.models.reward_model import load_reward_model
    from coalign.rewards.mixture.phases import category_of

    if not records:
        return []
    device = phases.config.device
    mixture: RewardMixture = load_reward_mixture(phases.run.model, pick_device(device))
    routes = mixture.route([one.prompt for one in records])
    prompts = [one.prompt for one in records for _ in one.responses]
    rewards = iter(
        mixture.score(
            prompts, [text for one in records for text in one.responses], show="Scoring held-out responses"
        )
    )
    mixed = [[next(rewards) for _ in one.responses] for one in records]
    plain: dict[int, list[float]] = {}
    for number in range(len(names)):
        places = [place for place, (chosen, _) in enumerate(routes) if chosen == number]
        if places:
            base = load_reward_model(str(phases.experts(number) / BASE), device=device)
            plain |= dict(zip(places, base.score_records([records[place] for place in places]), strict=True))
    return [
        {
            "id": one.id, "tag": names[routes[place][0]], "category": category_of(one), "probability": routes[place][1],
            "values": list(one.scores), "rewards": mixed[place], "base_rewards": plain[place],
        }
        for place, one in enumerate(records)
    ]  # fmt: skip


def _sections(rows: Sequence[Mapping[str, Any]]) -> list[TableSection]:
    """Mixture and bases by category, and how often the router is right and how sure it is."""
    if not rows:
        return []
    groups = {"all": list(rows)} | {
        tag: [row for row in rows if row["tag"] == tag] for tag in sorted({row["tag"] for row in rows})
    }
    order, routing = [], []
    for name, mine in groups.items():
        margins = margins_of(mine)
        base = margins_of([{**row, "rewards": row["base_rewards"]} for row in mine])
        shares = [sum(one > 0 for one in each) / len(each) if each else None for each in (margins, base)]
        interval = wilson_interval(sum(one > 0 for one in margins), len(margins)) if margins else None
        ends = f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %" if interval else ""
        order.append([name, len(margins), *shares, ends])
        named = [row["category"] == row["tag"] for row in mine if row["category"] is not None]
        sure = statistics.fmean(row["probability"] for row in mine)
        routing.append([name, len(mine), sum(named) / len(named) if named else None, sure])
    return [
        TableSection(
            title="Mixture and bases", note="Held-out pairs in the right order, by where the router put them.",
            columns=("category", "pairs", "mixture", "base alone", "95 % interval of the mixture"), rows=order,
            units={"pairs": "integer", "mixture": "percent", "base alone": "percent"},
        ),
        TableSection(
            title="Router", note="Share of the records put there that name this category, and the router's mean probability.",
            columns=("category", "records", "named so", "probability"), rows=routing,
            units={"records": "integer", "named so": "percent", "probability": "percent"},
        ),
    ]  # fmt: skip


def _parts(records: Mapping[str, Sequence[Ranking]], points: Mapping[str, Sequence[str]]) -> TableSection:
    rows = [[name, len(mine), ", ".join(points[name])] for name, mine in records.items()]
    return TableSection(
        title="Categories", columns=("category", "training records", "experts, in order"), rows=rows,
        units={"training records": "integer"},
    )  # fmt: skip
