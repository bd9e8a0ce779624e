"""The report in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coalign.report.model import Output, Sample, Samples
from coalign.report.terminal import pick_samples, print_report
from tests.report.example import example_report
from tests.report.test_html import hostile_report


def _printed(report, width: int = 120) -> str:
    file = io.StringIO()
    print_report(report, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_says_what_matters(width: int) -> None:
    text = " ".join(_printed(example_report(), width).split())
    for part in ("Improved", "+20.9 pp", "All constraints", "7 min 32 s", "coalign chat runs/act-1"):
        assert part in text
    assert "largest gain" in text
    assert "largest loss" in text


def test_hostile_text_is_neither_markup_nor_an_escape_sequence() -> None:
    text = _printed(hostile_report())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "U+001B" in text
    markup = Samples(
        title="[red]s[/red]", columns=["A"], rows=[Sample(prompt="[bold]", outputs=[Output(text="[/]")])]
    )
    report = example_report()
    printed = _printed(type(report)(title="[link]", method="m", verdict=report.verdict, sections=[markup]))
    for part in ("[link]", "[red]s[/red]", "[bold]", "[/]"):
        assert part in printed


def _samples(*gains: float | None) -> Samples:
    rows = [
        Sample(prompt="p", outputs=[Output(text="a", score=0.0), Output(text="b", score=gain)])
        for gain in gains
    ]
    return Samples(title="s", columns=["A", "B"], rows=rows)


def test_samples_are_picked_by_rule_and_not_by_taste() -> None:
    assert pick_samples(_samples(0.1, -0.4, 0.9, None)) == [
        ("largest gain", 2),
        ("median", 0),
        ("largest loss", 1),
    ]
    assert pick_samples(_samples(0.1, 0.4, 0.9))[-1] == ("smallest gain", 0)
    assert pick_samples(_samples(None, None)) == [("", 0), ("", 1)]
