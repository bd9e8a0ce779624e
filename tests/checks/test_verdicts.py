"""Outcomes follow from the rows alone, and the published verdicts are those of their rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coalign.checks import starts
from coalign.checks.arms import ITEMS
from coalign.checks.options import CheckOptions
from coalign.checks.worlds.copying import judged, mixed
from coalign.checks.worlds.replies import scored
from coalign.core.catalogue import entries
from coalign.core.files import append_rows
from coalign.core.runs import Run
from coalign.core.system import load_check
from coalign.core.verdict import Verdict

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PUBLISHED = [entry.slug for entry in entries() if (RESULTS / f"{entry.slug}.json").exists()]
WOBBLE = [0.001, -0.001, 0.002, -0.002, 0.0]
"""Added to the values of five seeds, so that gaps have a spread."""
Rows = list[dict[str, Any]]
Values = Mapping[str, float | Sequence[float]]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is missing is an error, not minutes of training."""
    monkeypatch.delattr(starts, "trained")


def verdict_of(slug: str, rows: Rows, folder: Path, items: Sequence[dict[str, Any]] = ()) -> Verdict:
    """The check on rows that are all there, so that nothing is trained."""
    run = Run.start(folder / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", rows)
    append_rows(run.artefacts / ITEMS, items)
    return load_check(slug).check(run, seeds=len({row["seed"] for row in rows}))


def rows_of(arms: Mapping[str, Values], seeds: int = 5) -> Rows:
    """A row an arm and seed; a metric has one value for all seeds, or one for each."""
    return [
        {
            "arm": arm,
            "seed": seed,
            **{name: one if isinstance(one, float) else one[seed] for name, one in values.items()},
        }
        for seed in range(seeds)
        for arm, values in arms.items()
    ]


def plus(value: float, gaps: Sequence[float]) -> list[float]:
    return [value + gap for gap in gaps]


def act_rows(gaps: list[float], *, over_sample: float = 0.01, task: float = 0.0) -> Rows:
    arms: dict[str, Values] = {"base": {"satisfaction": 0.7, "task score": 0.6}}
    for suffix in ("", ", batches of 4"):
        values = {"ACT": gaps, "one random sample": plus(-over_sample, gaps), "best of 4 samples": [0.01] * 5}
        arms |= {
            f"{arm}{suffix}": {"satisfaction": plus(0.7, one), "task score": 0.6 + task}
            for arm, one in values.items()
        }
    return rows_of(arms)


def i_sheep_rows(over_first: list[float], over_plain: float = 0.1) -> Rows:
    last = plus(0.8, over_first)
    golds = {
        "base": 0.5,
        "round 1": 0.8,
        "round 2": 0.9,
        "round 3": last,
        "round 3, last model trained on": 0.9,
    }
    golds["round 3, no filter"] = plus(-over_plain, last)
    return rows_of({arm: {"quality": gold} for arm, gold in golds.items()})


def ln_dpo_rows(shorter: list[float], gold: float) -> Rows:
    cells: dict[str, Values] = {"SFT": {"gold": 0.6, "length": 8.0, "kl": 0.0}}
    for panel in ("", ", labels reward length"):
        for beta in ("0.03", "0.1", "0.3"):
            cells[f"DPO {beta}{panel}"] = {"gold": 0.9, "length": 8.0, "kl": 1.0}
        for beta in ("0.3", "1", "3"):
            lengths = [8.0 - gap for gap in shorter]
            cells[f"LN-DPO {beta}{panel}"] = {"gold": 0.9 + gold, "length": lengths, "kl": 1.0}
    cells |= {f"SimPO {beta}": {"gold": 0.7, "length": 9.0, "kl": 1.0} for beta in (1, 2, 4)}
    return rows_of(cells, seeds=len(shorter))


def bco_rows(shift: list[float], gain: float = 0.3, behind: float = 0.02) -> Rows:
    gold = 0.6 + gain
    many = ", 32 thumbs a step"
    same = ("BCE, no shift", "BCO, midpoint", "KTO", f"BCO{many}", f"BCE, no shift{many}")
    uneven = {"SFT": 0.4, "BCO": 0.1, "BCO matched": 0.2}
    second = {f"{arm}, uneven prompts": one for arm, one in uneven.items()}
    second |= dict.fromkeys(("BCO, absolute marks", "BCO matched, absolute marks"), 0.2)
    golds = {"SFT": 0.6, "BCO": plus(gold, shift), "DPO": gold + behind + sum(shift) / 5}
    arms: dict[str, Values] = {arm: {"gold": one} for arm, one in (golds | dict.fromkeys(same, gold)).items()}
    return rows_of({**arms, **{arm: {"gold, class 1": one} for arm, one in second.items()}})


def asft_rows(chosen: list[float], rejected: float = -1.0, dpo: float = -2.0) -> Rows:
    changes = {
        "SFT": (0.0, 0.0), "ASFT": (chosen, rejected), "DPO": (dpo, -8.0), "SFT on chosen": (1.2, -0.2),
        "ORPO": (1.0, -0.5),
    }  # fmt: skip
    names = ("chosen, change", "rejected, change")
    return rows_of({arm: {"gold": 0.7, **dict(zip(names, one, strict=True))} for arm, one in changes.items()})


def pro_rows(longer: list[float], over_sft: list[float]) -> Rows:
    names = ("SFT", "SFT on the best of 5", "SFT on the better of 2", "PRO, 2 ranked, order alone")
    two = plus(0.75, over_sft)
    five = [gold + gap for gold, gap in zip(two, longer, strict=True)]
    ours = {"PRO, 2 ranked": {"gold": two}, "PRO, 5 ranked": {"gold": five}}
    return rows_of({**{name: {"gold": 0.75} for name in names}, **ours})


def aft_rows(detached: float = 0.1, boundary: float = 0.1, nll: Sequence[float] = (0.2,) * 5) -> Rows:
    gaps = {
        "VFT": 0.0, "VFT continued": 0.0, "RFT": 0.1, "AFT unconstrained": 0.3, "AFT detached": detached,
        "AFT boundary 1": boundary, "AFT boundary 0.15": 0.0,
    }  # fmt: skip
    constrained = ("AFT detached", "AFT boundary 1")
    return rows_of(
        {
            arm: {
                "NLL": plus(2.3, nll) if arm == "AFT unconstrained" else 2.3,
                "correct": plus(0.45 + gap, WOBBLE) if arm in constrained else 0.45 + gap,
                "A-accuracy": 0.8 + gap,
            }
            for arm, gap in gaps.items()
        }
    )


def poft_rows(gaps: list[float]) -> Rows:
    golds = {"aligned model": [0.95] * 5, "CE": [0.6] * 5, "PoFT": plus(0.6, gaps)}
    return rows_of(
        {
            arm: {**{f"gold, {step}": gold for step in mixed.EVALUATED}, "good above bad": 1.0}
            for arm, gold in golds.items()
        }
    )


def d2o_rows(marked: list[float], nll: float, gold: float, ascent_gold: float) -> Rows:
    arms = {
        "start": (0.4, 1.5, 0.8),
        "gradient ascent": (0.0, 8.0, ascent_gold),
        "DPO, one self-sample": (0.0, 1.9, 0.8),
        "D2O": (marked, nll, gold),
        "gradient ascent, 100 steps": (0.0, 5.0, 0.5),
        "D2O, 100 steps": ([0.3, 0.1, 0.1, 0.1, 0.1], 2.0, 0.75),
        "D2O, 11 anchors": (0.0, 2.0, 0.7),
    }
    return rows_of({arm: dict(zip(("marked", "nll", "gold"), one, strict=True)) for arm, one in arms.items()})


def cut_rows(precision: float, recall: float, strict: float, golds: list[float]) -> Rows:
    def gold(one: float | list[float]) -> Values:
        return {f"gold, {steps} steps": one for steps in judged.STEPS}

    arms: dict[str, Values] = {arm: gold(0.6) for arm in ("start", "likelihood", "hindsight")}
    for arm, one in (("CUT", precision), ("CUT, threshold 3", strict)):
        arms[arm] = {**gold(golds), "precision": one, "recall": recall, "base rate": 0.38}
    return rows_of(arms)


def reward_augmented_rows(changes: list[float], rise: float) -> Rows:
    arms = {
        "base": (0.0, 0.0),
        "DPO": (-5.0, 0.0),
        "DPO, as many steps": (-8.0, 0.0),
        "reward-augmented": (changes, rise),
        "reward-augmented, half": (-3.0, 0.1),
    }
    return rows_of(
        {
            arm: {
                "good rejected, change": change,
                "good rejected, change, goal 5": [-4.0, -4.0, -6.0, -4.0, -4.0],
                **{f"quality, goal {goal}": 0.5 + (better if goal >= 4 else 0.0) for goal in scored.GOALS},
                "quality, no goal": 0.5,
            }
            for arm, (change, better) in arms.items()
        }
    )


def dpo_insights_rows(late: list[float], undertrained: list[float]) -> Rows:
    arms = {"SFT": 0.6, "undertrained": 0.6}
    for method, gain, other in zip(("DPO", "IPO", "KTO", "CPO"), late, undertrained, strict=True):
        golds = {"300": 0.7, "1200": 0.9, "3600": 0.9 + gain, "1200, undertrained": other}
        arms |= {f"{method} {cell}": gold for cell, gold in golds.items()}
    return rows_of({arm: {"gold": gold} for arm, gold in arms.items()})


def cyclealign_rows(gaps: list[float], control: float = 0.6) -> Rows:
    arms = {
        "untrained": [0.6] * 5,
        "CycleAlign": plus(0.6, gaps),
        "empty queue": [0.7] * 5,
        "random judge": [control] * 5,
    }
    judge = {"accuracy of the judge, cycle 4": 0.6}
    return rows_of({arm: {"quality": values, **judge} for arm, values in arms.items()})


def selfie_rows(gaps: list[float], sure: float = 1.0) -> Rows:
    labels = {
        f"{name}, round {one}": value
        for one in (1, 2)
        for name, value in (("right labels", 0.7), ("labels above chance", 1.0 if one == 1 else sure))
    }
    ours: Values = {"quality": plus(0.7, gaps), **labels}
    others = {arm: {"quality": 0.7} for arm in ("base", "seed pairs", "seed pairs, as many steps")}
    return rows_of({**others, "SPA": ours, "SPA without smoothing": ours})


CASES: dict[str, list[tuple[Rows, str]]] = {
    "act": [
        (act_rows([0.05] * 5), "seen"),
        (act_rows([0.05] * 4 + [0.0]), "seen"),
        (act_rows([0.05] * 3 + [0.02] * 2), "not seen"),
        (act_rows([0.05] * 5, over_sample=-0.01), "not seen"),
        (act_rows([0.05] * 5, task=-0.01), "not seen"),
    ],
    "cyclealign": [
        (cyclealign_rows([0.06] * 4 + [0.0]), "seen"),
        (cyclealign_rows([0.06] * 3 + [0.04] * 2), "not seen"),
        (cyclealign_rows([0.06] * 5, control=0.67), "not seen"),
    ],
    "selfie": [
        (selfie_rows([0.06] * 4 + [0.0]), "seen"),
        (selfie_rows([0.06] * 3 + [0.04] * 2), "not seen"),
        (selfie_rows([0.06] * 5, sure=0.0), "not seen"),
    ],
    "i-sheep": [
        (i_sheep_rows([0.05] * 5), "seen"),
        (i_sheep_rows([0.05] * 4 + [0.0]), "seen"),
        (i_sheep_rows([0.05] * 3 + [0.01] * 2), "not seen"),
        (i_sheep_rows([0.05] * 5, 0.02), "not seen"),
    ],
    "ln-dpo": [
        (ln_dpo_rows([1.0] * 5, 0.0), "seen"),
        (ln_dpo_rows([1.0] * 4 + [-1.0], -0.019), "seen"),
        (ln_dpo_rows([1.0] * 3 + [-1.0] * 2, 0.0), "not seen"),
        (ln_dpo_rows([1.0] * 5, -0.03), "mixed"),
        (ln_dpo_rows([1.0] * 5, -0.06), "not seen"),
        (ln_dpo_rows([1.0] * 8 + [-1.0] * 2, 0.0), "seen"),
    ],
    "bco": [
        (bco_rows([0.01] * 5), "seen"),
        (bco_rows([0.01] * 3 + [0.0, -0.01]), "seen"),
        (bco_rows([0.01] * 3 + [-0.01] * 2), "not seen"),
        (bco_rows([0.01, 0.02, 0.03, 0.01, 0.04], gain=-0.02), "not seen"),
        (bco_rows([0.01] * 5, behind=0.049), "seen"),
        (bco_rows([0.01] * 5, behind=0.051), "not seen"),
    ],
    "asft": [
        (asft_rows([1.0] * 5), "seen"),
        (asft_rows([1.0] * 4 + [-0.01]), "not seen"),
        (asft_rows([1.0] * 5, dpo=1.0), "not seen"),
        (asft_rows([1.0] * 5, rejected=-0.1), "mixed"),
        (asft_rows([1.0] * 5, rejected=0.1), "mixed"),
    ],
    "pro": [
        (pro_rows([0.01] * 5, [0.1] * 5), "seen"),
        (pro_rows([0.02] * 4 + [-0.01], [0.1] * 5), "seen"),
        (pro_rows([0.02] * 3 + [-0.01] * 2, [0.1] * 5), "not seen"),
        (pro_rows([0.004] * 5, [0.1] * 5), "mixed"),
        (pro_rows([0.01] * 5, [0.1, -0.1, 0.1, -0.1, 0.02]), "not seen"),
        (pro_rows([0.01] * 5, [0.1, -0.1, 0.1, 0.02, 0.1]), "mixed"),
    ],
    "aft": [
        (aft_rows(), "seen"),
        (aft_rows(detached=0.001), "mixed"),
        (aft_rows(boundary=-0.01), "not seen"),
        (aft_rows(nll=(0.2, 0.2, 0.2, 0.2, -0.1)), "mixed"),
        (aft_rows(nll=(-0.1,) * 5), "not seen"),
    ],
    "poft": [
        (poft_rows([0.1, 0.12, 0.09, 0.1, 0.11]), "seen"),
        (poft_rows([0.1, -0.1, 0.1, 0.05, -0.05]), "not seen"),
        (poft_rows([0.1, -0.05, 0.1, 0.05, 0.0]), "mixed"),
        (poft_rows([-0.1] * 5), "not seen"),
    ],
    "d2o": [
        (d2o_rows([0.1] * 5, 2.0, 0.7, 0.1), "seen"),
        (d2o_rows([0.1, 0.1, 0.1, 0.1, 0.2], 2.0, 0.7, 0.1), "not seen"),
        (d2o_rows([0.1] * 5, 9.0, 0.7, 0.1), "not seen"),
        (d2o_rows([0.1] * 5, 2.0, 0.6, 0.1), "mixed"),
        (d2o_rows([0.1] * 5, 2.0, 0.7, 0.5), "mixed"),
    ],
    "cut": [
        (cut_rows(0.6, 0.8, 0.95, [0.9, 0.95, 0.9, 0.92, 0.9]), "seen"),
        (cut_rows(0.6, 0.6, 0.95, [0.9] * 5), "mixed"),
        (cut_rows(0.6, 0.8, 0.8, [0.9] * 5), "mixed"),
        (cut_rows(0.3, 0.8, 0.95, [0.9] * 5), "not seen"),
        (cut_rows(0.6, 0.8, 0.95, [0.5] * 5), "not seen"),
        (cut_rows(0.6, 0.8, 0.95, [0.9, 0.9, 0.3, 0.5, 0.61]), "mixed"),
    ],
    "reward-augmented": [
        (reward_augmented_rows([-2.0] * 5, 0.2), "seen"),
        (reward_augmented_rows([-2.0, -2.0, -2.0, -2.0, -9.0], 0.2), "seen"),
        (reward_augmented_rows([-2.0, -2.0, -2.0, -9.0, -9.0], 0.2), "not seen"),
        (reward_augmented_rows([-2.0] * 5, 0.05), "not seen"),
    ],
    "dpo-insights": [
        (dpo_insights_rows([0.01, 0.01, 0.01, 0.3], [0.8, 0.8, 0.8, 0.95]), "seen"),
        (dpo_insights_rows([0.01, 0.01, 0.3, 0.3], [0.8, 0.8, 0.8, 0.8]), "not seen"),
        (dpo_insights_rows([0.01, 0.01, 0.01, 0.01], [0.8, 0.8, 0.95, 0.95]), "not seen"),
    ],
}
WORDS: dict[str, list[tuple[int, str]]] = {
    "bco": [(0, "not below in 5 of 5 seeds"), (1, "above in 0 of 5 seeds")],
    "d2o": [
        (0, "half the start's in 4 of 5 seeds; nll, D2O - gradient ascent -3.000"),
        (0, "gold lost, D2O +0.050, gradient ascent +0.300"),
        (1, "marked 0.000, below half the start's in 5 of 5 seeds"),
    ],
    "reward-augmented": [
        (0, "both trainings of DPO in 4 of 5 seeds"),
        (0, "reward-augmented - DPO +0.600"),
    ],
}
"""What else was tried, in words, whatever the outcome: the place among the sentences, and a part of it."""


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("slug", "rows", "outcome"), [(slug, *case) for slug, cases in CASES.items() for case in cases]
)
def test_the_outcome_follows_from_the_rows(slug: str, rows: Rows, outcome: str, tmp_path: Path) -> None:
    verdict = verdict_of(slug, rows, tmp_path)
    assert verdict.outcome == outcome
    for place, words in WORDS.get(slug, []):
        assert words in verdict.tried[place]
    if slug == "bco":
        assert verdict.summary["uneven prompts: effect of matching"] == "seen"


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("slug", PUBLISHED)
def test_a_published_verdict_follows_from_its_rows(slug: str, tmp_path: Path) -> None:
    published = json.loads((RESULTS / f"{slug}.json").read_text(encoding="utf-8"))
    verdict = verdict_of(slug, published["measures"], tmp_path, published.get("items", []))
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
