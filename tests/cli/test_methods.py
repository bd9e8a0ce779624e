from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from coalign.core.catalogue import entries


def test_the_list_holds_every_system(coalign: Callable) -> None:
    out = coalign("methods").out
    assert all(f"  {entry.slug} " in out for entry in entries())
    assert "63 methods" in out


def test_filters(coalign: Callable) -> None:
    assert "  awp " in coalign("methods", "--room", "speech").out
    assert "  cream " not in coalign("methods", "--room", "speech").out
    assert "  cream " not in coalign("methods", "--available").out
    assert "  pro " not in coalign("methods", "--have", "prompts,preferences").out
    assert "No method fits" in coalign("methods", "--available", "--room", "tables").out


def test_a_planned_system_is_explained_without_a_run_line(coalign: Callable) -> None:
    out = " ".join(coalign("methods", "cyclealign").out.split())
    assert "arxiv.org/abs/2310.16271" in out
    assert "confidence low" in out
    assert "coalign run cyclealign (planned)" in out


def test_an_available_system_shows_its_options(coalign: Callable) -> None:
    out = coalign("methods", "act").out
    assert "--seed" in out
    assert "coalign run act\n" in out


def test_json_holds_what_programs_need(coalign: Callable) -> None:
    rows = json.loads(coalign("methods", "--json").out)
    assert len(rows) == 63
    assert set(rows[0]) >= {
        "slug",
        "title",
        "arxiv",
        "year",
        "room",
        "verbs",
        "data",
        "models",
        "claim",
        "status",
    }
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
