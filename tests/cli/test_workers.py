"""`--engine ray` of commands: the rows of one process, continued, with the rows that fail among them.

The pool is this process; the tests at the end have Ray Data's, where the extra `ray` is installed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coalign.core.engines import ray_data
from coalign.core.files import read_rows
from coalign.evaluation import modalities
from tests.core.engines.pool import over_this_process
from tests.preference.tiny_runs import write

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'coalign[ray]'"
)
ANSWERS = [
    {"id": f"a{n}", "instruction": {"T": n % 11, "V": 7}, "synergy": {"TV": 0.6}, "votes": {"TV": 0.4}}
    for n in range(20)
]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "over_ray", over_this_process)


@pytest.mark.usefixtures("here")
def test_scores_of_workers_are_those_of_one_process(tmp_path: Path, coalign: Callable) -> None:
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    assert coalign("score", "amg", data, "--out", str(one)).code == 0
    spread = ("score", "amg", data, "--engine", "ray", "--worker-rows", "3")
    assert coalign(*spread, "--out", str(many)).code == 0
    assert many.read_bytes() == one.read_bytes()
    assert coalign(*spread).out == one.read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.usefixtures("here")
def test_rows_that_fail_stand_among_the_others_and_are_tried_again(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = str(write(tmp_path / "answers.jsonl", ANSWERS)), tmp_path / "many.jsonl"
    args = ("score", "amg", data, "--engine", "ray", "--worker-rows", "8", "--out", str(out))
    asked: list[str] = []

    def scorer(options: modalities.ScoringOptions) -> Callable:
        def work(rows: list[dict]) -> list[dict]:
            asked.extend(one["id"] for one in rows)
            if fails & {one["id"] for one in rows}:
                raise MemoryError("no room")
            return whole(options)(rows)

        return work

    whole, fails = modalities.scorer, {"a3"}
    monkeypatch.setattr(modalities, "scorer", scorer)
    failed = coalign(*args)
    assert failed.code == 1
    assert "1 of 20 rows failed" in failed.err
    assert "The first, a3: MemoryError: no room" in failed.err
    rows = read_rows(out)
    assert [one["id"] for one in rows] == [one["id"] for one in ANSWERS]
    assert rows[3] == {"id": "a3", "error": "MemoryError: no room"}
    fails.clear()
    asked.clear()
    again = coalign(*args, "--overwrite")
    assert again.code == 0
    assert "Continuing: 19 of 20 rows are done" in again.err
    assert asked == [f"a{n}" for n in range(8)]  # the batch of the row that failed
    assert read_rows(out)[3]["score"] > 0


@pytest.mark.usefixtures("here")
def test_rows_of_other_options_are_not_continued(tmp_path: Path, coalign: Callable) -> None:
    data, out = str(write(tmp_path / "answers.jsonl", ANSWERS)), tmp_path / "many.jsonl"
    write(tmp_path / "many.jsonl.partial", [{"settings": {"metric": "grits"}}])
    found = coalign("score", "amg", data, "--engine", "ray", "--out", str(out))
    assert found.code == 2
    assert "metric: 'grits' there, 'amg' now" in found.err


def test_workers_without_the_engine_and_the_engine_without_ray(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    without = coalign("score", "amg", data, "--workers", "2")
    assert without.code == 2
    assert "workers has no effect with engine: local" in without.err
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = coalign("score", "amg", data, "--engine", "ray")
    assert missing.code == 1
    assert "pip install 'coalign[ray]'" in missing.err


# -- Ray Data ---------------------------------------------------------------------------------------------------


@needs_ray
def test_a_score_that_is_killed_goes_on(tmp_path: Path) -> None:
    from coalign.evaluation.factuality.model import save_pair_classifier
    from tests.evaluation.encoders import pair_classifier, pair_tokenizer

    pairs = [{"id": f"p{n}", "context": f"The cat {n} sat.", "claim": "A cat sat."} for n in range(400)]
    data = write(tmp_path / "pairs.jsonl", pairs)
    model = save_pair_classifier(pair_classifier(), pair_tokenizer(), tmp_path / "model", max_length=64)
    command = [sys.executable, "-m", "coalign", "score", "alignscore", str(data), "--model", str(model)]
    subprocess.run([*command, "--out", str(tmp_path / "one.jsonl")], check=True, capture_output=True)
    out = tmp_path / "many.jsonl"
    spread = [*command, "--engine", "ray", "--worker-rows", "10", "--out", str(out)]
    first = subprocess.Popen(spread, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    partial, limit = tmp_path / "many.jsonl.partial", time.monotonic() + 120
    while not partial.exists() or len(read_rows(partial)) < 11:
        assert first.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(spread, check=True, capture_output=True, text=True)
    assert "Continuing: " in second.stderr
    assert out.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
