"""`coalign report`, `coalign compare`, the report at the end of a run, and bad data before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from coalign.core.runs import Run
from coalign.report.html import write_report
from coalign.report.model import Headline, Report, Text
from tests.data.tokenizers import CHATML, byte_tokenizer

from .conftest import Config


def make_run(path: Path, **changes: Any) -> Run:
    run = Run.start(path, "act", Config(data=Path("x"), **changes))
    verdict = Headline(outcome="improved", text=f"It got better in {path.name}.")
    sections: list[Any] = [Text(title="Warnings", paragraphs=["careful"])]
    write_report(Report(title="The title", method="act", verdict=verdict, sections=sections), run.report)
    run.set_status(state="done", figures={"score": 0.5})
    return run


def test_report_prints_and_rebuilds_the_page(coalign: Callable, tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    run.report.unlink()
    result = coalign("report", str(run.path))
    assert result.code == 0, result.err
    assert "The title" in result.out
    assert "It got better in one." in result.out
    assert str(run.report) in result.out.replace("\n", "")
    assert "careful" in run.report.read_text()


def test_report_opens_the_page(coalign: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    run = make_run(tmp_path / "one")
    assert coalign("report", str(run.path), "--open").code == 0
    assert opened == [run.report.resolve().as_uri()]


def test_report_of_what_has_none(coalign: Callable, tmp_path: Path) -> None:
    nothing = coalign("report", str(tmp_path))
    assert nothing.code == 1
    assert "is not a run folder" in nothing.err

    run = Run.start(tmp_path / "one", "act", Config(data=Path("x")))
    run.set_status(state="failed")
    early = coalign("report", str(run.path))
    assert early.code == 1
    assert "has no report yet (its state: failed)" in early.err

    run.report.with_suffix(".json").write_text("{")
    torn = coalign("report", str(run.path))
    assert torn.code == 1
    assert "report.json: not a report" in torn.err
    assert "Traceback" not in torn.err


def test_compare(coalign: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", beta=0.9)]
    result = coalign("compare", *(str(run.path) for run in runs))
    assert result.code == 0, result.err
    assert "They differ in: beta." in result.out
    assert (tmp_path / "compare.html").exists()
    assert coalign("compare", str(runs[0].path)).code == 2
    assert coalign("compare", *(str(run.path) for run in runs), "--out", "x.json").code == 2
    assert "is not a run folder" in coalign("compare", str(runs[0].path), str(tmp_path / "no")).err


def test_a_run_ends_with_its_report(coalign: Callable, method: Any, tmp_path: Path) -> None:
    def work(config: Any, folder: Run) -> None:
        verdict = Headline(outcome="improved", text="All went well.")
        write_report(Report(title="t", method="act", verdict=verdict, sections=[]), folder.report)

    method.run = work
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


PAIRS = [pair(n) for n in range(6)]
BAD: dict[str, tuple[str, list[dict[str, Any]], list[str], str]] = {
    "equal pair": (
        "dpo",
        [*PAIRS, pair(7, chosen="same", rejected="same")],
        [],
        "data.jsonl:7: rejected: the same text as the chosen response",
    ),
    "equal pair as thumbs": (
        "bco",
        [*PAIRS, pair(7, chosen="same", rejected="same")],
        [],
        "data.jsonl:7: rejected: the same text as the chosen response",
    ),
    "equal pair as a ranking": (
        "aft",
        [*PAIRS, pair(7, chosen="same", rejected="same")],
        [],
        "1 of 7 records set a response against itself",
    ),
    "one text with two scores": (
        "pro",
        [ranking(1), ranking(2, responses=["a", "b", "a"], scores=[1, 0, 0.5])],
        [],
        "data.jsonl:2: responses[2]: the same text as responses[0] with another score, expected one score a text",
    ),
    "score beyond 32 bits": (
        "pro",
        [ranking(1), ranking(2, scores=[1e300, 0])],
        [],
        "data.jsonl:2: scores[0]: too large (1e+300), expected a number of at most 1e+30",
    ),
    "one response a prompt": (
        "pro",
        [{"prompt": f"q{n}", "completion": "a", "label": bool(n % 2)} for n in range(4)],
        [],
        "4 feedback records were read as 0 ranking records: the distinct responses to one prompt",
    ),
    "no thumbs up": (
        "poft",
        [{"prompt": f"q{n}", "completion": "a", "label": False} for n in range(4)],
        ["--scorers", "default"],
        "4 feedback records were read as 0 demonstration records: the responses with thumbs up",
    ),
    "empty response": ("dpo", [*PAIRS, pair(7, chosen="")], [], "data.jsonl:7: chosen: empty"),
    "white response": ("dpo", [*PAIRS, pair(7, rejected=" \n")], [], "data.jsonl:7: rejected: only white space"),
    "longer than the budget": (
        "dpo",
        [pair(n, prompt=f"word {n} " * 50) for n in range(6)],
        ["--max-length", "32", "--eval-fraction", "0"],
        "the prompts of all 6 leave no room for a response",
    ),
    "no scores": ("rrhf", [{"prompt": "q", "responses": ["a", "b"]}] * 3, [], "a ranking needs also scores"),
    "too few scores": ("rrhf", [ranking(n, scores=[1]) for n in range(3)], [], "1 values for 2 responses"),
    "NaN scores": (
        "rrhf",
        [ranking(n, scores=[1, float("nan")]) for n in range(3)],
        [],
        "data.jsonl:1: scores[1]: not finite (nan)",
    ),
    "tied scores": ("rrhf", [ranking(n, scores=[1, 1]) for n in range(3)], [], "in all 3 rankings"),
    "one class": (
        "kto",
        [{"prompt": f"q{n}", "completion": "a", "label": False} for n in range(4)],
        [],
        "all 4 records are labelled false",
    ),
    "one prompt": (
        "kto",
        [{"prompt": "q", "completion": f"a{n}", "label": n > 1} for n in range(4)],
        ["--eval-fraction", "0"],
        "at least two different prompts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_stops_before_the_model_is_loaded(
    coalign: Callable, tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method, rows, flags, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = coalign("run", method, "--data", "data.jsonl", "--model", str(no_weights), "--out", "r", *flags)
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err
    assert Run.open(tmp_path / "r").state == "failed"


def test_good_data_gets_as_far_as_the_model(
    coalign: Callable, tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [*PAIRS, pair(7, chosen="same", rejected="same")]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model", str(no_weights), "--out", "r", "--on-bad-record", "skip"]
    result = coalign("run", "dpo", "--data", "data.jsonl", *flags)
    assert result.code == 1
    assert "safetensors" in result.err
    assert "1 records that set a response against itself were skipped; the first: data.jsonl:7" in result.err
