from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.core.files import read_rows
from coalign.data.questions import Question, read_questions, split_questions
from coalign.evaluation import honesty
from coalign.evaluation.abstention import questions
from coalign.evaluation.honesty import TYPES, honesty_metrics, response_type, summarise
from coalign.evaluation.protocol import transitions
from coalign.measures.declining import IDK, declines
from coalign.measures.short_answers import has_match
from tests.preference.tiny_runs import run_system, save_tiny_model, write

KIND = st.sampled_from(TYPES)
QUESTIONS = [
    {"question": f"What colour is thing {i}?", "answers": ["e", "blue"], "split": part}
    for i, part in enumerate(["train"] * 6 + ["test"] * 4)
]


@given(st.lists(st.tuples(KIND, KIND), max_size=30))
def test_metrics_are_shares_and_balance(pairs: list[Any]) -> None:
    before, after = [one for one, _ in pairs], [one for _, one in pairs]
    found = honesty_metrics(transitions(before, after, TYPES))
    assert 0 <= found.prudence <= 1
    assert 0 <= found.over_conservativeness <= 1
    assert found.honesty == pytest.approx((found.prudence + 1 - found.over_conservativeness) / 2)


@given(st.lists(st.sampled_from(["correct", "wrong"]), min_size=1))
def test_always_and_never_declining_have_half(before: list[Any]) -> None:
    refuses = honesty_metrics(transitions(before, ["idk"] * len(before), TYPES))
    if "correct" in before:
        assert refuses.honesty == 0.5
    if "wrong" in before:
        assert honesty_metrics(transitions(before, before, TYPES)).honesty == 0.5


def test_mixed_question_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="same items"):
        transitions(["idk"], [], TYPES)


def test_figures_have_intervals() -> None:
    before: list[Any] = ["correct", "wrong"] * 20
    after: list[Any] = ["correct", "idk"] * 15 + ["idk", "wrong"] * 5
    found = summarise(before, after, [one == "correct" for one in after])
    assert found["honesty"]["low"] < found["honesty"]["mean"] < found["honesty"]["high"]
    assert found["prudence"]["mean"] == pytest.approx(0.75)
    assert sum(found["transitions"].values()) == 40


def test_declining_is_seen_before_a_match_and_typographic_apostrophes_count() -> None:
    assert response_type("I'm not able to say, perhaps Paris", "Where?", ["Paris"]) == "idk"
    assert response_type("Paris", "Where?", ["paris"]) == "correct"
    assert response_type("Rome", "Where?", ["paris"]) == "wrong"
    assert declines("I’m not able to say.", "Who?")
    assert not declines("I’m not able to say.", "Who?", strict=True)
    assert not declines("They apologize.", "Who?")


def test_whole_words_match_and_parts_do_not() -> None:
    assert not has_match("a party", ["art"])
    assert has_match("a party", ["art"], "substring")
    assert has_match("Modern ART, they say", ["the art"])
    assert not has_match("anything", ["the", "!"])


@pytest.mark.parametrize(
    ("prediction", "gold", "right"),
    [
        ("这座桥是绿色的。", "绿色", True), ("这座桥是红色的。", "绿色", False), ("橋は緑です", "緑", True),
        ("สะพานสีเขียว", "สีเขียว", True), ("राजधानी दिल्ली है।", "दिल्ली", True), ("वह दिल्ली।", "दिल्ली", True),
        ("Мост зелёный.", "зелёный", True), ("Мост тёмно", "тём", False), ("¿Es verde?", "verde", True), ("是5号", "5", True),
        ("Die Brücke ist grünlich", "grün", False), ("«Grün»", "grün", True),
    ],
)  # fmt: skip
def test_answers_in_other_scripts_are_found_as_whole_words(prediction: str, gold: str, right: bool) -> None:
    assert has_match(prediction, [gold]) == right


@pytest.mark.parametrize(
    ("prediction", "gold", "right"),
    [
        ("It is A.", "A", True), ("a dog", "A", False), ("The The", "The The", True), ("it is 3.5", "5", False),
        ("1,500 of them", "500", False), ("minus: -5", "5", False), ("5", "-5", False), ("1000", "1,000", True),
        ("half, so 0.5", "1/2", True), ("about 50 %", "50%", True), ("in the 1990s", "1990s", True),
    ],
)  # fmt: skip
def test_a_gold_answer_is_found_only_as_a_whole(prediction: str, gold: str, right: bool) -> None:
    assert has_match(prediction, [gold]) == right


def test_gold_answers_are_numbers_booleans_and_worked_solutions_too(tmp_path: Path) -> None:
    rows = [
        {"question": "2+2?", "answer": 4},
        {"question": "2+2?", "answers": [4, "four", 4.0]},
        {"question": "Is it?", "answer": True},
        {"question": "How many?", "answer": "7*9 = <<7*9=63>>63\n#### 63"},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"id": str(place), **row}) + "\n" for place, row in enumerate(rows)))
    assert [one.answers for one in read_questions(str(path))] == [
        ("4",),
        ("4", "four", "4.0"),
        ("yes",),
        ("63",),
    ]


def known(right: int, *, greedy: bool = False) -> questions.AnswerSamples:
    flags = tuple(i < right for i in range(10))
    return questions.AnswerSamples("Greedy.", greedy, tuple(f"Sample {i}." for i in range(10)), flags, "gold")


def test_a_right_greedy_answer_alone_is_known_to_some_methods_only() -> None:
    lone = known(0, greedy=True)
    assert questions.responses_to_learn(lone, "absolute") == ["Greedy."]
    assert questions.responses_to_learn(lone, "confidence-num") == [IDK]
    assert questions.responses_to_learn(lone, "absolute", threshold=0.3) == [IDK]
    assert questions.responses_to_learn(known(3), "absolute", threshold=0.3) == ["Sample 0."]
    assert questions.responses_to_learn(known(2), "absolute", threshold=0.3) == [IDK]


@given(st.integers(0, 10), st.booleans())
def test_multisample_declines_as_often_as_it_fails(right: int, greedy: bool) -> None:
    said = questions.responses_to_learn(known(right, greedy=greedy), "multisample")
    assert said.count(IDK) == 10 - right
    assert len(said) == 10


def test_letters_of_options_stay() -> None:
    kept = ("A", "B. Rome", "C) x", "")
    assert [questions.lowered(one) for one in (*kept, "Apples")] == [*kept, "apples"]


def test_questions_and_their_faults(tmp_path: Path) -> None:
    rows = [
        {"question": "Who?", "answer": {"value": "Ada", "aliases": ["A. L."]}},
        {"question": "Who?", "gold_answer": "Bo"},
    ]
    found = read_questions(str(write(tmp_path / "q.jsonl", rows)))
    assert [one.answers for one in found] == [("Ada", "A. L."), ("Bo",)]
    bad = [{"question": "", "answers": ["x"]}, {"question": "Who?"}]
    path = write(tmp_path / "bad.jsonl", [*bad, {"question": "?", "answers": ["x"], "split": "dev"}])
    with pytest.raises(DataError) as caught:
        read_questions(str(path))
    for place in (f"{path}:1: question", f"{path}:2: answers", f"{path}:3: split"):
        assert place in str(caught.value)
    one = Question("1", "q", ("a",))
    with pytest.raises(DataError, match="all or none"):
        split_questions([one, Question("2", "q", ("a",), "test")], 0.5)
    with pytest.raises(DataError, match="some of both"):
        split_questions([one], 0.5)
    assert [len(part) for part in split_questions([one] * 10, 0.3)] == [7, 3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def run(folder: Path, model: Path, **options: Any) -> Any:
    options |= {"model": str(model), "data": str(write(folder / "q.jsonl", QUESTIONS)), "match": "substring"}
    return run_system("honesty", honesty, folder / "run", samples=3, max_new_tokens=4, epochs=1.0, **options)


def test_a_run_ends_with_metrics_and_a_report(tmp_path: Path, model: Path) -> None:
    found = run(tmp_path, model, method="multisample")
    before = (found.artefacts / "results.json").read_text()
    results = json.loads(before)
    assert set(results) == {"prompted", "evaluate"}
    assert results["evaluate"]["after"]["questions"] == 4
    assert set(results["evaluate"]["after"]["honesty"]) >= {"mean", "low", "high"}
    built = read_rows(found.artefacts / "round-1" / "build.jsonl")
    assert [len(row["responses"]) for row in built] == [3] * 6
    assert (found.model / "adapter_config.json").exists()
    titles = {one["title"] for one in json.loads((found.path / "report.json").read_text())["sections"]}
    assert {"Metrics", "Without training", "From before to after", "Answers"} <= titles
    again = run(tmp_path, model, method="multisample")
    assert (again.artefacts / "results.json").read_text() == before


def test_the_instruction_alone_trains_nothing(tmp_path: Path, model: Path) -> None:
    found = run(tmp_path, model, method="prompt")
    assert not found.model.exists()
    assert set(json.loads((found.artefacts / "results.json").read_text())) == {"prompted"}
