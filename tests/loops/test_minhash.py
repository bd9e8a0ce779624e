"""Signatures of texts and what they connect: against the exact similarity, in any batch and order."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures.texts.minhash import connected, signatures
from coalign.measures.texts.text_quality import RULES, quality_rules, rule_quality
from coalign.measures.texts.text_units import folded_words, ngrams, words


def jaccard(one: str, two: str, n: int) -> float:
    a, b = ({*ngrams(folded_words(text), n)} for text in (one, two))
    return len(a & b) / len(a | b)


def sentences(count: int, length: int = 40, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(3000)}" for _ in range(length)) for _ in range(count)]


def test_agreement_estimates_the_jaccard_similarity() -> None:
    draw, errors = random.Random(1), []
    for text in sentences(40, 120):
        parts = text.split()
        for _ in range(draw.randrange(12)):
            parts[draw.randrange(len(parts))] = f"new{draw.random()}"
        other = " ".join(parts)
        one, two = signatures([text, other], permutations=256)
        errors.append(float((one == two).mean()) - jaccard(text, other, 3))
    assert abs(float(np.mean(errors))) < 0.02
    assert float(np.std(errors)) < 0.05  # at most 0.5 / sqrt(256) = 0.031 a pair


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6), n=st.integers(1, 4))
def test_a_text_has_one_signature_in_any_company(texts: list[str], n: int) -> None:
    together = signatures(texts, n=n)
    assert together.shape == (len(texts), 64)
    for text, found in zip(texts, together, strict=True):
        assert (signatures([text], n=n)[0] == found).all()
    assert (signatures([one.upper() for one in texts if one.upper().casefold() == one.casefold()], n=n)
            == signatures([one for one in texts if one.upper().casefold() == one.casefold()], n=n)).all()  # fmt: skip


def test_short_texts_and_none_are_told_apart() -> None:
    marks = signatures(["", "one", "one two", "two one", "!", "one!"])
    same = {pair for pair in itertools.combinations(range(6), 2) if (marks[pair[0]] == marks[pair[1]]).all()}
    assert same == {(1, 5)}
    assert signatures([]).shape == (0, 64)


def test_all_pairs_above_the_threshold_are_connected_and_no_others() -> None:
    texts = sentences(300)
    draw = random.Random(2)
    for place in range(0, 300, 3):  # 40 words of which two or many are others
        parts = texts[place].split()
        for at in draw.sample(range(40), 1 if place % 2 else 20):
            parts[at] = "other"
        texts[place + 1] = " ".join(parts)
    marks = signatures(texts)
    found = connected(marks, 0.8)
    groups = {tuple(np.flatnonzero(found == one)) for one in np.unique(found)}
    for one, two in itertools.combinations(range(300), 2):
        near = float((marks[one] == marks[two]).mean()) >= 0.8
        assert near == any({one, two} <= {*group} for group in groups), (one, two)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(24)))
def test_what_is_connected_does_not_depend_on_the_order(seed: int, order: list[int]) -> None:
    chain = [" ".join(f"w{seed}-{i + j}" for i in range(30)) for j in range(12)]  # each near the next
    texts = [*chain, *sentences(12, seed=seed)]
    whole, moved = connected(signatures(texts), 0.8), connected(signatures([texts[i] for i in order]), 0.8)
    pairs = lambda root, names: {  # noqa: E731
        frozenset((names[a], names[b])) for a, b in itertools.combinations(range(24), 2) if root[a] == root[b]
    }
    assert pairs(whole, list(range(24))) == pairs(moved, order)


def test_bands_have_one_size() -> None:
    with pytest.raises(ValueError, match="bands of one size"):
        connected(signatures(["a"]), 0.8, bands=7)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(max_codepoint=127), max_size=60) | st.text("a1.,:/'-_ \n", max_size=20))
def test_words_of_ascii_are_those_of_the_whole_rule(text: str) -> None:
    """A letter that is no ASCII at the end leads to the general rule."""
    assert words(text) == words(f"{text} é")[:-1]
    assert folded_words(text) == folded_words(f"{text} é")[:-1]


GOOD = "The keeper of the lamp went to the shore. He looked at the boats that came home with the tide."


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("I a b to the of be x y z.", "word length"),
        (GOOD.replace(" ", " # "), "symbols"),
        ("The 12 34 56 of 78 90 11 22 33.", "letters"),
        ("Keeper lamp shore boats home tide.", "stop words"),
        ("- the keeper of\n- lamp went to\n- the shore.", "bullets"),
        ("The boats of home.\n" * 4, "repeated lines"),
        ("the boats came home to the shore and " * 4 + "slept.", "repeated words"),
        (GOOD[:-1], "ending"),
    ],
)
def test_each_rule_of_quality_finds_its_fault(text: str, rule: str) -> None:
    assert all(quality_rules(GOOD).values())
    assert rule_quality(GOOD) == 1
    assert not quality_rules(text)[rule]


def test_a_text_without_words_has_no_quality() -> None:
    assert [rule_quality(one) for one in ("", " \n")] == [0, 0]
    assert tuple(quality_rules(GOOD)) == RULES
