"""Reward-augmented data: the relabelling rule, the goal text, scales, what is left out, and asking for a score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build
from coalign.data.encoding import encode_records
from coalign.data.records import Messages, Preference, Ranking, Source
from coalign.models.methods import get_method, open_methods
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.preference.data.goal_conditioning import (
    Scale,
    format_score,
    goal_placement,
    goal_reward,
    relabel,
    relabel_pair,
    with_goal,
)
from coalign.preference.data.goal_generation import GoalGenerator, GoalOptions, goal_generator
from coalign.preference.reward_augmented import OBJECTIVE, RewardAugmentedConstants
from coalign.training.objective import get_objective
from tests.preference.fitting import fit_tiny
from tests.preference.tiny_chat import NO_SYSTEM, TEMPLATE, tiny_tokenizer
from tests.preference.tiny_runs import pairs

PROMPT: Messages = [{"role": "user", "content": "Why?"}]
scores = st.integers(2, 20).map(lambda n: n / 2)


def pair(better: float | None = 9.0, worse: float | None = 4.0, **fields: object) -> Preference:
    given = {"prompt": PROMPT, "chosen": "good", "rejected": "bad", **fields}
    return Preference(chosen_score=better, rejected_score=worse, **given)  # type: ignore[arg-type]


def goal_shown(row: Preference) -> str:
    return row.prompt[0]["content"].split("\n\n")[0].rsplit(": ", 1)[1]


# the rule


@given(better=scores, worse=scores)
def test_every_row_prefers_the_response_that_is_closer_to_its_goal(better: float, worse: float) -> None:
    value = {"good": better, "bad": worse}
    rows = relabel_pair(pair(better, worse))
    assert [row.extra["goal"] for row in rows] == [better, worse]
    for row, goal in zip(rows, (better, worse), strict=True):
        assert goal_shown(row) == format_score(goal)
        given = torch.tensor([value[row.chosen], value[row.rejected]])
        rewards = goal_reward(given, torch.full((2,), goal)).tolist()
        assert rewards[0] >= rewards[1]
        assert [row.chosen_score, row.rejected_score] == pytest.approx(rewards)
    assert (rows[0].chosen, rows[0].rejected) == (rows[1].rejected, rows[1].chosen)


def test_both_responses_of_a_row_see_the_same_prompt_and_rows_share_nothing() -> None:
    rows = relabel_pair(pair(extra={"id": 3}))
    assert rows[0].prompt is not rows[1].prompt
    assert all(one is not other for one, other in zip(rows[0].prompt, rows[1].prompt, strict=True))
    assert all(row.prompt[1:] == PROMPT and row.extra["id"] == 3 for row in rows)
    assert PROMPT == [{"role": "user", "content": "Why?"}]


def test_a_pair_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="without scores"):
        relabel_pair(pair(None))


# the goal text


@pytest.mark.parametrize(("score", "shown"), [(9.0, "9"), (7.5, "7.5"), (10, "10"), (-1.0, "-1")])
def test_whole_scores_are_shown_without_a_point(score: float, shown: str) -> None:
    assert format_score(score) == shown


def test_the_goal_text_goes_into_the_system_message() -> None:
    (system, user) = with_goal(PROMPT, 10)
    assert system["role"] == "system"
    assert system["content"].endswith("Overall score: 10")
    assert user == PROMPT[0]
    both = with_goal([{"role": "system", "content": "Be kind."}, *PROMPT], 7.5)
    assert [one["role"] for one in both] == ["system", "user"]
    assert both[0]["content"].startswith("Be kind.\n\n")
    assert both[0]["content"].endswith(": 7.5")


def test_the_goal_text_goes_before_the_first_user_message() -> None:
    chat: Messages = [*PROMPT, {"role": "assistant", "content": "Because."}, *PROMPT]
    goal = with_goal(chat, 10, placement="user")
    assert goal[0]["content"] == f"{Scale().goal_text(10)}\n\nWhy?"
    assert goal[1:] == chat[1:]
    assert with_goal([], 10, placement="user") == [{"role": "user", "content": Scale().goal_text(10)}]


def test_the_scale_is_named() -> None:
    assert "from 0 to 5" in Scale(0, 5).goal_text(4)
    with pytest.raises(ValueError, match="empty"):
        Scale(5, 5)


@pytest.mark.parametrize(
    ("template", "placement"),
    [
        (TEMPLATE, "system"),
        (NO_SYSTEM, "user"),
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}", "user"),
        (None, "user"),
    ],
)
def test_the_template_decides_the_place(template: str | None, placement: str) -> None:
    assert goal_placement(tiny_tokenizer(template)) == placement


def test_conditioned_pairs_encode_under_a_template_without_a_system_role() -> None:
    tokenizer = tiny_tokenizer(NO_SYSTEM)
    rows = relabel([pair()], placement=goal_placement(tokenizer)).records
    with pytest.raises(DataError):
        encode_records(relabel([pair()]).records, tokenizer)
    encoded = encode_records(rows, tokenizer).records
    assert len(encoded) == 2
    assert "Overall score: 4" in str(tokenizer.decode(encoded[1].prompt_ids))


# data sets


@given(values=st.lists(st.tuples(scores, scores), max_size=12), share=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_nothing_disappears_without_a_count(
    values: list[tuple[float, float]], share: float, seed: int
) -> None:
    records = [pair(better, worse, chosen="bad" if better == 2 else "good") for better, worse in values]
    result = relabel(records, share=share, seed=seed)
    used = len(result.records) // 2
    assert len(result.records) == 2 * used
    assert used + result.ties + result.identical + result.inconsistent + result.unused == len(values)
    ranked = sum(better != worse and better != 2 for better, worse in values)
    assert used == round(share * ranked)
    assert result.records == relabel(records, share=share, seed=seed).records


def test_half_keeps_the_number_of_rows() -> None:
    assert len(relabel([pair(9 - n / 10, 2) for n in range(20)], share=0.5).records) == 20


def ranking(values: Sequence[float], **fields: object) -> Ranking:
    texts = tuple(f"answer {n}" for n in range(len(values)))
    return Ranking(prompt=PROMPT, responses=texts, scores=tuple(values), **fields)  # type: ignore[arg-type]


def test_rankings_give_the_best_against_another() -> None:
    records = [ranking([3.0, 9.0, 5.0, 1.0])] * 40
    rows = relabel(records).records
    assert {row.chosen for row in rows[::2]} == {"answer 1"}
    assert {row.rejected for row in rows[::2]} == {"answer 0", "answer 2", "answer 3"}
    assert {goal_shown(row) for row in rows[::2]} == {"9"}
    assert {goal_shown(row) for row in rows[1::2]} == {"3", "5", "1"}


def test_pairs_whose_ratings_contradict_the_scores_are_left_out() -> None:
    agree = pair(extra={"fine": [[4, 5], [1, 2]]})
    contradict = pair(extra={"fine": [2, 3.5]})
    ranked = ranking([3.0, 9.0], extra={"fine": [1, 2]})
    result = relabel([agree, contradict, ranked], ratings="fine")
    assert (len(result.records), result.inconsistent) == (4, 1)


@pytest.mark.parametrize("ratings", [None, [1], "high", [[], 1], ["a", 2]])
def test_ratings_that_cannot_be_read_are_named(ratings: object) -> None:
    record = pair(extra={"fine": ratings}, source=Source("pairs.jsonl", 8))
    with pytest.raises(DataError, match=r"pairs\.jsonl:8: fine"):
        relabel([record], ratings="fine")


def test_missing_scores_are_named() -> None:
    records = [pair(), pair(None, source=Source("pairs.jsonl", 4))]
    with pytest.raises(DataError, match=r"1 of 2 pairs.*\n.*pairs\.jsonl:4: scores"):
        relabel(records)


def test_scores_outside_the_scale_are_named_or_rescaled() -> None:
    records = [
        replace(pair(better, worse), source=Source(file))
        for file, better, worse in (("a", 0.5, -1.5), ("a", 0.0, -0.5), ("b", 100.0, 50.0))
    ]
    with pytest.raises(DataError, match="outside the scale") as caught:
        relabel(records)
    assert len(caught.value.problems) == 6
    rows = relabel(records, rescale=True).records
    assert [row.extra["goal"] for row in rows] == [10.0, 1.0, 7.8, 5.5, 10.0, 1.0]


def test_nan_scores_are_named() -> None:
    with pytest.raises(DataError, match="outside the scale"):
        relabel([pair(float("nan"))])


# training


def test_the_constants_fit_the_objective() -> None:
    constants = build(RewardAugmentedConstants, {"label_smoothing": 0.3})
    assert constants.beta == 0.01
    assert isinstance(constants, get_objective(OBJECTIVE).constants)


def test_training_tells_the_goals_apart(tmp_path: Path) -> None:
    rows = relabel([pair(9.0, 2.0)] * 2).records
    constants = build(RewardAugmentedConstants, {"beta": 1.0})
    result = fit_tiny(tmp_path, rows, OBJECTIVE, constants, max_steps=15, batch_size=4, max_length=400)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert losses[0] == pytest.approx(0.693, abs=1e-3)
    assert min(losses) < 0.68


def test_held_out_pairs_are_rescaled_like_the_training_pairs() -> None:
    training, held_out = [pair(1.0, 0.0)], [pair(0.5, 0.0)]
    found = relabel(held_out, rescale=True, range_from=[*training, *held_out])
    assert [row.extra["goal"] for row in found.records] == [5.5, 1.0]
    assert [row.extra["goal"] for row in relabel(held_out, rescale=True).records] == [10.0, 1.0]


QUESTION: Any = [{"role": "user", "content": "Why?"}]


class Echo:
    """Remembers what it was asked."""

    def __init__(self, folder: Path | str = "") -> None:
        self.asked: list[Any] = []
        self.tokenizer = SimpleNamespace(name_or_path=str(folder))

    def generate(self, prompts: Sequence[Any], sampling: Sampling, **rest: Any) -> list[list[Generation]]:
        self.asked += prompts
        return [[Generation("So.")] for _ in prompts]


class Streamer(Echo):
    def stream(self, prompts: Sequence[Any], sampling: Sampling) -> Iterator[str]:
        self.asked += prompts
        yield "So."


def asked_of(options: dict[str, Any], inner: Echo) -> Any:
    goal_generator(build(GoalOptions, options), inner).generate([QUESTION], Sampling())
    return inner.asked[-1]


def test_the_highest_score_is_asked_for_by_default() -> None:
    asked = asked_of({}, Echo())
    assert asked[0]["role"] == "system"
    assert asked[0]["content"].endswith("Overall score: 10")
    assert "from 1 to 10" in asked[0]["content"]
    assert asked[1:] == QUESTION
    assert asked_of({"goal": 7.5, "placement": "user"}, Echo())[0]["content"].endswith("7.5\n\nWhy?")


def test_the_scale_is_that_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "goal.json").write_text(json.dumps({"placement": "user", "lowest": 0, "highest": 4}))
    asked = asked_of({}, Echo(tmp_path))
    assert "from 0 to 4" in asked[0]["content"]
    assert asked[0]["content"].endswith("Overall score: 4\n\nWhy?")
    assert "from 0 to 5" in asked_of({"highest": 5}, Echo(tmp_path))[0]["content"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": 11}, "goal: 11 is off the scale"),
        ({"lowest": 10}, "is empty"),
        ({"goal": 0}, "expected 1 to 10"),
    ],
)
def test_goals_off_the_scale_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked_of(options, Echo())
    assert message in str(caught.value)


def test_text_and_streams_get_the_goal() -> None:
    inner = Streamer()
    generator = GoalGenerator(inner, 3, scale=Scale(), placement="system")
    generator.generate(["Once upon"], Sampling())
    assert inner.asked[0].endswith("Overall score: 3\n\nOnce upon")
    assert list(generator.stream([QUESTION], Sampling())) == ["So."]
    assert inner.asked[1][0]["content"].endswith("Overall score: 3")
    assert not hasattr(GoalGenerator(Echo(), 3, scale=Scale(), placement="system"), "stream")
    assert not hasattr(generator, "model")


def test_a_trained_model_is_asked_on_its_own_scale(learn: Any) -> None:
    rows = pairs(chosen_score=4, rejected_score=2)
    run = learn("reward-augmented", rows, lowest=0, highest=5, max_steps=1, eval_fraction=0.0)
    assert json.loads((run.model / "goal.json").read_text())["highest"] == 5
    generator = open_methods(["reward-augmented"], {}, ModelOptions(model=str(run.path), device="cpu"))
    assert isinstance(generator, GoalGenerator)
    asked: Any = generator.asked(QUESTION)
    assert asked[0]["content"].endswith("Overall score: 5")
    ((sample,),) = generator.generate([QUESTION], Sampling(max_new_tokens=2))
    assert sample.length <= 2
    assert get_method("reward-augmented").wrap is not None
