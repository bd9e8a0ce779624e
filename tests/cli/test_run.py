from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.cli.results.runs import table
from coalign.core.errors import ConfigError, DataError
from coalign.core.faults import keep_traceback
from coalign.core.options import load_file
from coalign.core.processes import locks
from coalign.core.runs import Run

from .conftest import Config


def test_flags_over_file_over_defaults(coalign: Callable, method: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: file.jsonl\nbeta: 0.5\nepochs: 9\n")
    (tmp_path / "file.jsonl").touch()
    result = coalign("run", "act", "--config", "c.yaml", "--beta", "0.7", "--out", "r")
    assert result.code == 0, result.err
    assert method.seen == [Config(data=Path("file.jsonl"), beta=0.7, epochs=9)]
    assert load_file(tmp_path / "r" / "config.yaml")["beta"] == 0.7


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--words", "x,y"], "words", ["x", "y"]),
        (["--words", "x", "--words", "y, z"], "words", ["x", "y", "z"]),
        (["--words", "\n"], "words", ["\n"]),
        (["--no-shuffle"], "shuffle", False),
        (["--shuffle"], "shuffle", True),
        (["--limit", "none"], "limit", None),
        (["--limit", "3"], "limit", 3),
        (["--reduction", "mean"], "reduction", "mean"),
        (["--beta=1e-3"], "beta", 0.001),
        ([], "seed", 7),
    ],
)
def test_every_type_has_its_flag(
    coalign: Callable, method: Any, argv: list[str], field: str, value: object
) -> None:
    result = coalign("run", "act", "--data", "x", *argv)
    assert result.code == 0, result.err
    assert getattr(method.seen[0], field) == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "x", "--beta", "-1"], "--beta: '-1' is not usable, expected a number above 0"),
        (["--data", "x", "--reduction=max"], "--reduction: 'max' is not usable, expected one of: sum, mean"),
        (["--data", "x", "--epochs", "two"], "--epochs: 'two' is not usable"),
        (["--data", "x", "--epoch", "2"], "No such option '--epoch'. Did you mean '--epochs'?"),
        ([], "--data: is required (file of pairs)"),
        (["--config", "bad.yaml"], "bad.yaml: bta: is not an option. Did you mean beta"),
        (["--config", "worse.yaml"], "worse.yaml: beta: 0 is not usable"),
        (["--config", "no.yaml"], "no.yaml: no such file"),
    ],
)
def test_bad_values_name_their_place(
    coalign: Callable, method: Any, tmp_path: Path, argv: list[str], message: str
) -> None:
    (tmp_path / "bad.yaml").write_text("bta: 1\n")
    (tmp_path / "worse.yaml").write_text("data: x\nbeta: 0\n")
    result = coalign("run", "act", *argv)
    assert result.code == 2
    assert message in result.err
    assert method.seen == []
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


def test_print_config_reads_back_and_leaves_required_options_to_fill_in(
    coalign: Callable, method: Any, tmp_path: Path
) -> None:
    whole = coalign("run", "act", "--data", "x", "--words", "p,q", "--print-config")
    (tmp_path / "c.yaml").write_text(whole.out)
    assert coalign("run", "act", "--config", "c.yaml").code == 0
    assert method.seen == [Config(data=Path("x"), words=["p", "q"])]
    result = coalign("run", "act", "--beta", "2", "--print-config")
    assert "data:  # required: file of pairs\n" in result.out
    assert "beta: 2.0\n" in result.out
    (tmp_path / "c.yaml").write_text(result.out)
    refused = coalign("run", "act", "--config", "c.yaml")
    assert "c.yaml: data: None is not usable, expected a path" in refused.err
    assert coalign("run", "act", "--beta", "0", "--print-config").code == 2


def test_help_groups_the_options_and_tells_the_paper(coalign: Callable, method: Any) -> None:
    text = " ".join(coalign("run", "act", "--help").out.split())
    assert text.index("Method: --data PATH file of pairs [required]") < text.index("Training: --epochs")
    assert "--reduction [sum|mean] over tokens [default: sum]" in text
    assert "--shuffle / --no-shuffle mix the data [default: on]" in text
    said = ("arxiv.org/abs/2403.06326", "Claim:", "Confidence: medium-low", "General: --out DIR")
    assert [one for one in said if one not in text] == []


def test_the_folder_knows_how_the_run_ended(coalign: Callable, method: Any, tmp_path: Path) -> None:
    done = coalign("run", "act", "--data", "x", "--out", "done")
    assert "Run folder: done" in done.err
    assert Run.open(tmp_path / "done").state == "done"
    assert Run.open(tmp_path / "done").environment()["seed"] == 7

    method.fail = DataError("pairs.jsonl holds no pairs.")
    failed = coalign("run", "act", "--data", "x", "--out", "failed")
    assert failed.code == 1
    assert failed.err.endswith("Error: pairs.jsonl holds no pairs.\n")
    assert Run.open(tmp_path / "failed").status()["error"] == "DataError: pairs.jsonl holds no pairs."

    method.fail = ZeroDivisionError("no luck")
    broken = coalign("run", "act", "--data", "x", "--out", "broken")
    assert broken.code == 1
    assert "Error: ZeroDivisionError at run.py:" in broken.err
    assert "no luck" in (tmp_path / "broken" / "traceback.log").read_text()
    keep_traceback(method.fail, tmp_path / "gone")  # a folder that cannot be written hides nothing

    method.fail = KeyboardInterrupt()
    stopped = coalign("run", "act", "--data", "x", "--out", "my run")
    assert stopped.code == 130
    assert "--out 'my run'" in stopped.err
    assert Run.open(tmp_path / "my run").state == "interrupted"

    method.fail = None
    assert coalign("run", "act", "--data", "x", "--out", "my run").code == 0
    assert coalign("run", "act", "--data", "y", "--out", "my run").code == 1


def test_runs_lists_them(coalign: Callable, method: Any) -> None:
    assert "No runs under runs." in coalign("runs").out
    coalign("run", "act", "--data", "x")
    Path("runs/odd").mkdir()
    Path("runs/odd/status.json").write_text("{")
    lines = coalign("runs").out.splitlines()
    assert lines[0].split() == ["method", "state", "started", "path"]
    assert lines[1].split()[:2] == ["act", "done"]
    assert "unreadable" in lines[2]


def test_runs_that_failed_are_listed_and_deleted(
    coalign: Callable, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert coalign("run", "act", "--data", "x", "--out", "runs/good").code == 0
    method.fail = DataError("no such file")
    assert coalign("run", "act", "--data", "x", "--out", "runs/bad").code == 1
    assert coalign("run", "act", "--data", "y", "--out", "runs/worse").code == 1
    assert {one.split()[3] for one in coalign("runs", "--failed").out.splitlines()[1:]} == {
        "runs/bad",
        "runs/worse",
    }
    assert "--delete names no run" in coalign("runs", "--delete").err
    assert "A process is working in runs/bad" in coalign("runs", "--delete", "--yes", "bad").err
    monkeypatch.setattr(locks, "_HELD", {})  # as another process sees it
    assert "Deleted runs/bad" in coalign("runs", "--delete", "--yes", "bad").out
    assert coalign("runs", "--delete", "--failed", "--yes").code == 0
    assert [one.name for one in Path("runs").iterdir()] == ["good"]
    assert "No failed runs under runs." in coalign("runs", "--failed").out
    assert "is not a run folder" in coalign("runs", "--delete", "--yes", "nothing").err


@pytest.mark.parametrize("data", ["gone.jsonl", "gone.csv.gz", "~/gone/gone"])
def test_data_that_is_not_there_leaves_no_folder(coalign: Callable, method: Any, data: str) -> None:
    ended = coalign("run", "act", "--data", data, "--out", "r")
    assert ended.code == 1
    assert f"{data}: no such file." in ended.err
    assert "`data` names it." in ended.err
    assert not Path("r").exists()
    assert method.seen == []


def test_the_list_of_runs_fits_the_terminal() -> None:
    rows = [
        {"method": "dpo", "state": "done", "started": "2026-11-29T01:33:00+00:00", "path": "runs/a", "headline": "x" * 300},
        {"method": "kto", "state": "failed", "started": "2026-11-29T01:34:00+00:00", "path": "runs/b", "headline": "short"},
    ]  # fmt: skip
    for width in (80, 120):
        lines = table(rows, width).splitlines()
        assert max(map(len, lines)) == width
        assert lines[1].endswith("x…")
        assert lines[2].endswith("short")
    assert len(table(rows, 30).splitlines()[1]) > 30, "what a run is called is not cut"
    assert "x" * 300 in table(rows, 0)
    long = [{**one, "path": f"{'folder/' * 12}{one['path']}"} for one in rows]
    lines = table(long, 80).splitlines()
    assert max(map(len, lines)) == 80
    assert "runs/a" in lines[1], "the end of a path is what tells runs apart"


def test_a_start_that_failed_does_not_hold_its_folder(coalign: Callable, method: Any) -> None:
    method.fail = DataError("no such file")
    assert coalign("run", "act", "--data", "x", "--out", "r").code == 1
    method.fail = None
    assert coalign("run", "act", "--data", "y", "--out", "r").code == 0
    assert Run.open(Path("r")).config()["data"] == "y"


def test_a_refused_start_leaves_no_folder_that_nobody_named_unless_there_is_something_to_read_in_it(
    coalign: Callable, method: Any
) -> None:
    method.fail = DataError("other columns are needed")
    assert coalign("run", "act", "--data", "x").code == 1
    assert not any(Path("runs").iterdir())
    assert coalign("run", "act", "--data", "x", "--out", "named").code == 1
    assert Run.open(Path("named")).state == "failed"

    def with_rejects(config: Any, run: Run) -> None:
        (run.path / "rejects.jsonl").write_text("{}", encoding="utf-8")
        raise DataError("no record is left")

    method.run = with_rejects
    assert coalign("run", "act", "--data", "x").code == 1
    assert [one.name for one in Path("runs").glob("*/rejects.jsonl")] == ["rejects.jsonl"]


def test_a_start_of_several_processes_that_is_refused_leaves_no_folder(
    coalign: Callable, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    method.fail = ConfigError("It answers prompts in one process.")
    refused = coalign("run", "act", "--data", "x", "--out", "r")
    assert refused.code == 2
    assert "the run folder is removed again" in refused.err
    assert not Path("r").exists()

    method.fail = ZeroDivisionError("no luck")
    assert coalign("run", "act", "--data", "x", "--out", "r").code == 1
    method.fail = ConfigError("It answers prompts in one process.")
    assert coalign("run", "act", "--data", "x", "--out", "r").code == 2
    assert Run.open(Path("r")).state == "failed", "what was there before stays"


def test_run_alone_lists_what_can_run(coalign: Callable, planned: str) -> None:
    result = coalign("run")
    assert result.code == 0
    assert "ln-dpo" in result.out
    assert f" {planned} " not in result.out


@pytest.mark.parametrize(
    ("name", "message"), [("actt", "Did you mean act"), ("cream", "cream is planned, not yet available")]
)
def test_methods_that_cannot_run_say_why(coalign: Callable, planned: str, name: str, message: str) -> None:
    result = coalign("run", name)
    assert result.code != 0
    assert message in result.err
    assert "Traceback" not in result.err


OBJECTIVE = '''
from __future__ import annotations

from dataclasses import dataclass

import torch

from coalign import Losses, objective, option


@dataclass(kw_only=True)
class Constants:
    sharpness: float = option(2.0, "slope of the loss")


@objective("my_pairs", data="preference", reference=False, constants=Constants)
def my_pairs(batch, constants):
    """A loss of mine."""
    chosen, rejected = batch.pairs()
    margin = batch.policy.means()[chosen] - batch.policy.means()[rejected]
    return Losses(-torch.nn.functional.logsigmoid(constants.sharpness * margin))


def plain(batch, constants):
    """Not declared."""
'''


def test_an_objective_of_one_s_own(coalign: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    code = f"{tmp_path}/mine.py"
    shown = coalign("run", f"{code}:my_pairs", "--help")
    assert shown.code == 0, shown.err
    assert "A loss of mine." in shown.out
    assert "--sharpness" in shown.out
    made = coalign("run", f"{code}:my_pairs", "--data", "x.jsonl", "--sharpness", "3", "--print-config")
    assert "sharpness: 3" in made.out
    assert "is not an objective" in coalign("run", f"{code}:plain").err
    assert "has no 'other', expected one of" in coalign("run", f"{code}:other").err


def test_a_tracker_that_is_not_there_is_named_before_anything_is_loaded(coalign: Callable) -> None:
    result = coalign("run", "dpo", "--data", "x.jsonl", "--report-to", "swanlab")
    assert result.code != 0
    assert "swanlab is not installed: it comes with the extra 'swanlab'." in result.err
    grpo = ["run", "grpo", "--prompts", "x.jsonl", "--reward", "max_words:3"]
    assert coalign(*grpo, "--report-to", "swanlab").err == result.err
