"""Ten tasks of a switcher: their commands exist and are those of README.md; all of them work on the default model (slow)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.first_hour import ROOT, own_data, scripts, tasks

from tests.cli.commands import unknown_in

README = (ROOT / "README.md").read_text(encoding="utf-8")
SAID = {
    "check": "coalign data check pairs.jsonl",
    "sft": "coalign run sft --data answers.jsonl",
    "dpo-yaml": "coalign import-config dpo.yaml",
    "kto": "`kto`",
    "loss": "coalign run my_loss.py:my_loss --data pairs.jsonl",
    "reward": "--reward rewards.py:about_twelve_words",
    "judge": "coalign judge --data new.jsonl --against old.jsonl",
    "serve": "docs/how-to/tools.md",
    "export": "coalign export",
    "install": "pip install './coalign[all]'",
}


def test_ten_tasks_whose_commands_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {one.name for one in tasks()} == set(SAID)
    for task in tasks():
        assert SAID[task.name] in README, task.name
        for name, text in task.files.items():
            Path(name).write_text(text, encoding="utf-8")
        for command in task.all_commands:
            assert unknown_in(command) == [], command


def test_own_data_are_read_as_what_they_are(tmp_path: Path) -> None:
    from coalign.data.readers import read_records

    for name, text in own_data().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    kinds = [read_records(tmp_path / f"{name}.jsonl").kind for name in ("answers", "pairs", "thumbs")]
    assert kinds == ["demonstration", "preference", "feedback"]


def test_scripts_of_the_readme_are_whole(tmp_path: Path) -> None:
    """Each is imported in a process of its own, with nothing added."""
    found = scripts("README.md")
    assert {"my_loss.py", "rewards.py"} <= set(found)
    for name, text in found.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    code = "import my_loss, rewards; print(rewards.about_twelve_words(['one two', 'word ' * 12]))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.stdout.strip() == "[-0.8333333333333334, 0.0]", ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_ten_tasks_work(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_hour", "--folder", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(re.findall(r"\| yes \|", ended.stdout)) == len(tasks()) - 1  # all but the installation
