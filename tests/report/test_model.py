"""The report as data: JSON round trip, what is better and what is worse, clear errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError
from coalign.report import model as doc
from tests.report.example import example_report


def _report(*sections, **fields) -> doc.Report:
    return doc.Report(
        title="t",
        method="m",
        verdict=doc.Headline(outcome="neutral", text=""),
        sections=[*sections],
        **fields,
    )


def test_example_survives_json() -> None:
    report = example_report()
    assert doc.from_dict(json.loads(json.dumps(doc.to_dict(report), allow_nan=False))) == report


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_json(text: str) -> None:
    report = _report(doc.Text(title=text, paragraphs=[text]), facts={text: text})
    assert doc.from_dict(json.loads(json.dumps(doc.to_dict(report)))) == report


def test_what_json_cannot_hold_is_replaced() -> None:
    items = {"nan": float("nan"), "numpy": np.float32(0.5), "array": np.arange(2), "half": "a\ud800b"}
    value = doc.to_dict(_report(doc.KeyValues(title="k", items=items)))
    assert value["sections"][0]["items"] == {"nan": None, "numpy": 0.5, "array": [0, 1], "half": "a\ufffdb"}


def test_checks_keep_bool_and_number_apart() -> None:
    outputs = [doc.Output(text="x", checks={"passed": True, "share": 1.0})]
    report = _report(doc.Samples(title="s", columns=["A"], rows=[doc.Sample(prompt="p", outputs=outputs)]))
    checks = doc.from_dict(doc.to_dict(report)).sections[0].rows[0].outputs[0].checks  # type: ignore[union-attr]
    assert checks["passed"] is True
    assert isinstance(checks["share"], float)


def test_change_follows_the_direction_of_the_score() -> None:
    row = doc.Sample(prompt="p", outputs=[doc.Output(text="a", score=0.2), doc.Output(text="b", score=0.7)])
    unscored = doc.Sample(prompt="p", outputs=[doc.Output(text="a", score=0.2), doc.Output(text="b")])
    higher = doc.Samples(title="s", columns=["A", "B"], rows=[row, unscored])
    lower = doc.Samples(title="s", columns=["A", "B"], rows=[row], better="lower")
    assert (higher.change(row), lower.change(row), higher.change(unscored)) == ("better", "worse", "unknown")
    assert lower.gain(row) == pytest.approx(-0.5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 steps but 1 values"):
        doc.Series(name="loss", steps=[1, 2], values=[0.5])
    with pytest.raises(ValueError, match="row 0: 1 cells for 2 columns"):
        doc.TableSection(title="t", columns=["A", "B"], rows=[[1]])
    rows = [
        doc.ComparisonRow(name=unit, before=doc.Estimate(1), after=doc.Estimate(1), unit=unit)
        for unit in ("bytes", "number")
    ]
    with pytest.raises(ValueError, match="bytes, number: use scale='row'"):
        doc.Comparison(title="c", rows=rows)
    with pytest.raises(ValueError, match="row 0: 1 outputs for 2 columns"):
        doc.Samples(
            title="s", columns=["A", "B"], rows=[doc.Sample(prompt="p", outputs=[doc.Output(text="a")])]
        )


def test_marks_cut_a_text_into_pieces() -> None:
    text = "a café is open"
    marks = [
        doc.Mark(start=2, end=6, name="noun"),
        doc.Mark(start=10, end=14, name="adjective", note="not closed"),
    ]
    output = doc.Output(text=text, marks=marks)
    assert output.pieces() == [("a ", None), ("café", marks[0]), (" is ", None), ("open", marks[1])]
    assert doc.Output(text="plain").pieces() == [("plain", None)]
    assert doc.Output(text="").pieces() == []
    section = doc.Samples(
        title="s",
        columns=["A"],
        rows=[doc.Sample(prompt="p", outputs=[output])],
        marks={"noun": "s0", "adjective": "bad"},
    )
    report = _report(section)
    assert doc.from_dict(doc.to_dict(report)) == report


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (-1, 2), (2, 6), (1, 3)])
def test_marks_that_are_empty_out_of_order_or_outside_are_refused(span: tuple[int, int]) -> None:
    marks = [doc.Mark(start=0, end=2, name="first"), doc.Mark(start=span[0], end=span[1], name="second")]
    with pytest.raises(ValueError, match="mark 'second'"):
        doc.Output(text="abcde", marks=marks)


def test_a_mark_needs_a_place_in_the_legend() -> None:
    row = doc.Sample(prompt="p", outputs=[doc.Output(text="abc", marks=[doc.Mark(start=0, end=1, name="x")])])
    with pytest.raises(ValueError, match="mark 'x' is not in marks"):
        doc.Samples(title="s", columns=["A"], rows=[row], marks={"y": "good"})


def test_a_stored_report_that_does_not_fit_names_the_place() -> None:
    value = doc.to_dict(_report(doc.Text(title="t", paragraphs=["p"])))
    with pytest.raises(CoalignError, match="schema 99"):
        doc.from_dict({**value, "schema": 99})
    with pytest.raises(CoalignError, match=r"sections\[0\]: kind 'essay'"):
        doc.from_dict({**value, "sections": [{"kind": "essay"}]})
    with pytest.raises(CoalignError, match=r"sections\[0\] \(text\).paragraphs"):
        doc.from_dict({**value, "sections": [{"kind": "text", "title": "t", "paragraphs": 3}]})
