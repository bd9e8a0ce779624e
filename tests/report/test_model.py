"""The report as data: JSON round trip, what is better and what is worse, clear errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError
from coalign.report.model import (
    Comparison,
    ComparisonRow,
    Estimate,
    Headline,
    KeyValues,
    Mark,
    Output,
    Report,
    Sample,
    Samples,
    Series,
    TableSection,
    Text,
    from_dict,
    to_dict,
)
from tests.report.example import example_report


def _report(*sections, **fields) -> Report:
    return Report(
        title="t", method="m", verdict=Headline(outcome="neutral", text=""), sections=[*sections], **fields
    )


def test_example_survives_json() -> None:
    report = example_report()
    assert from_dict(json.loads(json.dumps(to_dict(report), allow_nan=False))) == report


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_json(text: str) -> None:
    report = _report(Text(title=text, paragraphs=[text]), facts={text: text})
    assert from_dict(json.loads(json.dumps(to_dict(report)))) == report


def test_what_json_cannot_hold_is_replaced() -> None:
    items = {"nan": float("nan"), "numpy": np.float32(0.5), "array": np.arange(2), "half": "a\ud800b"}
    value = to_dict(_report(KeyValues(title="k", items=items)))
    assert value["sections"][0]["items"] == {"nan": None, "numpy": 0.5, "array": [0, 1], "half": "a\ufffdb"}


def test_checks_keep_bool_and_number_apart() -> None:
    outputs = [Output(text="x", checks={"passed": True, "share": 1.0})]
    report = _report(Samples(title="s", columns=["A"], rows=[Sample(prompt="p", outputs=outputs)]))
    checks = from_dict(to_dict(report)).sections[0].rows[0].outputs[0].checks  # type: ignore[union-attr]
    assert checks["passed"] is True
    assert isinstance(checks["share"], float)


def test_change_follows_the_direction_of_the_score() -> None:
    row = Sample(prompt="p", outputs=[Output(text="a", score=0.2), Output(text="b", score=0.7)])
    unscored = Sample(prompt="p", outputs=[Output(text="a", score=0.2), Output(text="b")])
    higher = Samples(title="s", columns=["A", "B"], rows=[row, unscored])
    lower = Samples(title="s", columns=["A", "B"], rows=[row], better="lower")
    assert (higher.change(row), lower.change(row), higher.change(unscored)) == ("better", "worse", "unknown")
    assert lower.gain(row) == pytest.approx(-0.5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 steps but 1 values"):
        Series(name="loss", steps=[1, 2], values=[0.5])
    with pytest.raises(ValueError, match="row 0: 1 cells for 2 columns"):
        TableSection(title="t", columns=["A", "B"], rows=[[1]])
    rows = [
        ComparisonRow(name=unit, before=Estimate(1), after=Estimate(1), unit=unit)
        for unit in ("bytes", "number")
    ]
    with pytest.raises(ValueError, match="bytes, number: use scale='row'"):
        Comparison(title="c", rows=rows)
    with pytest.raises(ValueError, match="row 0: 1 outputs for 2 columns"):
        Samples(title="s", columns=["A", "B"], rows=[Sample(prompt="p", outputs=[Output(text="a")])])


def test_marks_cut_a_text_into_pieces() -> None:
    text = "a café is open"
    marks = [Mark(start=2, end=6, name="noun"), Mark(start=10, end=14, name="adjective", note="not closed")]
    output = Output(text=text, marks=marks)
    assert output.pieces() == [("a ", None), ("café", marks[0]), (" is ", None), ("open", marks[1])]
    assert Output(text="plain").pieces() == [("plain", None)]
    assert Output(text="").pieces() == []
    section = Samples(
        title="s",
        columns=["A"],
        rows=[Sample(prompt="p", outputs=[output])],
        marks={"noun": "s0", "adjective": "bad"},
    )
    report = _report(section)
    assert from_dict(to_dict(report)) == report


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (-1, 2), (2, 6), (1, 3)])
def test_marks_that_are_empty_out_of_order_or_outside_are_refused(span: tuple[int, int]) -> None:
    marks = [Mark(start=0, end=2, name="first"), Mark(start=span[0], end=span[1], name="second")]
    with pytest.raises(ValueError, match="mark 'second'"):
        Output(text="abcde", marks=marks)


def test_a_mark_needs_a_place_in_the_legend() -> None:
    row = Sample(prompt="p", outputs=[Output(text="abc", marks=[Mark(start=0, end=1, name="x")])])
    with pytest.raises(ValueError, match="mark 'x' is not in marks"):
        Samples(title="s", columns=["A"], rows=[row], marks={"y": "good"})


def test_a_stored_report_that_does_not_fit_names_the_place() -> None:
    value = to_dict(_report(Text(title="t", paragraphs=["p"])))
    with pytest.raises(CoalignError, match="schema 99"):
        from_dict({**value, "schema": 99})
    with pytest.raises(CoalignError, match=r"sections\[0\]: kind 'essay'"):
        from_dict({**value, "sections": [{"kind": "essay"}]})
    with pytest.raises(CoalignError, match=r"sections\[0\] \(text\).paragraphs"):
        from_dict({**value, "sections": [{"kind": "text", "title": "t", "paragraphs": 3}]})
