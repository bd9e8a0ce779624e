"""Words that a command does not know are answered by what was probably meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serve", "--model", "default"], "--model. [MODEL|RUN] is given without a flag."),
        (["export", "--model", "default"], "--model. MODEL is given without a flag."),
        (["score", "grits", "--data", "x"], "--data. FILE|- is given without a flag."),
        (["run", "cream", "--data", "x"], "--data. What names data here: --prompts, --seed-data."),
        (["run", "dpo", "--lr", "1e-5"], "--lr. Here: --learning-rate."),
        (["run", "dpo", "--cutoff_len", "9"], "LLaMA-Factory's cutoff_len is --max-length here."),
        (["pipeline", "stages.yaml"], "'stages.yaml'. For a file: `coalign pipeline run stages.yaml`."),
        (["data", "pairs.jsonl"], "'pairs.jsonl'. For a file: `coalign data check pairs.jsonl`."),
        (["data", "chek"], "'chek'. Did you mean check?"),
        (["help"], "`coalign --help` lists the commands"),
    ],
)
def test_an_unknown_word_is_answered_by_what_was_meant(
    coalign: Callable, argv: list[str], message: str
) -> None:
    refused = coalign(*argv)
    assert refused.code == 2
    assert message in refused.err


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_mistyped_file_is_answered_by_those_beside_it(coalign: Callable, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    for argv in (["run", "dpo", "--data", "pair.jsonl"], ["data", "check", "pair.jsonl"]):
        told = coalign(*argv).err
        assert "pair.jsonl: no such file." in told
        assert "Did you mean pairs.jsonl?" in told
    assert "There is no folder nowhere." in coalign("data", "check", "nowhere/pairs.jsonl").err


def test_columns_of_another_kind_are_told_beside_those_that_are_needed(
    coalign: Callable, tmp_path: Path
) -> None:
    row = {"question": "How many?", "good": "Three.", "bad": "Many."}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    refused = coalign("run", "dpo", "--data", "own.jsonl")
    assert refused.code == 1
    assert "own.jsonl: prompt records were found, preference records are needed." in refused.err
    assert (
        "the column question (text); kept beside them: good, bad. Needed: preference: chosen + rejected"
        in (refused.err)
    )
    assert "--column NAME=COLUMN" in refused.err
    assert not any((tmp_path / "runs").iterdir()), "nothing was made"


def test_the_list_of_methods_fits_on_two_screens(coalign: Callable) -> None:
    shown = coalign("run").out
    assert len(shown.splitlines()) < 80
    assert all(f"{room} " in shown for room in ("preference", "selfalign", "speech", "guide"))
    assert "cream" in shown
    assert "tsr-alignment" in shown
