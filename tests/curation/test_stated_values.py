"""Stated values: hierarchies and their combinations, rows and pairs, requests, what a reply says, scores and wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.curation.stated_values.collection import (
    conversation,
    cross_system_pairs,
    draw_pairs,
    grouped,
    read_collection,
    split_by_instruction,
)
from coalign.curation.stated_values.hierarchy import Hierarchy, Value, is_unseen, read_hierarchy
from coalign.curation.stated_values.rating import (
    benchmark_score,
    checked_scores,
    held_out_items,
    item_scores,
    outcomes_of,
    read_bench,
    win_tie_rates,
)
from coalign.curation.stated_values.writing import first_paragraph
from coalign.data.frame import Frame
from coalign.data.messages import folded_system
from coalign.judging.parsing import read_result
from coalign.judging.protocol import Scale
from tests.data.tokenizers import byte_tokenizer
from tests.preference.tiny_runs import write

SCALE = Scale(low=1, high=5)
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}[{{ m.content }}]{% endfor %}"
SILENT = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"


def hierarchy(*sizes: int) -> Hierarchy:
    return Hierarchy(
        {
            f"d{d}": [Value(f"d{d}", "s", f"v{n}", f"Value {n}.") for n in range(size)]
            for d, size in enumerate(sizes)
        }
    )


def test_the_shipped_hierarchy_is_whole() -> None:
    found = read_hierarchy()
    assert [*found.dimensions] == ["style", "background knowledge", "informativeness", "harmlessness"]
    values = [one for mine in found.dimensions.values() for one in mine]
    assert len({one.description for one in values}) == len(values) == 52
    assert len({(one.dimension, one.subdimension) for one in values}) == 18
    assert sum(bool(one.constraints) for one in values) == 8


@given(st.integers(0, 50), st.booleans())
def test_combinations_of_an_instruction_differ_and_keep_to_their_side(key: int, unseen: bool) -> None:
    drawn = hierarchy(4, 4, 4).draw(3, f"q{key}", unseen=unseen, share=0.4)
    assert len({*drawn}) == 3
    assert all(is_unseen(one, 0.4) == unseen for one in drawn)
    assert drawn == hierarchy(4, 4, 4).draw(3, f"q{key}", unseen=unseen, share=0.4)


def test_combinations_share_no_value_where_there_are_enough() -> None:
    drawn = hierarchy(3, 2).draw(3, "q")
    assert len({one[0] for one in drawn}) == 3
    assert len({one[1] for one in drawn}) == 2


def test_more_combinations_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no 5 different combinations among 4"):
        hierarchy(2, 2).draw(5, "q")
    with pytest.raises(ConfigError, match="kept for held-out"):
        hierarchy(2, 2).draw(1, "q", unseen=True, share=0.0)


def test_the_share_of_unseen_combinations_is_met() -> None:
    values = [Value("d", "s", str(n), "x") for n in range(2000)]
    assert sum(is_unseen([one], 0.2) for one in values) == pytest.approx(400, abs=60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("style: [a]\n", "style: is a list, expected a mapping"),
        ("style: {case: lower}\n", "style.case: is a str, expected a list"),
        ("style: {case: []}\n", "style: has no value"),
        ("style: {case: [3]}\n", r"style.case\[0\]: has no description"),
        ("style: {case: [{description: x, constraints: [{verifier: max_wrods, n: 3}]}]}\n", "max_words"),
        ("", "is empty"),
    ],
)
def test_a_hierarchy_that_is_none_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_hierarchy(path)
    assert str(path) in str(caught.value)


def rows(n: int = 4, systems: int = 3) -> list[dict[str, Any]]:
    return [
        {"system": f"System {s}.", "prompt": f"Question {i}?", "output": f"Answer {i} {s}",
         "preference_set": [{"dimension": "style", "subdimension": "case", "preference": f"As {s}."}]}
        for i in range(n)
        for s in range(systems)
    ]  # fmt: skip


def test_rows_of_the_published_layout_become_pairs_within_an_instruction(tmp_path: Path) -> None:
    found = read_collection(write(tmp_path / "rows.jsonl", rows()))
    assert [len(mine) for mine in grouped(found).values()] == [3] * 4
    made = draw_pairs(found, seed=0, fold=False)
    assert len(made) == 4
    for pair in made:
        system, question = (one["content"] for one in pair.prompt)
        number, asked = system.split()[1].strip("."), question.split()[1].strip("?")
        assert pair.chosen == f"Answer {asked} {number}"
        assert pair.rejected.startswith(f"Answer {asked} ")
        assert pair.rejected != pair.chosen


def test_no_instruction_is_on_both_sides(tmp_path: Path) -> None:
    found = read_collection(write(tmp_path / "rows.jsonl", rows(9)))
    training, held_out = split_by_instruction(found, 0.3, 0)
    assert len(training) + len(held_out) == 27
    assert len(held_out) == 9
    assert not {one.group for one in training} & {one.group for one in held_out}


def test_equal_answers_and_single_system_messages_give_no_pair(tmp_path: Path) -> None:
    same = [{**row, "output": "The same"} for row in rows(2)]
    assert draw_pairs(read_collection(write(tmp_path / "same.jsonl", same)), 0, fold=False) == []
    assert draw_pairs(read_collection(write(tmp_path / "one.jsonl", rows(2, 1))), 0, fold=False) == []


@given(st.integers(0, 8))
def test_pairs_of_systems(count: int) -> None:
    found = cross_system_pairs(count)
    assert len({*found}) == len(found) == count * max(count - 1, 0)
    assert all(system == chosen != rejected for system, chosen, rejected in found)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "Q?", "output": "A"}, "system: is missing"),
        (
            {**rows(1, 1)[0], "preference_set": [{"dimension": "x"}]},
            r"preference_set\[0\]: has no preference",
        ),
        ({**rows(1, 1)[0], "preference_set": ["x"]}, r"preference_set\[0\]: has no preference"),
        ({**rows(1, 1)[0], "id": 0}, "id: '0' occurs twice"),
    ],
)
def test_a_row_without_values_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "rows.jsonl", [*rows(1, 1), row])
    with pytest.raises(DataError, match=f"rows.jsonl:2: {words}"):
        read_collection(path)


def test_a_template_without_a_system_role_gets_it_before_the_question() -> None:
    turns: Any = [{"role": "user", "content": "Why? \n"}]
    shown = conversation("Be brief.", turns)
    assert [one["role"] for one in shown] == ["system", "user"]
    assert folded_system(shown) == conversation("Be brief.", turns, fold=True)
    assert folded_system(shown)[0]["content"] == "Be brief.\nWhy?"
    assert conversation("  ", turns) == [{"role": "user", "content": "Why?"}]
    assert folded_system(turns) == turns
    assert Frame(byte_tokenizer()).knows_system
    assert not Frame(byte_tokenizer(NO_SYSTEM)).knows_system
    assert not Frame(byte_tokenizer(SILENT)).knows_system


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Good work. [RESULT] 4", 4),
        ("Fine.\n[Result]: (3)", 3),
        ("It scores well. Score: 2/5", 2),
        ("**Score**: 5", 5),
        ("Score: **5**", 5),
        ("[RESULT] score of 1", 1),
        ("Score: 2 at first, then [RESULT] 5", 5),
        ("[RESULT] 4 or [RESULT] 3", None),
        ("[RESULT] 10", None),
        ("[RESULT] 2.5", None),
        ("[RESULT] 0", None),
        ("No number.", None),
        ("<think>[RESULT] 1</think> Well. [RESULT] 5", 5),
        ("<think>[RESULT] 1", None),
    ],
)
def test_results_of_a_grader(reply: str, score: int | None) -> None:
    found = read_result(reply, SCALE)
    assert (found.scores or (None,))[0] == score
    assert (found.failure is None) == (score is not None)


def test_failures_of_a_grader_have_their_kind() -> None:
    assert read_result("I'm sorry, I cannot.", SCALE).failure == "refusal"
    assert read_result("So far so", SCALE, truncated=True).failure == "truncated"
    assert read_result("So far so", SCALE).failure == "malformed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Preference: Likes cats.\n\nRequest: next", "Likes cats."),
        ('"Likes\ncats."', "Likes cats."),
        ("\n\n", ""),
    ],
)
def test_what_a_teacher_wrote_is_one_paragraph(text: str, expected: str) -> None:
    assert first_paragraph(text, "Preference:") == expected


def test_an_item_counts_once_and_what_nobody_rated_counts_nowhere() -> None:
    scores = [[5.0], [1.0, 2.0, 3.0], [None, 4.0], [None]]
    assert item_scores(scores) == [5.0, 2.0, 4.0, None]
    assert benchmark_score(scores) == pytest.approx(11 / 3)
    assert benchmark_score([[None]]) is None
    assert outcomes_of([5.0, 2.0, None, 3.0], [4.0, 2.0, 1.0, 3.5]) == ["win", "tie", "lose"]
    with pytest.raises(ValueError, match="one or more"):
        win_tie_rates([])


def test_programs_rate_the_values_that_have_constraints(tmp_path: Path) -> None:
    lower = {"preference": "Lower case.", "constraints": [{"verifier": "letter_case", "case": "lower"}]}
    row = {**rows(1, 1)[0], "preference_set": [lower, {"preference": "Kind."}]}
    items = held_out_items(read_collection(write(tmp_path / "rows.jsonl", [row])))
    assert checked_scores(items, ["all lower"]) == [[5.0, None]]
    assert checked_scores(items, ["Not So"]) == [[1.0, None]]


def test_bench_items_have_their_levels(tmp_path: Path) -> None:
    rubric = [{"criteria": "Is it brief?", "score_descriptions": {str(n): f"level {n}" for n in range(1, 6)}}]
    good = {
        "source": "x",
        "system": "Be brief.",
        "prompt": "Why?",
        "reference_answer": "So.",
        "rubric": rubric,
    }
    (item,) = read_bench(str(write(tmp_path / "bench.jsonl", [good])))
    assert item.reference == "So."
    assert item.wishes[0].levels == {n: f"level {n}" for n in range(1, 6)}
    bad = [good, {**good, "rubric": "x"}, {**good, "system": ""}, {**good, "id": 0}]
    path = write(tmp_path / "bad.jsonl", bad)
    with pytest.raises(DataError) as caught:
        read_bench(str(path))
    assert "bad.jsonl:2: rubric" in str(caught.value)
    assert "bad.jsonl:3: system" in str(caught.value)
    assert "bad.jsonl:4: id: '0' occurs twice" in str(caught.value)


def test_the_released_layout_may_hold_its_lists_as_json(tmp_path: Path) -> None:
    """A row of Parquet or CSV without a preference set is one wish as a whole."""
    row = {key: value for key, value in rows(1, 1)[0].items() if key != "preference_set"}
    (one,) = read_collection(write(tmp_path / "rows.jsonl", [json.loads(json.dumps(row))]))
    assert [wish.name for wish in one.wishes] == ["system message"]
