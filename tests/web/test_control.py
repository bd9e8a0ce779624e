"""Runs started, continued, stopped and deleted from the workbench, by a command in place of `coalign` that only waits."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from coalign.core.options import converted, defaults, to_yaml
from coalign.core.runs import Run
from coalign.core.yaml_text import parse_yaml
from coalign.platform.methods import find
from coalign.web import control, run_page
from coalign.web.workbench import workbench
from tests.web.test_workbench import make_run

WAITS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from coalign.core.options import converted, defaults, to_yaml
from coalign.core.runs import Run
from coalign.core.yaml_text import parse_yaml
from coalign.platform.methods import find
from dataclasses import dataclass
@dataclass
class Config:
    note: str = ""
options = Path(sys.argv[sys.argv.index("--config") + 1]).read_text()
if "broken" in options:
    sys.exit("Error: it is broken")
run = Run.start(Path(sys.argv[sys.argv.index("--out") + 1]), sys.argv[2], Config())
print("waiting", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    if "stubborn" in options:
        time.sleep(60)
    run.set_status(state="interrupted")
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    monkeypatch.setattr(control, "COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(control, "STOPPING", 3.0)
    root = tmp_path / "runs"
    yield TestClient(workbench(root), base_url="http://127.0.0.1:8600")
    for one in root.glob("*/status.json"):
        if Run(one.parent).process not in (None, os.getpid()):
            control.stop(Run(one.parent))


def post(client: TestClient, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = client.post(path, json=body)
    return answer.status_code, answer.json()


def asked(options: str = "data: pairs.jsonl", **more: str) -> dict[str, str]:
    return {"method": "dpo", "options": options, **more}


def of_reward(reward: str) -> dict[str, str]:
    return {"method": "grpo", "options": f"prompts: x\nreward: [{reward}]"}


def test_a_run_is_started_stopped_continued_and_deleted(client: TestClient, tmp_path: Path) -> None:
    assert post(client, "/api/runs", **asked(name="mine")) == (200, {"name": "mine"})
    run = Run(tmp_path / "runs" / "mine")
    assert run.state == "running"
    page = client.get("/runs/mine").text
    assert 'data-do="stop"' in page
    assert 'data-do="delete"' not in page
    assert client.get("/runs/mine/live").headers["x-state"] == "running"
    status, said = post(client, "/api/runs/mine/delete")
    assert (status, "Stop it first" in said["error"]) == (404, True)
    assert post(client, "/api/runs", **asked(name="mine"))[0] == 404, "there is one already"
    assert post(client, "/api/runs/mine/stop") == (200, {"state": "interrupted"})
    assert run.process is None
    page = client.get("/runs/mine").text
    assert 'data-do="continue"' in page
    assert "waiting" in page, "what it printed"
    assert post(client, "/api/runs/mine/continue") == (200, {"name": "mine"})
    assert run.state == "running"
    post(client, "/api/runs/mine/stop")
    assert post(client, "/api/runs/mine/delete") == (200, {"name": "mine"})
    assert not run.path.exists()
    assert not [*(tmp_path / "runs" / control.STARTED).iterdir()]


def test_a_run_that_does_not_end_when_asked_is_ended(client: TestClient) -> None:
    post(client, "/api/runs", **asked("data: x\nkind: preference  # stubborn", name="slow"))
    began = time.monotonic()
    assert post(client, "/api/runs/slow/stop") == (200, {"state": "interrupted"})
    assert time.monotonic() - began >= 3
    assert post(client, "/api/runs/slow/stop")[0] == 404, "nobody works in it"


def test_a_name_is_found_where_none_is_given(client: TestClient) -> None:
    status, answer = post(client, "/api/runs", **asked())
    assert status == 200
    assert answer["name"].startswith("dpo-")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (asked("data: x\nbetta: 1"), "Did you mean beta?"),
        (asked("beta: 0.2"), "data: is required"),
        (asked("{"), "not YAML"),
        (asked("[1]"), "expected a line NAME: VALUE"),
        (asked("data: x\ntrust_remote_code: true"), "not taken from a page"),
        (asked(name="../out"), "is not usable"),
        (asked(name=".started"), "is not usable"),
        ({"method": "mine.py:loss", "options": "data: x"}, "code of a file"),
        ({"method": "grpo", "options": "prompts: x\nreward: [mine.py:reward]"}, "code of a file"),
        ({"method": "codeultrafeedback", "options": "sandbox: none"}, "not taken from a page"),
        (asked("data: x\ntrust_remote_code: 'on'"), "not taken from a page"),
        ({"method": "codeultrafeedback", "options": "sandbox: ' none '"}, "not taken from a page"),
        (of_reward("mine.py"), "code of a file"),
        (of_reward("'mine.py:'"), "code of a file"),
        (of_reward("'function:mine:reward'"), "code of a file"),
        (of_reward("{function: 'mine:reward'}"), "code of a file"),
        (of_reward("{'mine.py:reward': 1}"), "code of a file"),
        (of_reward("'passes_tests:tests=x,sandbox=none'"), "not taken from a page"),
        (of_reward('\'{"verifier": "passes_tests", "sandbox": "none"}\''), "not taken from a page"),
        ({"method": "awp", "options": "property: 'mine:better'"}, "code of a file"),
        ({"method": "rm -rf", "options": ""}, "neither a method nor an objective"),
        ({"options": "data: x"}, "method: is required"),
        (asked("data: x  # broken"), "Error: it is broken"),
    ],
)
def test_what_cannot_be_started_is_said(
    client: TestClient, tmp_path: Path, body: dict[str, str], said: str
) -> None:
    status, answer = post(client, "/api/runs", **body)
    assert status == 400
    assert said in answer["error"]
    assert not [*(tmp_path / "runs").glob("*/status.json")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json", "origin": "http://elsewhere"}, 403),
        ({"content-type": "application/json", "sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "application/json", "host": "elsewhere"}, 400),
        ({"content-type": "text/plain"}, 400),
        ({}, 400),
    ],
)
@pytest.mark.parametrize(
    "path", ["/api/runs", "/api/runs/mine/stop", "/api/runs/mine/continue", "/api/runs/mine/delete"]
)
def test_changes_are_taken_from_own_pages_alone(
    client: TestClient, tmp_path: Path, path: str, headers: dict[str, str], status: int
) -> None:
    make_run(tmp_path / "runs", "mine")
    answer = client.post(path, content=json.dumps(asked()), headers=headers)
    assert answer.status_code == status
    assert (tmp_path / "runs" / "mine" / "status.json").exists()


def test_nothing_is_changed_by_a_page_that_is_read_only(tmp_path: Path) -> None:
    make_run(tmp_path, "mine")
    client = TestClient(workbench(tmp_path, control=False), base_url="http://127.0.0.1:8600")
    for path in ("/api/runs", "/api/runs/mine/delete"):
        assert client.post(path, json=asked()).status_code in (404, 405)
    assert 'id="delete"' not in client.get("/").text
    assert "data-do" not in client.get("/runs/mine").text
    assert client.get("/start").status_code == 404


def test_the_form_of_a_method_names_what_must_be_given(client: TestClient) -> None:
    text = client.get("/start", params={"method": "dpo"}).text
    assert "\ndata:  # records to learn from" in text.replace("<textarea", "\n<textarea").replace(
        ">data:", ">\ndata:"
    )
    assert "# beta: 0.1" in text
    assert client.get("/start", params={"method": "<script>"}).status_code == 400


def test_no_page_that_is_looked_at_imports_code(client: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    answer = client.get("/start", params={"method": f"{file}:loss"})
    assert answer.status_code == 400
    assert "code of a file" in answer.text
    make_run(tmp_path / "made", "mine").set_status(method=f"{file}:loss", state="failed")
    (tmp_path / "made").rename(tmp_path / "runs")  # as it is once the process that made it has ended
    assert "code of a file" in post(client, "/api/runs/mine/continue")[1]["error"]
    assert not (tmp_path / "ran").exists()
    client.get("/runs/mine")
    assert not (tmp_path / "runs" / control.STARTED).exists(), "nothing is written by looking"


@pytest.mark.parametrize("method", ["evalmuse", "nudging", "spright", "value-alignment-survey", "grpo"])
def test_defaults_of_the_form_are_read_back(method: str) -> None:
    found = find(method)[1].Config
    lines = [one for one in control.template(method).splitlines() if one.startswith("# ")]
    given = parse_yaml("\n".join(one[2:] for one in lines))
    read = converted(found, {name: one for name, one in given.items() if one is not None}, incomplete=True)
    expected = {name: one for name, one in defaults(found).items() if one is not None}
    assert to_yaml(read) == to_yaml(expected)


def test_a_link_to_a_run_elsewhere_is_not_deleted(client: TestClient, tmp_path: Path) -> None:
    make_run(tmp_path / "made", "mine")
    elsewhere = (tmp_path / "made" / "mine").rename(tmp_path / "mine")  # where no process holds it
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(elsewhere)
    status, said = post(client, "/api/runs/linked/delete")
    assert (status, "cannot be removed" in said["error"]) == (404, True)
    assert (elsewhere / "status.json").exists()


def row(event: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"time": at, "event": event, **fields}


TRAINING: Callable[[], list[dict[str, Any]]] = lambda: [  # noqa: E731
    row("started", 0.0),
    row("plan", 1.0, stage="train", steps=100, done=0),
    *(
        row("train", 10.0 + step, stage="train", step=step, loss=1 / step, eval_loss=2.0)
        for step in range(1, 41)
    ),
]


def test_progress_and_curves_of_a_training() -> None:
    found = run_page.progress_of(TRAINING())
    assert found == run_page.Progress("train: step 40 of 100, loss 0.0250, about 1:00 left", 40, 100)
    assert run_page.progress_of([row("started", 0.0)]) is None
    assert run_page.progress_of([row("plan", 0.0, stage="train", steps="many")]) is None
    resumed = run_page.progress_of([row("plan", 0.0, stage="train", steps=10, done=4)])
    assert resumed == run_page.Progress("train: step 4 of 10", 4, 10)
    drawn = run_page.curves_of(TRAINING())
    assert drawn.count("<figcaption>") == 1, "held-out values are drawn with those of the training"
    assert "held out" in drawn
    assert run_page.curves_of([row("started", 0.0)]) == ""


def test_events_of_one_kind_in_a_row_are_folded() -> None:
    found = run_page.groups_of([*TRAINING(), row("warning", 60.0, text="so")])
    assert [(one["name"], one["count"]) for one in found] == [
        ("warning", 1),
        ("train", 40),
        ("plan", 1),
        ("started", 1),
    ]
    assert "step 40" in found[1]["rows"][0]["details"], "the latest first"
    many = run_page.groups_of([row("train", 0.0, step=step) for step in range(500)])
    assert (many[0]["count"], len(many[0]["rows"])) == (500, run_page.INSIDE)
