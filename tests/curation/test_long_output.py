"""`long-output`: lengths that requests name and texts have, the filter, quality, orders, and a run of its own data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core import options
from coalign.core.errors import DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.curation import long_output
from coalign.curation.long_writing.answers import (
    Order,
    by_length,
    obedience,
    read_orders,
    repetition,
    written,
)
from coalign.curation.long_writing.filtering import filter_records
from coalign.curation.long_writing.lengths import count_words, length_score, required_length
from coalign.curation.long_writing.quality import (
    DIMENSIONS,
    answer_quality,
    quality_request,
    quality_totals,
    rate_quality,
    read_scores,
)
from coalign.curation.long_writing.testing import room_of
from coalign.data.records import Demonstration, Source
from coalign.judging.store import ReplyStore
from coalign.models.types import Generation, Sampling
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.preference.tiny_runs import write

GOOD = dict.fromkeys(DIMENSIONS, 4)


@given(required=st.integers(1, 10_000), actual=st.integers(0, 60_000))
def test_the_length_score_is_highest_at_the_length_and_nothing_far_from_it(
    required: int, actual: int
) -> None:
    score = length_score(required, actual)
    assert 0 <= score <= 100
    assert (score == 100) == (actual == required)
    if actual >= 4 * required or 3 * actual <= required:
        assert score == pytest.approx(0, abs=1e-9)
    if score >= 80:
        assert required / 1.4 - 1e-9 <= actual <= 1.6 * required + 1e-9


def test_a_length_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 words are required"):
        length_score(0, 5)
    assert required_length("写零百字") is None


@pytest.mark.parametrize(
    ("request_text", "official", "extended"),
    [
        ("Write 700 words on tea", 700, 700),
        ("a 100-word note", None, 100),
        ("about 2,500 words, please", 500, 2500),
        ("twenty-five words", None, 25),
        ("two thousand five hundred words", None, 2500),
        ("in a hundred words", None, 100),
        ("1.5k words", None, 1500),
        ("500 to 800 words", 800, None),
        ("300-400 words", 400, None),
        ("不少于3千字", None, 3000),
        ("写一千五百字", 500, 1500),
        ("约一万字", 10_000, 10_000),
        ("3.5万字", None, 35_000),
        ("500字，五百字", None, 500),
        ("500 words, then 600 words", None, None),
        ("the words of a song", None, None),
        ("Explain words", None, None),
    ],
)
def test_lengths_are_read_by_the_official_and_by_the_extended_rules(
    request_text: str, official: int | None, extended: int | None
) -> None:
    assert (required_length(request_text), required_length(request_text, "extended")) == (official, extended)


@given(st.integers(1, 99_999))
def test_any_number_of_words_is_read_by_both(length: int) -> None:
    for text in (f"Write {length} words.", f"写{length}字"):
        assert required_length(text) == required_length(text, "extended") == length


def test_words_of_other_scripts_count_where_that_is_asked_for() -> None:
    assert [count_words("дом и сад 12"), count_words("дом и сад 12", "all-scripts")] == [0, 4]
    assert [count_words("naïve"), count_words("naïve", "all-scripts")] == [0, 1]


def records(*pairs: tuple[str, int]) -> list[Demonstration]:
    return [
        Demonstration(
            source=Source("x", None, place), prompt=[{"role": "user", "content": asked}], completion=" ".join(["a"] * size)
        )
        for place, (asked, size) in enumerate(pairs)
    ]  # fmt: skip


def test_the_filter_says_why_a_record_falls(tmp_path: Path) -> None:
    found = records(
        ("Say 10 words", 10), ("Say 10 words", 16), ("Say 10 words", 17), ("Say 10 words", 7), ("Say 14 words", 10),
        ("Say something", 10), ("Say 10 words", 0),
    )  # fmt: skip
    done = filter_records(tmp_path, found, threshold=80)
    rows = list(done.rows())
    assert [row["id"] for row in rows] == ["0", "1", "4"]
    assert [(row["length"], row["response_length"]) for row in rows] == [(10, 10), (10, 16), (14, 10)]
    assert done.reasons() == {
        "length named: not exactly one length": 1,
        "length kept: too long": 1,
        "length kept: too short": 1,
        "length kept: no words": 1,
    }
    assert {one["row"]["id"]: one["row"].get("response_length") for one in read_rows(done.rejects)}["2"] == 17


def test_scores_are_read_from_the_first_whole_object() -> None:
    text = json.dumps(GOOD)
    assert read_scores(f"Here: {{'no'}} {{}} ```json\n{text}\n```") == GOOD
    for bad in ({**GOOD, "Clarity": 6}, {**GOOD, "Clarity": True}, {**GOOD, "Clarity": "4"}, {"Clarity": 4}):
        assert read_scores(json.dumps(bad)) is None
    assert read_scores("no numbers") is None
    assert read_scores("{" * 5000) is None


def test_what_is_filled_into_the_request_is_not_looked_at_again() -> None:
    assert (
        quality_request("{response}", "{request} {x}", "A {request} B {response} {y}")
        == "A {response} B {request} {x} {y}"
    )
    assert "[Request]\nhi" in quality_request("hi", "ho")


def test_answers_that_are_not_rated_are_left_out_or_count_as_asked() -> None:
    assert quality_totals([None]) is None
    assert answer_quality(None) is None
    assert answer_quality(GOOD) == 75
    left_out, counted = quality_totals([GOOD, None]), quality_totals([GOOD, None], 3)
    assert left_out is not None
    assert counted is not None
    assert (left_out["total"], counted["total"]) == (75, 62.5)


class Judge:
    """Says nothing that can be read before the third try."""

    asked = 0

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> list[list[Generation]]:
        self.asked += 1
        texts = ["no" if sampling.seed < 2 and place else json.dumps(GOOD) for place in range(len(prompts))]
        found = [[Generation(text)] for text in texts]
        how["on_batch"](dict(enumerate(found)))
        return found


def test_a_judge_that_cannot_be_read_is_asked_again(tmp_path: Path) -> None:
    def rate(temperature: float) -> list[Any]:
        sampling = Sampling(temperature=temperature, seed=0)
        with ReplyStore(tmp_path / f"{temperature}.jsonl") as store:
            return rate_quality(judge, [("a", "b"), ("c", "d")], sampling, store=store, identity={})  # type: ignore[arg-type]

    judge = Judge()
    assert rate(0.5) == [GOOD, GOOD]
    assert judge.asked == 2  # of what was left, alone
    assert rate(0.0) == [GOOD, None]
    assert judge.asked == 3


def test_orders_have_their_length_in_a_column_or_in_their_words(tmp_path: Path) -> None:
    data = write(
        tmp_path / "a.jsonl", [{"prompt": "Write a lot", "length": 500}, {"prompt": "Write 70 words"}]
    )
    assert [one.length for one in read_orders(str(data), "official")] == [500, 70]
    silent = write(tmp_path / "b.jsonl", [{"prompt": "Write a lot"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: length: is not there"):
        read_orders(str(silent), "official")
    for bad in (0, True, "many"):
        path = write(tmp_path / "c.jsonl", [{"prompt": "x", "length": bad}])
        with pytest.raises(DataError, match=r"c\.jsonl:1: length"):
            read_orders(str(path), "official")


def order(length: int, words: int, reason: str = "stop") -> Any:
    row = {"responses": [" ".join(f"w{chr(97 + i % 26)}" for i in range(words))], "finish_reasons": [reason]}
    return written(Order(str(length), [{"role": "user", "content": "x"}], length), row, "official")


def test_obedience_is_told_by_length() -> None:
    answers = [order(100, 100), order(400, 100, "length"), order(3000, 3000)]
    found = obedience(answers)
    assert found["S_L"] == pytest.approx((100 + 0 + 100) / 3)
    assert found["cut"] == pytest.approx(1 / 3)
    assert found["correlation"] == pytest.approx(0.866, abs=1e-3)
    assert [(row["from"], row["to"], row["answers"]) for row in by_length(answers)] == [
        (0, 500, 2),
        (2000, 4000, 1),
    ]
    assert obedience([order(100, 5)])["correlation"] is None
    assert obedience([order(100, 0)])["S_L"] == 0


def test_loops_are_seen() -> None:
    assert repetition("one two three four five six") == 0
    assert repetition("one two three four " * 50) > 0.9
    assert repetition("") == 0


class Short:
    """A model with a context, and a tokenizer of bytes."""

    context = 300

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer(CHATML)


def test_answers_have_the_room_that_the_context_leaves() -> None:
    orders = [Order("a", [{"role": "user", "content": "x" * size}], 5) for size in (3, 50)]
    assert room_of(object(), orders, 1000) == 1000  # type: ignore[arg-type]
    room = room_of(Short(), orders, 1000)  # type: ignore[arg-type]
    assert 100 < room < 250
    assert room_of(Short(), orders[:1], 1000) == room + 47  # type: ignore[arg-type]
    assert room_of(Short(), orders, 7) == 7  # type: ignore[arg-type]


def test_a_filter_that_keeps_nothing_says_why(tmp_path: Path) -> None:
    data = write(
        tmp_path / "a.jsonl",
        [{"prompt": "Say 9 words", "completion": "a"}, {"prompt": "x", "completion": "b"}],
    )
    config = options.build(long_output.Config, {"data": str(data), "filter_only": True})
    with pytest.raises(DataError, match=r"no record is kept .*too short: 1"):
        long_output.run(config, Run.start(tmp_path / "run", "long-output", config))


def test_general_records_are_drawn_in_the_ratio(tmp_path: Path) -> None:
    from coalign.loops.rounds import Round

    general = write(tmp_path / "g.jsonl", [{"prompt": f"q{i}", "completion": "a"} for i in range(9)])
    settings = {"data": "x", "general": str(general), "general_ratio": 2.0}
    config = options.build(long_output.Config, settings)
    run = Run.start(tmp_path / "run", "long-output", config)
    round = Round(run, 1)
    filter_records(
        round.folder / long_output.FILTERED, records(("Say 3 words", 3), ("Say 2 words", 2)), threshold=80
    )
    drawn = long_output.general_records(config, round)
    assert len(drawn) == 4
    assert drawn == long_output.general_records(config, round)
    assert len(long_output.general_records(replace(config, general_ratio=20.0), round)) == 9
    assert "4 of 9 general records are mixed in" in run.events("data")[1]["note"]
