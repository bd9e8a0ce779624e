from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from coalign.core.catalogue import entries


def test_the_list_holds_every_system(coalign: Callable) -> None:
    out = coalign("methods").out
    assert all(f"  {entry.slug} " in out for entry in entries())
    assert "63 methods" in out


@pytest.mark.parametrize(
    ("argv", "shown", "hidden"),
    [
        (["--room", "speech"], ["  awp "], "  cream "),
        (["--available"], ["  act "], "  cream "),
        (["--have", "prompts,preferences"], [], "  pro "),
        (["--room", "platform", "--have", "tables"], ["No method fits"], "  cream "),
        (
            ["chatglm"],
            ["arxiv.org/abs/2406.12793", "confidence medium", "coalign run chatglm"],
            "(planned)",
        ),
        (["act"], ["--seed", "coalign run act\n"], "(planned)"),
    ],
)
def test_filters_and_single_systems(
    coalign: Callable, planned: str, argv, shown: list[str], hidden: str
) -> None:
    out = coalign("methods", *argv).out
    assert [one for one in shown if one not in out + " ".join(out.split())] == []
    assert hidden not in out


def test_json_holds_what_programs_need(coalign: Callable) -> None:
    rows = json.loads(coalign("methods", "--json").out)
    assert len(rows) == 63
    needed = "slug title arxiv year room verbs data models claim status"
    assert {*needed.split()} <= rows[0].keys()
    assert json.loads(coalign("methods", "ict", "--json").out)["year"] == 2023


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--room", "visin"], "expected one of: preference"),
        (["--have", "pairs"], "not a kind of data"),
        (["crem"], "Did you mean cream"),
    ],
)
def test_bad_filters_say_what_is_allowed(coalign: Callable, argv: list[str], message: str) -> None:
    result = coalign("methods", *argv)
    assert result.code == 2
    assert message in result.err
