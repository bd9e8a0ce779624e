"""Sentences of a text and groups of sentences, as metrics of long texts need them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coalign.measures.texts.punkt import punkt_tokenizer

_DOUBLE_END = re.compile(r"[?!][?!]$")


@dataclass(frozen=True)
class Span:
    """A stretch of a text: the characters from `start` up to `end`."""

    start: int
    end: int

    def of(self, text: str) -> str:
        return text[self.start : self.end]


def sentence_spans(text: str, language: str = "english") -> list[Span]:
    """Where the sentences of `text` are, by the Punkt model of `language`; whitespace between them belongs to none.

    The boundaries are NLTK's (`PunktSentenceTokenizer`) on ordinary prose. One of its habits is kept on purpose: the
    last of several closing marks at the very end of a text is a sentence of its own ("Really?!" gives "Really?" and
    "!"), because published scores were made so. Tokens of marks alone ("... ??? ...") may be split otherwise; NLTK's own
    versions disagree about them.

    Returns:
        Spans in order; none for a text of whitespace alone.

    Raises:
        MissingExtraError: the extra `sentences` is not installed.
        ConfigError: there is no model of the language.
    """
    spans = [Span(start, end) for start, end in punkt_tokenizer(language).span_tokenize(text)]
    spans = [one for one in spans if one.of(text).strip()]
    if spans and _DOUBLE_END.search(spans[-1].of(text)):
        last = spans[-1]
        spans[-1:] = [Span(last.start, last.end - 1), Span(last.end - 1, last.end)]
    return spans


def chunk_sizes(sentences: int, words: int, words_per_chunk: int) -> list[int]:
    """How many sentences each chunk takes, so that chunks hold about `words_per_chunk` words or fewer.

    With k = floor(words / words_per_chunk) + 1 every chunk takes m = max(floor(sentences / k), 1) sentences and the
    last one what is left, so there can be more than k chunks, and a sentence is never cut. Source: the official code
    of arXiv 2305.16739, which counts whitespace-separated words.

    Raises:
        ValueError: words_per_chunk below 1.
    """
    if words_per_chunk < 1:
        raise ValueError(f"words_per_chunk is {words_per_chunk}, expected at least 1")
    size = max(sentences // (words // words_per_chunk + 1), 1)
    return [min(size, sentences - start) for start in range(0, sentences, size)]


def group(items: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Consecutive groups of the given sizes."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [list(items[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
