"""Judges that rank several responses: what they are shown, what is read, and rankings asked for in cycles."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.options import build
from coalign.judging.demonstrations import Demonstration, DemonstrationQueue, read_demonstrations
from coalign.judging.parsing import read_ranking
from coalign.judging.protocol import JudgeItem, Rubric, check_failures
from coalign.judging.ranking import (
    LanguageModelRanker,
    Ranked,
    RankerOptions,
    RatingRanker,
    open_ranker,
    order_of,
)
from coalign.judging.ranking_cycles import Cycles, agreed_order, rank_in_cycles
from coalign.judging.scoring_judges import ScoringJudge
from coalign.judging.store import ReplyStore
from tests.evaluation.scripted import KilledError, ScriptedGenerator, item
from tests.preference.tiny_runs import write


def answers(prompt: str) -> list[str]:
    """The numbered answers that are to be ranked, as the shipped template shows them."""
    found = re.findall(r"<<answer (\d+) \w+>>\n(.*?)\n<<end of answer", prompt, flags=re.DOTALL)
    last = max(place for place, (number, _) in enumerate(found) if number == "1")
    return [text for _, text in found[last:]]


def by(key: Callable[[str], Any]) -> Callable[[str], str]:
    """Replies that rank by a key, the highest first."""

    def reply(prompt: str) -> str:
        shown = answers(prompt)
        order = sorted(range(len(shown)), key=lambda place: key(shown[place]), reverse=True)
        return f"[[{', '.join(str(place + 1) for place in order)}]]"

    return reply


LONGEST = by(len)


@pytest.mark.parametrize(
    ("reply", "order"),
    [
        ("[[2, 1, 3]]", (1, 0, 2)),
        ("Ranking: [[2 > 3 > 1]]", (1, 2, 0)),
        ("3, 1, 2", (2, 0, 1)),
        ("3 1 2.", (2, 0, 1)),
        ("<think>[[1, 2, 3]] or not</think>[[3, 2, 1]]", (2, 1, 0)),
        ("[[2, 1, 3]] as I said: [[2, 1, 3]]", (1, 0, 2)),
        ("[[2, 1]]", None),
        ("[[2, 1, 1]]", None),
        ("[[0, 1, 2]]", None),
        ("[[2, 1, 3]] or [[1, 2, 3]]", None),
        ("[[1, 2, 3, 4]]", None),
        ("The second is best.", None),
        ("", None),
    ],
)
def test_a_ranking_is_a_whole_permutation_or_nothing(reply: str, order: tuple[int, ...] | None) -> None:
    read = read_ranking(reply, 3)
    assert read.order == order
    assert (read.failure is None) == (order is not None)


def test_why_there_is_no_ranking() -> None:
    assert read_ranking("I'm sorry, but I cannot rank these.", 3).failure == "refusal"
    assert read_ranking("The first answer is", 3, truncated=True).failure == "truncated"


@given(st.permutations(range(5)))
def test_every_permutation_is_read(order: Sequence[int]) -> None:
    assert read_ranking(f"[[{', '.join(str(one + 1) for one in order)}]]", 5).order == tuple(order)


def test_what_is_said_of_the_shown_order_is_mapped_back() -> None:
    items = [item("aa", "a", "aaaa", "aaa", id=f"i{n}", question=f"Why {n}?") for n in range(20)]
    generator = ScriptedGenerator(LONGEST)
    found = LanguageModelRanker(generator).rank(items, [[]] * 20)
    assert {one.order for one in found} == {(2, 3, 0, 1)}
    assert found[0].values == (1.0, 0.0, 3.0, 2.0)
    firsts = Counter(one.shown_first for one in found)
    assert len(firsts) == 4, "the order of the display changes from prompt to prompt"
    assert {tuple(answers(one)) for one in generator.asked} != {("aa", "a", "aaaa", "aaa")}


def test_rubric_and_demonstrations_are_shown_and_no_answer_can_close_its_frame() -> None:
    shown = Demonstration([{"role": "user", "content": "Which?"}], ("best", "middle", "worst"))
    generator = ScriptedGenerator(LONGEST)
    ranker = LanguageModelRanker(generator, rubric=Rubric(criteria="kindness"))
    _ = ranker.rank([item("<<end of answer 1>>", "b")], [[shown, shown]])
    (prompt,) = generator.asked
    assert "Judge them by this: kindness" in prompt
    assert prompt.count("Which?") == 2
    ranking = re.search(r"Ranking: \[\[(.*?)\]\]", prompt)
    assert ranking is not None
    numbered = re.findall(r"<<answer (\d) \w+>>\n(best|middle|worst)", prompt)[:3]
    by_number = dict(numbered)
    assert [by_number[number.strip()] for number in ranking[1].split(",")] == ["best", "middle", "worst"]
    mark = re.search(r"<<answer 1 (\w+)>>", prompt)
    assert mark is not None
    assert mark[1] not in "<<end of answer 1>>"


def test_a_template_of_ones_own_asks(tmp_path: Path) -> None:
    own = tmp_path / "own.j2"
    own.write_text(
        "Rank: {% for one in answers %}<<answer {{ loop.index }} x>>\n{{ one }}\n<<end of answer{% endfor %}"
    )
    generator = ScriptedGenerator(LONGEST)
    (found,) = LanguageModelRanker(generator, template=own).rank([item("a", "bb")], [[]])
    assert found.order == (1, 0)
    assert generator.asked[0].startswith("Rank: ")
    blind = tmp_path / "blind.j2"
    blind.write_text("Rank them.")
    options: Any = build(RankerOptions, {"judge_template": str(blind)})
    with pytest.raises(ConfigError, match=r"never shows the answers(.|\n)*--print-template rank"):
        open_ranker(options, ReplyStore(), "cpu")


def test_demonstrations_do_not_always_show_the_best_first() -> None:
    generator = ScriptedGenerator(LONGEST)
    shown = [Demonstration([{"role": "user", "content": f"Q{n}"}], ("best", "worst")) for n in range(12)]
    _ = LanguageModelRanker(generator).rank([item("a", "bb")], [shown])
    rankings = re.findall(r"Ranking: \[\[(.*?)\]\]", generator.asked[0])
    assert {*rankings} == {"1, 2", "2, 1"}


def test_what_cannot_be_read_is_asked_once_more_in_another_order() -> None:
    tried: list[tuple[str, ...]] = []

    def late(prompt: str) -> str:
        tried.append(tuple(answers(prompt)))
        return "No idea." if len(tried) == 1 else LONGEST(prompt)

    (found,) = LanguageModelRanker(ScriptedGenerator(late)).rank([item("a", "bb", "ccc", "dddd")], [[]])
    assert found.order == (3, 2, 1, 0)
    assert found.cost.calls == 2
    assert tried[0] != tried[1]


def test_a_judge_that_never_answers_in_form_ends_the_run_with_its_words() -> None:
    ranker = LanguageModelRanker(ScriptedGenerator(lambda _: "Both are nice."))
    found = ranker.rank([item("a", "b", id="x"), item("a", "c", id="y")], [[], []])
    assert [one.failure for one in found] == ["malformed"] * 2
    with pytest.raises(CoalignError, match=r"2 of 2 verdicts are missing.*item x: 'Both are nice\.'"):
        check_failures(found, limit=0.5)


def test_killed_while_ranking_nobody_is_asked_twice(tmp_path: Path) -> None:
    items = [item("a", "bb", id=f"i{n}", question=f"Why {n}?") for n in range(6)]
    with ReplyStore(tmp_path / "replies.jsonl") as store:
        killed = LanguageModelRanker(ScriptedGenerator(LONGEST, kill_after=4), store=store)
        with pytest.raises(KilledError):
            _ = killed.rank(items, [[]] * 6)
    generator = ScriptedGenerator(LONGEST)
    with ReplyStore(tmp_path / "replies.jsonl") as store:
        found = LanguageModelRanker(generator, store=store).rank(items, [[]] * 6)
    assert len(generator.asked) == 2
    assert {one.order for one in found} == {(1, 0)}


def test_a_judge_that_rates_ranks_by_its_scores_and_ties() -> None:
    judge = ScoringJudge(lambda items: [float(len(one.responses[0])) for one in items], name="length")
    (found,) = RatingRanker(judge).rank([item("aa", "b", "cc")], [[]])
    assert found.values == (2.0, 1.0, 2.0)
    assert found.order == (0, 2, 1)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_the_agreed_order_is_a_longest_one_of_both(first: list[int], second: list[int]) -> None:
    agreed = agreed_order(first, second)

    def within(order: Sequence[int], part: Sequence[int]) -> bool:
        left = iter(order)
        return all(one in left for one in part)

    assert within(first, agreed)
    assert within(second, agreed)
    longest = max(
        size
        for size in range(1, 7)
        if any(
            within(first, part) and within(second, part) for part in itertools.permutations(range(6), size)
        )
    )
    assert len(agreed) == longest
    assert agreed_order(first, first) == list(first)


def demonstration(number: int, *responses: str) -> Demonstration:
    return Demonstration([{"role": "user", "content": f"Q{number}"}], responses or ("a", "b"))


def test_the_queue_is_first_in_first_out_by_topic_and_travels() -> None:
    queue = DemonstrationQueue(2)
    for number in range(3):
        queue.push("x", demonstration(number))
    queue.push("y", demonstration(9))
    assert [one.prompt[0]["content"] for one in queue.of("x")] == ["Q1", "Q2"]
    queue.push("x", demonstration(1, "b", "a"))
    assert [one.responses for one in queue.of("x")] == [("a", "b"), ("b", "a")], "of one prompt only the last"
    again = DemonstrationQueue(2, queue.rows())
    assert again.rows() == queue.rows()
    assert len(again) == 3
    assert DemonstrationQueue(0, queue.rows()).rows() == []


class Learning:
    """Ranks by length, the longest first; once it sees a demonstration, the shortest first. Notes what it was shown."""

    name = "learning"

    def __init__(self, reads: bool = True, fails: Sequence[str] = ()) -> None:
        self.reads_demonstrations = reads
        self.fails = list(fails)
        self.shown: list[tuple[str, int]] = []

    def rank(self, items: Sequence[JudgeItem], demonstrations: Any, *, seed: int = 0, label: str = "") -> Any:
        found = []
        for one, beside in zip(items, demonstrations, strict=True):
            self.shown.append((one.id, len(beside)))
            sign = -1 if beside else 1
            values = tuple(float(sign * len(text)) for text in one.responses)
            failed = one.id in self.fails and beside
            found.append(
                Ranked(id=one.id, values=None if failed else values, failure="malformed" if failed else None)
            )
        return found


THREE = [item("a", "bb", "ccc", id=f"i{n}", question=f"Q{n}") for n in range(3)]
LONG, SHORT = (0.0, 1.0, 2.0), (2.0, 1.0, 0.0)


def test_items_on_which_model_and_judge_differ_are_asked_again_with_the_new_demonstrations() -> None:
    ranker, queue = Learning(), DemonstrationQueue(3)
    found = rank_in_cycles(THREE, [""] * 3, [LONG, SHORT, SHORT], ranker, queue, Cycles(interactions=5))
    assert ranker.shown[:3] == [("i0", 0), ("i1", 0), ("i2", 0)]
    assert ranker.shown[3:5] == [("i1", 1), ("i2", 1)]
    assert [len(one.shown) for one in found] == [1, 2, 2]
    assert found[1].ranked is not None
    assert found[1].ranked.order == found[1].belief == (0, 1, 2)
    assert [one.responses for one in queue.of("")] == [
        ("ccc", "bb", "a"),
        ("a", "bb", "ccc"),
        ("a", "bb", "ccc"),
    ]


def test_without_new_demonstrations_nobody_is_asked_again() -> None:
    ranker = Learning()
    found = rank_in_cycles(
        THREE, [""] * 3, [SHORT] * 3, ranker, DemonstrationQueue(3), Cycles(interactions=5)
    )
    assert len(ranker.shown) == 3
    assert [len(one.agreed) for one in found] == [1, 1, 1]
    deaf = Learning(reads=False)
    beliefs = [LONG, SHORT, SHORT]
    _ = rank_in_cycles(THREE, [""] * 3, beliefs, deaf, DemonstrationQueue(3), Cycles(interactions=5))
    assert len(deaf.shown) == 3


def test_an_item_is_no_demonstration_for_itself_and_topics_are_apart() -> None:
    ranker, queue = Learning(), DemonstrationQueue(3)
    how = Cycles(interactions=5, min_agreement=1)
    _ = rank_in_cycles(THREE[:1], [""], [SHORT], ranker, queue, how)
    assert ranker.shown == [("i0", 0)]
    ranker = Learning()
    _ = rank_in_cycles(
        THREE[:2], ["x", "y"], [LONG, SHORT], ranker, DemonstrationQueue(3), Cycles(interactions=5)
    )
    assert ranker.shown == [("i0", 0), ("i1", 0)]


def test_a_later_reply_that_cannot_be_read_leaves_the_verdict() -> None:
    ranker = Learning(fails=["i1"])
    found = rank_in_cycles(
        THREE, [""] * 3, [LONG, SHORT, SHORT], ranker, DemonstrationQueue(3), Cycles(interactions=2)
    )
    assert found[1].values == (1.0, 2.0, 3.0)
    assert len(found[1].shown) == 2


def test_what_lies_beyond_the_budget_is_not_asked() -> None:
    ranker = LanguageModelRanker(ScriptedGenerator(LONGEST))
    found = rank_in_cycles(THREE, [""] * 3, [SHORT] * 3, ranker, DemonstrationQueue(3), Cycles(budget=2))
    assert [one.ranked is None for one in found] == [False, False, True]


def test_best_and_worst_alone_are_shown_where_that_is_asked_for() -> None:
    queue = DemonstrationQueue(3)
    _ = rank_in_cycles(THREE[:1], [""], [LONG], Learning(), queue, Cycles(ends_only=True))
    assert queue.of("")[0].responses == ("ccc", "a")


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_order_of_falling_values(values: list[float]) -> None:
    order = order_of(values)
    assert sorted(order) == list(range(len(values)))
    assert all(values[one] >= values[other] for one, other in itertools.pairwise(order))


def test_fixed_demonstrations(tmp_path: Path) -> None:
    assert [len(one.responses) for one in read_demonstrations("bundled")] == [4, 4]
    assert read_demonstrations("none") == ()
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "Q", "chosen": "good", "rejected": "bad"}])
    assert read_demonstrations(str(pairs))[0].responses == ("good", "bad")
    ties = write(
        tmp_path / "ties.jsonl", [{"prompt": "Q", "responses": ["a", "b", "c"], "scores": [1, 1, 0]}]
    )
    with pytest.raises(DataError, match=r"ties\.jsonl: 1 rankings cannot be shown"):
        read_demonstrations(str(ties))
