"""Ways of making answers: scores, rankings with their certainty, common questions, examples that stand before a question."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.checks.worlds.records.strategies import read_strategies
from coalign.checks.worlds.words.styles import KNOWN, STYLES, Digits, is_right, shown_before
from coalign.core.errors import ConfigError, DataError
from coalign.curation.answer_styles import scores
from coalign.curation.answer_styles.questions import (
    REQUEST,
    Own,
    common_questions,
    examples_of,
    fitted,
    shown_with,
)
from coalign.curation.answer_styles.questions import is_right as answer_is_right
from coalign.curation.response_selection import Config
from coalign.data.records import Demonstration
from tests.preference.tiny_runs import pairs, save_tiny_model, write

MEAN = scores.over_questions("mean")
values = st.lists(st.floats(-5, 5), min_size=2, max_size=12)


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=40))
def test_perplexity_is_at_least_one_and_that_of_a_constant_is_its_inverse_probability(
    logps: list[float],
) -> None:
    assert scores.perplexity(logps) >= 1 - 1e-12
    assert scores.perplexity([logps[0]] * 5) == pytest.approx(math.exp(-logps[0]))


def test_an_answer_that_nothing_stands_before_has_no_ifd() -> None:
    assert scores.ifd_ratio(1.0, 2.0) == 0.5
    assert scores.ifd_ratio(1.0, math.nan) is None
    assert scores.ifd_ratio(1.0, 0.0) is None


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_similarities_are_cosines(layers: int, tokens: int, width: int) -> None:
    draw = np.random.default_rng(layers + 10 * tokens + 100 * width)
    one, other = draw.normal(size=(layers, tokens, width)), draw.normal(size=(layers, tokens + 2, width))
    assert scores.layer_similarities(one, one) == pytest.approx(np.ones(layers))
    assert scores.layer_similarities(one, 3 * other) == pytest.approx(scores.layer_similarities(one, other))
    assert scores.layer_similarities(0 * one, other).tolist() == [0.0] * layers


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_the_window_moves_through_the_whole_pool(question: int, pool: int, examples: int) -> None:
    places = scores.example_places(question, pool, examples)
    assert len(places) == min(examples, pool) == len({*places})
    assert {one for n in range(pool) for one in scores.example_places(n, pool, examples)} == {*range(pool)}


@given(st.lists(values, min_size=2, max_size=4).filter(lambda rows: len({*map(len, rows)}) == 1))
def test_a_ranking_turns_with_the_sign(rows: list[list[float]]) -> None:
    named = {str(n): row for n, row in enumerate(rows)}
    lower = scores.rank(named, "lower", MEAN, resamples=20)
    higher = scores.rank(
        {name: [-one for one in row] for name, row in named.items()}, "higher", MEAN, resamples=20
    )
    assert lower.order == higher.order
    assert lower.shares == higher.shares
    assert sum(lower.shares.values()) == pytest.approx(1)
    assert lower.lead is not None
    assert lower.lead.mean >= 0


def test_equal_strategies_keep_their_order_and_share_a_rank() -> None:
    found = scores.rank({"b": [1, 2], "a": [1, 2], "c": [0, 1]}, "lower", MEAN)
    assert found.order == ["c", "b", "a"]
    assert found.ranks() == {"b": 2, "a": 2, "c": 1}
    assert found.shares["c"] == 1


def test_a_clear_lead_excludes_zero_and_an_outlier_moves_the_mean_alone() -> None:
    clear = scores.rank({"a": [1.0] * 20, "b": [2.0, 2.2] * 10}, "lower", MEAN)
    assert clear.lead is not None
    assert clear.lead.low > 0.9
    odd = {"a": [1.0] * 9 + [1000.0], "b": [2.0] * 10}
    assert scores.rank(odd, "lower", MEAN).chosen == "b"
    assert scores.rank(odd, "lower", scores.over_questions("median")).chosen == "a"


def test_what_cannot_be_ranked_is_refused() -> None:
    for wrong in ({}, {"a": []}, {"a": [1.0], "b": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="ragged or empty"):
            scores.rank(wrong, "lower", MEAN)


def test_reward_per_loss_is_that_of_the_means() -> None:
    assert float(scores.reward_per_loss([2.0, 4.0], [1.0, 3.0], beta=3.0)) == pytest.approx(3 / 7)


def answer(strategy: str, prompt: str, text: str, **columns: Any) -> Demonstration:
    turns: Any = [{"role": "user", "content": prompt}]
    return Demonstration(prompt=turns, completion=text, extra={"strategy": strategy, **columns})


def test_strategies_are_compared_on_the_same_questions_and_the_rest_is_told() -> None:
    rows = [answer("a", f"Q{n}", "x") for n in range(4)] + [answer("b", f"Q{n}", "y") for n in (3, 1)]
    notes: list[str] = []
    found = common_questions([*rows, answer("b", "Q1", "z")], "strategy", None, notes)
    assert [one.prompt[0]["content"] for one in found] == ["Q1", "Q3"]
    assert found[0].answers["b"].completion == "y"
    assert notes == [
        "a: left out 2 questions that not every strategy answers",
        "b: left out 1 further answers to the same question",
    ]


def test_answers_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one strategy \(a\)"):
        common_questions([answer("a", "Q", "x")], "strategy", None, [])
    with pytest.raises(DataError, match="strategy: is missing"):
        common_questions([answer("", "Q", "x")], "strategy", None, [])
    with pytest.raises(DataError, match="answered by every strategy"):
        common_questions([answer("a", "Q", "x"), answer("b", "P", "x")], "strategy", None, [])
    with pytest.raises(DataError, match="gold: is missing"):
        common_questions([answer("a", "Q", "x"), answer("b", "Q", "x")], "strategy", "gold", [])


def test_no_answer_stands_before_its_own_question() -> None:
    rows = [answer(name, f"Q{n}", "x") for name in "ab" for n in range(6)]
    questions = common_questions(rows, "strategy", None, [])
    pool = [Own(one.id, one.prompt[0]["content"]) for one in questions]
    for one in questions:
        shown = examples_of(one, pool, 3)
        assert len({*shown}) == 3
        assert one.prompt[0]["content"] not in shown


def test_examples_that_do_not_fit_are_left_out_from_the_end() -> None:
    question = common_questions([answer(name, "Why?", "So.") for name in "ab"], "strategy", None, [])[0]
    pool = [Own(str(n), f"example {n}") for n in range(4)]

    def tokens(prompt: Any, answers: Any) -> int:
        return len(prompt[-1]["content"]) + max(map(len, answers))

    whole = fitted(question, pool, 3, tokens, 10_000)
    assert whole is not None
    assert whole.examples == 3
    cut = fitted(question, pool, 3, tokens, tokens(whole.prompt, whole.texts) - 1)
    assert cut is not None
    assert cut.examples == 2
    assert whole.prompt[0]["content"].startswith(cut.prompt[0]["content"].partition("example 1")[0])
    bare = fitted(question, pool, 3, tokens, 10)
    assert bare is not None
    assert (bare.prompt, bare.examples) == (question.prompt, 0)
    assert fitted(question, pool, 3, tokens, 3) is None


def test_examples_stand_between_question_and_request() -> None:
    turns: Any = [{"role": "system", "content": "S"}, {"role": "user", "content": "Why?"}]
    system, last = shown_with(turns, ["one", "two"])
    assert system == turns[0]
    text = last["content"]
    assert text.startswith("Why?")
    assert text.endswith(REQUEST)
    assert text.index("one") < text.index("two")
    assert shown_with(turns, []) is turns


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("So the answer is 18.", "18", True),
        ("#### 1,000", "1000", True),
        ("It is 3.", "4", False),
        ("No idea.", "4", False),
    ],
)
def test_final_answers_are_compared(text: str, gold: str, right: bool) -> None:
    assert answer_is_right(text, gold) == right


def test_every_style_of_the_world_ends_with_the_answer() -> None:
    for a, b, c in ((0, 0, 0), (9, 9, 9), (3, 8, 4)):
        one = Digits(a, b, c)
        assert all(is_right(style(one), one) for style in STYLES.values())
    assert KNOWN.keys() < STYLES.keys()
    assert shown_before(Digits(1, 2, 3), [" x", " y"]) == "A : x\nA : y\nQ : 1 2 3 ?\nA :"


def test_stored_records_are_read_and_a_folder_without_is_refused(tmp_path: Path) -> None:
    book = tmp_path / "Mix_Score_Ranking_Calculation/Mix_Score_record/record_book"
    runs = tmp_path / "log_total/experiment_data_recorder/mistral/1000/2e-05/20"
    book.mkdir(parents=True)
    runs.mkdir(parents=True)
    names = ("claude", "step_by_step", "gold_label")
    mine, plain = (
        {f"toy_{name}": make(n) for n, name in enumerate(names)}
        for make in (float, lambda n: {"perplexity": n + 1})
    )
    (book / "300_icppl_mistral_toy_0_100_main_3_examples.json").write_text(json.dumps(mine))
    (book / "300_other_metrics_mistral_toy_0_100_unprocessed.json").write_text(json.dumps(plain))
    for stem, said in (
        ("claude_", ("0.5", "1.0")),
        ("gpt4_variation_step_by_step", ("1e-1",)),
        ("groundtruth_variation_gold_label", ("0",)),
    ):
        for seed, text in enumerate(said):
            (runs / f"toy_{stem}_{seed}.txt").write_text(text)
    (one,) = read_strategies(tmp_path)
    assert one.accuracies == {"claude": 0.75, "step_by_step": 0.1, "gold_label": 0.0}
    assert one.perplexity == {"claude": 1, "step_by_step": 2, "gold_label": 3}
    with pytest.raises(DataError, match="no stored scores"):
        read_strategies(tmp_path / "log_total")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", context=2048)


def test_tags_name_strategies_and_own_answers_may_be_given(tmp_path: Path, model: Path) -> None:
    from coalign.curation import response_selection

    sources = []
    for name in ("chosen", "rejected"):
        rows = [{"prompt": row["prompt"], "completion": row[name], "right": "4"} for row in pairs(4)]
        sources.append(f"{write(tmp_path / f'{name}.jsonl', rows)},tag={name}")
    own = [
        {"prompt": f"What, {n}?", "completion": f"It is {4 if n % 2 else 5}", "right": "4"} for n in range(6)
    ]
    options: dict[str, Any] = {
        "data": sources,
        "model": str(model),
        "device": "cpu",
        "gold": "right",
        "examples": 2,
    }
    options["own_answers"] = str(write(tmp_path / "own.jsonl", own))
    from coalign.cli.running.run import execute
    from coalign.core.options import build

    run = execute("response-selection", response_selection, build(Config, options), tmp_path / "run")
    found = json.loads((run.artefacts / "results.json").read_text())
    assert {*found["scores"]} == {"perplexity", "log_probability", "ifd", "self_aligned"}
    assert found["right"] == {"chosen": 0.0, "rejected": 0.0}
    assert any("3 of 6 own answers are shown" in event["note"] for event in run.events("data"))
    assert run.records is not None
    chosen = [json.loads(line) for line in run.records.read_text().splitlines()]
    assert len(chosen) == 4
    rows = [json.loads(line) for line in (run.artefacts / "scores.jsonl").read_text().splitlines()]
    mean = np.mean([row["perplexity"] for row in rows if row["strategy"] == "chosen"])
    assert found["scores"]["perplexity"]["strategies"]["chosen"] == pytest.approx(mean)
