"""Pairs of a model's own answers: which are unlike the given one, which are right, and the run that writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.loops.answer_pairs import run as answer_pairs
from coalign.loops.answer_pairs.choosing import dissimilar, drawn_pairs, right_and_wrong
from tests.preference.tiny_runs import demonstrations, write

TEXTS = st.lists(st.sampled_from(["a", "b", " ", "c", "dd"]), min_size=1, max_size=12)


@given(TEXTS, st.data(), st.floats(0.05, 1.0))
def test_unlike_answers_are_different_texts_and_none_is_the_most_similar(
    texts: list[str], data: st.DataObject, ratio: float
) -> None:
    values = {text: data.draw(st.integers(0, 4)) / 4 for text in dict.fromkeys(texts)}
    similarities = [values[text] for text in texts]
    ranks, kept = dissimilar(texts, similarities, ratio)
    assert min(ranks) == 0
    assert len({texts[one] for one in kept}) == len(kept)
    assert all(texts[one].strip() and similarities[one] < max(similarities) for one in kept)
    least = max((similarities[one] for one in kept), default=-1.0)
    left = [one for text, one in values.items() if text.strip() and one < least]
    assert len([one for one in kept if similarities[one] < least]) == len(left)


def test_right_and_wrong_leave_out_what_is_neither() -> None:
    texts, rewards = ["x", "x", "y", "z", "w", " "], [1.0, 1.0, 0.0, float("nan"), 0.5, 0.0]
    assert right_and_wrong(texts, rewards, right_from=1.0, wrong_to=0.0) == ([0], [2])


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 8), st.integers(0, 9))
def test_no_response_stands_oftener_than_it_must(better: int, worse: int, most: int, seed: int) -> None:
    pairs = drawn_pairs([*range(better)], [*range(10, 10 + worse)], most, seed)
    assert len(set(pairs)) == len(pairs) == (min(most, max(better, worse)) if better and worse else 0)
    for side, size in ((0, better), (1, worse)):
        counts = [sum(pair[side] == one for pair in pairs) for one in {pair[side] for pair in pairs}]
        assert max(counts, default=0) <= -(-len(pairs) // max(size, 1))


def start(folder: Path, model: str, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    data = write(folder / "rows.jsonl", demonstrations())
    given = {"model": model, "data": str(data), "device": "cpu", "samples": 4, "max_new_tokens": 4, **options}
    config = build(answer_pairs.Config, given)
    run = Run.start(folder / "run", "answer-pairs", config)
    answer_pairs.run(config, run)
    run.set_status(state="done")
    return run


def encoder(folder: Path) -> str:
    from tests.contract.small import MODELS

    MODELS["encoder"](folder)
    return str(folder)


def test_given_answers_are_preferred_to_the_models_own(tmp_path: Path, tiny_model: str) -> None:
    run = start(tmp_path, tiny_model, encoder=encoder(tmp_path / "encoder"), rejected=2)
    records = read_records(str(run.path), kind="preference").records
    chosen = {one["completion"] for one in demonstrations()}
    assert records
    assert {one.chosen for one in records} <= chosen
    answers = {text for row in read_rows(run.artefacts / "answers.jsonl") for text in row["responses"]}
    assert {one.rejected for one in records} <= answers
    assert len(records) % 2 == 0


def test_right_answers_are_demonstrations(tmp_path: Path, tiny_model: str) -> None:
    code = tmp_path / "even.py"
    code.write_text(
        "def even(completions, **columns):\n"
        "    texts = [one if isinstance(one, str) else one[-1]['content'] for one in completions]\n"
        "    return [float(sum(map(ord, one)) % 2 == 0) for one in texts]\n"
    )
    run = start(tmp_path, tiny_model, reward=[f"{code}:even"], give="demonstrations")
    shown = read_records(str(run.path), kind="demonstration").records
    assert shown
    assert all(sum(map(ord, one.completion)) % 2 == 0 for one in shown)
    for pair in read_records(str(run.artefacts / "pairs.jsonl"), kind="preference").records:
        assert (sum(map(ord, pair.chosen)) % 2, sum(map(ord, pair.rejected)) % 2) == (0, 1)


def test_nothing_that_is_right_says_what_to_do(tmp_path: Path, tiny_model: str) -> None:
    with pytest.raises(CoalignError, match="no pairs came of the answers"):
        start(tmp_path, tiny_model, reward=["max_words:100"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": ["max_words:3"], "unlike": 0.5}, "unlike has no effect with a reward"),
        ({"right_from": 0.5}, "right_from has no effect without reward"),
        ({"give": "demonstrations"}, "give has no effect without reward"),
        ({"combine": "min"}, "combine has no effect without a reward"),
        ({"reward": ["max_words:3"], "wrong_to": 1.0}, "expected less than right_from"),
        ({"adapter_rank": 3}, "nothing is trained"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(answer_pairs.Config, {"data": "x", **options})
