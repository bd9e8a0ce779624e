"""A verifier that hangs or fails costs its response its value, and nothing else; columns of prompts as arguments."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.data.records import PromptRecord, Source
from coalign.judging.rewards.mix import Draft
from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward
from coalign.judging.verifiers.constraints import Constraint
from coalign.judging.verifiers.isolation import IsolatedVerifiers, verify_here
from coalign.judging.verifiers.registry import _REGISTRY, NotScorableError
from coalign.measures import symbolic


@pytest.fixture
def difficult() -> Iterator[Constraint]:
    import importlib

    import tests.rewards.hanging as hanging

    if "test_difficult" not in _REGISTRY:
        importlib.reload(hanging)
    yield Constraint("test_difficult")
    del _REGISTRY["test_difficult"]


def test_one_that_hangs_fails_or_dies_costs_its_response_alone(difficult: Constraint):
    isolated = IsolatedVerifiers(seconds=20.0)
    assert isolated([(difficult, "q", "fine")]) == [1.0]
    isolated.seconds = 1.0
    started = time.monotonic()
    values = isolated([(difficult, "q", text) for text in ("fine", "sleep", "raise", "fine")])
    assert time.monotonic() - started < 50
    assert [math.isnan(one) for one in values] == [False, True, True, False]
    assert (isolated.late, isolated.failed) == (1, 1)
    assert math.isnan(isolated([(difficult, "q", "exit")])[0])
    isolated.seconds = 20.0
    assert isolated([(difficult, "q", "fine")]) == [1.0]
    isolated.close()


def test_the_process_ends_with_its_owner():
    isolated = IsolatedVerifiers()
    isolated([(Constraint("no_commas"), "q", "fine")])
    process = isolated._worker.process  # type: ignore[union-attr]
    assert process.poll() is None
    del isolated
    gc.collect()
    assert process.poll() is not None


def test_values_are_those_of_the_same_verifiers_here():
    checks = [
        (Constraint("max_words", {"n": 2}), "q", "one two three"),
        (Constraint("all_of", {"constraints": [{"verifier": "no_commas"}]}), "q", "one"),
        (Constraint("final_answer", {"answer": "42"}), "q", "It is 42."),
    ]
    isolated = IsolatedVerifiers()
    assert isolated(checks) == verify_here(checks) == [0.0, 1.0, 1.0]
    isolated.close()


@pytest.mark.skipif(not symbolic.is_available(), reason="needs the extra 'math'")
def test_formulas_are_scored_also_off_the_main_thread():
    right, wrong = (
        (Constraint("final_answer", {"answer": "x^2+2x+1"}), "q", rf"\boxed{{{text}}}")
        for text in ("(x+1)^2", "(x+2)^2")
    )
    found: list[Any] = []

    def work() -> None:
        found.append(verify_here([right, wrong]))
        isolated = IsolatedVerifiers(seconds=60.0)
        found.append(isolated([right, wrong]))
        isolated.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[1.0, 0.0], [1.0, 0.0]]


def test_what_cannot_be_compared_is_neither_right_nor_wrong():
    constraint = Constraint("final_answer", {"answer": "3.5"})
    with pytest.raises(NotScorableError, match="cannot be compared"):
        constraint.verify("q", "The answer is 3,5")
    assert math.isnan(verify_here([(constraint, "q", "The answer is 3,5")])[0])


def prompt(number: int, **columns: Any) -> PromptRecord:
    return PromptRecord(
        prompt=[{"role": "user", "content": "q"}], source=Source("p.jsonl", number + 1, number), extra=columns
    )


def test_an_argument_may_be_a_column_of_each_prompt():
    options = RewardOptions(
        reward=["final_answer:{answer}", "must_include:{words}@0.5", {"verifier": "max_words", "n": "{most}"}]
    )
    prompts = {
        0: prompt(0, answer=3, words=["sea", "sky"], most=2),
        1: prompt(1, answer="1,000", words="sun", most=9),
    }
    mix = build_rewards(options, columns=prompts)
    drafts = [Draft(0, "q", "sea 3"), Draft(1, "q", "the sun has 1000")]
    assert mix.names == ["final_answer:{answer}", "must_include:{words}", "max_words:n={most}"]
    assert mix.values(drafts) == [[1.0, 0.5, 1.0], [1.0, 1.0, 1.0]]


def test_prompts_without_an_answer_are_named():
    prompts = {0: prompt(0, answer="3"), 1: prompt(1), 2: prompt(2, answer=" ")}
    with pytest.raises(DataError) as caught:
        build_rewards(RewardOptions(reward=["final_answer:{answer}"]), columns=prompts)
    text = str(caught.value)
    assert "2 of 3 prompts cannot be rewarded by final_answer:{answer}" in text
    assert "p.jsonl:2: answer: is missing" in text
    assert "p.jsonl:3: answer: " in text
    with pytest.raises(ConfigError, match="read by training"):
        build_rewards(RewardOptions(reward=["final_answer:{answer}"]))


def test_a_column_for_an_unknown_argument_is_refused():
    with pytest.raises(ConfigError, match="is not an argument"):
        parse_reward({"verifier": "max_words", "m": "{most}"})
