"""Blind annotation: what is kept, continuation, the page by keyboard in a real browser, hostile text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from coalign.core.errors import ConfigError, RunError
from coalign.core.files import read_rows
from coalign.data.readers import read_records
from coalign.judging.options import stored_judge
from coalign.judging.protocol import JudgeItem
from coalign.web.annotate import Session, annotation_app, open_session
from tests.browser import browser as browser
from tests.browser import js, wait
from tests.evaluation.judge_files import pair_rows, write_rows
from tests.evaluation.scripted import item
from tests.web.serving import running

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "\u202eevil\u202c \u200f" + "x" * 3000 + "\n\nשלום עולם"
)


def items(n: int = 4) -> list[JudgeItem]:
    return [item(f"first {k}", f"second {k}", id=f"q{k}", question=f"Question {k}?") for k in range(n)]


def side_of(session: Session, index: int, text: str) -> Any:
    return "left" if session.shown(index).left.startswith(text) else "right"


def test_verdicts_become_preferences_and_a_judge(tmp_path: Path) -> None:
    out = tmp_path / "human.jsonl"
    session = Session(items(), out, annotator="ann")
    sides = [side_of(session, 0, "first"), side_of(session, 1, "second")]
    for index, said in enumerate([*sides, "tie", "skip"]):
        session.say(index, said)
    session.close()
    records: list[Any] = list(read_records(out, kind="preference").records)
    pairs = [(one.chosen, one.rejected) for one in records]
    assert pairs == [("first 0", "second 0"), ("second 1", "first 1")]
    assert records[0].prompt == [{"role": "user", "content": "Question 0?"}]
    judge = stored_judge(session.verdicts)
    assert [one.outcome for one in judge.compare(items())] == ["first", "second", "tie", "failed"]
    log = read_rows(session.log)
    assert [row["said"] in ("left", "right") for row in log] == [True, True, False, False]
    assert log[0]["annotator"] == "ann"
    assert session.counts() == {"preferences": 2, "ties": 1, "skipped": 1}


def test_a_stopped_session_goes_on_and_takes_back(tmp_path: Path) -> None:
    out = tmp_path / "human.jsonl"
    session = Session(items(), out)
    session.say(0, "left")
    session.say(1, "right")
    session.close()
    with session.log.open("a") as file:
        file.write('{"key": "torn')
    again = Session(items(6), out)
    assert (again.done, again.next_index()) == (2, 2)
    assert again.undo() == 1
    assert (again.done, again.next_index()) == (1, 1)
    again.say(1, "tie")
    assert again.undo() == 1
    assert again.undo() == 0
    assert again.undo() is None
    assert read_rows(out) == []
    again.close()
    assert Session(items(), out).done == 0


def test_left_and_right_depend_on_the_seed_and_not_on_the_run(tmp_path: Path) -> None:
    sides = []
    for seed in (0, 0, 1):
        session = Session(items(40), tmp_path / "x.jsonl", seed=seed)
        sides.append([side_of(session, k, "first") for k in range(40)])
        session.close()
    assert sides[0] == sides[1] != sides[2]
    assert 8 < sides[0].count("left") < 32


def test_equal_pairs_are_shown_once_and_other_verdicts_refused(tmp_path: Path) -> None:
    session = Session([*items(2), *items(2)], tmp_path / "x.jsonl")
    assert len(session) == 2
    with pytest.raises(ConfigError, match="expected a pair"):
        session.say(7, "left")
    with pytest.raises(ConfigError, match="expected a pair"):
        session.say(0, "middle")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="in use by another process"):
        Session(items(), tmp_path / "x.jsonl")
    session.close()


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    with pytest.raises(ConfigError, match="exists, and"):
        Session(items(), other)
    with pytest.raises(ConfigError, match="does not end"):
        Session(items(), tmp_path / "x.csv")
    file = write_rows(tmp_path / "r.jsonl", [{"prompt": "?", "response": "x"}])
    with pytest.raises(ConfigError, match="expected pairs"):
        open_session(file, tmp_path / "o.jsonl")


def test_conversations_keep_their_form(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    session = Session([JudgeItem(id="c", prompt=prompt, responses=("a", "b"))], tmp_path / "x.jsonl")  # type: ignore[arg-type]
    session.say(0, "left")
    session.close()
    record = read_records(tmp_path / "x.jsonl", kind="preference").records[0]
    assert record.prompt == prompt
    assert {record.chosen, record.rejected} == {"a", "b"}  # type: ignore[attr-defined]


def test_the_interface(tmp_path: Path) -> None:
    session = Session(items(2), tmp_path / "x.jsonl")
    client = TestClient(annotation_app(session), base_url="http://localhost")
    page = client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    state = client.get("/api/state").json()
    assert state["total"] == 2
    assert "first" not in json.dumps({key: state[key] for key in state.keys() - {"pair", "out"}})
    assert client.post("/api/verdict", json={"index": 0, "said": "tie"}).json()["pair"]["index"] == 1
    assert client.post("/api/verdict", json={"index": 0, "said": "up"}).status_code == 400
    assert client.post("/api/verdict", content=b"{").status_code == 400
    as_json = {"content-type": "application/json"}
    assert client.post("/api/verdict", content=b"{", headers=as_json).status_code == 400
    assert client.post("/api/undo", json={}).json()["pair"]["index"] == 0
    assert client.get("/static/../secret").status_code == 404
    foreign = client.post("/api/undo", json={}, headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    session.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Session]]:
    rows = pair_rows(3)
    rows[0] |= {"prompt": HOSTILE, "response_a": HOSTILE + " one", "response_b": HOSTILE + " two"}
    session = open_session(write_rows(tmp_path / "pairs.jsonl", rows), tmp_path / "human.jsonl")
    with running(annotation_app(session)) as address:
        yield address, session
    session.close()


@pytest.mark.browser
def test_the_page_works_by_keyboard_and_escapes(browser: Any, served: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    address, session = served
    browser.get_log("browser")
    browser.get(address)
    wait(browser, "!document.getElementById('main').hidden")
    assert js(browser, "document.title").startswith("Which response")
    assert js(browser, "document.querySelectorAll('main script, main img').length") == 0
    assert "U+202E" in js(browser, "document.getElementById('left').textContent")
    assert js(browser, "document.documentElement.scrollWidth <= window.innerWidth")
    body = browser.find_element("tag name", "body")
    for key, done in ((Keys.ARROW_LEFT, 1), (Keys.ARROW_DOWN, 2), ("u", 1), ("s", 2), (Keys.ARROW_RIGHT, 3)):
        body.send_keys(key)
        wait(browser, f"document.getElementById('progress').textContent.startsWith('{done} of 3')")
    assert js(browser, "!document.getElementById('end').hidden")
    assert session.counts() == {"preferences": 2, "ties": 0, "skipped": 1}
    assert browser.get_log("browser") == []
    assert len(read_records(tmp_path / "human.jsonl", kind="preference").records) == 2
    browser.refresh()
    wait(browser, "!document.getElementById('end').hidden")
