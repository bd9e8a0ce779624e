"""How rewards are written, and how several become one."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import build
from coalign.judging.protocol import Opinion, PairVerdict, Rating
from coalign.judging.rewards.comparing import ComparisonReward
from coalign.judging.rewards.mix import (
    ConstraintReward,
    Draft,
    JudgeReward,
    ModelReward,
    OwnConstraintsReward,
    RewardMix,
    Weighted,
    combine_rewards,
    standardised,
)
from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward
from coalign.judging.verifiers.constraints import Constraint


@pytest.mark.parametrize(
    ("text", "verifier", "args", "weight"),
    [
        ("max_words:20", "max_words", {"n": 20}, 1.0),
        ("must_include:river,stone@2", "must_include", {"keywords": ["river", "stone"]}, 2.0),
        ("words_between:low=10,high=20@-.5", "words_between", {"low": 10, "high": 20}, -0.5),
        ("words_between:10,20", "words_between", {"low": 10, "high": 20}, 1.0),
        ("starts_with:Dear, Sir: hello", "starts_with", {"phrase": "Dear, Sir: hello"}, 1.0),
        ("option_list:yes,no,mode=lenient", "option_list", {"options": ["yes", "no"], "mode": "lenient"}, 1.0),
        ("max_keyword_uses:keyword=a=b,n=2", "max_keyword_uses", {"keyword": "a=b", "n": 2}, 1.0),
        ("no_commas", "no_commas", {}, 1.0),
        ('{"verifier": "max_words", "n": 3, "weight": 2}', "max_words", {"n": 3}, 2.0),
        ({"verifier": "max_words", "args": {"n": 3}, "weight": 2}, "max_words", {"n": 3}, 2.0),
    ],
)  # fmt: skip
def test_verifiers(text, verifier, args, weight):
    spec = parse_reward(text)
    assert spec.constraint == Constraint(verifier, args)
    assert spec.weight == weight


def test_models_and_judges():
    spec = parse_reward("model:some/model,label=toxic@-1")
    assert (spec.kind, spec.arguments, spec.weight) == ("model", {"path": "some/model", "label": "toxic"}, -1)
    assert parse_reward({"model": "m", "label": "a", "weight": 3}).arguments == {"path": "m", "label": "a"}
    spec = parse_reward("judge:is it polite, and short?@0.3")
    assert (spec.kind, spec.criteria, spec.weight) == ("judge", "is it polite, and short?", 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_wrods:20", "Did you mean max_words"),
        ("max_words", "n: is missing"),
        ("max_words:x", "'x' is not usable, expected a whole number of at least 1"),
        ("max_words:0", "expected a whole number of at least 1"),
        ("no_commas:3", "expected none"),
        ("model:", "expected the model's path or hub id"),
        ("model:m,lable=x", "expected one of label="),
        ("judge:", "expected what to judge by"),
        ("{", "not JSON"),
        ({"weight": 2}, "expected a mapping with one of: verifier"),
        ({"verifier": "max_words", "n": 3, "weight": "much"}, "'much' is not a number"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_reward(text)
    assert message in str(caught.value)


def test_options_take_texts_and_mappings():
    sea = {"verifier": "must_include", "keywords": ["sea"]}
    mix = build_rewards(build(RewardOptions, {"reward": ["max_words:3@3", sea]}))
    drafts = [Draft(0, "q", "the sea"), Draft(0, "q", "a b c d"), Draft(0, "q", "a b c d sea")]
    assert mix.names == ["at most 3 words", "includes “sea”"]
    assert mix(drafts) == [1.0, 0.0, 0.25]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no reward"),
        ({"reward": ["max_words:3@0"]}, "all 0"),
        ({"reward": ["max_words:3@2"], "combine": "min"}, "leave their weights out"),
        ({"reward": ["max_words:3", "max_words:3@2"]}, "given twice"),
        ({"reward": ["constraints"]}, "coalign run"),
        ({"reward": ["max_words:3"], "judge_model": "x"}, "judge_model has no effect"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(ConfigError, match=message):
        build_rewards(RewardOptions(**options))


def test_a_verifier_of_groups_cannot_guide_a_search():
    with pytest.raises(ConfigError, match="cannot guide a search"):
        ConstraintReward(Constraint("numeric_order", {"relation": "below"}))


def test_all_of_and_one_of():
    drafts = [Draft(0, "q", "the sea"), Draft(0, "q", "a b c d")]
    rewards = ["max_words:3", "must_include:sea,sky"]
    assert build_rewards(RewardOptions(reward=rewards, combine="min"))(drafts) == [0.5, 0.0]
    assert build_rewards(RewardOptions(reward=rewards, combine="max"))(drafts) == [1.0, 0.0]


def test_each_prompt_has_its_own_constraints():
    reward = OwnConstraintsReward({0: [Constraint("max_words", {"n": 1}), Constraint("no_commas")], 2: []})
    drafts = [Draft(index, "q", "two words") for index in (0, 1, 2)]
    assert reward.score(drafts) == [0.5, 0.0, 0.0]


def test_a_text_is_asked_for_once():
    class Counting:
        name = "counting"

        def __init__(self):
            self.asked = []

        def score(self, drafts):
            self.asked.extend(one.text for one in drafts)
            return [float(len(one.text)) for one in drafts]

    reward = Counting()
    mix = RewardMix([Weighted(reward)])
    assert mix([Draft(0, "q", "a"), Draft(0, "q", "bb"), Draft(0, "q", "a")]) == [1.0, 2.0, 1.0]
    assert mix([Draft(0, "q", "bb"), Draft(1, "q", "bb")]) == [2.0, 2.0]
    assert reward.asked == ["a", "bb", "bb"]
    mix.forget()
    mix([Draft(0, "q", "bb")])
    assert len(reward.asked) == 4


def test_a_judge_without_a_verdict_is_not_scorable_and_counted():
    class Judge:
        name = "judge"

        def rate(self, items, *, rubric=None, scale=None, label=""):
            scores = [None if "bad" in item.responses[0] else scale.high for item in items]
            return [Rating(id="", score=one, failure=None) for one in scores]

    reward = JudgeReward(Judge(), "judge", "clarity")  # pyright: ignore[reportArgumentType]
    drafts = [Draft(0, "q", "good"), Draft(0, "q", "bad"), Draft(0, "q", "good too")]
    assert reward.score(drafts) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert (reward.asked, reward.failures) == (3, 1)
    assert RewardMix([Weighted(reward)])(drafts) == [1.0, 0.0, 1.0]  # a search goes on
    words = Weighted(ConstraintReward(Constraint("max_words", {"n": 1})))
    for combine in ("sum", "min", "max"):
        both = RewardMix([words, Weighted(reward)], combine=combine, unscorable="leave out")
        assert [math.isnan(one) for one in both(drafts)] == [False, True, False]
    scaled = RewardMix([words, Weighted(reward)], normalise=True, unscorable="leave out")(drafts)
    assert math.isnan(scaled[1])
    assert scaled[0] > scaled[2]


def test_a_reward_model_that_gives_no_number_spoils_no_other_response():
    class Model:
        def score(self, prompts, responses):
            if "bad" in responses:
                raise ModelError("not numbers")
            return [float(len(one)) for one in responses]

    reward = ModelReward(Model(), "model")  # pyright: ignore[reportArgumentType]
    drafts = [Draft(0, "q", "a"), Draft(0, "q", "bad"), Draft(0, "q", "ccc")]
    assert reward.score(drafts) == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    with pytest.raises(ModelError, match="no lowest value"):
        RewardMix([Weighted(reward)])(drafts)


def test_a_prefilled_beginning_is_valued_too():
    prompt = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "The sea"}]
    draft = Draft.of(0, prompt, " is wide", True)  # pyright: ignore[reportArgumentType]
    assert draft.text == "The sea is wide"
    assert draft.question == "q"


numbers = st.floats(-1e3, 1e3, allow_nan=False)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=6), st.integers(0, 3))
def test_standardised_columns_have_no_scale(rows, shift):
    groups = [place % 2 for place in range(len(rows))]
    scaled = [[one * 8 + shift for one in row] for row in rows]
    for one, other in zip(standardised(rows, groups), standardised(scaled, groups), strict=True):
        assert one == pytest.approx(other, abs=1e-4) or max(map(abs, one + other)) < 3


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(numbers, min_size=3, max_size=3), st.lists(st.floats(0.1, 5), min_size=3, max_size=3))
def test_a_mixture_lies_between_its_rewards(values, weights):
    mixed = combine_rewards([values], weights)[0]
    assert min(values) - 1e-6 <= mixed <= max(values) + 1e-6


def test_comparisons_are_the_share_of_the_others_that_are_beaten():
    class Judge:
        name = "judge"

        def compare(self, items, *, rubric=None, **terms):
            def choice(item, swapped):
                first, second = item.responses
                if "mute" in (first, second):
                    return None
                better = "first" if len(first) >= len(second) else "second"
                return better if "torn" not in (first, second) or swapped else "tie"

            return [
                PairVerdict(
                    id=one.id,
                    opinions=tuple(Opinion(choice=choice(one, each), swapped=each) for each in (False, True)),
                )
                for one in items
            ]

    reward = ComparisonReward(Judge(), "compare", "length")  # pyright: ignore[reportArgumentType]
    texts = [
        (0, "a"),
        (0, "bbb"),
        (0, "cc"),
        (1, "long one"),
        (1, "x"),
        (2, "mute"),
        (2, "y"),
        (3, "alone"),
        (4, "torn"),
        (4, "z"),
    ]
    found = reward.score([Draft(index, "q", text) for index, text in texts])
    expected = [0.0, 1.0, 0.5, 1.0, 0.0, math.nan, math.nan, math.nan, 0.5, 0.5]
    assert found == pytest.approx(expected, nan_ok=True)
    assert (reward.asked, reward.failures) == (6, 1)


def test_comparisons_cannot_guide_a_search():
    with pytest.raises(ConfigError, match="cannot guide a search"):
        build_rewards(RewardOptions(reward=["compare:which is better?"]), open_judge=lambda name: None)  # pyright: ignore[reportArgumentType]
