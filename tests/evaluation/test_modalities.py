"""The all-modality score: its terms, its limits, and the command over a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures.media.modalities import PAIRS, all_modality_score, all_modality_terms
from tests.cli.conftest import coalign as coalign
from tests.preference.tiny_runs import write

SCORES = st.fixed_dictionaries({name: st.floats(0, 10) for name in "TVA"})
FIT = st.fixed_dictionaries({name: st.floats(0, 1) for name in PAIRS})
VOTES = st.fixed_dictionaries({name: st.floats(0, 0.25) for name in (*PAIRS, "TVA")})


@given(SCORES, FIT, VOTES, st.booleans())
def test_the_score_lies_between_0_and_10_and_grows_with_every_part(
    scores: dict[str, float], fit: dict[str, float], votes: dict[str, float], all_three: bool
) -> None:
    found = all_modality_score(scores, fit, votes, all_three=all_three)
    assert 0 <= found <= 10 + 1e-9
    better = all_modality_score(dict.fromkeys(scores, 10.0), fit, votes, all_three=all_three)
    assert better >= found - 1e-9
    assert all_modality_score(scores, {}, votes, all_three=all_three) == 0


def test_an_answer_in_one_modality_has_no_pair() -> None:
    assert all_modality_score({"T": 9}, {}, {"TV": 0.5, "TVA": 0.5}, all_three=False) == 0


def test_all_three_share_the_votes_for_all_three() -> None:
    terms = all_modality_terms(
        {"T": 10, "V": 10, "A": 10}, dict.fromkeys(PAIRS, 1.0), {"TV": 0.4, "TVA": 0.6}, all_three=True
    )
    assert terms == pytest.approx(dict.fromkeys(PAIRS, 2.0))


@pytest.mark.parametrize(
    ("instruction", "synergy", "votes", "message"),
    [
        ({"T": 11}, {}, {}, "instruction: T is 11"),
        ({"X": 1}, {}, {}, "instruction: 'X'"),
        ({}, {"VT": 0.5}, {}, "synergy: 'VT'"),
        ({}, {"TV": 1.5}, {}, "synergy: TV is 1.5"),
        ({}, {}, {"TV": 0.7, "TA": 0.7}, "votes: 1.4 together"),
        ({"T": float("nan")}, {}, {}, "T is nan"),
    ],
)
def test_numbers_out_of_their_range_are_refused(
    instruction: Any, synergy: Any, votes: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        all_modality_terms(instruction, synergy, votes, all_three=False)


def test_a_file_is_scored_and_shown(coalign: Callable[..., Any], tmp_path: Path) -> None:
    row = {"instruction": {"T": 8, "V": 6, "A": None}, "synergy": {"TV": 0.5}, "votes": {"TV": 0.4}}
    path = write(
        tmp_path / "a.jsonl",
        [{"id": "x", "model": "m", **row}, {"id": "y", "model": "n", **row, "votes": {}}],
    )
    page = tmp_path / "a.html"
    result = coalign("score", "amg", str(path), "--html", str(page))
    assert result.code == 0, result.err
    rows = [json.loads(one) for one in result.out.splitlines()]
    assert [row["score"] for row in rows] == pytest.approx([0.4 * 14 * 0.5 / 2, 0])
    assert "Text and vision" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"votes": None}, "votes: is missing, expected numbers by name"),
        ({"votes": [1]}, "votes: holds no numbers"),
        ({"synergy": {"TV": "0.5"}}, "synergy: TV is '0.5'"),
        ({"synergy": {"TV": 10**400}}, "synergy: TV is 1000"),
        ({"instruction": {"T": 12}}, "instruction: T is 12.0, expected 0 to 10"),
        ({"all_three": "no"}, "all_three: 'no', expected true or false"),
    ],
)
def test_a_bad_row_is_named(
    changed: dict[str, Any], message: str, coalign: Callable[..., Any], tmp_path: Path
) -> None:
    good = {"instruction": {"T": 8}, "synergy": {}, "votes": {}}
    path = write(tmp_path / "a.jsonl", [good, {**good, **changed}])
    result = coalign("score", "amg", str(path))
    assert result.code != 0
    assert f"a.jsonl:2: {message}" in result.err
    assert coalign("score", "amg", str(path), "--on-bad-record", "skip").code == 0
