"""Outcomes follow from the rows alone, and the published verdicts are those of their rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coalign.checks.arms import ITEMS
from coalign.checks.options import CheckOptions
from coalign.checks.papers.preference import aft, asft, bco, ln_dpo, poft, pro
from coalign.checks.papers.selfalign import act
from coalign.checks.worlds import mixed_world, preference_world, reply_world
from coalign.core.catalogue import entries
from coalign.core.files import append_rows
from coalign.core.runs import Run
from coalign.core.system import load_check
from coalign.core.verdict import Verdict

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PUBLISHED = [entry.slug for entry in entries() if (RESULTS / f"{entry.slug}.json").exists()]
DPO, LN_DPO, SIMPO = (0.03, 0.1, 0.3), (0.3, 1, 3), (1, 2, 4)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is missing is an error, not minutes of training."""
    for world in (mixed_world, preference_world, reply_world):
        monkeypatch.delattr(world, "trained")


def verdict_of(
    system: ModuleType, rows: list[dict[str, Any]], folder: Path, items: Sequence[dict[str, Any]] = ()
) -> Verdict:
    """The check on rows that are all there, so that nothing is trained."""
    run = Run.start(folder / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", rows)
    append_rows(run.artefacts / ITEMS, items)
    return system.check(run, seeds=len({row["seed"] for row in rows}))


def act_rows(gaps: list[float], *, over_sample: float = 0.01, task: float = 0.0) -> list[dict[str, Any]]:
    rows = []
    for seed, gap in enumerate(gaps):
        for suffix in ("", ", batches of 4"):
            values = {"ACT": gap, "one random sample": gap - over_sample, "best of 4 samples": 0.01}
            rows += [
                {"arm": f"{arm}{suffix}", "seed": seed, "satisfaction": 0.7 + value, "task score": 0.6 + task}
                for arm, value in values.items()
            ]
        rows.append({"arm": "base", "seed": seed, "satisfaction": 0.7, "task score": 0.6})
    return rows


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (act_rows([0.05] * 5), "seen"),
        (act_rows([0.05] * 4 + [0.0]), "seen"),
        (act_rows([0.05] * 3 + [0.02] * 2), "not seen"),
        (act_rows([0.05] * 5, over_sample=-0.01), "not seen"),
        (act_rows([0.05] * 5, task=-0.01), "not seen"),
    ],
)
def test_act(rows: list[dict[str, Any]], outcome: str, tmp_path: Path) -> None:
    assert verdict_of(act, rows, tmp_path).outcome == outcome


def ln_dpo_rows(shorter: list[float], gold: float) -> list[dict[str, Any]]:
    rows = []
    for seed, gap in enumerate(shorter):
        cells = [("DPO", beta, 8.0, 0.9) for beta in DPO]
        cells += [("LN-DPO", beta, 8.0 - gap, 0.9 + gold) for beta in LN_DPO]
        panels = [(*cell, panel) for cell in cells for panel in ("", ln_dpo.LENGTH_PANEL)]
        panels += [("SimPO", beta, 9.0, 0.7, "") for beta in SIMPO]
        rows += [
            {"arm": f"{name} {beta:g}{panel}", "seed": seed, "gold": value, "length": length, "kl": 1.0}
            for name, beta, length, value, panel in panels
        ]
        rows.append({"arm": "SFT", "seed": seed, "gold": 0.6, "length": 8.0, "kl": 0.0})
    return rows


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("shorter", "gold", "outcome"),
    [
        ([1.0] * 5, 0.0, "seen"),
        ([1.0] * 4 + [-1.0], -0.019, "seen"),
        ([1.0] * 3 + [-1.0] * 2, 0.0, "not seen"),
        ([1.0] * 5, -0.03, "mixed"),
        ([1.0] * 5, -0.06, "not seen"),
        ([1.0] * 8 + [-1.0] * 2, 0.0, "seen"),
    ],
)
def test_ln_dpo(shorter: list[float], gold: float, outcome: str, tmp_path: Path) -> None:
    assert verdict_of(ln_dpo, ln_dpo_rows(shorter, gold), tmp_path).outcome == outcome


WOBBLE = [0.001, -0.001, 0.002, -0.002, 0.0]
"""Added to the values of five seeds, so that gaps have a spread."""


def rows_of(
    arms: dict[str, dict[str, float]], by_seed: dict[str, list[float]] | None = None, seeds: int = 5
) -> list[dict[str, Any]]:
    """A row an arm and seed; `by_seed` has the values of an arm's first metric in place of the one for all seeds."""
    rows = []
    for seed in range(seeds):
        for arm, metrics in arms.items():
            row = {"arm": arm, "seed": seed, **metrics}
            if by_seed and arm in by_seed:
                row[next(iter(metrics))] = by_seed[arm][seed]
            rows.append(row)
    return rows


def bco_rows(shift: list[float], gain: float = 0.3, behind: float = 0.02) -> list[dict[str, Any]]:
    gold = 0.6 + gain
    arms = {
        "SFT": {"gold": 0.6},
        "BCE, no shift": {"gold": gold},
        "BCO, midpoint": {"gold": gold},
        "KTO": {"gold": gold},
        "DPO": {"gold": gold + behind + sum(shift) / 5},
        "SFT, uneven prompts": {"gold, class 1": 0.4},
        "BCO, uneven prompts": {"gold, class 1": 0.1},
        "BCO matched, uneven prompts": {"gold, class 1": 0.2},
    }
    arms |= {f"{one}, 32 thumbs a step": {"gold": gold} for one in ("BCO", "BCE, no shift")}
    arms |= {f"{one}, absolute marks": {"gold, class 1": 0.2} for one in ("BCO", "BCO matched")}
    rows = rows_of(arms)
    return [*rows, *({"arm": "BCO", "seed": seed, "gold": gold + gap} for seed, gap in enumerate(shift))]


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (bco_rows([0.01] * 5), "seen"),
        (bco_rows([0.01] * 3 + [0.0, -0.01]), "seen"),
        (bco_rows([0.01] * 3 + [-0.01] * 2), "not seen"),
        (bco_rows([0.01, 0.02, 0.03, 0.01, 0.04], gain=-0.02), "not seen"),
        (bco_rows([0.01] * 5, behind=0.049), "seen"),
        (bco_rows([0.01] * 5, behind=0.051), "not seen"),
    ],
)
def test_bco(rows: list[dict[str, Any]], outcome: str, tmp_path: Path) -> None:
    verdict = verdict_of(bco, rows, tmp_path)
    assert verdict.outcome == outcome
    assert verdict.summary["uneven prompts: effect of matching"] == "seen"
    assert "not below in 5 of 5 seeds" in verdict.tried[0]
    assert "above in 0 of 5 seeds" in verdict.tried[1]


def asft_rows(chosen: list[float], rejected: float = -1.0, dpo: float = -2.0) -> list[dict[str, Any]]:
    def arm(chosen: float, rejected: float) -> dict[str, float]:
        return {"chosen, change": chosen, "rejected, change": rejected, "gold": 0.7}

    arms = {
        "SFT": arm(0, 0),
        "ASFT": arm(0, rejected),
        "DPO": arm(dpo, -8.0),
        "SFT on chosen": arm(1.2, -0.2),
        "ORPO": arm(1.0, -0.5),
    }
    return rows_of(arms, {"ASFT": chosen})


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (asft_rows([1.0] * 5), "seen"),
        (asft_rows([1.0] * 4 + [-0.01]), "not seen"),
        (asft_rows([1.0] * 5, dpo=1.0), "not seen"),
        (asft_rows([1.0] * 5, rejected=-0.1), "mixed"),
        (asft_rows([1.0] * 5, rejected=0.1), "mixed"),
    ],
)
def test_asft(rows: list[dict[str, Any]], outcome: str, tmp_path: Path) -> None:
    assert verdict_of(asft, rows, tmp_path).outcome == outcome


def pro_rows(longer: list[float], over_sft: list[float]) -> list[dict[str, Any]]:
    two = [0.75 + gap for gap in over_sft]
    names = ("SFT", "SFT on the best of 5", "SFT on the better of 2", "PRO, 2 ranked, order alone")
    arms = {name: {"gold": 0.75} for name in (*names, "PRO, 5 ranked", "PRO, 2 ranked")}
    five = [gold + gap for gold, gap in zip(two, longer, strict=True)]
    return rows_of(arms, {"PRO, 2 ranked": two, "PRO, 5 ranked": five})


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (pro_rows([0.01] * 5, [0.1] * 5), "seen"),
        (pro_rows([0.02] * 4 + [-0.01], [0.1] * 5), "seen"),
        (pro_rows([0.02] * 3 + [-0.01] * 2, [0.1] * 5), "not seen"),
        (pro_rows([0.004] * 5, [0.1] * 5), "mixed"),
        (pro_rows([0.01] * 5, [0.1, -0.1, 0.1, -0.1, 0.02]), "not seen"),
        (pro_rows([0.01] * 5, [0.1, -0.1, 0.1, 0.02, 0.1]), "mixed"),
    ],
)
def test_pro(rows: list[dict[str, Any]], outcome: str, tmp_path: Path) -> None:
    assert verdict_of(pro, rows, tmp_path).outcome == outcome


def aft_rows(
    detached: float = 0.1, boundary: float = 0.1, nll: tuple[float, ...] = (0.2,) * 5
) -> list[dict[str, Any]]:
    arms = {
        name: {"NLL": 2.3, "correct": 0.45 + gap, "A-accuracy": 0.8 + gap}
        for name, gap in {
            "VFT": 0.0,
            "VFT continued": 0.0,
            "RFT": 0.1,
            "AFT unconstrained": 0.3,
            "AFT detached": detached,
            "AFT boundary 1": boundary,
            "AFT boundary 0.15": 0.0,
        }.items()
    }
    rows = rows_of(arms, {"AFT unconstrained": [2.3 + gap for gap in nll]})
    for row in rows:
        if row["arm"] in aft.CONSTRAINED:
            row["correct"] += WOBBLE[row["seed"]]
    return rows


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (aft_rows(), "seen"),
        (aft_rows(detached=0.001), "mixed"),
        (aft_rows(boundary=-0.01), "not seen"),
        (aft_rows(nll=(0.2, 0.2, 0.2, 0.2, -0.1)), "mixed"),
        (aft_rows(nll=(-0.1,) * 5), "not seen"),
    ],
)
def test_aft(rows: list[dict[str, Any]], outcome: str, tmp_path: Path) -> None:
    assert verdict_of(aft, rows, tmp_path).outcome == outcome


def poft_rows(gaps: list[float]) -> list[dict[str, Any]]:
    rows = []
    for seed, gap in enumerate(gaps):
        for arm, gold in (("aligned model", 0.95), ("CE", 0.6), ("PoFT", 0.6 + gap)):
            golds = {f"gold, {step}": gold for step in mixed_world.EVALUATED}
            rows.append({"arm": arm, "seed": seed, **golds, "good above bad": 1.0})
    return rows


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("gaps", "outcome"),
    [
        ([0.1, 0.12, 0.09, 0.1, 0.11], "seen"),
        ([0.1, -0.1, 0.1, 0.05, -0.05], "not seen"),
        ([0.1, -0.05, 0.1, 0.05, 0.0], "mixed"),
        ([-0.1] * 5, "not seen"),
    ],
)
def test_poft(gaps: list[float], outcome: str, tmp_path: Path) -> None:
    assert verdict_of(poft, poft_rows(gaps), tmp_path).outcome == outcome


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("slug", PUBLISHED)
def test_a_published_verdict_follows_from_its_rows(slug: str, tmp_path: Path) -> None:
    published = json.loads((RESULTS / f"{slug}.json").read_text(encoding="utf-8"))
    verdict = verdict_of(load_check(slug), published["measures"], tmp_path, published.get("items", []))
    assert verdict.outcome == published["outcome"]
    assert verdict.summary == pytest.approx(published["summary"])
    assert (verdict.rule, verdict.setting, verdict.claim) == tuple(
        published[name] for name in ("rule", "setting", "claim")
    )


def test_the_table_of_results_is_current() -> None:
    script = ROOT / "docs" / "gen_results.py"
    result = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("slug", PUBLISHED)
def test_the_check_gives_its_published_verdict_again(slug: str, tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "check", CheckOptions())
    verdict = load_check(slug).check(run)
    published = json.loads((RESULTS / f"{slug}.json").read_text(encoding="utf-8"))
    assert verdict.outcome == published["outcome"]
