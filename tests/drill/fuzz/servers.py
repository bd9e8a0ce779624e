"""Odd requests to our pages and servers, odd replies to our client, odd run folders for whoever lists them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from starlette.testclient import TestClient

from coalign.judging.protocol import JudgeItem
from coalign.models.backends.endpoint_client import EndpointClient
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generation, Piece
from coalign.report.model import SCHEMA
from coalign.web.annotate import Session, annotation_app
from coalign.web.serve import Served, make_app
from coalign.web.workbench import workbench
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.drill.fuzz.bench import Bench, FoundError, Result
from tests.drill.fuzz.hostile import DAMAGES, TEXTS, changed, document, value
from tests.models.endpoint_server import answer_to, running, saying
from tests.models.test_generation import tiny

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0,
                             "n": 1, "seed": 1, "stop": ["x"], "logprobs": True, "top_logprobs": 2, "stream": False},
    "/v1/completions": {"model": "tiny", "prompt": "hi", "max_tokens": 2, "top_p": 1, "top_k": 1, "echo": False, "logprobs": 1},
}  # fmt: skip
PAGES: dict[str, dict[str, Any]] = {
    "/api/generate": {
        "model": "tiny",
        "prompt": "hi",
        "max_new_tokens": 2,
        "temperature": 0,
        "top_p": 1,
        "seed": 0,
    },
    "/annotate/api/verdict": {"index": 0, "said": "first"},
    "/annotate/api/undo": {},
}
STATUS: dict[str, Any] = {
    "method": "dpo",
    "state": "done",
    "started": "2026-01-01T00:00:00+00:00",
    "headline": "30 % to 46 %",
    "figures": {"a": 1},
}
EVENT: dict[str, Any] = {"time": 1.7e9, "event": "train", "step": 1, "loss": 0.5}
REPORT: dict[str, Any] = {"schema": SCHEMA, "title": "T", "method": "dpo", "verdict": {"outcome": "neutral", "text": "x"}, "sections": [{"kind": "text", "title": "x", "paragraphs": ["a"]}]}  # fmt: skip


def _served() -> TestClient:
    app = make_app(Served("tiny", TransformersGenerator(tiny(dtype=torch.float32), byte_tokenizer(CHATML))))
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


class _Echo:
    """A model of a page."""

    def stream(self, prompts: Any, sampling: Any) -> Any:
        yield Piece(0, 0, "x", Generation("x", [1], "stop"))


def _said(answer: Any, what: str) -> None:
    """A reply is an answer, or says what is wrong in a form that the client knows."""
    if answer.status_code >= 500:
        raise FoundError(f"{what}: {answer.status_code} {answer.text[:300]}")
    if answer.headers.get("content-type", "").startswith("application/json"):
        body = answer.json()
        if answer.status_code >= 400 and "error" not in body and "detail" not in body:
            raise FoundError(f"{what}: {answer.status_code} without a word: {answer.text[:300]}")


def _odd_body(draw: Random, fields: Any) -> bytes:
    text = draw.choice((changed, changed, changed, changed, lambda draw, _: value(draw)))(draw, fields)
    data = text.encode("utf-8", "surrogatepass")
    return draw.choice(DAMAGES)(data) if draw.random() < 0.1 else data


def serve(bench: Bench, draw: Random) -> None:
    """Requests to `coalign serve`: an answer or an error of the API each, and sound ones still get theirs."""
    path = draw.choice([*BODIES])
    fields = {
        name: one
        for name, one in BODIES[path].items()
        if name in ("model", "messages", "prompt", "max_tokens") or draw.random() < 0.5
    }
    kind = draw.choice(("application/json",) * 9 + ("text/plain", "", "application/json; charset=utf-16"))
    client = bench.opened(_served)
    _said(client.post(path, content=_odd_body(draw, fields), headers={"content-type": kind}), path)
    sound = client.post(path, json=BODIES[path])
    if sound.status_code != 200:
        raise FoundError(f"a sound request after it: {sound.status_code} {sound.text[:200]}")


def run_folder(draw: Random, folder: Path) -> None:
    """A run folder in which something is not as it was written."""
    folder.mkdir()
    (folder / "status.json").write_text(
        draw.choice((changed, changed, lambda draw, _: value(draw)))(draw, STATUS), "utf-8", "surrogatepass"
    )
    (folder / "events.jsonl").write_text(
        "\n".join(changed(draw, EVENT) for _ in range(3)) + draw.choice(("", "\n")), "utf-8", "surrogatepass"
    )
    (folder / "config.yaml").write_bytes(document(draw, {"beta": 0.1, "data": "a.jsonl"}))
    (folder / "report.json").write_text(
        draw.choice((changed, lambda draw, _: value(draw)))(draw, REPORT), "utf-8", "surrogatepass"
    )
    (folder / "environment.json").write_text(
        changed(draw, {"python": "3.11", "packages": {"torch": "2"}, "started": "2026-01-01"}),
        "utf-8",
        "surrogatepass",
    )
    if draw.random() < 0.5:
        (folder / "report.html").write_text("<p>x</p>")
    if draw.random() < 0.3:
        odd = folder / draw.choice(
            ("status.json", "events.jsonl", "config.yaml", "report.json", "environment.json")
        )
        data = odd.read_bytes()
        odd.unlink()
        match draw.randrange(4):
            case 0:
                odd.mkdir()
            case 1:
                odd.symlink_to(odd.name)
            case 2:
                odd.write_bytes(draw.choice(DAMAGES)(data))


def pages(bench: Bench, draw: Random) -> None:
    """The workbench over damaged runs, and what a page might ask of it."""
    root = bench.folder / "runs"
    root.mkdir()
    for name in ("one", draw.choice(("two", "é", "a b", "x" * 200, "<b>"))):
        run_folder(draw, root / name)
    asked = [{"role": "user", "content": "p"}]
    session = Session([JudgeItem(id="1", prompt=asked, responses=("a", "b"))], bench.folder / "said.jsonl")
    app = workbench(root, ["tiny"], load=lambda _: (_Echo(), True), annotation=annotation_app(session))
    client = TestClient(app, base_url="http://127.0.0.1:8600", raise_server_exceptions=False)
    for path in ("/", "/api/runs", "/play", "/runs/one", "/runs/one/report", "/compare?run=one&run=" + draw.choice(("one", "two", "%00", "..")), f"/runs/{draw.choice(('%2e%2e', '%00', 'x' * 300, '%ff'))}"):  # fmt: skip
        _said(client.get(path), path)
    path = draw.choice([*PAGES])
    _said(
        client.post(path, content=_odd_body(draw, PAGES[path]), headers={"content-type": "application/json"}),
        path,
    )


def folders(bench: Bench, draw: Random) -> None:
    """Commands over damaged run folders; a run that goes on in one."""
    run_folder(draw, bench.folder / "run")
    run = str(bench.folder / "run")
    bench.coalign(*draw.choice((
        ("runs", "--root", str(bench.folder)), ("runs", "--root", str(bench.folder), "--json"), ("report", run), ("compare", run, run),
        ("run", "bco", "--data", "feedback.jsonl", "--model", "models/tiny", "--device", "cpu", "--out", run), ("data", "check", run),
        ("generate", "--model", run, "--prompts", "prompts.jsonl", "--out", str(bench.folder / "o.jsonl")),
    )))  # fmt: skip


def endpoint(bench: Bench, draw: Random) -> None:
    """Replies of a server: rows for all prompts, or an error; nothing odd reaches a row."""
    bench.furnish("urial")
    out = bench.folder / "out.jsonl"
    with running() as server:
        if draw.random() < 0.15:
            listed = f"[{changed(draw, {'id': 'echo', 'owned_by': 'tests'})}, {value(draw)}]"
            server.models = json.loads(_sound(draw.choice((listed, value(draw)))))
        elif draw.random() < 0.1:
            server.fault = saying(
                draw.choice((200, 302, 400, 429, 500)),
                _odd_body(draw, {"error": {"message": "no"}}),
                {"location": draw.choice(("/x", "http://é/", "::"))} if draw.random() < 0.3 else None,
            )
        else:
            server.change = lambda answer: _odd_answer(draw, answer)
        result = _asked(bench, server.address, out)
    if result.code == 0:
        rows = [json.loads(line) for line in out.read_text("utf-8").split("\n") if line]
        if len(rows) != 4 or not all(isinstance(text, str) for row in rows for text in row["responses"]):
            raise FoundError(f"{len(rows)} rows of 4 prompts: {rows[:1]}")


def _asked(bench: Bench, address: str, out: Path) -> Result:
    pause, EndpointClient._pause = EndpointClient._pause, lambda *_: None  # type: ignore[method-assign]
    try:
        return bench.coalign("generate", "--prompts", "prompts.jsonl", "--endpoint", address, "--endpoint-retries", "1",
                             "--endpoint-timeout", "5", "--endpoint-cache", str(bench.folder / "c.sqlite"), "--out", str(out))  # fmt: skip
    finally:
        EndpointClient._pause = pause  # type: ignore[method-assign]


def _sound(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return "[]"
    return text


def _odd_answer(draw: Random, answer: dict[str, Any]) -> Any:
    """An answer of which a part, at any depth, is odd."""
    choice = answer["choices"][0]
    match draw.randrange(6):
        case 0:
            text = changed(draw, answer)
        case 1:
            text = json.dumps(answer).replace(json.dumps(choice), changed(draw, choice))
        case 2:
            text = json.dumps(answer).replace(json.dumps(choice["message"]), changed(draw, choice["message"]))
        case 3:
            text = json.dumps(answer).replace(json.dumps(answer["usage"]), changed(draw, answer["usage"]))
        case 4:
            text = value(draw)
        case _:
            text = json.dumps({**answer, "choices": [{**choice, "message": {"content": draw.choice(TEXTS)}}]})
    return text.encode("utf-8", "surrogatepass")


assert answer_to  # the server's own answers, of which these are changes
