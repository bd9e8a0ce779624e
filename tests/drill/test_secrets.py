"""Keys and passwords planted wherever a command line, a file or the environment holds text, over every command that fails."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coalign.cli.main import COMMANDS
from coalign.core import secrets
from coalign.core.catalogue import entries
from coalign.core.options import options_of
from coalign.core.system import load_system
from tests.cli.conftest import coalign as coalign
from tests.preference.tiny_runs import pairs, write

KEY = "planted-Drill-0815-value"
ADDRESS = f"https://me:{KEY}@host.invalid/v1"
QUERY = f"https://host.invalid/v1?api_key={KEY}"
SYSTEMS = [entry.slug for entry in entries() if entry.available]
WORDS = {
    "data": ["check"], "judge": ["--data"], "generate": ["--out", "o.jsonl", "--prompts"], "score": ["alignscore"], "annotate": [], "chat": [],
    "serve": [], "report": [], "compare": ["x"], "ui": ["--host"], "reproduce": [], "run": ["dpo", "--out", "r", "--data"], "methods": [],
    "objectives": [], "runs": ["--root"], "cache": ["--trim"], "doctor": [], "quickstart": ["--no-such-flag"], "import-config": [],
    "search": ["r"], "advise": ["--data"], "pipeline": ["run"], "export": ["--out", "e"], "sweep": ["dpo", "--by", "loss", "--grid"],
    "eval": ["--tasks", "arc_easy"],
    "launch": ["--processes", "2", "run"],
}  # fmt: skip
"""Command to the words before the one that holds a secret; a test asserts that no command is missing."""


@pytest.fixture
def planted(
    coalign: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Calls a command, which must fail; asserts that the key is neither shown nor in any file."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # tracebacks of faults go there
    monkeypatch.setattr(secrets, "_held", set())
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def call(*argv: str, may_succeed: bool = False) -> Any:
        result = coalign(*argv)
        for shown in (result.out, result.err):
            assert KEY not in shown, f"{argv[:4]}: {shown[-400:]}"
        assert result.code or may_succeed, f"{argv[:4]} did not fail"
        return result

    yield call
    held = [
        str(one.relative_to(tmp_path))
        for one in tmp_path.rglob("*")
        if one.is_file() and not one.name.startswith("given") and KEY.encode() in one.read_bytes()
    ]
    assert held == []


def test_every_command_is_drilled() -> None:
    assert {*WORDS} == {*COMMANDS}


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize("secret", [ADDRESS, QUERY, f"sk-{KEY}", f"Bearer {KEY}"])
def test_a_secret_where_a_file_or_a_name_belongs(planted: Any, command: str, secret: str) -> None:
    planted(command, *WORDS[command], secret, may_succeed=command == "runs")


@pytest.mark.parametrize("command", WORDS)
def test_a_key_among_flags_that_do_not_exist(planted: Any, command: str) -> None:
    words = WORDS[command][:1] if not WORDS[command][:1] or WORDS[command][0][0] != "-" else []
    for given in (
        ["--api-key", KEY],
        [f"--token={KEY}"],
        ["--password", KEY, "--x"],
        [f"--endpoint-key={KEY}"],
    ):
        planted(command, *words, *given)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_an_address_with_a_password_in_every_option(planted: Any, slug: str) -> None:
    config, options = Path("given.yaml"), options_of(load_system(slug).Config)
    for one in options:
        if not one.is_flag:
            planted("run", slug, f"{one.flag}={ADDRESS}", "--print-config")
    for value in (ADDRESS, [ADDRESS], {"path": ADDRESS}, [{"path": ADDRESS, "weight": 2}]):
        config.write_text(json.dumps({one.name: value for one in options}))
        planted("run", slug, "--config", str(config), "--print-config")


@pytest.mark.parametrize(
    "text",
    [f"model: x\n{KEY}: [", f"data: [{KEY}", f"? {ADDRESS}\n: 1", f"api_key: {KEY}", f"data: !{KEY} x"],
)
def test_a_file_of_options_that_cannot_be_read(
    planted: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", KEY)
    Path("given.yaml").write_text(text)
    planted("run", "dpo", "--config", "given.yaml", "--out", "run")


@pytest.mark.parametrize("place", ["prompt", "chosen", "extra", "broken"])
def test_records_that_hold_the_key_of_the_environment(
    planted: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", KEY)
    rows = [{**row, place: [KEY, 5]} for row in pairs(3)]
    path = write(Path("given.jsonl"), rows)
    if place == "broken":
        path.write_text(path.read_text() + f'{{"prompt": "{KEY}')
    planted("data", "check", str(path), "--kind", "feedback", may_succeed=True)
    planted("run", "bco", "--data", str(path), "--model", "no/such", "--device", "cpu", "--out", "run")


@pytest.mark.parametrize("command", WORDS)
def test_a_fault_of_ours_that_speaks_of_the_key(
    planted: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever library raises with the key in its message, or in a local variable's place, the traceback file has none."""
    import click

    monkeypatch.setenv("MY_API_KEY", KEY)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"Illegal header value b'Bearer {KEY}' for {ADDRESS}")

    monkeypatch.setattr(click.Command, "invoke", broken)
    result = planted(command, *WORDS[command][:1])
    assert "This is a fault of coalign" in result.err or result.code == 2
