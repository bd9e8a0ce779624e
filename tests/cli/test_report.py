"""`coalign report`, `coalign compare`, the report at the end of a run, and bad data before a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from coalign.cli.browser import open_page
from coalign.core.runs import Run
from coalign.report.html import write_report
from coalign.report.model import Text
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.preference.tiny_runs import write
from tests.report.build import report_of

from .conftest import Config


def make_run(path: Path, **changes: Any) -> Run:
    run = Run.start(path, "act", Config(data=Path("x"), **changes))
    warnings = Text(title="Warnings", paragraphs=["careful"])
    write_report(report_of(warnings, title="The title", text=f"It got better in {path.name}."), run.report)
    run.set_status(state="done", figures={"score": 0.5})
    return run


def test_report_prints_rebuilds_and_opens_the_page(
    coalign: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "one")
    run.report.unlink()
    result = coalign("report", str(run.path))
    assert result.code == 0, result.err
    assert "The title" in result.out
    assert "It got better in one." in result.out
    assert str(run.report) in result.out.replace("\n", "")
    assert "careful" in run.report.read_text()
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    assert coalign("report", str(run.path), "--open").code == 0
    assert opened == [run.report.resolve().as_uri()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a desktop")
def test_without_a_desktop_no_browser_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    open_page("http://127.0.0.1:1")
    assert opened == []
    monkeypatch.setenv("BROWSER", "lynx")
    open_page("http://127.0.0.1:1")
    assert opened == ["http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("place", "stored", "message"),
    [
        (".", None, "is not a run folder"),
        ("one", None, "has no report yet (its state: failed)"),
        ("one", "{", "report.json: not a report"),
    ],
)
def test_report_of_what_has_none(coalign: Callable, tmp_path: Path, place: str, stored, message: str) -> None:
    run = Run.start(tmp_path / "one", "act", Config(data=Path("x")))
    run.set_status(state="failed")
    if stored:
        run.report.with_suffix(".json").write_text(stored)
    result = coalign("report", str(tmp_path / place))
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err


def test_compare(coalign: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = (str(run.path) for run in (make_run(tmp_path / "one"), make_run(tmp_path / "two", beta=0.9)))
    result = coalign("compare", one, two)
    assert result.code == 0, result.err
    assert "They differ in: beta." in result.out
    assert (tmp_path / "compare.html").exists()
    assert coalign("compare", one).code == 2
    assert coalign("compare", one, two, "--out", "x.json").code == 2
    assert "is not a run folder" in coalign("compare", one, str(tmp_path / "no")).err


def test_a_run_ends_with_its_report(coalign: Callable, method: Any, tmp_path: Path) -> None:
    method.run = lambda config, folder: write_report(report_of(text="All went well."), folder.report)
    result = coalign("run", "act", "--data", "x", "--out", "r")
    assert result.code == 0, result.err
    assert "All went well." in result.out
    assert "Report: r/report.html" in result.err


@pytest.fixture(scope="module")
def no_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights: whoever tries to load it fails otherwise than the data does."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.save_pretrained(str(folder))
    LlamaConfig(vocab_size=len(tokenizer), architectures=["LlamaForCausalLM"]).save_pretrained(str(folder))
    return folder


def pair(n: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}", **changes}


def ranking(n: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"q{n}", "responses": ["a", "b"], "scores": [1, 0], **changes}


def thumbs(prompt: str = "q{}", completion: str = "a", up: int = 9) -> list[dict[str, Any]]:
    """Four responses, praised from this one on."""
    return [
        {"prompt": prompt.format(n), "completion": completion.format(n), "label": n >= up} for n in range(4)
    ]


PAIRS = [pair(n) for n in range(6)]
SAME = [*PAIRS, pair(7, chosen="same", rejected="same")]
EQUAL = "data.jsonl:7: rejected: the same text as the chosen response"
SKIPPED = "1 records that set a response against itself were skipped; the first: data.jsonl:7"
BAD: dict[str, tuple[str, list[dict[str, Any]], list[str], str]] = {
    "good data gets as far as the model": ("dpo", SAME, ["--on-bad-record", "skip"], SKIPPED),
    "equal pair": ("dpo", SAME, [], EQUAL),
    "equal pair as thumbs": ("bco", SAME, [], EQUAL),
    "equal pair as a ranking": ("aft", SAME, [], "1 of 7 records set a response against itself"),
    "one text with two scores": (
        "pro", [ranking(1), ranking(2, responses=["a", "b", "a"], scores=[1, 0, 0.5])], [],
        "data.jsonl:2: responses[2]: the same text as responses[0] with another score, expected one score a text",
    ),
    "score beyond 32 bits": (
        "pro", [ranking(1), ranking(2, scores=[1e300, 0])], [],
        "data.jsonl:2: scores[0]: too large (1e+300), expected a number of at most 1e+30",
    ),
    "one response a prompt": (
        "pro", thumbs(up=2), [], "4 feedback records were read as 0 ranking records: the distinct responses to one prompt",
    ),
    "no thumbs up": (
        "poft", thumbs(), ["--scorers", "default"],
        "4 feedback records were read as 0 demonstration records: the responses with thumbs up",
    ),
    "empty response": ("dpo", [*PAIRS, pair(7, chosen="")], [], "data.jsonl:7: chosen: empty"),
    "white response": ("dpo", [*PAIRS, pair(7, rejected=" \n")], [], "data.jsonl:7: rejected: only white space"),
    "longer than the budget": (
        "dpo", [pair(n, prompt=f"word {n} " * 50) for n in range(6)], ["--max-length", "32", "--eval-fraction", "0"],
        "the prompts of all 6 leave no room for a response",
    ),
    "no scores": ("rrhf", [{"prompt": "q", "responses": ["a", "b"]}] * 3, [], "a ranking needs also scores"),
    "too few scores": ("rrhf", [ranking(n, scores=[1]) for n in range(3)], [], "1 values for 2 responses"),
    "NaN scores": ("rrhf", [ranking(1, scores=[1, float("nan")])], [], "data.jsonl:1: scores[1]: not finite (nan)"),
    "tied scores": ("rrhf", [ranking(n, scores=[1, 1]) for n in range(3)], [], "in all 3 rankings"),
    "one class": ("kto", thumbs(), [], "all 4 records are labelled false"),
    "one prompt": (
        "kto", thumbs("q", "a{}", up=2), ["--eval-fraction", "0"], "at least two different prompts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_stops_before_the_model_is_loaded(
    coalign: Callable, tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method, rows, flags, said = BAD[name]
    monkeypatch.chdir(tmp_path)
    write(Path("data.jsonl"), rows)
    result = coalign("run", method, "--data", "data.jsonl", "--model", str(no_weights), "--out", "r", *flags)
    assert result.code == 1
    assert said in result.err
    assert ("safetensors" in result.err) == name.startswith("good")
    assert "Traceback" not in result.err
    assert Run.open(tmp_path / "r").state == "failed"
