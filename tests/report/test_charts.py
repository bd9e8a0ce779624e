"""Numbers in words and the geometry of the charts."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coalign.report import charts
from coalign.report.format import difference_texts, interval_text, number, tick_texts, ticks
from coalign.report.model import Comparison, ComparisonRow, Distribution, Estimate, Values
from coalign.report.parts import compared
from tests.report.build import chart

FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.6213, "percent", "62.1%"),
        (-0.0001, "percent", "0.0%"),
        (12.345, "number", "12.3"),
        (-0.5, "number", "−0.500"),
        (4.0, "number", "4"),
        (12345.6, "number", "12,346"),
        (0.00002, "number", "2.0e−5"),
        (10000, "integer", "10,000"),
        (4.14, "seconds", "4.1 s"),
        (59.97, "seconds", "60 s"),
        (192, "seconds", "3 min 12 s"),
        (3840, "seconds", "1 h 04 min"),
        (900, "bytes", "900 B"),
        (2.31 * 2**30, "bytes", "2.31 GiB"),
        (float("nan"), "number", "–"),
        (None, "percent", "–"),
        ("as it is", "number", "as it is"),
    ],
)
def test_number(value, unit, expected) -> None:
    assert number(value, unit) == expected


def test_differences_share_their_digits() -> None:
    assert difference_texts(Estimate(0.5, -0.3, 1.2)) == ("+0.5", "[−0.3, +1.2]")
    assert difference_texts(Estimate(0.021, 0.011, 0.031)) == ("+0.021", "[+0.011, +0.031]")
    assert difference_texts(Estimate(0.209, 0.168, 0.249), "percent") == ("+20.9 pp", "[+16.8, +24.9]")
    assert difference_texts(Estimate(0.0)) == ("0", "")
    assert interval_text(Estimate(12.9, 12.0, 13.8)) == "[12.0, 13.8]"


@given(FINITE, FINITE)
def test_ticks_lie_inside_and_are_evenly_spaced(one: float, other: float) -> None:
    low, high = sorted((one, other))
    marks = ticks(low, high)
    margin = (high - low) * 1e-6 + 1e-9
    assert all(low - margin <= mark <= high + margin for mark in marks)
    assert len(marks) <= 8
    assert len(set(tick_texts(marks))) == len(marks)


@pytest.mark.parametrize("log", [False, True])
def test_tick_texts_stay_short(log: bool) -> None:
    assert tick_texts([1e-7, 2e-7], log=log) == ["1e−7", "2e−7"]
    assert tick_texts([2e10, 1e11], log=log) == ["2e10", "1e11"]
    assert tick_texts([0.0, 0.5, 1.0], "percent") == ["0%", "50%", "100%"]
    assert tick_texts([-1.0, 0.0, 1.5]) == ["−1.0", "0.0", "1.5"]


@given(st.lists(st.one_of(FINITE, st.floats(-1e-12, 1e-12)), min_size=1, max_size=60))
@example([9.0, -5e-324])
@example([0.0, 5e-324])
def test_bins_hold_every_value(values: list[float]) -> None:
    edges = charts.bin_edges(values)
    assert edges[0] <= min(values)
    assert edges[-1] >= max(values)
    assert len(edges) <= 45
    if len(edges) > 2:
        assert sum(charts._shares(values, edges)) == pytest.approx(1)


def _paths(svg: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'class="series[^"]*" d="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) ([\d.\-e]+)", path)] for path in found]


def test_line_chart_places_values() -> None:
    ((first, middle, last),) = _paths(charts.line_chart(chart([1.0, 2.0, 1.5], [0, 5, 10])))
    assert (first[0], middle[0], last[0]) == (0, 50, 100)
    assert middle[1] < last[1] < first[1]  # the y axis of SVG points down
    assert last[1] == pytest.approx((first[1] + middle[1]) / 2, abs=0.01)


def test_log_chart_is_even_in_decades_and_counts_what_it_cannot_draw() -> None:
    made = chart([1, 10, 100, 0], log=True)
    ((one, ten, hundred),) = _paths(charts.line_chart(made))
    assert one[1] - ten[1] == pytest.approx(ten[1] - hundred[1], abs=0.01)
    assert charts.chart_note(made).startswith("1 value ")


def test_bands_marks_and_a_logarithmic_axis_of_steps() -> None:
    band = [0.5, None, 2.0], [1.5, 2.5, 4.0]
    svg = charts.line_chart(chart([1.0, 2.0, 3.0], [1, 10, 100], band, x_log=True, marks=True))
    ((first, middle, last),) = _paths(svg)
    assert (first[0], middle[0], last[0]) == (0, 50, 100)
    (outline,) = re.findall(r'class="band s0" d="([^"]*)"', svg)
    assert re.fullmatch("M0 [^L]*(L[^L]*){3}Z", outline), "a place without an end is left out"
    assert svg.split('class="hit"')[0].count("<circle") == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"band": ([0.0],)}, "one end of a band"),
        ({"band": ([0.0], [1.0, 2.0])}, "2 high"),
        ({"steps": [0], "x_log": True}, "at or below zero"),
    ],
)
def test_what_cannot_be_drawn_is_refused(fields, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chart([1.0], **fields)


def test_gaps_stay_gaps() -> None:
    assert re.search(r'd="M[^L"]*M[^L"]*"', charts.line_chart(chart([1.0, None, float("nan"), 2.0])))


def test_a_spike_survives_thinning() -> None:
    values = [math.sin(step / 50) for step in range(20_000)]
    values[12_345] = 99.0
    svg = charts.line_chart(chart(values))
    (points,) = _paths(svg)
    assert len(points) <= charts.MAX_POINTS
    assert "99" in svg
    assert "20,000 points" in charts.chart_note(chart(values))


def test_bars_start_at_zero_also_below_it() -> None:
    row = ComparisonRow(name="reward", before=Estimate(-2.0), after=Estimate(2.0), unit="number")
    ((axis, _),) = charts.axes(Comparison(title="c", rows=[row]))
    bars = re.findall(r'class="bar \w+" x="([\d.]+)%" width="([\d.]+)%"', charts.bars(row, axis, ("a", "b")))
    (x1, w1), (x2, w2) = [(float(x), float(width)) for x, width in bars]
    assert x1 + w1 == pytest.approx(axis.at(0), abs=0.01) == pytest.approx(x2, abs=0.01)
    assert w1 == pytest.approx(w2, abs=0.01)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([], "No values"),
        ([Values("a", [1.0, None, float("nan"), 2.0])], "n = 2 (2 not measured), mean 1.50"),
        ([Values("a", []), Values("b", [1.0, 2.0])], "no values"),
    ],
)
def test_charts_without_values_say_so(samples: list[Values], said: str) -> None:
    assert "No values" in charts.line_chart(chart([None]))
    assert said in charts.histogram(Distribution(title="d", x_label="x", samples=samples))


@pytest.mark.parametrize(
    ("steps", "marks"), [([1, 2], (1, 2)), ([1, 4], (1, 2, 3, 4)), ([0, 60], (0, 10, 20, 30, 40, 50, 60)), ([0.5, 1], (0.5, 0.6, 0.7, 0.8, 0.9, 1))]
)  # fmt: skip
def test_nothing_is_marked_between_whole_steps(steps: list[float], marks: tuple[float, ...]) -> None:
    assert charts._span_axis(steps).ticks == marks


def test_negative_levels_on_an_axis_of_their_own_are_drawn_as_their_change() -> None:
    rows = [
        compared("log-probability", -40.0, -30.0, unit="number"),
        compared("loss", 2.0, 1.0, unit="number"),
    ]
    section = Comparison(title="Held out", rows=rows, scale="row")
    assert [charts.drawn_as_change(section, row) for row in rows] == [True, False]
    drawn = []
    for row, (axis, _) in zip(rows, charts.axes(section), strict=True):
        change = charts.drawn_as_change(section, row)
        drawn.append(
            re.findall(r'class="bar (\w+)" x="([\d.]+)%"', charts.bars(row, axis, ("a", "b"), change=change))
        )
    assert [len(one) for one in drawn] == [1, 2]
    assert drawn[0] == [("after", "50.0")], "a rise begins at zero and goes to the right"
    shared = Comparison(title="Held out", rows=rows)
    assert not charts.drawn_as_change(shared, rows[0])
