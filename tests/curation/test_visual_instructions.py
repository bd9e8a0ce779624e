"""Visual instructions: records in and out, annotations, rewards on real classes, the cascade, the guard, rewriting and review."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.curation import align2llava
from coalign.curation.visual_instructions.annotations import (
    RankedTexts,
    augmented,
    corrupted,
    read_annotations,
)
from coalign.curation.visual_instructions.conversations import Conversations, llava_record
from coalign.curation.visual_instructions.guard import compare_facts, facts_of
from coalign.curation.visual_instructions.learning import pair_share, score, split_groups
from coalign.curation.visual_instructions.rewards import Item, load_reward, new_reward, pieces, save_reward
from coalign.curation.visual_instructions.rewriting import (
    CUT,
    ECHO,
    SAME,
    TOO_LONG,
    UNREADABLE,
    ReviewTurns,
    RewriteTurns,
    parse_rewriting,
    rewriting_of,
)
from coalign.curation.visual_instructions.selection import TopOfEach, best_answers, kept_of, top
from coalign.data.readers import read_records
from coalign.judging.protocol import Choice, Opinion, PairVerdict
from coalign.loops.rows import Row
from coalign.models.types import Generation, Sampling
from coalign.report.html import read_report
from tests.models.tiny_vision import save_tiny_idefics3, save_tiny_llava
from tests.pairs.tiny import tiny_clip
from tests.vision.pictures import picture

PAIR = ("Where are the two red balls?", "Two red balls lie left of Anna's door.")


def said(*texts: str | list[str]) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        picture(tmp_path, f"{number}.png", bright=number % 2 == 0, wide=number > 1, seed=number)
    return tmp_path


def test_records_go_in_and_come_out_as_llava_has_them(folder: Path) -> None:
    record = {
        "id": "a", "image": "0.png", "type": "detail", "origin": "coco",
        "conversations": said("What is it?\n<image>", ["A box.", "Nothing."], "Why?", "No reason."),
    }  # fmt: skip
    source = write(folder / "data.json", [record, {"question": "Is it?", "answer": "It is."}])
    first, second = Conversations([source])
    assert first["turns"][0] == {"question": "What is it?", "answers": ["A box.", "Nothing."]}
    assert (first["type"], first["more"], second["image"]) == ("detail", {"origin": "coco"}, None)
    again = llava_record(first)
    assert again["conversations"][0]["value"] == "<image>\nWhat is it?"
    assert again["conversations"][3]["value"] == "No reason."
    assert (again["origin"], again["rewritten"], "original" in again) == ("coco", False, False)
    turns = list(Conversations([source], single_turns=True))
    assert [(one["id"], len(one["turns"])) for one in turns] == [("a#1", 1), ("a#2", 1), ("1#1", 1)]
    found = read_records(write(folder / "out.json", [again]), kind="demonstration", text_alone=False)
    assert len(found.records) == 1, "trained on as it is"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"image": "0.png"}, "expected a list of turns"),
        ({"conversations": said("Why?")}, "ends with turn 1 of the user"),
        ({"conversations": said("Why?", " ")}, "conversations[1]"),
        ({"conversations": said("Why?", "So.")[::-1]}, "is said by 'gpt'"),
        ({"image": "none.png", "conversations": said("Why?", "So.")}, "no such file"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(folder: Path, record: dict[str, Any], words: str) -> None:
    source = write(folder / "data.json", [{"question": "Is it?", "answer": "It is."}, record])
    with pytest.raises(DataError) as caught:
        list(Conversations([source]))
    assert words in str(caught.value)
    left = list(Conversations([source], on_bad_record="skip"))
    assert ["problem" in one for one in left] == [False, True]


def test_annotations_in_the_forms_that_there_are(folder: Path) -> None:
    rows = [
        {"image": "0.png", "questions": ["Why?", "What?"], "question_ranks": [2, 1], "answers": ["A", "B"], "answer_ranks": [1, 1]},
        {"image": "1.png", "questions": [["Why?", "How?"], ["What?"]], "score": [0.1, 0.9]},
        {"image": "2.png", "conversations": [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": ["Here.", "There."], "score": [0.7, 0.3]}]},
    ]  # fmt: skip
    found = read_annotations([write(folder / "ranked.json", rows)])
    assert [one.texts for one in found.questions] == [("Why?", "What?"), ("Why?\nHow?", "What?")]
    assert [one.values for one in found.questions] == [(-2.0, -1.0), (0.1, 0.9)]
    assert [(one.question, one.pairs) for one in found.answers] == [("Why?", 0), ("Where?", 1)]
    bad = write(folder / "bad.json", [{"questions": ["Why?", "What?"], "question_ranks": [1]}])
    with pytest.raises(DataError, match=r"question_ranks: a list.*expected 2 numbers"):
        read_annotations([bad])
    learning, held_out = split_groups([*found.questions, *found.answers], 0.34, 0)
    assert len(learning) == 2
    assert len(held_out) == 1


@given(
    st.lists(
        st.sampled_from(["what", "is", "the", "big", "red", "ball", "doing", "here", "now"]),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_a_corrupted_copy_has_words_of_the_text_and_no_others(words: list[str], seed: int) -> None:
    text = "\n".join(" ".join(words[start : start + 4]) for start in range(0, len(words), 4))
    worse = corrupted(text, random.Random(seed))
    assert {*worse.split()} <= {*words}
    assert len(worse.split()) > 0
    group = RankedTexts("a", None, "", (text, "other words"), (1.0, 0.0))
    for extra in augmented([group], 1.0, seed):
        assert extra.values == (1.0, 0.0)
        assert extra.texts[0] != extra.texts[1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_the_best_share_of_each_group(values: list[int], share: float) -> None:
    rows = [
        {"id": f"{n}", "image": None, "type": "ab"[n % 2], "r_Q": float(value)}
        for n, value in enumerate(values)
    ]
    step = TopOfEach("top", "r_Q", share, lambda row: row["type"])
    kept = [int(one) for one in step.choose(step.sketch(rows)).groups]  # type: ignore[arg-type]
    for group in "ab":
        own = [n for n in range(len(values)) if "ab"[n % 2] == group]
        mine = [n for n in kept if n in own]
        assert len(mine) == kept_of(len(own), share) == int(share * len(own) + 1e-9)
        best = top([values[n] for n in own], share, rounding="down")
        assert mine == [own[place] for place in best]
    assert len(top(values, 0.001)) == 1


def test_most_of_one_picture() -> None:
    rows = [{"id": f"{n}", "image": "ab"[n // 4], "r_Q": -float(n)} for n in range(8)]
    step = TopOfEach("top", "r_Q", 0.5, most_of=1)
    assert list(step.choose(step.sketch(rows)).groups) == [0, 4]
    assert best_answers([[0.1, 0.5, 0.5], [2.0]]) == ([1, 0], 1.25)
    assert pair_share([1.0, 1.0, 0.0], [2.0, 1.0, 1.0]) == 0.75


def test_facts_are_numbers_colours_places_names_and_denials() -> None:
    assert facts_of("The 3 dogs aren't left of Anna's grey car, said Bo. Two sat.") == {
        "3",
        "not",
        "left",
        "anna",
        "grey",
        "bo",
        "2",
    }
    assert facts_of("The left one is I.") == {"left"}
    same = compare_facts("Two gray cats.", "There are 2 cats, both grey.")
    assert (same.reason, same.kept) == ("", 1.0)
    assert compare_facts("Two red cats.", "Two cats.").reason == "loses red"
    assert compare_facts("Two cats.", "Two cats on the left.").reason == "adds left"
    assert compare_facts("Yes.", "It is on the left.", beside="Is it on the left?").lost == {"yes"}
    assert compare_facts("A ring.", "Rings.", more=["ring"]).reason == ""
    assert compare_facts("A ring.", "A thing.", more=["ring"]).kept == 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Question: Why?\nAnswer: So.", ("Why?", "So.")),
        (" **Question:** Why?\n\n**Answer:** So\nand so. ", ("Why?", "So\nand so.")),
        ("Sure! Question: Why?\nAnswer: So.", UNREADABLE),
        ("Question: Why?\nAnswer: So.\nQuestion: Else?", UNREADABLE),
        ("Question:\nAnswer: So.", UNREADABLE),
        ("Why? So.", UNREADABLE),
        ("", UNREADABLE),
        ("Question: Say it in your own words\nAnswer: {answer}", ECHO),
        ("Question: <image> Why?\nAnswer: So.", ECHO),
    ],
)
def test_replies_are_read_strictly(reply: str, expected: Any) -> None:
    assert parse_rewriting(reply) == expected


def test_a_rewriting_passes_form_and_guard_or_the_original_stays() -> None:
    good = "Question: Two red balls are where?\nAnswer: Left of Anna's door there are two red balls."
    found = rewriting_of(*PAIR, good)
    assert found.pair == ("Two red balls are where?", "Left of Anna's door there are two red balls.")
    assert rewriting_of(*PAIR, good, sides="answer").pair == (
        PAIR[0],
        "Left of Anna's door there are two red balls.",
    )
    assert rewriting_of(*PAIR, good, finished=False).why == CUT
    assert rewriting_of(*PAIR, f"Question: {PAIR[0]}\nAnswer: {PAIR[1]}").why == SAME
    lost = rewriting_of(*PAIR, good.replace("there are two", "are"))
    assert (lost.pair, lost.why) == (None, "facts: the answer loses 2")
    assert lost.kept == 0.75
    told = rewriting_of(*PAIR, good.replace("are where", "are where, left"))
    assert told.why == "facts: the question adds left", "a question must not give its answer away"


class Scripted:
    """Answers every request with the next reply."""

    def __init__(self, replies: list[str]) -> None:
        self.replies = iter(replies)
        self.asked: list[Any] = []

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> list[list[Generation]]:
        self.asked += prompts
        return [[Generation(next(self.replies), n_tokens=3)] for _ in prompts]


def test_turns_are_rewritten_where_the_reviewer_agrees_in_both_orders() -> None:
    rows: list[Row] = [
        {"id": f"{n}", "image": "a.png", "turns": [{"question": "Is it red?", "answers": ["It is red."]}]}
        for n in range(4)
    ]
    new = "Question: Do you see red?\nAnswer: Red it is."
    model = Scripted([new, "no", new, new])
    step = RewriteTurns("rewriting", lambda: model, Sampling(max_new_tokens=9))  # type: ignore[arg-type, return-value]
    made = [one.row for several in step(rows) for one in several]
    assert ["proposal" in row["turns"][0] for row in made] == [True, False, True, True]
    assert "Is it red?" in model.asked[0][-1]["content"]
    assert "<image>" not in str(model.asked)
    shown: list[tuple[Choice, Choice]] = [("second", "second"), ("second", "first"), ("first", "first")]
    orders = iter(shown)

    def compare(items: Any, **terms: Any) -> list[PairVerdict]:
        assert terms["orders"] == "both"
        return [
            PairVerdict(id=one.id, opinions=tuple(Opinion(choice=choice) for choice in next(orders)))
            for one in items
        ]

    judge: Any = SimpleNamespace(compare=compare)
    done = [one.row["turns"][0] for several in ReviewTurns("review", judge)(made) for one in several]
    assert [turn["rewritten"] for turn in done] == [True, False, False, False]
    assert [turn["why"] for turn in done] == [
        "",
        UNREADABLE,
        "review: by their order",
        "review: the original is better",
    ]
    assert (done[0]["answers"], done[0]["original"]["answers"]) == (["Red it is."], ["It is red."])
    unreviewed = [one.row["turns"][0] for several in ReviewTurns("review", None)(made) for one in several]
    assert sum(turn["rewritten"] for turn in unreviewed) == 3
    record = llava_record({**rows[0], "type": "", "turns": [done[0]]})
    assert record["original"] == [{"question": "Is it red?", "answer": "It is red."}]
    assert record["conversations"][0]["value"] == "<image>\nDo you see red?"


def test_a_turn_that_the_model_cannot_take_stays_and_the_others_go_on() -> None:
    class Short(Scripted):
        def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> list[list[Generation]]:
            if any("long" in str(one[-1]) for one in prompts):
                raise DataError("prompt 0 has too many tokens")
            return super().generate(prompts, sampling, **how)

    rows: list[Row] = [
        {"id": "a", "turns": [{"question": one, "answers": ["Here."]} for one in ("Is it long?", "Is it?")]}
    ]
    model = Short(["Question: Where?\nAnswer: It is here."])
    step = RewriteTurns("rewriting", lambda: model, Sampling(max_new_tokens=9))  # type: ignore[arg-type, return-value]
    ((made,),) = step(rows)
    assert [turn["why"] for turn in made.row["turns"]] == [TOO_LONG, ""]
    assert made.facts["tokens"] == 3


@pytest.mark.parametrize("save", [tiny_clip, save_tiny_llava, save_tiny_idefics3])
def test_rewards_on_models_of_real_classes(save: Callable[[Path], Path], folder: Path) -> None:
    """An item's reward does not depend on the items beside it; a question's never sees an answer; a saved one is the same."""
    name = str(save(folder / "model"))
    torch.manual_seed(0)
    model, reads, about = new_reward(name, 3, device="cpu")
    items = [Item(str(folder / f"{n}.png"), "what is it " * (n + 1), "red " * (3 - n)) for n in range(3)]
    together, apart = score(model.eval(), reads, items), [score(model, reads, [one])[0] for one in items]
    assert together == pytest.approx(apart, rel=1e-3, abs=1e-4)
    other = [Item(items[1].image, items[0].question, items[0].answer)]
    assert score(model, reads, other) != pytest.approx(together[:1], abs=1e-7), "the picture counts"
    rewards = reads.rewards(model.train(), [items])
    rewards.sum().backward()
    trained = [one for one in model.parameters() if one.requires_grad]
    assert sum(one.grad is not None for one in trained) >= len(trained) - 2
    save_reward(model.eval(), about, folder / "kept", "answer")
    again, its = load_reward(folder / "kept", "answer", device="cpu")
    assert score(again, its, items) == pytest.approx(together, abs=1e-5)
    with pytest.raises(ModelError, match="holds no reward of questions"):
        load_reward(folder / "kept", "question")
    if about["reads"] == "tokens":
        its.length = 12  # type: ignore[union-attr]
        found = score(again, its, items)
        assert any(np.isnan(found)), "what would be cut has no reward"
        with pytest.raises(ModelError, match="without a picture"):
            score(again, its, [Item(None, "why", "so")])
    else:
        assert np.isfinite(score(again, its, [Item(None, "why", "so")])).all()


def test_long_texts_are_read_in_pieces() -> None:
    text = "One two three. " * 20 + "\n" + "word " * 60
    found = pieces(text)
    assert max(len(one.split()) for one in found) <= 24
    assert " ".join(found).split() == text.split()
    assert pieces("short") == ["short"]


def test_the_run_from_annotations_to_records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coalign.judging.asked import options as asked

    monkeypatch.chdir(folder)
    tiny_clip(folder / "clip")
    write(
        folder / "ranked.json",
        [
            {"image": f"{n % 4}.png", "questions": ["what is it", "where"], "question_ranks": [1, 2],
             "answers": [f"red {n}", "blue"], "answer_scores": [1, 0]}
            for n in range(6)
        ],
    )  # fmt: skip
    write(
        folder / "data.json",
        [
            {"id": f"r{n}", "image": f"{n % 4}.png", "type": "ab"[n % 2], "conversations": said(f"What is it, {n}?", ["It is red.", "Red."])}
            for n in range(8)
        ],
    )  # fmt: skip
    common: dict[str, Any] = {
        "device": "cpu",
        "data": ["data.json"],
        "rewrite": "none",
        "alpha": 0.75,
        "beta": 0.67,
    }

    def start(name: str, **options: Any) -> Run:
        return execute("align2llava", align2llava, build(align2llava.Config, options), folder / name)

    learnt = start(
        "learnt", annotations=["ranked.json"], reward_model="clip", epochs=1, eval_fraction=0.25, **common
    )
    kept = json.loads((learnt.artefacts / "curated.json").read_text(encoding="utf-8"))
    assert sorted(one["type"] for one in kept) == ["a", "a", "b", "b"], (
        "three of four, two of three, of each type"
    )
    assert {"r_Q", "r_A", "conversations"} <= kept[0].keys()
    titles = [one.title for one in read_report(learnt.report).sections]
    assert {"Rewards", "Stages", "Types of instruction", "Kept"} <= {*titles}
    again = start("again", rewards="learnt", **common)
    assert json.loads((again.artefacts / "curated.json").read_text(encoding="utf-8")) == kept
    single = start("single", rewards="learnt", unit="answer", **common)
    found = json.loads((single.artefacts / "curated.json").read_text(encoding="utf-8"))
    assert len(found) == 8, "of 8 questions 6, of their 12 answers 8"
    with pytest.raises(ModelError, match="holds no reward of questions"):
        start("none", rewards="clip", **common)
    with pytest.raises(ConfigError, match="There is nothing to do"):
        start("nothing")
    monkeypatch.setattr(
        asked,
        "open_named",
        lambda *_, **__: Scripted(["Question: Is it red?\nAnswer: Yes, red.", *["no"] * 99]),
    )
    (folder / "ask.txt").write_text("{question} only", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"lacks \{answer\}"):
        start("template", data=["data.json"], request_template="ask.txt", device="cpu")
