"""Outcomes follow from the rows alone, and the published verdicts are those of their rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coalign.checks import preference_world, reply_world
from coalign.checks.options import CheckOptions
from coalign.core.catalogue import entries
from coalign.core.files import append_rows
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.core.verdict import Verdict
from coalign.preference import ln_dpo
from coalign.selfalign import act

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PUBLISHED = [entry.slug for entry in entries() if (RESULTS / f"{entry.slug}.json").exists()]
DPO, LN_DPO, SIMPO = (0.03, 0.1, 0.3), (0.3, 1, 3), (1, 2, 4)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is missing is an error, not minutes of training."""
    for world in (preference_world, reply_world):
        monkeypatch.delattr(world, "trained")


def verdict_of(system: ModuleType, rows: list[dict[str, Any]], folder: Path) -> Verdict:
    """The check on rows that are all there, so that nothing is trained."""
    run = Run.start(folder / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", rows)
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


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("slug", PUBLISHED)
def test_a_published_verdict_follows_from_its_rows(slug: str, tmp_path: Path) -> None:
    published = json.loads((RESULTS / f"{slug}.json").read_text(encoding="utf-8"))
    verdict = verdict_of(load_system(slug), published["measures"], tmp_path)
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
    verdict = load_system(slug).check(run)
    published = json.loads((RESULTS / f"{slug}.json").read_text(encoding="utf-8"))
    assert verdict.outcome == published["outcome"]
