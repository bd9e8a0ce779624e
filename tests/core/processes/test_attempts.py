"""What each guard of the sandbox contains, attempt by attempt, and the table that says so."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from coalign.core.processes.sandbox import Guard, missing_reason, run_python
from tests.core.processes.attempts import ATTEMPTS, TOOLS, Attempt
from tests.core.processes.outside import Outside, outside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guards are Linux's")
GUARDS: tuple[Guard, ...] = ("bubblewrap", "namespaces", "limits")
SHARED = [one for one in ATTEMPTS if not one.alone]
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "code.md"


def _needs(guard: Guard) -> None:
    if reason := missing_reason(guard):
        pytest.skip(f"{guard}: {reason}")


def _contained(attempt: Attempt, guard: Guard) -> bool:
    return guard != "limits" or attempt.limits_hold


@pytest.fixture
def around(tmp_path, monkeypatch):
    monkeypatch.setenv("COALIGN_TEST_SECRET", "hers")
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder, outside(Path(folder)) as made:
        yield made


def test_there_are_fifty_of_five_kinds():
    assert len(ATTEMPTS) == len({one.words for one in ATTEMPTS}) == 50
    assert len({one.kind for one in ATTEMPTS}) == 5


@pytest.mark.parametrize("guard", GUARDS)
def test_files_network_and_processes(guard, around: Outside):
    """Attempts that leave their child alive share one."""
    _needs(guard)
    tries = [
        f"try:\n    {one.code}\n    done.append({number})\nexcept Exception as error: print(error, file=sys.stderr)"
        for number, one in enumerate(SHARED)
    ]
    code = "\n".join([TOOLS, "done = []", *tries, "print(json.dumps([os.getcwd(), done]))"])
    outcome = run_python(code, files={"facts.json": json.dumps(around.facts)}, seconds=20, guard=guard)
    assert outcome.ok, outcome.stderr
    folder, done = json.loads(outcome.stdout)
    reached: dict[str, bool] = {}
    expected: dict[str, bool] = {}
    for number, attempt in enumerate(SHARED):
        seen = around.happened(attempt.words)
        if attempt.words == "leave a file in its own folder":
            seen = Path(folder, "left").exists()
        reached[attempt.words] = number in done if seen is None else seen
        allowed = not attempt.place or os.access(around.facts[attempt.place], os.W_OK)
        expected[attempt.words] = allowed and not _contained(attempt, guard)
    assert reached == expected


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("attempt", [one for one in ATTEMPTS if one.alone], ids=lambda one: one.words)
def test_resources(guard, attempt: Attempt, around: Outside):
    """Attempts that may end their child have one each."""
    _needs(guard)
    facts = {"facts.json": json.dumps(around.facts)}
    seconds = 1 if "timeout" in attempt.alone else 20  # a busy machine is slow to take memory
    outcome = run_python(
        f"{TOOLS}\n{attempt.code}\nprint('reached')", files=facts, seconds=seconds, memory_mb=512, guard=guard
    )
    if attempt.alone == ("ok",):
        assert outcome.ok
        assert around.happened(attempt.words) is False
    elif _contained(attempt, guard):
        assert outcome.status in attempt.alone
        assert "reached" not in outcome.stdout, outcome
        assert outcome.seconds < 15
    else:
        assert outcome.ok
        assert "reached" in outcome.stdout


def test_the_docs_say_what_is_tested():
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line.count("|") == 5
    ]
    said = {row[0]: row[1:] for row in rows[1:]}
    word = {True: "contained", False: "**not contained**"}
    assert said == {one.words: [word[_contained(one, guard)] for guard in GUARDS] for one in ATTEMPTS}
