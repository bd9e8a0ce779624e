"""Rewards, policies and judges on answers from passages: reading pairs, accuracies, passages that are cut, pairs that are built."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build
from coalign.data.passages import Passage
from coalign.data.questions import Question, read_questions
from coalign.evaluation import rag_rewardbench
from coalign.evaluation.rag_rewardbench import pair_accuracy
from coalign.evaluation.retrieval.labelling import drawn_pairs, judge_filter
from coalign.evaluation.retrieval.pairs import Pair, category_of, read_pairs
from coalign.evaluation.retrieval.preferring import (
    fitted,
    generative_accuracy,
    open_named_reward,
    preference_credits,
    reward_preferences,
)
from coalign.evaluation.retrieval.scenarios import RetrievalTask, make_tasks, prompt_of
from coalign.judging.rewards.mix import Draft
from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward
from tests.evaluation.scripted import ScriptedGenerator
from tests.preference.tiny_runs import save_tiny_model, write

CATEGORY_OF = {"a": "reason", "b": "reason", "c": "abstain"}
SHOWN = (Passage("1", "The tower is built of slate and stands by the river."), Passage("2", "It rains."))


def pair(number: int = 0, **changes: Any) -> Pair:
    given = {
        "id": str(number), "prompt": prompt_of("What is the tower built of?", SHOWN), "chosen": "Slate.", "rejected": "Of wood.",
        "subset": "own", "category": "helpful", "references": SHOWN,
    }  # fmt: skip
    return Pair(**{**given, **changes})


# -- figures ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from("abc")), min_size=1))
def test_an_oracle_its_negation_and_a_constant(rows: list[tuple[float, float, str]]) -> None:
    subsets = [one for _, _, one in rows]
    for credits, share in (([1.0] * len(rows), 1.0), ([0.0] * len(rows), 0.0), ([0.5] * len(rows), 0.5)):
        found = pair_accuracy(credits, subsets, CATEGORY_OF)
        assert {
            *found.per_subset.values(),
            *found.per_category.values(),
            found.micro,
            found.macro_categories,
        } == {share}
    gaps = [one - other for one, other, _ in rows]
    there, back = (preference_credits([sign * one for one in gaps], "half") for sign in (1, -1))
    assert all(one + other == 1 for one, other in zip(there, back, strict=True))


def test_a_score_that_is_missing_is_wrong_and_a_tie_counts_as_asked() -> None:
    assert preference_credits([1.0, 0.0, -1.0, None], "half") == (1.0, 0.5, 0.0, 0.0)
    assert preference_credits([0.0], "wrong") == (0.0,)
    found = generative_accuracy(["tie", "first", None], ["tie", "second", "second"], tie="wrong")
    assert found.credits == (0.0, 1.0, 0.5)
    assert found.strict == (False, True, False)
    for bad in ([], ["first"]):
        with pytest.raises(ValueError, match="expected as many"):
            generative_accuracy(bad, [])


@given(st.lists(st.sampled_from(["first", "second", "tie", None]), min_size=1, max_size=8), st.randoms())
def test_exchanging_the_responses_mirrors_the_average(verdicts: list[Any], rng: Any) -> None:
    others = rng.choices(["first", "second", "tie", None], k=len(verdicts))
    turned = {"first": "second", "second": "first", "tie": "tie", None: None}
    found = generative_accuracy(verdicts, others)
    mirrored = generative_accuracy([turned[one] for one in verdicts], [turned[one] for one in others])
    lost = [0.5 * ((one is None) + (other is None)) for one, other in zip(verdicts, others, strict=True)]
    for one, other, nothing in zip(found.credits, mirrored.credits, lost, strict=True):
        assert one + other + nothing == pytest.approx(1.0)


# -- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subset", "category"),
    [("HotpotQA", "reason"), ("Conflict/NQ", "conflict"), ("abstain", "abstain"), ("NQ-Noise", "abstain"),
     ("NQ", "helpful"), ("mine", "citation"), ("ASQA", None), ("", None)],
)  # fmt: skip
def test_a_subset_says_its_category(subset: str, category: str | None) -> None:
    assert category_of(subset, {"mine": "citation"}) == category


def test_published_and_common_names_are_read(tmp_path: Path) -> None:
    common = {"prompt": "p", "chosen": "a", "subset": "NQ"}
    path = write(tmp_path / "pairs.jsonl", [{**common, "reject": "b", "reject_model": "m"}])
    (found,) = read_pairs(str(path), {})
    assert (found.rejected, found.category, found.judges_gap) == ("b", "helpful", None)
    path = write(
        tmp_path / "ours.jsonl",
        [{**common, "rejected": "b", "judge_scores": [[5, 2], [4, 3]], "references": ["x"]}],
    )
    (found,) = read_pairs(str(path), {})
    assert (found.judges_gap, found.references) == (2.0, (Passage("1", "x"),))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subset": "ASQA"}, ":1: subset: the text 'ASQA', expected one whose category is known"),
        ({"rejected": None}, ":1: rejected"),
        ({"references": [""]}, ":1: references: empty"),
        ({"judge_scores": [[1]]}, ":1: judge_scores: a list, expected two numbers"),
    ],
)
def test_a_bad_pair_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "NQ"}
    good = {**row, "references": ["x"]}
    path = write(tmp_path / "pairs.jsonl", [{**row, **changes}, good])
    with pytest.raises(DataError) as raised:
        read_pairs(str(path), {})
    assert said in str(raised.value)


# -- passages that do not fit -------------------------------------------------------------------------------------


def test_passages_are_cut_and_question_and_responses_stay() -> None:
    whole = pair()
    size = len(whole.prompt[-1]["content"])

    def fits(prompt: Any, response: str) -> bool:
        return len(prompt[-1]["content"]) + len(response) <= size - 10

    prompt, note = fitted(whole, fits)
    assert note == "shortened"
    assert "What is the tower built of?" in prompt[-1]["content"]
    assert "[2] It rains." in prompt[-1]["content"]
    assert fits(prompt, whole.chosen)
    assert fits(prompt, whole.rejected)
    assert fitted(pair(references=()), fits) == (whole.prompt, "too long")
    assert fitted(whole, None) == (whole.prompt, None)


class Counting:
    """A reward that prefers what the passages say, and cannot score one response."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        self.asked += len(drafts)
        return [float("nan") if one.text == "?" else float("slate" in one.text.lower()) for one in drafts]


def test_scores_are_kept_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    reward, pairs = Counting(), [pair(0), pair(1, rejected="?"), pair(2, chosen="Brick.")]
    path = tmp_path / "scores.jsonl"
    found = reward_preferences(path, pairs, "counting", lambda: reward, "half")
    assert (found.credits, found.unscored, reward.asked) == ((1.0, 0.0, 0.5), 1, 6)
    assert reward_preferences(path, pairs, "counting", lambda: reward, "half") == found
    assert reward.asked == 6


# -- likelihoods as rewards ---------------------------------------------------------------------------------------


def test_the_likelihood_of_a_model_is_a_reward(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        save_tiny_model(tmp_path / name, seed=seed)
    one, two = (f"{tmp_path / name},device=cpu" for name in ("one", "two"))
    drafts = [Draft(place, "Say it.", text) for place in (0, 1) for text in ("a", "a b c")]

    def values(spec: str) -> list[float]:
        (reward,) = build_rewards(RewardOptions(reward=[spec])).rewards
        return list(reward.reward.score(drafts))

    policy, reference, gap = (
        values(f"likelihood:{one}"),
        values(f"likelihood:{two}"),
        values(f"likelihood:{one},reference={tmp_path / 'two'}"),
    )
    assert gap == pytest.approx([a - b for a, b in zip(policy, reference, strict=True)], abs=1e-4)
    assert policy[:2] == pytest.approx(policy[2:])
    mean = values(f"likelihood:{one},reduction=mean")
    assert mean[0] > policy[0]
    assert mean[0] / policy[0] > mean[1] / policy[1]
    assert values(f"likelihood:{one},reference={tmp_path / 'one'}") == [0.0] * 4


def test_a_likelihood_says_what_it_takes() -> None:
    assert parse_reward("likelihood:p,reference=r").arguments == {"path": "p", "reference": "r"}
    for text, said in (
        ("likelihood:", "the model's path or hub id"),
        ("likelihood:p,label=x", "reference=..., reduction=..."),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_reward(text)
    with pytest.raises(ConfigError, match="reduction is 'most', expected sum or mean"):
        build_rewards(RewardOptions(reward=["likelihood:p,reduction=most"]))
    with pytest.raises(ConfigError, match="a weight has no effect"):
        open_named_reward("max_words:3@2", lambda name: pytest.fail("no judge"))


# -- building -----------------------------------------------------------------------------------------------------


def questions() -> list[Question]:
    def passages(*texts: str) -> tuple[Passage, ...]:
        return tuple(Passage(str(place), one) for place, one in enumerate(texts, 1))

    return [
        Question(
            "q0",
            "What is the tower built of?",
            ("slate",),
            passages=passages("The tower is built of Slate.", "It is tall."),
        ),
        Question(
            "q1",
            "Wer gründete Köln?",
            ("Agrippina",),
            passages=passages("Agrippina gründete Köln.", "Köln liegt am Rhein."),
        ),
        Question(
            "q2", "桥是什么颜色?", ("绿色",), passages=passages("桥是绿色的。"), extra={"category": "reason"}
        ),
    ]


def test_scenarios_hide_the_answer_or_contradict_it() -> None:
    given = questions()
    pool = [each for one in given for each in one.passages]
    tasks, dropped = make_tasks(
        given, ["helpful", "abstain", "conflict"], passages=4, retrieve=lambda query, k: pool[:k], seed=0
    )
    assert [one.id for one in tasks] == [
        "q0-helpful",
        "q0-abstain",
        "q0-conflict",
        "q1-helpful",
        "q1-abstain",
        "q1-conflict",
        "q2-reason",
    ]
    assert not dropped
    by_id = {one.id: [str(each) for each in one.passages] for one in tasks}
    assert not any("Slate" in one for one in by_id["q0-abstain"])
    assert not any("Agrippina" in one for one in by_id["q1-abstain"])
    assert sorted(by_id["q0-conflict"])[1] == "The tower is built of Slate."
    assert len(by_id["q0-conflict"]) == 2
    assert "Slate" not in sorted(by_id["q0-conflict"])[0]
    assert "[1] 桥是绿色的。" in tasks[-1].prompt[-1]["content"]


def test_what_cannot_be_made_is_counted() -> None:
    bare = [Question("q", "Who?", ("Ann",), passages=(Passage("1", "Nobody knows."),))]
    tasks, dropped = make_tasks(
        bare, ["abstain", "conflict"], passages=2, retrieve=lambda query, k: [], seed=0
    )
    assert (tasks, dropped) == ([], {"abstain: no passages for it": 1, "conflict: no passages for it": 1})
    with pytest.raises(DataError, match="category: 'odd', expected one of: helpful"):
        make_tasks(
            [Question("q", "?", (), extra={"category": "odd"})],
            [],
            passages=1,
            retrieve=lambda q, k: [],
            seed=0,
        )


SCORES = st.lists(st.lists(st.integers(1, 5), min_size=3, max_size=3), min_size=1, max_size=4)


@given(SCORES, st.integers(0, 4), st.integers(0, 3))
def test_kept_pairs_are_those_that_all_judges_order_alike(
    scores: list[list[int]], spread: int, gap: int
) -> None:
    found = judge_filter(scores, max_spread=spread, min_mean_gap=gap)
    for better, worse in found.kept_pairs:
        assert all(row[better] > row[worse] for row in scores)
        assert (worse, better) not in found.kept_pairs
        assert found.mean[better] - found.mean[worse] >= gap
        assert max(found.spread[better], found.spread[worse]) <= spread
    wider = judge_filter(scores, max_spread=spread + 1, min_mean_gap=gap)
    assert {*found.kept_pairs} <= {*wider.kept_pairs}


def test_pairs_balance_models_and_lengths() -> None:
    tasks = [
        RetrievalTask(str(place), prompt_of("?", SHOWN), "?", (), SHOWN, "helpful", "own")
        for place in range(4)
    ]
    responses = [
        [("a", "long long answer"), ("b", "short"), ("a", "short too"), ("b", "a long long one")]
    ] * 4
    scores = [[[5.0, 1.0, 1.0, 5.0]]] * 4
    pairs, dropped = drawn_pairs(
        tasks, responses, [*scores[:3], [[5.0, None, None, None]]], max_spread=0, min_mean_gap=1
    )
    assert dropped == {"fewer than two responses with all scores": 1}
    assert {one for _, one, _ in pairs} == {"a", "b"}
    assert pairs[0][0].judge_scores == ((5.0, 1.0),)


def test_questions_without_passages_are_named(coalign: Callable[..., Any], tmp_path: Path) -> None:
    write(
        tmp_path / "questions.jsonl",
        [
            {"question": "Who?", "answers": ["Ann"], "passages": ["Ann."]},
            {"question": "When?", "answers": ["now"]},
        ],
    )
    data, out = str(tmp_path / "questions.jsonl"), str(tmp_path / "run")
    done = coalign("run", "rag-rewardbench", "--mode", "build", "--data", data, "--judges", "x", "--out", out)
    assert done.code == 1
    assert "1 of 2 questions have no passages, first '1'" in done.err
    write(tmp_path / "bad.jsonl", [{"question": "Who?", "answers": ["Ann"], "passages": [{"title": "x"}]}])
    with pytest.raises(DataError, match=r"bad.jsonl:1: passages\[0\]: a passage without text"):
        read_questions(str(tmp_path / "bad.jsonl"))


def test_a_judge_that_prefers_the_first_place_has_half_and_never_both(
    judge_by: Callable[[ScriptedGenerator], ScriptedGenerator], tmp_path: Path
) -> None:
    judge_by(ScriptedGenerator(lambda prompt: "Choose 1"))
    row = {"prompt": "p", "chosen": "good", "rejected": "bad one", "subset": "NQ"}
    write(
        tmp_path / "pairs.jsonl", [{**row, "id": str(place), "chosen": f"good {place}"} for place in range(6)]
    )
    config = build(rag_rewardbench.Config, {"data": str(tmp_path / "pairs.jsonl"), "judges": ["scripted"]})
    run = execute("rag-rewardbench", rag_rewardbench, config, tmp_path / "run")
    found = json.loads((run.artefacts / "results.json").read_text())["scripted"]
    assert (found["micro"], found["strict"], found["first_position_rate"]) == (0.5, 0.0, 1.0)
    assert run.report.is_file()


def test_a_reward_model_with_little_room_reads_shorter_passages(tmp_path: Path) -> None:
    from coalign.judging.rewards.mix import ModelReward
    from coalign.models.reward_inputs import RewardInputs
    from tests.data.tokenizers import CHATML, byte_tokenizer

    passages = (Passage("1", "word " * 40), SHOWN[1])
    long = pair(references=passages, prompt=prompt_of("Why?", passages))
    whole = RewardInputs(byte_tokenizer(CHATML), "chat", 10_000)
    room = max(len(whole.text(long.prompt, one).ids) for one in (long.chosen, long.rejected)) - 30
    inputs = RewardInputs(whole.tokenizer, "chat", room)
    reward = ModelReward(type("Model", (), {"inputs": inputs})(), "short")  # pyright: ignore[reportArgumentType]
    assert not reward.fits(long.prompt, long.rejected)
    prompt, note = fitted(long, reward.fits)
    assert note == "shortened"
    assert reward.fits(prompt, long.rejected)
    assert "[2] It rains." in prompt[-1]["content"]
