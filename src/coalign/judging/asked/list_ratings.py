"""Judges that rate several responses to one prompt in one reply, each with a rationale.

The responses are shown in a shuffled order, and what is said of them is mapped back. A reply that cannot be read is asked for
once more, in another order; a response that was not rated has no rating and is counted, never the lowest.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from coalign.judging.prompts import load_template
from coalign.judging.protocol import Cost, Failure, JudgeItem, Rubric, Scale
from coalign.judging.ranking import TRIES, order_of_try
from coalign.judging.store import ReplyStore, ask
from coalign.models.types import Generator, Sampling

GREEDY = Sampling(max_new_tokens=1024, temperature=0.0)
Layout = Literal["labels", "blocks"]
"""How a reply is taken apart: at its rating labels, or (strictly) at empty lines, of which a rationale then has none."""

_RATING = re.compile(r"\brating\b[\s*_`]*:[\s*_`\[(]*(?:(\d+)(?:\.(\d+))?|(n/?a\b))", re.IGNORECASE)
_LABEL = re.compile(r"^[ \t]*(?:[-*#>]+[ \t]*)*[*_`]*rating\b[\s*_`]*:", re.IGNORECASE | re.MULTILINE)
_HEAD = re.compile(r"^[ \t]*(?:#+|\*\*)[^\n]*$", re.MULTILINE)
_NUMBER = re.compile(r"(?:answer|response)\s*#?\s*(\d+)", re.IGNORECASE)
_RATIONALE = re.compile(r"\brationale\b[\s*_`]*:[\s*_`]*", re.IGNORECASE)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class ListRead:
    """A reply that was taken apart, by place as shown.

    Attributes:
        ratings: None for one that is N/A or outside of the scale; empty where the reply does not have the form.
        rationales: of each; the pieces of a reply that does not have the form.
    """

    ratings: tuple[int | None, ...]
    rationales: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ListRating:
    """What a judge said of an item with several responses.

    Attributes:
        ratings: of each response, None where it was not rated.
        shown: places of the responses in the order in which they were shown.
        failure: why there is no rating at all.
    """

    id: str
    ratings: tuple[float | None, ...]
    rationales: tuple[str, ...] = ()
    shown: tuple[int, ...] = ()
    failure: Failure | None = None
    reply: str = ""
    prompt_hash: str = ""
    cost: Cost = field(default_factory=Cost)


def read_labelled_rating(text: str, scale: Scale | None = None) -> int | None:
    """The whole number after the first `Rating:`; `4/5` is 4. None where there is none, or it is N/A, a fraction, or outside of
    the scale.
    """
    found = _RATING.search(text)
    if found is None or found[1] is None or int(found[2] or 0):
        return None
    value = int(found[1])
    return value if scale is None or scale.low <= value <= scale.high else None


def read_list_ratings(
    reply: str, n: int, scale: Scale | None = None, *, layout: Layout = "labels"
) -> ListRead:
    """Ratings and rationales of a reply about n responses.

    With `labels` a block begins at its heading or, without one, at its rating label; headings that number all answers say
    which is which. With `blocks` (the official parser) the reply is split at empty lines, and any number of blocks but n, or a
    block without a label, is no rating.
    """
    text = _THOUGHT.sub("", reply).strip()
    blocks = [one.strip() for one in text.split("\n\n")] if layout == "blocks" else _at_labels(text)
    if len(blocks) != n or any(_RATING.search(one) is None for one in blocks):
        return ListRead((), tuple(blocks))
    if layout == "labels":
        blocks = _in_order(blocks)
    ratings = tuple(read_labelled_rating(one, scale) for one in blocks)
    return ListRead(ratings, tuple(_rationale(one) for one in blocks))


def _at_labels(text: str) -> list[str]:
    """Pieces with a rating label each."""
    starts: list[int] = []
    end = 0
    for label in _LABEL.finditer(text):
        heads = [
            one.start()
            for one in _HEAD.finditer(text, end, label.start())
            if _NUMBER.search(one[0]) or not text[one.end() : label.start()].strip()
        ]
        starts.append(heads[-1] if heads else label.start())
        end = label.end()
    return [text[start:stop].strip() for start, stop in itertools.pairwise([*starts, len(text)])]


def _in_order(blocks: list[str]) -> list[str]:
    """By the numbers of their headings, where these number all of them."""
    numbers = [_NUMBER.search(one.split("\n", 1)[0]) for one in blocks]
    found = [int(one[1]) for one in numbers if one]
    if sorted(found) != [*range(1, len(blocks) + 1)]:
        return blocks
    return [block for _, block in sorted(zip(found, blocks, strict=True))]


def _rationale(block: str) -> str:
    label = _RATIONALE.search(block)
    if label:
        return block[label.end() :].strip()
    rating = _RATING.search(block)
    rest = block[rating.end() :] if rating else block
    return re.sub(r"^[ \t]*/\s*\d+|^[\s*_`\])]+", "", rest).strip()


@dataclass(eq=False)
class LanguageModelListRater:
    """Asks a language model through text alone.

    Args:
        generator: any back end.
        name: what reports call it, and part of what replies are kept under.
        identity: whatever else may change its replies.
        store: keeps replies; in memory by default.
        scale: of the ratings.
        sampling: how replies are decoded.
        template: file of the user's own request.
        layout: how replies are taken apart.
    """

    generator: Generator
    _: KW_ONLY
    name: str = "language model"
    identity: dict[str, Any] = field(default_factory=dict)
    store: ReplyStore = field(default_factory=ReplyStore)
    scale: Scale = field(default_factory=lambda: Scale(low=1, high=5))
    sampling: Sampling = GREEDY
    template: Path | None = None
    layout: Layout = "labels"

    def rate_lists(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        seed: int = 0,
        label: str = "Rating",
    ) -> list[ListRating]:
        """Rate the responses of every item.

        Args:
            rubric: for items that bring none.
            seed: with the item, of the order in which its responses are shown.
        """
        found: dict[int, ListRating] = {}
        for attempt in range(TRIES):
            left = [place for place in range(len(items)) if place not in found or found[place].failure]
            if left:
                asked = self._ask([items[place] for place in left], rubric, seed, attempt, label)
                for place, one in zip(left, asked, strict=True):
                    before = found[place].cost if place in found else Cost()
                    found[place] = replace(one, cost=before + one.cost)
        return [found[place] for place in range(len(items))]

    def _ask(
        self, items: Sequence[JudgeItem], rubric: Rubric | None, seed: int, attempt: int, label: str
    ) -> list[ListRating]:
        template = load_template("list", self.template)
        shown = [order_of_try(one.prompt, one.responses, seed, attempt) for one in items]
        prompts = [
            template.render(
                replace(item, responses=tuple(item.responses[place] for place in places)),
                rubric=rubric,
                scale=self.scale,
            )
            for item, places in zip(items, shown, strict=True)
        ]
        identity = {"name": self.name, **self.identity}
        replies = ask(
            self.generator, prompts, self.sampling, store=self.store, identity=identity, label=label
        )
        rated = []
        for item, places, reply in zip(items, shown, replies, strict=True):
            read = read_list_ratings(reply.text, len(places), self.scale, layout=self.layout)
            failure: Failure | None = None
            if not read.ratings:
                failure = "truncated" if reply.truncated else "malformed"
            back = [places.index(place) for place in range(len(places))]
            rated.append(
                ListRating(
                    id=item.id,
                    ratings=tuple(None if failure else read.ratings[place] for place in back),
                    rationales=() if failure else tuple(read.rationales[place] for place in back),
                    shown=tuple(places),
                    failure=failure,
                    **reply.record,
                )
            )
        return rated
