"""The report in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coalign.report.terminal import pick_samples, print_report
from tests.report.build import report_of, sample, samples
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
    markup = samples(sample("[/]", prompt="[bold]"), title="[red]s[/red]")
    printed = _printed(report_of(markup, title="[link]"))
    for part in ("[link]", "[red]s[/red]", "[bold]", "[/]"):
        assert part in printed


@pytest.mark.parametrize(
    ("gains", "picked"),
    [
        ((0.1, -0.4, 0.9, None), {"median": 0, "largest gain": 2, "largest loss": 1}),
        ((0.1, 0.4, 0.9), {"median": 1, "largest gain": 2, "smallest gain": 0}),
    ],
)
def test_samples_are_picked_by_rule_and_not_by_taste(gains, picked) -> None:
    assert pick_samples(samples(*(sample(("a", 0.0), ("b", gain)) for gain in gains))) == [*picked.items()]
    assert pick_samples(samples(sample("a", "b"), sample("a", "b"))) == [("", 0), ("", 1)]
