"""The workbench: what its pages and its interface answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("fastapi")
from dataclasses import dataclass

from click.testing import CliRunner
from starlette.testclient import TestClient

from coalign.cli.results.ui import ui
from coalign.core.catalogue import entries
from coalign.core.errors import ModelError
from coalign.core.options import option
from coalign.core.runs import Run
from coalign.guide.taxonomy import taxonomy
from coalign.models.types import Generation, Piece, Sampling
from coalign.report.html import write_report
from coalign.web.annotate import annotation_app, open_session
from coalign.web.workbench import workbench
from tests.report.example import example_report

HOSTILE = "</td><script>window.pwned = 1</script>\u202e"


@dataclass(kw_only=True)
class Config:
    beta: float = option(0.1, "beta")
    note: str = option("", "note")


class Echo:
    """Streams the prompt back, a word a piece."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def stream(self, prompts: Sequence[Any], sampling: Sampling) -> Iterator[Piece]:
        text = f"{self.name}: {prompts[0][0]['content']}"
        try:
            for word in text.split(" ")[: sampling.max_new_tokens]:
                yield Piece(0, 0, word + " ")
            yield Piece(0, 0, "", Generation(text, list(range(5)), "stop"))
        finally:
            self.closed = True


def make_run(root: Path, name: str, *, headline: str = "", report: bool = True, model: bool = False) -> Run:
    run = Run.start(root / name, "act", Config(note=HOSTILE), seed=0)
    run.log("stage", stage="generate", note=HOSTILE)
    if report:
        write_report(example_report(rows=2), run.report)
    if model:
        run.model.mkdir()
        (run.model / "config.json").write_text("{}")
    run.set_status(state="done", headline=headline)
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_run(tmp_path, "first", headline="30 % to 46 %", model=True)
    make_run(tmp_path, "second", headline=HOSTILE)
    return tmp_path


def client_of(root: Path, load: Any = None) -> TestClient:
    app = workbench(root, load=load or (lambda name: (Echo(name), True)))
    return TestClient(app, base_url="http://127.0.0.1:8600", raise_server_exceptions=True)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_runs_are_listed_latest_first_and_escaped(root: Path) -> None:
    text = client_of(root).get("/").text
    assert text.index("/runs/second") < text.index("/runs/first")
    assert [part for part in ("30 % to 46 %", "&lt;script&gt;", "U+202E") if part not in text] == []
    assert "<script>window.pwned" not in text


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    assert "coalign quickstart" in client_of(tmp_path / "none").get("/").text


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"state": ["done"]}', '{"state": 7}', "[" * 100_000])
def test_a_damaged_run_is_listed_as_unreadable(root: Path, text: str) -> None:
    (root / "second" / "status.json").write_text(text)
    client = client_of(root)
    assert "unreadable" in client.get("/").text
    states = {row["name"]: row["state"] for row in client.get("/api/runs").json()}
    assert states == {"first": "done", "second": "unreadable"}
    assert client.get("/runs/second").status_code == 200


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("events.jsonl", '{"time": "noon", "event": "late"}\n{"time": 1e300}\n[1]\n7\n', "noon"),
        ("events.jsonl", "{no}\n", "events.jsonl:1: not JSON"),
        ("config.yaml", "[1, 2]", "holds a list"),
        ("config.yaml", "day: 2026-02-31", "not valid YAML"),
        ("status.json", '{"state": "done", "started": 7, "headline": {"a": 1}, "method": null}', "done"),
    ],
)
def test_what_is_damaged_in_a_run_is_said_on_its_page(root: Path, file: str, text: str, said: str) -> None:
    (root / "second" / file).write_text(text)
    client = client_of(root)
    assert client.get("/").status_code == 200
    answer = client.get("/runs/second")
    assert answer.status_code == 200
    assert said in answer.text


def test_a_report_outside_of_the_folder_is_not_given(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.html"
    elsewhere.write_text("private")
    (root / "first" / "report.html").unlink()
    (root / "first" / "report.html").symlink_to(elsewhere)
    answer = client_of(root).get("/runs/first/report")
    assert answer.status_code == 404
    assert "private" not in answer.text


@pytest.mark.parametrize(
    ("body", "kind"), [(b"[" * 100_000, "application/json"), (b"{}", "text/plain"), (b"{}", None)]
)
def test_only_json_that_says_so_is_taken(root: Path, body: bytes, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert client_of(root).post("/api/generate", content=body, headers=headers).status_code == 400


def test_a_run_shows_its_events_and_options(root: Path) -> None:
    text = client_of(root).get("/runs/second").text
    assert "stage generate" in text
    assert "beta" in text
    assert "<script>window.pwned" not in text


def test_a_report_opens_in_a_sandbox(root: Path) -> None:
    answer = client_of(root).get("/runs/first/report")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("sandbox ")
    assert "allow-same-origin" not in answer.headers["content-security-policy"]


OUTSIDE = ["/runs/none", "/runs/none/report", "/runs/..%2f..%2fetc", "/static/..%2fworkbench.py", "/runs/.."]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_outside_of_the_listing_is_reached(root: Path, path: str) -> None:
    answer = client_of(root).get(path)
    assert answer.status_code in (200, 404)
    if answer.status_code == 200:  # the client itself resolved the dots
        assert "Run folders under" in answer.text


def test_samples_beside_a_report_are_paged_through(root: Path) -> None:
    folder = root / "first" / "samples"
    folder.mkdir()
    rows = [
        {"prompt": f"<b>p{n}</b>", "tags": ["t"], "change": "better",
         "outputs": [{"column": "A", "text": f"said {n}\u202e", "score": n / 2, "checks": {}}]}
        for n in range(45)
    ]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    client = client_of(root)
    assert "/runs/first/samples/answers.jsonl" in client.get("/runs/first").text
    first = client.get("/runs/first/samples/answers.jsonl").text
    assert "1 to 20 of 45" in first
    assert "&lt;b&gt;p19&lt;/b&gt;" in first
    assert "p20" not in first
    assert "<b>p1</b>" not in first
    assert "U+202E" in first
    last = client.get("/runs/first/samples/answers.jsonl?line=41").text
    assert "41 to 45 of 45" in last
    assert "line=21" in last
    assert 'rel="next"' not in last
    assert "45 to 45 of 45" in client.get("/runs/first/samples/answers.jsonl?line=9999").text


@pytest.mark.parametrize("name", ["none.jsonl", "..%2Fstatus.json", "answers", "link.jsonl"])
def test_no_other_file_is_shown_as_samples(root: Path, name: str) -> None:
    folder = root / "first" / "samples"
    folder.mkdir()
    (folder / "link.jsonl").symlink_to(root / "first" / "status.json")
    answer = client_of(root).get(f"/runs/first/samples/{name}")
    assert answer.status_code == 404


@pytest.mark.parametrize("line", ["{", "[]", "\xff", '{"outputs": 7}', '{"outputs": [], "tags": 1}'])
def test_damaged_samples_are_told(root: Path, line: str) -> None:
    folder = root / "first" / "samples"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    answer = client_of(root).get("/runs/first/samples/a.jsonl")
    assert (answer.status_code, "cannot be read" in answer.text) == (404, True)


def test_a_run_without_report_says_so(root: Path) -> None:
    make_run(root, "third", report=False)
    answer = client_of(root).get("/runs/third/report")
    assert answer.status_code == 404
    assert "no report yet" in answer.text


def test_runs_are_compared(root: Path) -> None:
    client = client_of(root)
    answer = client.get("/compare", params={"run": ["first", "second"]})
    assert "2 runs compared" in answer.text
    assert answer.headers["content-security-policy"].startswith("sandbox ")
    assert client.get("/compare", params={"run": ["first"]}).status_code == 404


def test_the_map_can_be_walked_and_names_every_system(root: Path) -> None:
    client = client_of(root)
    for name in ("risks", "process", "goals"):
        tree = taxonomy(name)
        text = client.get(f"/map/{name}").text
        assert text.count("<rect") == len(tree.nodes)
        assert text.count('class="node gap') == len(tree.gaps())
        assert all(f"/methods#{entry.slug}" in text for entry in entries())
        top = tree.children(None)[0]
        inside = client.get(f"/map/{name}?node={top.id}").text
        assert f'aria-label="{tree.title}: {top.name}"' in inside
    assert client.get("/map/elsewhere").status_code == 400
    assert "no node" in client.get("/map/risks", params={"node": "<b>"}).text


def test_advice_as_a_form(root: Path) -> None:
    client = client_of(root)
    assert "that fit" not in client.get("/advise").text
    text = client.get("/advise", params={"have": "feedback", "strong": "yes", "goal": ""}).text
    assert "coalign run bco --data DATA" in text
    assert '<option value="feedback" selected>' in text
    wrong = client.get("/advise", params={"access": "<script>"})
    assert wrong.status_code == 400
    assert "<script>" not in wrong.text.replace("<script src", "")


def test_methods_show_all_systems(root: Path) -> None:
    text = client_of(root).get("/methods").text
    assert text.count('class="method') >= 63
    assert "coalign run act --help" in text


def test_both_sides_offer_the_models_of_runs(root: Path) -> None:
    text = client_of(root).get("/play", params={"b": "first"}).text
    assert text.count('<option value="default" selected>') == 1
    assert text.count('<option value="first" selected>') == 1
    assert "second" not in text, "it has no model"


def test_answers_stream_as_lines(root: Path) -> None:
    client = client_of(root)
    answer = client.post("/api/generate", json={"model": "first", "prompt": "hello there"})
    parts = lines(answer.text)
    assert "".join(part.get("text", "") for part in parts) == f"{root / 'first'}: hello there "
    assert parts[-1]["done"] is True
    assert (parts[-1]["tokens"], parts[-1]["finish_reason"]) == (5, "stop")


def test_a_model_that_fails_to_load_is_an_error_line_and_only_listed_ones_are_loaded(root: Path) -> None:
    client = client_of(root, Mock(side_effect=ModelError("no weights here")))
    for model, error in (("default", "no weights here"), ("/etc", "'/etc' is not a model of this page.")):
        answer = client.post("/api/generate", json={"model": model, "prompt": "x"})
        assert lines(answer.text)[-1] == {"error": error}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"prompt": "x"}', "model: is required"),
        (b'{"model": "default", "prompt": " "}', "prompt is empty"),
        (b'{"model": "default", "prompt": "x", "top_p": 7}', "top_p: 7"),
        (b'{"model": "default", "prompt": "x", "n": 7}', "n: is not an option"),
    ],
)
def test_bad_requests_are_explained(root: Path, body: bytes, message: str) -> None:
    answer = client_of(root).post("/api/generate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_the_least_used_model_leaves_memory(root: Path) -> None:
    make_run(root, "third", model=True)
    loaded: list[str] = []
    client = client_of(root, lambda name: (loaded.append(Path(name).name) or Echo(name), True))
    for model in ("default", "first", "default", "third", "default", "first"):
        client.post("/api/generate", json={"model": model, "prompt": "x"})
    assert loaded == ["default", "first", "third", "first"]


def test_pairs_are_judged_on_the_same_site(root: Path) -> None:
    pairs = root / "pairs.jsonl"
    pairs.write_text('{"prompt": "Which?", "chosen": "one answer", "rejected": "another"}\n')
    session = open_session(str(pairs), root / "human.jsonl")
    app = workbench(root, load=lambda name: (Echo(name), True), annotation=annotation_app(session))
    client = TestClient(app, base_url="http://127.0.0.1:8600")
    assert "Blind comparison" in client.get("/").text
    for path in ("/annotate/", "/annotate/static/annotate.js"):
        assert client.get(path).status_code == 200
    assert client.get("/annotate/api/state").json()["total"] == 1
    assert "Blind comparison" not in client_of(root).get("/").text
    session.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--annotate", "pairs.jsonl"], "go together"), (["--host", "0.0.0.0"], "tunnel")],
    ids=["annotation needs both files", "only loopback"],
)
def test_bad_usage(options: list[str], message: str) -> None:
    result = CliRunner().invoke(ui, options)
    assert result.exit_code != 0
    assert message in str(result.exception)
