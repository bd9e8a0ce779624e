from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError
from coalign.evaluation.factuality.sentences import chunk_sizes, group, sentence_spans


def _sentences(text: str, language: str = "english") -> list[str]:
    return [one.of(text) for one in sentence_spans(text, language)]


def test_abbreviations_do_not_end_a_sentence() -> None:
    sentences = ["Dr. Smith paid $3.5 million.", "He left."]
    assert _sentences(" ".join(sentences)) == sentences


def test_the_last_of_several_closing_marks_stands_alone_as_in_nltk() -> None:
    assert _sentences("Really?! Yes!!") == ["Really?!", "Yes!", "!"]
    assert _sentences('"Go!!"') == ['"Go!!"']


def test_nothing_has_no_sentences() -> None:
    assert [_sentences(text) for text in ("", "  \n ", "\t")] == [[]] * 3


def test_other_languages_and_unknown_ones() -> None:
    assert len(_sentences("Das ist z.B. gut. Ja.", "german")) == 2
    with pytest.raises(ConfigError, match="german"):
        _sentences("a", "germn")


@given(st.text(alphabet="aB .!?\n\"')", max_size=60))
def test_spans_are_in_order_and_hold_all_but_space(text: str) -> None:
    spans = sentence_spans(text)
    place, outside = 0, ""
    for one in spans:
        assert place <= one.start < one.end <= len(text)
        outside += text[place : one.start]
        place = one.end
    assert not (outside + text[place:]).strip()


@given(st.integers(1, 200), st.integers(0, 5000), st.integers(1, 400))
def test_chunks_take_every_sentence_once_and_only_the_last_is_shorter(
    sentences: int, words: int, most: int
) -> None:
    sizes = chunk_sizes(sentences, words, most)
    assert sum(sizes) == sentences
    assert len(set(sizes[:-1])) <= 1
    assert 1 <= sizes[-1] <= sizes[0]
    assert [one for part in group(range(sentences), sizes) for one in part] == list(range(sentences))


def test_a_remainder_makes_one_more_chunk() -> None:
    assert chunk_sizes(19, 1000, 350) == [6, 6, 6, 1]
    with pytest.raises(ValueError, match="at least 1"):
        chunk_sizes(3, 10, 0)
