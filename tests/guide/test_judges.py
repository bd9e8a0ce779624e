"""A judge's leanings are found where they are planted, and a filled sheet comes back as verdicts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coalign.checks.papers.guide.aligning_llms_survey import pairs_of
from coalign.core.errors import DataError
from coalign.data.records import Message
from coalign.guide.judges.probe import author_probe, error_probe, length_probe, order_probe
from coalign.guide.judges.report import sentences
from coalign.guide.judges.sheet import draw_sheet, read_sheet, write_sheet
from coalign.judging.protocol import MIRRORED, Choice, JudgeItem, Opinion, PairVerdict

Judgment = Callable[[str, str], Choice | None]
"""What a judge says of the responses as they are shown."""


def items(*pairs: tuple[str, str], **extra: Any) -> list[JudgeItem]:
    return [
        JudgeItem(
            id=f"q{place}",
            prompt=[Message(role="user", content=f"Question {place}?")],
            responses=pair,
            extra={name: values[place] for name, values in extra.items()},
        )
        for place, pair in enumerate(pairs)
    ]


def judged(given: Sequence[JudgeItem], says: Judgment) -> list[PairVerdict]:
    found = []
    for item in given:
        first, second = item.responses
        shown, swapped = says(first, second), says(second, first)
        opinions = (
            Opinion(choice=shown, failure=None if shown else "malformed"),
            Opinion(
                choice=MIRRORED[swapped] if swapped else None,
                swapped=True,
                failure=None if swapped else "malformed",
            ),
        )
        found.append(PairVerdict(id=item.id, opinions=opinions))
    return found


def longer(first: str, second: str) -> Choice:
    return "first" if len(first) > len(second) else "second" if len(first) < len(second) else "tie"


PAIRS = [("a" * (30 + (place if place % 2 else -place)), "b" * 30) for place in range(1, 25)]


def test_a_judge_of_places_turns_every_verdict() -> None:
    found = order_probe(judged(items(*PAIRS), lambda first, second: "first"))
    assert (found["pairs"], found["turned"]["mean"], found["to_first"], found["to_second"]) == (
        24,
        1.0,
        24,
        0,
    )
    assert found["p_value"] == pytest.approx(2 / 2**24)
    steady = order_probe(judged(items(*PAIRS), longer))
    assert (steady["turned"]["mean"], steady["p_value"]) == (0.0, 1.0)


def test_a_pair_without_a_verdict_is_in_no_probe() -> None:
    verdicts = judged(
        items(*PAIRS), lambda first, second: None if len(first) == 31 else longer(first, second)
    )
    failed = sum(one.outcome == "failed" for one in verdicts)
    assert failed
    assert order_probe(verdicts)["pairs"] == 24 - failed
    assert length_probe(items(*PAIRS), verdicts)["pairs"] <= 24 - failed


def test_a_judge_of_length_is_found() -> None:
    given = items(*PAIRS)
    found = length_probe(given, judged(given, longer))
    assert found["longer"]["mean"] == 1.0
    assert found["correlation"]["mean"] > 0.7
    assert found["correlation"]["low"] > 0
    blind = length_probe(given, judged(given, lambda first, second: "first"))
    assert blind["longer"]["mean"] == 0.5, "orders that disagree are half a win each"
    assert blind["correlation"] is None


def test_own_answers_are_compared_with_what_people_say() -> None:
    given = items(*[("mine", "other"), ("other", "mine")] * 10, a=["me", "x"] * 10, b=["x", "me"] * 10)
    verdicts = judged(given, lambda first, second: "first" if first == "mine" else "second")
    authors = lambda item: (item.extra["a"], item.extra["b"])  # noqa: E731
    tie: tuple[Choice, ...] = ("tie",)
    labels = [tie] * 16 + [tie[:0]] * 4
    found = author_probe(given, verdicts, labels, authors, "me")
    assert (found["pairs"], found["own"]["mean"], found["labelled"], found["people"]) == (20, 1.0, 16, 0.5)
    assert found["above_people"]["mean"] == 0.5
    assert author_probe(given, verdicts, labels, authors, "nobody") == {
        "pairs": 0,
        "own": None,
        "labelled": 0,
    }


def test_the_error_of_one_order_and_of_both() -> None:
    given = items(("good", "bad"), ("bad", "good"), ("good", "worse"), ("worse", "good"))
    labels: list[tuple[Choice, ...]] = [("first",), ("second",)] * 2

    def says(first: str, second: str) -> Choice:
        return "first" if "worse" in (first, second) or first == "good" else "second"

    found = error_probe(judged(given, says), labels)
    assert found == {"pairs": 4, "one_order": 0.25, "both_orders": 0.0, "kept": 0.5}
    assert error_probe(judged(given, says), [()] * 4) is None


def test_findings_in_words() -> None:
    given = items(*PAIRS)
    verdicts = judged(given, longer)
    results = {
        "order": order_probe(verdicts),
        "length": length_probe(given, verdicts),
        "own": None,
        "errors": None,
    }
    said = " ".join(sentences(results))
    assert "0% of the verdicts turn" in said
    assert "longer answers win more" in said


def test_a_sheet_is_blind_drawn_and_comes_back(tmp_path: Path) -> None:
    given = items(*[(f"A{place}", f'=B{place}, "x"\nline') for place in range(20)])
    drawn = draw_sheet(given, 8, seed=3)
    assert drawn == draw_sheet(given, 8, seed=3)
    assert {swapped for _, swapped in draw_sheet(given, 20, seed=3)} == {True, False}
    write_sheet(drawn, tmp_path / "sheet.csv", tmp_path / "key.json")
    with (tmp_path / "sheet.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["id", "prompt", "left", "right", "verdict"]
    for row in rows:
        row["verdict"] = "left" if row["left"].startswith("A") else "Right"
    rows[0]["verdict"] = ""
    with (tmp_path / "filled.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    key = json.loads((tmp_path / "key.json").read_text())
    said = read_sheet(tmp_path / "filled.csv", key)
    assert len(said) == 7
    assert set(said.values()) == {"first"}, "A is the first response of every item"
    (tmp_path / "bad.csv").write_text("id,verdict\nq0,perhaps\nzz,left\n")
    with pytest.raises(DataError, match="2 rows of the sheet") as raised:
        read_sheet(tmp_path / "bad.csv", {"q0": True})
    assert "bad.csv:2: verdict" in str(raised.value.problems[0])


def test_pairs_of_the_check_hold_the_same_words() -> None:
    for item, better in pairs_of(7, 6):
        first, second = item.responses
        assert sorted(first.split()) == sorted(second.split())
        assert first != second
        assert better in ("first", "second")
