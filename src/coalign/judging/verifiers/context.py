"""Verifiers that look beyond the response: at the prompt, at the other responses of a group, at other constraints.

Prompt and responses are compared as folded words (see `text_units`). A group verifier gives the value for one other
member of the group; the registry takes the mean over the members. In `numeric_order` and the like the argument says
how the own response stands to the others, so each prompt of a group carries its own side of the relation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from coalign.core.options import Count, NonNegative
from coalign.judging.verifiers.registry import ConstraintError, Inner, Inners, Texts, Turn, verifier
from coalign.measures.answers import numbers_in
from coalign.measures.texts.text_units import find_phrases, fold, folded_words, ngrams, normalise

Weights = Annotated[list[NonNegative], MinLen(1), "a list of numbers of at least 0, one a constraint"]
Order = Literal["below", "at_most", "equal_to", "at_least", "above"]

_ORDERS = {
    "below": operator.lt,
    "at_most": operator.le,
    "equal_to": operator.eq,
    "at_least": operator.ge,
    "above": operator.gt,
}
# Words that carry no topic. English only: in other languages every word counts as content.
_FUNCTION_WORD_LIST = """
    a about after again all also am an and any are as at be because been before being but by can could did do does
    doing down during each else few for from further had has have having he her here hers him his how however i if in
    into is it its just may me might more most must my no nor not now of off on once one only or other our out over
    own same she should so some such than that the their them then there these they this those through to too under
    until up upon us very was we were what when where which while who whom why will with would you your yes
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())


@verifier(
    "source_overlap", classification="prompt", graded=True, describe="stays with the words of the prompt"
)
def source_overlap(prompt: str, response: str) -> float:
    """Share of the response's content words (English function words left out) that occur in the prompt."""
    content = [word for word in folded_words(response) if word not in FUNCTION_WORDS]
    source = set(folded_words(prompt))
    return sum(word in source for word in content) / len(content) if content else 0.0


@verifier(
    "no_copying", classification="prompt", graded=True, describe="copies no run of {n:word} from the prompt"
)
def no_copying(prompt: str, response: str, *, n: Count = 5) -> float:
    """Share of the response's n-grams of words that do not occur in the prompt; 1 below n words."""
    copied = set(ngrams(folded_words(prompt), n))
    found = ngrams(folded_words(response), n)
    return sum(one not in copied for one in found) / len(found) if found else 1.0


@verifier("extracted", classification="prompt", describe="quotes the prompt word for word")
def extracted(prompt: str, response: str) -> float:
    """The words of the response occur in the prompt in one unbroken run."""
    answer, source = folded_words(response), folded_words(prompt)
    return float(bool(answer) and f" {' '.join(answer)} " in f" {' '.join(source)} ")


@verifier("same_answer", classification="group", describe="the same answer as in the rest of the group")
def same_answer(own: Turn, other: Turn) -> float:
    """Both responses have the same words, case and punctuation aside."""
    return float(
        (folded_words(own.response) or fold(own.response))
        == (folded_words(other.response) or fold(other.response))
    )


@verifier(
    "consistent_options",
    classification="group",
    describe="the same one of {options} as in the rest of the group",
)
def consistent_options(own: Turn, other: Turn, *, options: Texts) -> float:
    """Both responses name exactly one of the options, and it is the same one."""
    chosen = [_only_option(turn, options) for turn in (own, other)]
    return float(None not in chosen and chosen[0] == chosen[1])


@verifier(
    "different_options",
    classification="group",
    describe="another one of {options} than in the rest of the group",
)
def different_options(own: Turn, other: Turn, *, options: Texts) -> float:
    """Both responses name exactly one of the options, and they differ."""
    chosen = [_only_option(turn, options) for turn in (own, other)]
    return float(None not in chosen and chosen[0] != chosen[1])


@verifier(
    "numeric_order", classification="group", describe="a number {relation!w} those in the rest of the group"
)
def numeric_order(own: Turn, other: Turn, *, relation: Order) -> float:
    """The first number of the own response stands in the relation to the first number of the other; 0 without one."""
    mine, theirs = _first_number(own.response), _first_number(other.response)
    return float(mine is not None and theirs is not None and _ORDERS[relation](mine, theirs))


@verifier("all_of", classification="composite", graded=True, describe="all of: {constraints}")
def all_of(values: list[float], *, constraints: Inners) -> float:
    """The smallest of the constraints' values."""
    return min(values)


@verifier("any_of", classification="composite", graded=True, describe="any of: {constraints}")
def any_of(values: list[float], *, constraints: Inners) -> float:
    """The largest of the constraints' values."""
    return max(values)


@verifier("not", classification="composite", graded=True, describe="not: {constraint}")
def negation(values: list[float], *, constraint: Inner) -> float:
    """1 minus the constraint's value; 0 for a blank response, as everywhere."""
    return 1.0 - values[0]


def _one_weight_each(args: Mapping[str, Any]) -> None:
    weights, constraints = args["weights"], args["constraints"]
    if len(weights) != len(constraints):
        raise ConstraintError(
            "weights", f"{len(weights)} for {len(constraints)} constraints", "one a constraint"
        )
    if not 0 < sum(weights) < math.inf:
        raise ConstraintError("weights", f"have the sum {sum(weights)}", "a positive, finite sum")


@verifier(
    "weighted",
    classification="composite",
    graded=True,
    describe="weighted: {constraints}",
    check=_one_weight_each,
)
def weighted(values: list[float], *, constraints: Inners, weights: Weights) -> float:
    """The mean of the constraints' values under the weights."""
    return min(math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights), 1.0)


def _only_option(turn: Turn, options: list[str]) -> str | None:
    found = set(find_phrases(turn.response, options))
    return found.pop() if len(found) == 1 else None


def _first_number(text: str) -> Fraction | None:
    found = numbers_in(normalise(text))
    return found[0].value if found else None
