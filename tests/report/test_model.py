"""The report as data: JSON round trip, what is better and what is worse, clear errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError
from coalign.report import model as doc
from tests.report.build import report_of, sample, samples
from tests.report.example import example_report


def test_example_survives_json() -> None:
    report = example_report()
    assert doc.from_dict(json.loads(json.dumps(doc.to_dict(report), allow_nan=False))) == report


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_json(text: str) -> None:
    report = report_of(doc.Text(title=text, paragraphs=[text]), facts={text: text})
    assert doc.from_dict(json.loads(json.dumps(doc.to_dict(report)))) == report


def test_what_json_cannot_hold_is_replaced() -> None:
    items = {"nan": float("nan"), "numpy": np.float32(0.5), "array": np.arange(2), "half": "a\ud800b"}
    value = doc.to_dict(report_of(doc.KeyValues(title="k", items=items)))
    assert value["sections"][0]["items"] == {"nan": None, "numpy": 0.5, "array": [0, 1], "half": "a\ufffdb"}


def test_checks_keep_bool_and_number_apart() -> None:
    report = report_of(samples(sample(doc.Output("x", checks={"passed": True, "share": 1.0}))))
    checks = doc.from_dict(doc.to_dict(report)).sections[0].rows[0].outputs[0].checks  # type: ignore[union-attr]
    assert checks["passed"] is True
    assert isinstance(checks["share"], float)


def test_change_follows_the_direction_of_the_score() -> None:
    row, unscored = sample(("a", 0.2), ("b", 0.7)), sample(("a", 0.2), "b")
    higher, lower = samples(row, unscored), samples(row, better="lower")
    assert (higher.change(row), lower.change(row), higher.change(unscored)) == ("better", "worse", "unknown")
    assert lower.gain(row) == pytest.approx(-0.5)


def _rows(*units: Any) -> list[doc.ComparisonRow]:
    return [doc.ComparisonRow(unit, doc.Estimate(1), doc.Estimate(1), unit=unit) for unit in units]


def _marked(*spans: tuple[int, int]) -> doc.Output:
    return doc.Output("abcde", marks=[doc.Mark(*span, name=str(number)) for number, span in enumerate(spans)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: doc.Series("loss", [1, 2], [0.5]), "2 steps but 1 values"),
        (lambda: doc.TableSection(title="t", columns=["A", "B"], rows=[[1]]), "row 0: 1 cells for 2 columns"),
        (lambda: doc.Comparison(title="c", rows=_rows("bytes", "number")), "bytes, number: use scale='row'"),
        (lambda: samples(sample("a"), columns=["A", "B"]), "row 0: 1 outputs for 2 columns"),
        (lambda: samples(sample(_marked((0, 1))), marks={"y": "good"}), "mark '0' is not in marks"),
        *((lambda span=span: _marked((0, 2), span), "mark '1'") for span in [(0, 0), (3, 2), (-1, 2), (2, 6), (1, 3)]),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(make: Callable[[], Any], message: str) -> None:
    """Also marks that are empty, out of order, outside or without a place in the legend."""
    with pytest.raises(ValueError, match=message):
        make()


def test_marks_cut_a_text_into_pieces() -> None:
    marks = [doc.Mark(2, 6, "noun"), doc.Mark(10, 14, "adjective", note="not closed")]
    output = doc.Output("a café is open", marks=marks)
    assert output.pieces() == [("a ", None), ("café", marks[0]), (" is ", None), ("open", marks[1])]
    assert doc.Output("plain").pieces() == [("plain", None)]
    assert doc.Output("").pieces() == []
    report = report_of(samples(sample(output), marks={"noun": "s0", "adjective": "bad"}))
    assert doc.from_dict(doc.to_dict(report)) == report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"sections": [{"kind": "essay"}]}, r"sections\[0\]: kind 'essay'"),
        ({"sections": [{"kind": "text", "title": "t", "paragraphs": 3}]}, r"sections\[0\] \(text\).paragraphs"),
    ],
)  # fmt: skip
def test_a_stored_report_that_does_not_fit_names_the_place(changes: dict[str, Any], message: str) -> None:
    value = doc.to_dict(report_of(doc.Text(title="t", paragraphs=["p"])))
    with pytest.raises(CoalignError, match=message):
        doc.from_dict({**value, **changes})
