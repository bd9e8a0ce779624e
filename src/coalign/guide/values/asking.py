"""Questions put to a model in every order of their options, and its answers as probabilities of the places.

A wording of an item is shown once an order. Where the model gives the probabilities of its next token, that of a label is
the sum over all tokens that are the letter (with a space before it and without); where it only writes, an answer is drawn
several times and read. Replies are kept (`coalign.judging.store`), so that a run that was stopped asks nothing twice.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.data.records import Message, Messages
from coalign.guide.values.questionnaire import Item, Questionnaire
from coalign.guide.values.scoring import Shares, option_orders, shares_of
from coalign.judging.parsing import letter_logp
from coalign.judging.store import Reply, ReplyStore, ask
from coalign.models.types import Generator, Sampling

if TYPE_CHECKING:
    from coalign.guide.values.scoring import Array

Readout = Literal["logprobs", "text"]
TOP_LOGPROBS = 20
"""The most that servers give. A label that is not among them has less than the least of them, and counts nothing."""
_LETTER = re.compile(r"\W*(?:the )?(?:answer|option|choice)?(?: is)?\W*\(?([A-J])\b(?!')", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What came of one wording.

    Attributes:
        wording: 0 the item's text, then its paraphrases; None for the choice of its behaviour.
        unread: share of replies that name no option; 0 where probabilities are read.
    """

    item: Item
    wording: int | None
    shares: Shares
    unread: float = 0.0


def ask_all(
    generator: Generator,
    questionnaire: Questionnaire,
    *,
    store: ReplyStore,
    identity: Mapping[str, Any],
    readout: Readout,
    samples: int,
    seed: int,
    lead: str,
) -> list[Asked]:
    """Every wording of every item, and every choice of behaviour, in every order.

    Args:
        samples: with the readout `text`, answers drawn to a wording, over all its orders together (rounded up).
        lead: what is said before the question.
    """
    shown: list[tuple[Item, int | None, tuple[str, ...], list[tuple[int, ...]], list[Messages]]] = []
    for item in questionnaire.items:
        for wording, text, options in _wordings(item):
            orders = option_orders(len(options))
            prompts = [presented(text, options, order, lead) for order in orders]
            shown.append((item, wording, options, orders, prompts))
    prompts = [prompt for *_, several in shown for prompt in several]
    if readout == "logprobs":
        sampling = Sampling(max_new_tokens=1, temperature=0.0, top_logprobs=TOP_LOGPROBS, seed=seed)
        replies = [ask(generator, prompts, sampling, store=store, identity=identity, label="Asking")]
    else:
        fewest = min(len(orders) for *_, orders, _ in shown)
        sampling = Sampling(max_new_tokens=24, temperature=1.0)
        replies = [
            ask(
                generator,
                prompts,
                replace(sampling, seed=seed + turn),
                store=store,
                identity=identity,
                label="Asking",
            )
            for turn in range(math.ceil(samples / fewest))
        ]
    found, start = [], 0
    for item, wording, options, orders, several in shown:
        rows = [
            [_read(turn[start + place], options, order, readout) for turn in replies]
            for place, order in enumerate(orders)
        ]
        start += len(several)
        by_place = np.array([np.mean(row, axis=0) for row in rows])
        unread = 0.0 if readout == "logprobs" else float(1 - by_place.sum() / len(orders))
        found.append(Asked(item, wording, shares_of(by_place, orders), unread))
    return found


def presented(text: str, options: Sequence[str], order: Sequence[int], lead: str) -> Messages:
    """The question, its options under letters in this order, and how to answer."""
    letters = string.ascii_uppercase[: len(options)]
    lines = [f"{letter}. {options[place]}" for letter, place in zip(letters, order, strict=True)]
    content = "\n".join([*([lead, ""] if lead else []), text, "", *lines, "", "Answer with one letter only."])
    return [Message(role="user", content=content)]


def read_choice(reply: str, options: Sequence[str], order: Sequence[int]) -> int | None:
    """The place that a written reply names, by its letter or by the option's words; None where it names none or several."""
    letter = _LETTER.match(reply)
    if letter and (place := ord(letter[1].upper()) - ord("A")) < len(options):
        return place
    said = reply.casefold()
    named = [place for place, option in enumerate(order) if options[option].casefold() in said]
    # "Like me" is within "Not like me": the longest that was said is meant.
    longest = [
        one for one in named if not any(one != other and options[order[one]].casefold() in options[order[other]].casefold() for other in named)
    ]  # fmt: skip
    return longest[0] if len(longest) == 1 else None


def _read(reply: Reply, options: Sequence[str], order: Sequence[int], readout: Readout) -> Array:
    """[K] probability of each place."""
    if readout == "logprobs":
        top = reply.top or []
        return np.array(
            [math.exp(letter_logp(top, letter)) for letter in string.ascii_uppercase[: len(options)]]
        )
    place = read_choice(reply.text, options, order)
    return np.array([float(one == place) for one in range(len(options))])


def _wordings(item: Item) -> list[tuple[int | None, str, tuple[str, ...]]]:
    texts: list[tuple[int | None, str, tuple[str, ...]]] = [
        (place, text, item.options) for place, text in enumerate((item.text, *item.paraphrases))
    ]
    if item.behaviour:
        texts.append((None, item.behaviour.text, item.behaviour.options))
    return texts
