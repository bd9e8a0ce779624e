from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from coalign.core.errors import RunError
from coalign.core.options import Positive, option
from coalign.core.runs import Run, environment, list_runs, load_config, new_run_path


@dataclass(kw_only=True)
class Config:
    __may_change__ = ("log_every",)

    beta: Positive = option(0.1, "temperature")
    words: list[str] = option(["a"], "some words")
    seed: int = option(1, "seed")
    log_every: int = option(10, "steps")


def test_a_run_folder_describes_itself(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "r", "act", Config(), seed=1)
    assert load_config(run, Config) == Config()
    assert run.environment()["seed"] == 1
    assert run.environment()["packages"]["coalign"]
    assert run.status()["method"] == "act"
    assert run.state == "running"
    assert [row["event"] for row in run.events()] == ["started"]
    assert run.artefacts.is_dir()


def test_the_same_configuration_continues(tmp_path: Path) -> None:
    Run.start(tmp_path, "act", Config()).set_status(state="failed", error="x")
    run = Run.start(tmp_path, "act", Config(log_every=1))
    assert run.state == "running"
    assert [row["event"] for row in run.events()] == ["started", "resumed"]


def test_another_configuration_is_refused_by_key_and_another_method(tmp_path: Path) -> None:
    (Run.start(tmp_path, "act", Config()).artefacts / "rows.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"beta: 0.1 there, 0.2 now") as caught:
        Run.start(tmp_path, "act", Config(beta=0.2))
    assert "words" not in str(caught.value)
    with pytest.raises(RunError, match="is a run of act, not of cream"):
        Run.start(tmp_path, "cream", Config())


def test_a_start_that_made_nothing_may_be_started_over(tmp_path: Path) -> None:
    Run.start(tmp_path, "act", Config()).set_status(state="failed", error="no such file")
    (tmp_path / "rejects.jsonl").write_text("{}\n")
    run = Run.start(tmp_path, "cream", Config(beta=0.2))
    assert (run.status()["method"], run.state) == ("cream", "running")
    assert "error" not in run.status()
    assert load_config(run, Config).beta == 0.2
    assert [event["method"] for event in run.events("started")] == ["cream"]
    assert not (tmp_path / "rejects.jsonl").exists(), "of the start before"
    for name in ("report.html", "checkpoints/train/trainer_state.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        with pytest.raises(RunError, match="is a run of cream, not of act"):
            Run.start(tmp_path, "act", Config())
        (tmp_path / name).unlink()


def test_a_run_in_which_a_process_works_is_not_deleted(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "r", "act", Config())
    with pytest.raises(RunError, match="A process is working in"):
        run.delete()
    other = tmp_path / "other"
    other.mkdir()
    (other / "status.json").write_text('{"method": "act", "state": "failed"}')
    Run.open(other).delete()
    assert not other.exists()


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not a run folder"):
        Run.start(tmp_path, "act", Config())
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        Run.start(tmp_path / "thesis.tex", "act", Config())


def test_a_start_that_was_killed_half_way_can_be_repeated(tmp_path: Path) -> None:
    Run.start(tmp_path, "act", Config())
    (tmp_path / "status.json").unlink()
    (tmp_path / "events.jsonl").unlink()
    assert Run.start(tmp_path, "act", Config()).state == "running"


def test_resuming_repairs_a_torn_event_and_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    run = Run.start(tmp_path, "act", Config())
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "eve')
    stale = run.artefacts / ".samples.jsonl.x1.tmp"
    stale.mkdir()
    (stale / "samples.jsonl").write_text("half")
    run = Run.start(tmp_path, "act", Config())
    assert [row["event"] for row in run.events()] == ["started", "resumed"]
    assert list(run.artefacts.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from tests.core.test_runs import Config
from coalign.core.runs import Run
Run.start(Path(sys.argv[1]), "act", Config())
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_cannot_work_in_one_folder_and_a_kill_frees_it(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert Run.open(tmp_path).state == "running"
        with pytest.raises(RunError, match="Another process is working"):
            Run.start(tmp_path, "act", Config())
    finally:
        holder.kill()
        holder.communicate()
    assert Run.open(tmp_path).state == "interrupted"
    assert Run.start(tmp_path, "act", Config()).state == "running"


def test_only_the_first_process_of_a_launch_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run.start(tmp_path, "act", Config())
    monkeypatch.setenv("RANK", "1")
    follower = Run.start(tmp_path, "act", Config())
    follower.log("step")
    follower.set_status(state="done")
    assert [row["event"] for row in follower.events()] == ["started"]
    assert follower.state == "running"


def test_a_damaged_status_is_named_and_opening_something_else_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        Run.open(tmp_path)
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(RunError, match=r"status.json: cannot be read"):
        Run.open(tmp_path).status()


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["coalign", "run", "--hub-token", "s1", "--api_key=s2", "--max-new-tokens", "5"]
    argv += ["https://me:s3@host/v1", "hf_s4s4s4s4s4s4", "--password", "s5"]
    monkeypatch.setattr(sys, "argv", argv)
    command = environment()["command"]
    assert not any(secret in json.dumps(command) for secret in ("s1", "s2", "s3", "s4", "s5"))
    assert command[-1] == "***"
    assert "5" in command, "a number of tokens is no secret"


def test_new_paths_do_not_collide_and_lists_are_in_order(tmp_path: Path) -> None:
    paths = []
    for _ in range(2):
        paths.append(new_run_path("act", tmp_path))
        Run.start(paths[-1], "act", Config())
    (tmp_path / "notes").mkdir()
    assert paths[0] != paths[1]
    assert [run.path for run in list_runs(tmp_path)] == paths
    assert list(list_runs(tmp_path / "absent")) == []


@dataclass(kw_only=True)
class Learning:
    data: list[str] = option([], "files")
    eval_prompts: Path | None = option(None, "a file")
    replies: Path | None = option(None, "a file that the run writes")


def test_work_goes_on_only_with_the_data_that_it_was_done_with(tmp_path: Path) -> None:
    names = ("a.jsonl", "b.jsonl", "held.jsonl", "replies.jsonl", "shards/1.jsonl")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name}\n")
    a, b, held, replies, shard = (tmp_path / name for name in names)
    config = Learning(
        data=[
            str(a),
            {"path": str(b), "weight": 2},
            str(shard.parent),
            str(tmp_path / "*.csv"),
            "-",
            "hub/name",
        ],
        eval_prompts=held,
        replies=replies,
    )
    run = Run.start(tmp_path / "run", "m", config)
    a.write_text("mended before any work\n")
    Run.start(tmp_path / "run", "m", config)
    (run.artefacts / "rows.jsonl").write_text("{}\n")
    replies.write_text("a run writes here\n")
    Run.start(tmp_path / "run", "m", config)
    for changed in (a, b, held, shard):
        kept = changed.read_text()
        changed.write_text("other")
        with pytest.raises(
            RunError,
            match=rf"(?s)was started with other data:.*(shards|{changed.name}): has another content now",
        ):
            Run.start(tmp_path / "run", "m", config)
        changed.write_text(kept)
    held.unlink()
    with pytest.raises(RunError, match=r"held\.jsonl: is gone"):
        Run.start(tmp_path / "run", "m", config)


def test_looking_who_works_in_a_folder_does_not_let_others_in(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "act", Config())
    assert run.process == os.getpid()
    code = "import sys; from pathlib import Path; from coalign.core.runs import Run; print(Run(Path(sys.argv[1])).state)"
    done = subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "running"
