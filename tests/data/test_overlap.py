"""What training and evaluation data share: the same words, nearly the same, and what is told of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from coalign.cli.files.data import data
from coalign.data.checking import overlap as overlaps
from coalign.data.checking.overlap import NEAR, find_overlap
from coalign.data.records import Demonstration
from coalign.measures.texts.text_units import folded_words, ngrams
from tests.preference.tiny_runs import demonstrations, write

needs_minhash = pytest.mark.skipif(
    importlib.util.find_spec(overlaps.MODULE) is None, reason="the extra overlap is not installed"
)
LONG = (
    "Name three rivers of Europe that flow into the North Sea and say how long each of them is in kilometres"
)


def records(*prompts: str, completion: str = "a", **common: Any) -> list[Demonstration]:
    return [
        Demonstration(
            prompt=[{"role": "user", "content": one}] if one else [], completion=completion, **common
        )
        for one in prompts
    ]


@pytest.fixture(params=[False, True], ids=["exact", "near"])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and importlib.util.find_spec(overlaps.MODULE) is None:
        pytest.skip("the extra overlap is not installed")
    if not request.param:
        monkeypatch.setattr(overlaps, "is_installed", lambda module: False)
    return bool(request.param)


def test_the_same_words_are_found_with_and_without_the_extra(near: bool) -> None:
    evaluated = [*records("What  is “this”?", "other words"), *records("", completion="A text of its own.")]
    system: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "what is this"}]
    training = [Demonstration(prompt=system, completion="A"), *records("", completion="a text of its OWN")]
    found = find_overlap(training, evaluated)
    assert [(one.same, one.similarity, one.answered) for one in found.matches] == [(True, 1.0, True)] * 2
    assert found.near == near
    assert found.told().startswith(
        "2 of 3 evaluation records have a prompt that is trained on: 2 in the same words, 0 nearly; 2 with the same "
    )
    assert ("pip install" in found.told()) != near
    assert (
        find_overlap(training, records("other words")).told().startswith("none of the 1 evaluation records")
    )
    assert find_overlap([], evaluated).matches == ()


@pytest.mark.usefixtures("near")
def test_every_copy_is_counted_and_the_one_with_the_answer_is_named() -> None:
    evaluated = records("q one two", "Q one two", "q one two", completion="yes")
    training = [*records("q one two", completion="no"), *records("q one two!", completion="Yes")]
    found = find_overlap(training, evaluated)
    assert [one.answered for one in found.matches] == [True] * 3


@needs_minhash
def test_near_prompts_are_found_and_different_ones_are_not() -> None:
    evaluated = records(
        LONG, "What is the capital of Peru?", "天空是蓝色的，大海是绿色的，山是灰色的。", "one two"
    )
    training = records(
        f"Please: {LONG}",
        "What is the capital of Chile?",
        "天空是蓝色的，大海是绿色的，山是白色的。",
        "one three",
    )
    found = find_overlap(training, evaluated)
    grams = [set(ngrams(folded_words(one), 3)) for one in (LONG, f"Please: {LONG}")]
    (match,) = [one for one in found.matches if not one.same][:1]
    assert match.similarity == pytest.approx(len(grams[0] & grams[1]) / len(grams[0] | grams[1]))
    assert [(one.same, one.similarity >= NEAR) for one in found.matches] == [(False, True)]
    assert "0 in the same words, 1 nearly" in found.told()


@needs_minhash
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), min_size=1, max_size=6),
)
def test_every_match_is_one(training: list[list[str]], evaluated: list[list[str]]) -> None:
    """Nothing that MinHash proposes is taken unseen: similarities are those of the n-grams."""
    found = find_overlap(records(*map(" ".join, training)), records(*map(" ".join, evaluated)))
    same = sum(one in training for one in evaluated)
    assert found.exact == same
    for match in found.matches:
        assert match.same or NEAR <= match.similarity <= 1


def test_the_check_says_it(tmp_path: Path) -> None:
    train, evaluated = demonstrations(8), demonstrations(9)[6:]
    paths = [str(write(tmp_path / f"{n}.jsonl", rows)) for n, rows in enumerate((train, evaluated))]
    result = CliRunner().invoke(data, ["check", paths[0], "--against", paths[1]])
    assert result.exit_code == 0, result.output
    assert "2 of 3 evaluation records have a prompt that is trained on" in result.output
    assert f"{paths[1]}:1 and {paths[0]}:7: same words, same response" in result.output
    report = json.loads(CliRunner().invoke(data, ["check", paths[0], "--against", paths[1], "--json"]).output)
    assert len(report["against"][paths[1]]["matches"]) == 2


def test_evaluation_data_without_responses_is_read_by_its_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", demonstrations(4))
    rows = [{"question": row["prompt"], "answer": 4} for row in demonstrations(2)]
    exam = write(tmp_path / "exam.jsonl", rows)
    result = CliRunner().invoke(data, ["check", str(path), "--against", str(exam), "--show", "0"])
    assert "2 of 2 evaluation records have a prompt that is trained on" in result.output
    missing = CliRunner().invoke(data, ["check", str(path), "--against", "absent.jsonl"])
    assert missing.exit_code == 1
