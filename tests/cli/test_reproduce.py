"""`coalign reproduce`: verdicts shown and published, stopped checks continued, errors said."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coalign.cli.running import reproduce as module
from coalign.core.catalogue import select
from coalign.core.errors import CoalignError
from coalign.core.runs import Run
from coalign.core.verdict import Verdict

Coalign = Callable[..., Any]


class Check(SimpleNamespace):
    """A check that counts its arms in the run folder and stops where it is told."""

    def __call__(self, run: Run, *, seeds: int = 5) -> Verdict:
        self.calls.append((run.path, seeds))
        if self.error is not None:
            raise self.error
        arms = itertools.product(range(seeds), ("base", "[ours]"))
        rows = [{"arm": arm, "seed": seed, "gold": 0.5 + seed / 10} for seed, arm in arms]
        return Verdict(
            slug="act", outcome="mixed", claim="More is better.", rule="Seen: more. Otherwise mixed.",
            setting="A very small world.", measures=rows, summary={"gold, ours - base": -0.0625, "seeds that hit": 3},
            tried=["less"], seconds=1.5,
        )  # fmt: skip


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    monkeypatch.chdir(tmp_path)
    made = Check(calls=[], error=None)
    monkeypatch.setattr(module, "load_check", lambda slug: SimpleNamespace(check=made.__call__))
    return made


def test_the_verdict_is_shown_with_its_rule_and_measures(coalign: Coalign, check: Check) -> None:
    result = coalign("reproduce", "act", "--seeds", "3")
    assert result.code == 0
    for text in ("mixed", "More is better.", "Otherwise mixed", "[ours]", "0.600 ± 0.100", "-0.062", "less"):
        assert text in result.out
    (path, seeds) = check.calls[0]
    assert seeds == 3
    run = Run.open(path)
    assert run.state == "done"
    assert run.status()["headline"] == "mixed: More is better."
    assert json.loads((path / "verdict.json").read_text())["outcome"] == "mixed"
    assert f"Verdict: {path / 'verdict.json'}" in result.err


def test_verdicts_are_published_where_asked(coalign: Coalign, check: Check) -> None:
    assert coalign("reproduce", "act", "--seeds", "1", "--out", "kept").code == 0
    verdict = json.loads(Path("kept/act.json").read_text())
    assert verdict["measures"][0] == {"arm": "base", "seed": 0, "gold": 0.5}
    assert {"python", "torch", "coalign"} <= verdict["versions"].keys()


def test_a_checkout_publishes_the_check_as_its_rule_is_written_and_no_other(
    coalign: Coalign, check: Check
) -> None:
    Path("src/coalign").mkdir(parents=True)
    Path("docs").mkdir()
    assert coalign("reproduce", "act", "--seeds", "2").code == 0
    assert not Path("docs/results").exists()
    result = coalign("reproduce", "act")
    assert Path("docs/results/act.json").exists()
    assert "gen_results.py" in result.err


def test_a_stopped_check_goes_on_and_a_finished_one_does_not(coalign: Coalign, check: Check) -> None:
    check.error = KeyboardInterrupt()
    result = coalign("reproduce", "act")
    assert result.code == 130
    assert "same command goes on" in result.err
    stopped = check.calls[0][0]
    assert Run.open(stopped).state == "interrupted"
    check.error = None
    for seeds in (["--seeds", "2"], [], []):
        coalign("reproduce", "act", *seeds)
    others, again, new = (path for path, _ in check.calls[1:])
    assert again == stopped
    assert len({stopped, others, new}) == 3


def test_one_check_that_fails_does_not_stop_the_others(coalign: Coalign, check: Check) -> None:
    check.error = CoalignError("The disk is full.")
    result = coalign("reproduce", "act", "ln-dpo", "ACT")
    assert result.code == 1
    assert len(check.calls) == 2, "each system once"
    assert "ln-dpo: The disk is full." in result.err
    assert "2 of 2 checks could not be done: act, ln-dpo" in result.err
    assert Run.open(check.calls[0][0]).state == "failed"


def test_all_means_every_checked_system(coalign: Coalign, check: Check) -> None:
    assert coalign("reproduce", "--all", "--seeds", "1").code == 0
    assert len(check.calls) == sum(entry.checked for entry in select(available=True))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "Nothing to check"),
        (("act", "--all"), "exclude each other"),
        (("crem",), "cream"),
        (("act", "--seeds", "0"), "seeds"),
        (("act", "--data", "nowhere.jsonl"), "does not exist"),
        (("act", "--data", "rows.jsonl"), "makes its own world"),
    ],
)
def test_wrong_usage(coalign: Coalign, check: Check, argv: tuple[str, ...], message: str) -> None:
    Path("rows.jsonl").write_text("{}\n")
    result = coalign("reproduce", *argv)
    assert result.code == 2
    assert message in result.err
    assert check.calls == []


def test_a_planned_system_says_so(coalign: Coalign, planned: str) -> None:
    result = coalign("reproduce", planned)
    assert result.code == 2
    assert f"{planned} is planned" in result.err


KILLED = """
import os, signal, sys
from types import SimpleNamespace
from coalign.checks.arms import measure_arms
from coalign.cli.running import reproduce
from coalign.cli.main import main

def arm(name):
    def measure(seed):
        if sys.argv[1] == "kill" and (seed, name) == (1, "ours"):
            os.kill(os.getpid(), signal.SIGKILL)
        print("measured", seed, name)
        return {"gold": float(seed)}
    return measure

def check(run, *, seeds=5):
    '''Rule:
        r
    Setting:
        s
    '''
    rows = measure_arms(run, seeds=seeds, prepare=int, arms={name: arm(name) for name in ("base", "ours")})
    return rows.verdict(check, outcome="seen", summary={})

check.__module__ = "act"
reproduce.load_check = lambda slug: SimpleNamespace(check=check)
main(["reproduce", "act", "--seeds", "2", "--out", "kept"])
"""


def test_a_killed_check_measures_only_what_is_missing(tmp_path: Path) -> None:
    def call(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, how]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert call("kill").returncode == -signal.SIGKILL
    again = call("go on")
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if line.startswith("measured")] == ["measured 1 ours"]
    verdict = json.loads((tmp_path / "kept" / "act.json").read_text())
    measured = [(row["seed"], row["arm"]) for row in verdict["measures"]]
    assert measured == [*itertools.product((0, 1), ("base", "ours"))]
