from __future__ import annotations

from collections.abc import Callable


def test_objectives_are_listed_with_what_they_need(coalign: Callable) -> None:
    rows = {line.split()[0]: line for line in coalign("objectives").out.splitlines()}
    assert "preference" in rows["dpo"]
    assert "with reference" in rows["dpo"]
    assert "no reference" in rows["simpo"]


def test_one_objective_is_explained(coalign: Callable) -> None:
    out = coalign("objectives", "dpo").out
    assert "beta" in out
    assert "\\sigma" in out


def test_an_unknown_objective_is_refused(coalign: Callable) -> None:
    result = coalign("objectives", "dpoo")
    assert result.code == 2
    assert "expected one of" in result.err
