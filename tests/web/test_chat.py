"""`coalign chat` and `coalign generate` over an endpoint: the same text as over the model itself."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from coalign.cli.serving.chat import Speaker, _columns, chat
from coalign.core.files import read_rows
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.tools.agent import Agent
from coalign.models.tools.toolbox import Tool, Toolbox
from coalign.models.types import Generation, Sampling
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model
from tests.web.serving import serving

GREEDY = ["--temperature", "0", "--max-new-tokens", "9"]


@pytest.fixture
def address(model, monkeypatch, tmp_path):
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    tokenizer = byte_tokenizer(CHATML)
    same = make_model("llama", dtype=torch.float32, vocab_size=len(tokenizer), eos_token_id=1)
    with serving(TransformersGenerator(same, tokenizer)) as one:
        yield one


def test_chat_over_an_endpoint(model, address):
    local, remote = (
        CliRunner().invoke(chat, [*one, *GREEDY], input="hi\nand then\n", catch_exceptions=False)
        for one in ([model, "--dtype", "float32"], ["--endpoint", address])
    )
    assert remote.exit_code == 0
    assert remote.stdout == local.stdout
    assert f"tiny at {address}" in remote.stderr


def test_generate_over_an_endpoint(coalign, model, prompts, address, tmp_path):
    command = ["generate", "--prompts", prompts, "--samples", "2", "--prefill", "the sea", *GREEDY]
    local, remote = tmp_path / "local.jsonl", tmp_path / "remote.jsonl"
    assert coalign(*command, "--model", model, "--dtype", "float32", "--out", str(local)).code == 0
    result = coalign(*command, "--endpoint", address, "--out", str(remote))
    assert result.code == 0, result.err
    assert "samples/s" in result.err
    assert read_rows(remote) == read_rows(local)
    refused = coalign(*command, "--endpoint", address, "--model", model, "--out", str(tmp_path / "x"))
    assert refused.code == 2
    assert "--model has no effect with --endpoint" in refused.err
    nobody = ["--endpoint", "http://127.0.0.1:9/v1", "--endpoint-retries", "0"]
    partial = coalign(*command, *nobody, "--out", str(tmp_path / "none.jsonl"))
    assert partial.code == 1
    assert "cannot connect" in partial.err


def test_alternatives_in_the_file(coalign, model, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    command = ["generate", "--prompts", prompts, "--model", model, "--out", str(out), "--max-new-tokens", "5"]
    assert coalign(*command, "--top-logprobs", "2").code == 0
    row = read_rows(out)[0]
    assert [len(one) for one in row["top_logprobs"][0]] == [2] * row["tokens"][0]
    assert len(row["token_texts"][0]) == row["tokens"][0]
    bad = coalign(*command, "--overwrite", "--option", "a=1")
    assert "options belong to a method" in bad.err
    assert "expected KEY=VALUE" in coalign(*command, "--overwrite", "--option", "a").err
    assert "not a decoding method" in coalign(*command, "--overwrite", "--method", "magic").err


def test_two_answers_stand_side_by_side():
    console = Console(width=60, record=True, file=io.StringIO())
    speakers = [Speaker(name, generator=None) for name in ("base", "tuned")]  # type: ignore[arg-type]
    console.print(_columns(speakers, ["one [bold]answer[/bold] " * 3, "another"]))
    lines = console.export_text().splitlines()
    assert "base" in lines[0]
    assert "tuned" in lines[0]
    first = next(line for line in lines if "another" in line)
    assert first.index("another") > 25
    assert "[bold]" in first


@pytest.mark.slow
def test_columns_in_a_terminal(model, tmp_path):
    """A real terminal: both answers come, nothing is left of the markup, Ctrl-D leaves."""
    other, end = pty.openpty()
    command = [sys.executable, "-m", "coalign", "chat", model, "--compare", model, *GREEDY]
    env = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, stdin=end, stdout=end, stderr=quiet, env=env, close_fds=True)
    os.close(end)
    os.write(other, b"hi\n/exit\n")
    shown = b""
    try:
        while part := os.read(other, 4096):
            shown += part
    except OSError:
        pass  # the terminal is gone when the program ends
    finally:
        os.close(other)
    assert child.wait(60) == 0
    name = model.rsplit("/", 1)[1]
    assert shown.decode(errors="replace").count(name) >= 2
    assert json.dumps("hi")[1:-1] in shown.decode(errors="replace")


def test_a_chat_with_tools_tells_calls_and_remembers_them():
    pytest.importorskip("jsonschema")

    class Calling:
        def generate(self, prompts, sampling, **how):
            call = 'I ask.<tool_call>{"name": "look", "arguments": {"at": "sea"}}</tool_call>'
            return [[Generation("Blue." if "is blue" in str(prompts) else call)]]

    parameters = {"type": "object", "properties": {"at": {"type": "string"}}}
    schema = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    model: Any = Calling()
    agent = Agent(model, Toolbox([Tool(schema, lambda given: f"{given['at']}\nis blue")]))
    one = Speaker("one", model, "Be brief.", agent=agent)
    said: list[str] = []
    assert one.reply("Is the sea blue?", Sampling(), said.append) == "Blue."
    assert "".join(said) == 'I ask.\n  > look {"at": "sea"}\n  = sea\n    is blue\nBlue.'
    assert [each["role"] for each in one.messages] == ["user", "assistant", "tool", "assistant"]
