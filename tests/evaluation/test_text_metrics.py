"""Measures of texts: diversity, repetition, perplexity, and translations at their ends."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.measures.texts.text_metrics import (
    compare_distinct_n,
    perplexity_from_logps,
    rarefied_distinct_n,
)
from coalign.measures.texts.translation_metrics import (
    corpus_scores,
    edit_similarity,
    sentence_chrf,
    term_usage,
)

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), max_size=5)


def test_distinct_n_by_hand() -> None:
    texts = ["A b a b", "b a"]  # words: a b a b b a; bigrams: ab ba ab | ba
    assert rarefied_distinct_n(texts, 1, 6) == pytest.approx(2 / 6)
    assert rarefied_distinct_n(texts, 2, 4) == pytest.approx(2 / 4)
    assert compare_distinct_n(texts, texts, 5) == compare_distinct_n([], texts, 1) == (0, 0, 0)


@settings(max_examples=100)
@given(words=st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), data=st.data())
def test_rarefaction_is_the_mean_over_all_draws(words: list[str], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(words)))
    draws = [len(set(draw)) / size for draw in combinations(words, size)]
    assert rarefied_distinct_n([" ".join(words)], 1, size) == pytest.approx(sum(draws) / len(draws), rel=1e-9)


def test_comparison_is_fair_to_the_longer_corpus() -> None:
    short, long = ["a b c d e f g h"], ["a b c d e f g h"] * 3
    before, after, size = compare_distinct_n(short, long, 1)
    assert (before, size) == (1.0, 8)
    assert rarefied_distinct_n(long, 1, 24) == pytest.approx(8 / 24)
    assert 8 / 24 < after < 1
    assert compare_distinct_n(short, [""], 2) == (0, 0, 0)


@given(texts=TEXTS, n=st.integers(1, 3))
def test_properties_of_distinct_n(texts: list[str], n: int) -> None:
    total = round(sum(max(0, len(text.split()) - n + 1) for text in texts))
    if total:
        value = rarefied_distinct_n(texts, n, total)
        assert 0 < value <= 1
        assert rarefied_distinct_n(texts[::-1], n, total) == pytest.approx(value)
        assert rarefied_distinct_n(texts, n, 1) == pytest.approx(1)
        sizes = [rarefied_distinct_n(texts, n, size) for size in range(1, total + 1)]
        assert sizes == sorted(sizes, reverse=True) or max(sizes) - min(sizes) < 1e-9
        same = compare_distinct_n(texts, texts, n)
        assert same[0] == same[1] == pytest.approx(value)


def test_rarefaction_refuses_more_than_there_is_and_n_below_one() -> None:
    for size in (0, 4):
        with pytest.raises(ValueError, match="expected 1 to 3"):
            rarefied_distinct_n(["a b c"], 1, size)
    with pytest.raises(ValueError, match="n is 0"):
        rarefied_distinct_n(["a"], 0, 1)


def test_perplexity_weighs_tokens_alike() -> None:
    # 3 tokens of probability 1/2 and one of 1/16: exp((3 ln 2 + 4 ln 2) / 4) = 2^(7/4).
    assert perplexity_from_logps([-3 * math.log(2), -4 * math.log(2)], [3, 1]) == pytest.approx(2**1.75)
    assert perplexity_from_logps([0.0, 0.0], [0, 2]) == 1
    assert perplexity_from_logps([-1e6], [1]) == math.inf


ONE_TOKEN = [([0.1], [1]), ([float("nan")], [1]), ([-math.inf], [1])]


@pytest.mark.parametrize(
    ("logps", "tokens"), [([-1.0], [1, 2]), ([], []), ([0.0], [0]), ([-1.0], [0]), *ONE_TOKEN]
)
def test_perplexity_refuses(logps: list[float], tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        perplexity_from_logps(logps, tokens)


@given(parts=st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 50)), min_size=1, max_size=8))
def test_perplexity_does_not_depend_on_how_texts_are_split(parts: list[tuple[float, int]]) -> None:
    logps, tokens = zip(*parts, strict=True)
    whole = perplexity_from_logps([math.fsum(logps)], [sum(tokens)])
    assert perplexity_from_logps(logps, tokens) == pytest.approx(whole)
    assert whole >= 1


TRANSLATIONS = ["Lávese las manos con agua y jabón.", "Quédese en casa si está enfermo."]


def test_a_perfect_translation_and_none():
    scores = corpus_scores(TRANSLATIONS, TRANSLATIONS, tokens="13a")
    assert (scores.bleu, scores.chrf, scores.ter) == pytest.approx((100, 100, 0))
    assert "tok:13a" in scores.signatures["bleu"]
    worst = corpus_scores(["", ""], TRANSLATIONS, tokens="13a")
    assert (worst.bleu, worst.chrf) == pytest.approx((0, 0))
    assert worst.ter == pytest.approx(100)
    assert sentence_chrf([TRANSLATIONS[0], ""], TRANSLATIONS) == pytest.approx([100, 0])


def test_the_tokeniser_of_flores_or_a_word_about_it(caplog):
    scores = corpus_scores(TRANSLATIONS, TRANSLATIONS)
    flores = "flores200" in scores.signatures["bleu"]
    assert (
        flores or ("tok:13a" in scores.signatures["bleu"] and "13a tokens" in caplog.text) or not caplog.text
    )


def test_other_numbers_of_sentences_are_refused():
    with pytest.raises(ValueError, match="1 translations for 2 references"):
        corpus_scores(TRANSLATIONS[:1], TRANSLATIONS)
    with pytest.raises(ValueError, match="0 translations"):
        corpus_scores([], [])


def test_terms_that_the_reference_does_without_are_not_counted():
    terms = [("mask", "mascarilla"), ("gown", "bata")]
    assert term_usage(terms, "una MASCARILLA", "la Mascarilla") == (1, 1, 1.0)
    assert term_usage([], "a", "b") == (0, 0, None)


sentences = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(sentences, sentences, sentences)
def test_edit_distance_is_a_metric(a, b, c):
    def distance(one, other):
        return edit_similarity(one, other)[0]

    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a.split() == b.split())
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert 0 <= edit_similarity(a, b)[1] <= 1
