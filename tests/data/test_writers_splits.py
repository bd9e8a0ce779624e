"""What is written is read again; splits share no prompt; feedback on one prompt becomes a ranking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.data.convert import convert
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Feedback, Judgment, Preference, PromptRecord, Ranking
from coalign.data.splits import split_records
from coalign.data.writers import write_records

PLAIN = [{"role": "user", "content": "q\u2028é"}]
CHAT = [{"role": "system", "content": "s"}, *PLAIN, {"role": "assistant", "content": "a"}, *PLAIN]
KINDS = [
    lambda **common: PromptRecord(**common),
    lambda **common: Demonstration(completion="a", **common),
    lambda **common: Preference(chosen="a b", rejected="a c", **common),
    lambda **common: Preference(chosen="a b", rejected="a c", chosen_score=2.0, rejected_score=1.0, **common),
    lambda **common: Ranking(responses=("a", "b", "c"), scores=(1.0, 3.0, 3.0), **common),
    lambda **common: Feedback(completion="a", label=False, **common),
    lambda **common: Judgment(completion="a", judgment="j", **common),
    lambda **common: Judgment(completion="a", judgment="j", label=True, **common),
]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", ["standard", "conversational"])
def test_round_trip(tmp_path, make, suffix, form):
    common = {"prompt": PLAIN, "plain": True} if form == "standard" else {"prompt": CHAT}
    records = [make(extra={"id": 7, "tags": ["x"]}, **common), make(**common)]
    path = tmp_path / f"a{suffix}"
    write_records(path, records, form=form)
    found = read_records(path)
    assert found.records == records
    assert [one.extra for one in found.records] == [one.extra for one in records]


@pytest.mark.parametrize("make", KINDS[1:])
@pytest.mark.parametrize("form", ["standard", "conversational"])
def test_round_trip_without_a_prompt(tmp_path, make, form):
    path = tmp_path / "a.jsonl"
    record = make(prompt=[], plain=True)
    write_records(path, [record], form=form)
    assert read_records(path).records == [record]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="its prompt has 4 messages"):
        write_records(tmp_path / "a.jsonl", [PromptRecord(prompt=CHAT)])
    two = [PromptRecord(prompt=PLAIN), Demonstration(prompt=PLAIN, completion="a")]
    with pytest.raises(DataError, match="several kinds"):
        write_records(tmp_path / "a.jsonl", two)
    with pytest.raises(DataError, match=r"\.jsonl or \.parquet"):
        write_records(tmp_path / "a.csv", [PromptRecord(prompt=PLAIN)])
    assert list(tmp_path.iterdir()) == []


def prompts(numbers):
    return [PromptRecord(prompt=[{"role": "user", "content": str(number)}]) for number in numbers]


@given(
    numbers=st.lists(st.integers(0, 30), min_size=2, max_size=80).filter(lambda one: len(set(one)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_split_never_shares_a_prompt(numbers, fraction, seed):
    records = prompts(numbers)
    train, evaluation = split_records(records, fraction, seed)
    contents = [{one.prompt[0]["content"] for one in part} for part in (train, evaluation)]
    assert not contents[0] & contents[1]
    assert len(train) + len(evaluation) == len(records)
    assert train
    assert evaluation
    again = split_records(records[::-1], fraction, seed)
    assert again[1] == evaluation[::-1]


def test_split_size_and_seed():
    records = prompts(range(200))
    train, evaluation = split_records(records, 0.1, seed=1)
    assert (len(train), len(evaluation)) == (180, 20)
    assert split_records(records, 0.1, seed=2)[1] != evaluation
    assert split_records(records, 0.0) == (records, [])


def test_split_that_cannot_be():
    with pytest.raises(ConfigError, match="different prompt"):
        split_records(prompts([1, 1]), 0.5)
    with pytest.raises(ConfigError, match="below 1"):
        split_records(prompts([1, 2]), 1.0)


def test_feedback_on_one_prompt_becomes_a_ranking() -> None:
    said = [("p", "wrong", False), ("q", "alone", True), ("p", "right", True), ("p", "right", True)]
    said += [("r", "a", True), ("r", "a", False), ("r", "b", True)]
    rows = [
        Feedback(prompt=[{"role": "user", "content": p}], completion=c, label=good) for p, c, good in said
    ]
    first, second = convert(rows, "feedback", "ranking")
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert (first.responses, first.scores) == (("right", "wrong"), (1.0, 0.0))
    assert (second.responses, second.scores) == (("b", "a"), (1.0, 0.0)), "one thumb down is enough"
