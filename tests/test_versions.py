"""The script that runs the quick tests over versions: floors, counts, rows; that the page has the row of the floor."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from tests.versions import NEWEST, ROOT, Pair, floors, outcomes, row


def test_floors_are_those_of_the_project_and_the_page_has_them() -> None:
    python, transformers = floors()
    assert re.fullmatch(r"3\.\d+", python)
    assert re.fullmatch(r"5\.\d+\.\d+", transformers)
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    assert re.search(rf"\| {re.escape(python)}\.\d+ \| {re.escape(transformers)} \|", page)


def test_counts_are_those_of_the_last_line() -> None:
    text = "tests/a.py .F [100%]\n2 passed in the text\n== 3 failed, 12 passed, 1 skipped, 2 errors in 3.21s ==\n"
    assert outcomes(text) == {"failed": 3, "passed": 12, "skipped": 1, "error": 2}
    assert outcomes("nothing ran") == {}


def test_a_row_counts_errors_as_failures() -> None:
    found = row(("3.11.7", "5.4.0"), {"passed": 9, "failed": 1, "error": 2}, [], datetime.date(2026, 11, 29))
    assert found == "| 3.11.7 | 5.4.0 | all | 9 | 3 | 0 | 2026-11-29 |"


def test_what_pip_is_asked_for() -> None:
    assert Pair("python3", NEWEST).wanted == "transformers"
    assert Pair("python3", "5.4.0").wanted == "transformers==5.4.0"
    assert Path(ROOT, "pyproject.toml").is_file()
