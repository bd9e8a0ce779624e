"""Several responses rated in one reply: parsing, the shuffled order, another try, what is not scorable."""

from __future__ import annotations

import re

import pytest

from coalign.judging.asked.list_ratings import LanguageModelListRater, read_labelled_rating, read_list_ratings
from coalign.judging.protocol import JudgeItem, Rubric, Scale
from coalign.judging.ranking import order_of_try

SCALE = Scale(low=1, high=5)


def _blocks(*ratings: object, head: str = "#### Answer {n}\n") -> str:
    return "\n\n".join(
        f"{head.format(n=n)}Rating: {one}\nRationale: r{n}" for n, one in enumerate(ratings, 1)
    )


@pytest.mark.parametrize("head", ["#### Answer {n}\n", "**Response {n}**\n", "#### Output\n", ""])
@pytest.mark.parametrize("layout", ["labels", "blocks"])
def test_blocks_of_the_usual_forms(head, layout):
    read = read_list_ratings(_blocks(4, "2/5", "N/A", "**5**", head=head), 4, SCALE, layout=layout)
    assert read.ratings == (4, 2, None, 5)
    assert read.rationales == ("r1", "r2", "r3", "r4")


@pytest.mark.parametrize(
    ("reply", "ratings"),
    [
        (_blocks(1, 2).replace("r1", "a\n\nb"), (1, 2)),
        ("#### Answer 2\nRating: 5\n\n#### Answer 1\nRating: 1", (1, 5)),
        ("<think>\nRating: 3\n</think>\nRating: 1\nRating: 2", (1, 2)),
        ("- Rating: 3 - clear\n- Rating: 4 - short", (3, 4)),
        ("**Rating:** 3\nRationale: why\n\n**Rating:** 4\nRationale: its rating is high", (3, 4)),
        (_blocks(0, 6), (None, None)),
        (_blocks("3.5", "3.0"), (None, 3)),
        (_blocks("10", "1"), (None, 1)),
        (_blocks(1), ()),
        (_blocks(1, 2, 3), ()),
        ("Both are good.", ()),
        ("", ()),
        ("Rating: good\n\nRating: bad", ()),
    ],
)
def test_replies_about_two(reply, ratings):
    assert read_list_ratings(reply, 2, SCALE).ratings == ratings


def test_a_strict_reader_wants_exactly_the_form():
    inside = _blocks(1, 2).replace("r1", "a\n\nb")
    assert read_list_ratings(inside, 2, SCALE, layout="blocks").ratings == ()
    assert len(read_list_ratings(inside, 2, SCALE, layout="blocks").rationales) == 3


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: 7/10", 7),
        ("good: 8", None),
        ("Rating: 3 Rating: 9", 3),
        ("rating : [10]", 10),
        ("Rating: n/a", None),
    ],
)
def test_a_labelled_rating(text, rating):
    assert read_labelled_rating(text) == rating


class Reviewer:
    """Rates an answer by the digit in it; its first replies may be something else."""

    def __init__(self, *first: str) -> None:
        self.first, self.asked = list(first), []

    def generate(self, prompts, sampling, **_):
        from coalign.models.types import Generation

        made = []
        for prompt in prompts:
            text = prompt[-1]["content"]
            self.asked.append(text)
            digits = re.findall(r"<<answer \d+ \w+>>\nvalue (\S+)", text)
            said = self.first.pop(0) if self.first else _blocks(*digits)
            made.append([Generation(text=said, finish_reason="stop")])
        _["on_batch"](dict(enumerate(made)))
        return made


ITEMS = [
    JudgeItem(id=str(n), prompt=[{"role": "user", "content": f"question {n}"}], responses=("value 1", "value 4", "value N/A", "value 2"))
    for n in range(6)
]  # fmt: skip


def test_ratings_come_back_in_the_order_of_the_responses():
    reviewer = Reviewer()
    found = LanguageModelListRater(reviewer).rate_lists(
        ITEMS, rubric=Rubric(criteria="Is it short?", levels={1: "no", 5: "yes"})
    )
    assert {one.ratings for one in found} == {(1, 4, None, 2)}
    assert len({one.shown for one in found}) > 1
    assert all(
        one.rationales[place] == f"r{one.shown.index(place) + 1}" for one in found for place in range(4)
    )
    assert "Is it short?" in reviewer.asked[0]
    assert "- 5: yes" in reviewer.asked[0]


def test_what_cannot_be_read_is_asked_once_more_in_another_order():
    reviewer = Reviewer("no", "no")
    found = LanguageModelListRater(reviewer).rate_lists(ITEMS)
    assert len(reviewer.asked) == 8
    assert not any(one.failure for one in found)
    assert [one.cost.calls for one in found] == [2, 2, 1, 1, 1, 1]


def test_what_cannot_be_read_twice_is_not_scorable():
    found = LanguageModelListRater(Reviewer(*["no"] * 3)).rate_lists(ITEMS[:2])
    assert [one.failure for one in found] == ["malformed", None]
    assert found[0].ratings == (None,) * 4


def test_another_try_shows_another_order():
    for seed in range(50):
        for n in (2, 3):
            first, second = (order_of_try([], ["a", "b", "c"][:n], seed, attempt) for attempt in (0, 1))
            assert first != second
            assert sorted(second) == [*range(n)]
