"""Planted secrets reach no message, log, event, status, configuration, report or traceback."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coalign.core import secrets
from coalign.core.errors import ConfigError
from coalign.core.faults import keep_traceback
from coalign.core.options import build, option
from coalign.core.runs import Run
from coalign.core.secrets import hold, hold_arguments, redacted, redacted_values
from coalign.report.html import write_report
from coalign.report.model import Headline, Report, Text

PLANTED = "correct-horse-42-battery"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_held", set())


@pytest.mark.parametrize(
    "text",
    [
        "https://me:word77@host/v1",
        "['http://a/b', 'https://me:word77@host']",
        "postgres://word77@db",
        "https:/me:word77@host/v1",
        "Illegal header value b'Bearer word77'",
        "authorization: bearer word77",
        "https://host/v1?x=1&api_key=word77",
        "https://host/v1?key=word77",
        "sk-proj-word77abc",
        "hf_word77abcdefgh",
        "ghp_word77abcdefgh",
    ],
)
def test_what_has_the_form_of_a_secret_is_hidden(text: str) -> None:
    assert "word77" not in redacted(text)
    assert "***" in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "mail me@host.org",
        "max_new_tokens: 'x' is not usable",
        "sk-learn-estimators",
        "the key of the cache is a hash",
        "runs/dpo-1/model@v2",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redacted(text) == text


def test_values_of_variables_and_of_keys_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTHER_API_KEY", PLANTED)
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/id_1234")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    hold("held-value-99\n")
    text = f"a{PLANTED}b held-value-99 /home/me/.ssh/id_1234 abc"
    assert redacted(text) == "a***b *** /home/me/.ssh/id_1234 abc"
    value = {"x": [f"{PLANTED}", 5, None, {PLANTED: ("held-value-99",)}]}
    assert redacted_values(value) == {"x": ["***", 5, None, {"***": ["***"]}]}


@pytest.mark.parametrize(
    "argv", [["--api-key", PLANTED], [f"--api-key={PLANTED}"], ["--endpoint-key-variable", PLANTED]]
)
def test_a_key_on_the_command_line_is_hidden(argv: list[str]) -> None:
    hold_arguments(["run", *argv, "--max-new-tokens", "12345678"])
    assert redacted(f"{PLANTED} 12345678") == "*** 12345678"


def test_the_name_of_a_variable_on_the_command_line_stays() -> None:
    hold_arguments(["--endpoint-key-variable", "OPENAI_API_KEY"])
    assert redacted("OPENAI_API_KEY is not set") == "OPENAI_API_KEY is not set"


@dataclass(kw_only=True)
class Config:
    data: list[str] = option([], "files")
    note: str = option("", "anything")
    api_key_variable: str = option("auto", "where the key is")
    more: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "values",
    [
        {"data": ["a.jsonl", f"https://me:{PLANTED}@host/b.jsonl"]},
        {"note": f"ftp://me:{PLANTED}@host"},
        {"more": {"a": [{"b": f"http://:{PLANTED}@host"}]}},
        {"api_key_variable": [PLANTED]},
        {"data": {"x": f"Bearer {PLANTED}"}},
    ],
)
def test_configurations_with_secrets_are_refused_without_showing_them(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Config, values, where="c.yaml")
    assert PLANTED not in str(caught.value)
    assert "c.yaml: " in str(caught.value)


def held_in(folder: Path) -> list[str]:
    return [one.name for one in folder.rglob("*") if one.is_file() and PLANTED.encode() in one.read_bytes()]


def test_a_run_folder_holds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["coalign", "run", "--note", f"x{PLANTED}", "--password", "short"])
    hold(PLANTED)
    config = Config(note=f"use {PLANTED}", data=[f"hub/{PLANTED}"])
    run = Run.start(tmp_path / "run", "dpo", config)
    run.log("data", note=f"key {PLANTED}", rows=[{PLANTED: 1}])
    run.set_status(error=f"refused {PLANTED}", headline=PLANTED)
    try:
        raise RuntimeError(f"Illegal header value b'Bearer {PLANTED}'")
    except RuntimeError as error:
        keep_traceback(error, run.path)
    report = Report(
        title=f"T {PLANTED}", method="dpo", verdict=Headline(outcome="neutral", text=PLANTED),
        sections=[Text(title="x", paragraphs=[f"a {PLANTED} b"])],
    )  # fmt: skip
    write_report(report, run.report)
    assert held_in(tmp_path) == []
    assert "***" in run.report.read_text(encoding="utf-8")
    assert json.loads((run.path / "report.json").read_text())["title"] == "T ***"
    assert "short" not in (run.path / "environment.json").read_text()
    again = Run.start(tmp_path / "run", "dpo", config)  # what was hidden is no other configuration
    assert again.config()["note"] == "use ***"


def test_log_records_hold_none(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(PLANTED)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    secrets.redact_log_records()
    secrets.redact_log_records()  # once is enough
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("key %s of %d", PLANTED, 3)
        logging.getLogger("x").info("plain %s", 5)
    assert [one.getMessage() for one in caplog.records] == ["key *** of 3", "plain 5"]
    assert caplog.records[1].args == (5,)
