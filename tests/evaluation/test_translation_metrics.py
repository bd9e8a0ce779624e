"""Scores of translations at their ends."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.measures.translation_metrics import corpus_scores, edit_similarity, sentence_chrf, term_usage

TEXTS = ["Lávese las manos con agua y jabón.", "Quédese en casa si está enfermo."]


def test_a_perfect_translation_and_none():
    scores = corpus_scores(TEXTS, TEXTS, tokens="13a")
    assert (scores.bleu, scores.chrf, scores.ter) == pytest.approx((100, 100, 0))
    assert "tok:13a" in scores.signatures["bleu"]
    worst = corpus_scores(["", ""], TEXTS, tokens="13a")
    assert (worst.bleu, worst.chrf) == pytest.approx((0, 0))
    assert worst.ter == pytest.approx(100)
    assert sentence_chrf([TEXTS[0], ""], TEXTS) == pytest.approx([100, 0])


def test_the_tokeniser_of_flores_or_a_word_about_it(caplog):
    scores = corpus_scores(TEXTS, TEXTS)
    flores = "flores200" in scores.signatures["bleu"]
    assert (
        flores or ("tok:13a" in scores.signatures["bleu"] and "13a tokens" in caplog.text) or not caplog.text
    )


def test_other_numbers_of_sentences_are_refused():
    with pytest.raises(ValueError, match="1 translations for 2 references"):
        corpus_scores(TEXTS[:1], TEXTS)
    with pytest.raises(ValueError, match="0 translations"):
        corpus_scores([], [])


def test_terms_that_the_reference_does_without_are_not_counted():
    terms = [("mask", "mascarilla"), ("gown", "bata")]
    assert term_usage(terms, "una MASCARILLA", "la Mascarilla") == (1, 1, 1.0)
    assert term_usage([], "a", "b") == (0, 0, None)


sentences = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sentences, sentences, sentences)
def test_edit_distance_is_a_metric(a, b, c):
    def distance(one, other):
        return edit_similarity(one, other)[0]

    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a.split() == b.split())
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert 0 <= edit_similarity(a, b)[1] <= 1
