"""A page of many samples has all scores and some texts; the rest lies in a file beside it, line by line."""

from __future__ import annotations

import base64
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalign.core.errors import CoalignError
from coalign.report import samples as module
from coalign.report.html import read_report, render_html, write_report
from coalign.report.model import Mark, Output, Samples, from_dict, to_dict
from coalign.report.samples import rows_apart, sample_data
from tests.browser import assert_quiet, js, texts, visit, wait
from tests.browser import browser as browser
from tests.report.build import report_of, sample, samples


def _many(count: int, words: int = 30) -> Samples:
    draw = random.Random(0)

    def text(n: int) -> str:
        return " ".join(draw.choices(["sky", "sea", "blue", "über"], k=words)) + f" {n}"

    rows = [
        sample(
            Output(text(n), draw.random() if n % 10 else None),
            Output(text(n) + " more" * (n % 7), draw.random(), checks={"right": n % 2 == 0}),
            prompt=f"question {n}",
            tags=["even", "all"] if n % 2 == 0 else ["all"],
        )
        for n in range(count)
    ]
    return samples(*rows, title="Answers", unit="number")


def _unpacked(data: Any) -> np.ndarray:
    kind, text = data
    return np.frombuffer(base64.b64decode(text), np.dtype(kind))


def test_every_row_is_told_and_some_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    section = _many(300)
    whole = sample_data(section)["rows"]
    monkeypatch.setattr(module, "MOST", 50)
    data = sample_data(section, "answers")
    packed = data["packed"]
    places = _unpacked(packed["places"])
    assert len(places) == len(data["rows"]) == len({*places.tolist()}) == 50
    assert data["rows"] == [whole[place] for place in places]
    gains = [one["gain"] for one in whole]
    known = sorted((one for one in gains if one is not None), reverse=True)
    shown = {gains[place] for place in places}
    assert {*known[:15], *known[-15:]} <= shown
    assert len({place // 60 for place in places.tolist()}) == 5
    assert packed["total"] == 300
    assert _unpacked(packed["gain"]) == pytest.approx(
        np.array(gains, dtype=np.float64), rel=1e-6, nan_ok=True
    )
    states = ["unknown", "same", "better", "worse"]
    assert [states[one] for one in _unpacked(packed["change"])] == [one["change"] for one in whole]
    for column, words in enumerate(packed["scores"]):
        table = [None, *words["words"]]
        assert [table[one] for one in _unpacked(words["rows"])] == [
            one["outputs"][column]["score"] for one in whole
        ]
    table = [None, *packed["delta"]["words"]]
    assert [table[one] for one in _unpacked(packed["delta"]["rows"])] == [one["delta"] for one in whole]
    flat = iter(_unpacked(packed["tagPlaces"]).tolist())
    assert [[data["tags"][next(flat)] for _ in range(n)] for n in _unpacked(packed["tagCounts"])] == [
        [*one["tags"]] for one in whole
    ]
    assert packed["file"] == "samples/answers.jsonl"


def test_few_rows_are_all_in_the_page() -> None:
    assert "packed" not in sample_data(_many(20), "answers")


def test_long_texts_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    monkeypatch.setattr(module, "_ROOM", 40_000)
    data = sample_data(_many(300, words=400), "answers")
    assert 0 < len(data["rows"]) < 50
    assert len(json.dumps(data)) < 42_000


def test_all_rows_lie_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    section = _many(120)
    write_report(report_of(section, samples(sample("a"), title="Few")), tmp_path / "report.html")
    (file,) = (tmp_path / "samples").iterdir()
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert file.name == "answers.jsonl"
    assert [one["prompt"] for one in rows] == [one.prompt for one in section.rows]
    assert rows[7]["outputs"][1] == {
        "column": "B", "text": section.rows[7].outputs[1].text,
        "score": section.rows[7].outputs[1].score, "checks": {"right": False},
    }  # fmt: skip
    assert "samples/answers.jsonl" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "samples/answers.jsonl" not in render_html(report_of(section))


def test_a_report_with_its_rows_apart_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    marked = Output("a claim", math.nan, marks=[Mark(2, 7, "wrong", "says who")])
    more = samples(*[sample(marked, Output("half \ud800"))] * 60, title="Marked", marks={"wrong": "bad"})
    report = report_of(_many(120), more, samples(sample("a"), title="Few"))
    page = tmp_path / "report.html"
    write_report(report, page)
    assert read_report(page) == from_dict(to_dict(report))
    before = page.read_text(encoding="utf-8")
    write_report(read_report(page), page)
    assert page.read_text(encoding="utf-8") == before
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [len(one["rows"]) for one in stored["sections"]] == [0, 0, 1]
    section = report.sections[0]
    assert isinstance(section, Samples)
    for column, packed in enumerate(stored["sections"][0]["scores"]):
        scores = [row.outputs[column].score for row in section.rows]
        assert [None if math.isnan(one) else one for one in _unpacked(packed).tolist()] == scores


def test_rows_that_are_gone_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    write_report(report_of(_many(120)), tmp_path / "report.html")
    file = tmp_path / "samples" / "answers.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(CoalignError, match=r"answers.jsonl: 119 rows, expected 120"):
        read_report(tmp_path / "report.html")
    file.write_text("".join(lines).replace('"prompt"', '"other"', 1), encoding="utf-8")
    with pytest.raises(CoalignError, match="not a report"):
        read_report(tmp_path / "report.html")
    file.unlink()
    with pytest.raises(CoalignError, match=r"answers.jsonl: 0 rows"):
        read_report(tmp_path / "report.html")


def test_a_report_names_files_beside_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    write_report(report_of(_many(120)), tmp_path / "run" / "report.html")
    stored = tmp_path / "run" / "report.json"
    stored.write_text(stored.read_text().replace("samples/answers.jsonl", "../../secret.jsonl"))
    with pytest.raises(CoalignError, match=r"run/samples/secret.jsonl: 0 rows"):
        read_report(stored)


def test_a_hundred_thousand_rows_fit_into_five_megabytes() -> None:
    rows = 100_000
    section = _many(1000)
    many = Samples(**{**vars(section), "rows": [*section.rows] * (rows // 1000)})
    frame = len(render_html(report_of(section)).encode()) - len(json.dumps(sample_data(section)))
    assert frame + len(json.dumps(sample_data(many, "answers"))) < 5_000_000
    plain = {name: one for name, one in vars(section).items() if name != "rows"}
    assert len(json.dumps(rows_apart(many, plain, "answers"))) < 5_000_000


@pytest.mark.browser
def test_a_large_page_is_filtered_sorted_and_searched(browser: Any, tmp_path: Path) -> None:
    write_report(report_of(_many(4000)), tmp_path / "report.html")
    visit(browser, (tmp_path / "report.html").as_uri())
    ready = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    wait(browser, f"{ready} > 0")
    assert js(browser, ready) < 10_000
    status = "document.querySelector('.samples .status').textContent"
    assert js(browser, status) == "1 to 20 of 4,000 samples"

    def choose(name: str, value: str, awaited: str) -> None:
        browser.execute_script(
            "const one = document.querySelector(`.samples [name=${arguments[0]}]`); one.value = arguments[1];"
            "one.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            value,
        )
        wait(browser, awaited)

    choose("tag", "1", f"{status} === '1 to 20 of 2,000 samples (4,000 in all)'")
    choose("tag", "", f"{status} === '1 to 20 of 4,000 samples'")
    choose("sort", "gain", "document.querySelector('.row header span').textContent !== '#1'")
    assert all("▲" in one for one in texts(browser, ".row header .delta"))
    choose("sort", "", "document.querySelector('.row header span').textContent === '#1'")
    notes = texts(browser, ".row .prompt.note")
    assert notes
    assert all("of samples/answers.jsonl, beside this page." in one for one in notes)
    choose("text", "question 3999", f"{status} === '1 to 1 of 1 samples (4,000 in all)'")
    assert_quiet(browser)
