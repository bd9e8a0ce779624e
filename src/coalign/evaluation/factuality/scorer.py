"""How well texts are supported by their sources: chunks against sentences under any function of text pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import CoalignError
from coalign.evaluation.factuality.pair_scoring import PairScorer
from coalign.evaluation.factuality.sentences import Span, chunk_sizes, group, sentence_spans
from coalign.evaluation.factuality.text_pairs import TextPair

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 4096
"""Pairs of chunk and sentence that are scored together; rows are kept after each window."""


def aggregate(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score of a claim from the scores of its parts: `mean_j max_i s_ij` (arXiv 2305.16739, section 3.3).

    Args:
        scores: [chunks, sentences] alignment of every sentence with every chunk.

    Returns:
        The score, the best chunk's score for each sentence, and which chunk that is (the first of equals).

    Raises:
        ValueError: no chunk or no sentence.
    """
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores have the shape {tuple(scores.shape)}, expected chunks x sentences")
    best = scores.amax(0)
    return best.mean(), best, (scores == best).int().argmax(0)


@dataclass(frozen=True)
class ClaimScore:
    """How well a claim is supported.

    Attributes:
        score: of the claim.
        sentences: where the claim's sentences are in its text; without splitting, one span over all of it.
        chunks: where the chunks are in the context; an empty context is one empty chunk.
        matrix: `[chunks][sentences]` alignment scores.
        sentence_scores: the best chunk's score for each sentence.
        best_chunks: the chunk that supports each sentence best.
        truncated: pairs of which tokens were cut off.
    """

    score: float
    sentences: list[Span]
    chunks: list[Span]
    matrix: list[list[float]]
    sentence_scores: list[float]
    best_chunks: list[int]
    truncated: int


@dataclass(frozen=True)
class Parts:
    """A context and a claim as the texts that are paired."""

    chunk_spans: list[Span]
    chunks: list[str]
    sentence_spans: list[Span]
    sentences: list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """Every chunk with every sentence, chunk by chunk."""
        return [(chunk, sentence) for chunk in self.chunks for sentence in self.sentences]


def split(context: str, claim: str, *, words_per_chunk: int = 350, language: str = "english") -> Parts:
    """Chunks of the context (its sentences joined with one space) and sentences of the claim.

    Raises:
        CoalignError: the claim has no sentence, so that there is nothing to score.
    """
    inside = sentence_spans(context, language)
    sentences = sentence_spans(claim, language)
    if not sentences:
        raise CoalignError("The claim is empty: it has no sentence that could be supported.")
    texts = [one.of(context) for one in inside] or [""]
    spans = inside or [Span(0, 0)]
    sizes = chunk_sizes(len(texts), len(context.split()), words_per_chunk)
    return Parts(
        [Span(many[0].start, many[-1].end) for many in group(spans, sizes)],
        [" ".join(many) for many in group(texts, sizes)],
        sentences,
        [one.of(claim) for one in sentences],
    )


@dataclass
class ClaimScorer:
    """The metric over one alignment function::

        scorer = ClaimScorer(load_function(FunctionOptions("alignscore-base")))
        scorer.score([context], [claim])[0].score

    Args:
        function: scores pairs of texts; `load_function` makes one.
        splits: pair chunks and sentences (the modes `..._sp`), or the texts as wholes.
    """

    function: PairScorer
    splits: bool = True
    words_per_chunk: int = 350
    language: str = "english"

    def parts(self, context: str, claim: str) -> Parts:
        """The texts that are paired; errors are those of `split`."""
        if self.splits:
            return split(context, claim, words_per_chunk=self.words_per_chunk, language=self.language)
        if not claim.strip():
            raise CoalignError("The claim is empty: there is nothing that could be supported.")
        return Parts([Span(0, len(context))], [context], [Span(0, len(claim))], [claim])

    def score(
        self, contexts: Sequence[str], claims: Sequence[str], *, label: str = "Scoring"
    ) -> list[ClaimScore]:
        """Score every claim against its context; a pair of chunk and sentence that occurs twice is computed once.

        Raises:
            CoalignError: a claim is empty; its position is named.
            ValueError: contexts and claims differ in number.
        """
        parts = []
        for index, (context, claim) in enumerate(zip(contexts, claims, strict=True)):
            try:
                parts.append(self.parts(context, claim))
            except CoalignError as error:
                raise CoalignError(f"claims[{index}]: {error.message}") from error
        return self.score_parts(parts, label=label)

    def score_parts(self, parts: Sequence[Parts], *, label: str = "Scoring") -> list[ClaimScore]:
        """`score` for texts that are split already."""
        pairs = [pair for one in parts for pair in one.pairs()]
        found = self.function(pairs, label=label)
        results, place = [], 0
        for one in parts:
            size = len(one.chunks) * len(one.sentences)
            matrix = torch.tensor(found.scores[place : place + size], dtype=torch.float64)
            matrix = matrix.reshape(len(one.chunks), len(one.sentences))
            score, best, chunks = aggregate(matrix)
            results.append(
                ClaimScore(
                    float(score),
                    one.sentence_spans,
                    one.chunk_spans,
                    matrix.tolist(),
                    best.tolist(),
                    chunks.tolist(),
                    sum(found.truncated[place : place + size]),
                )
            )
            place += size
        return results


def score_rows(
    pairs: Sequence[TextPair],
    metric: ClaimScorer,
    *,
    done: Sequence[str] = (),
    on_window: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """One row a pair, window by window.

    Args:
        done: ids that need no work. Windows are made from all pairs and worked on whole when any of theirs is missing,
            so that a run that was cut gives what it would have given.
        on_window: called with the new rows of each window.

    Raises:
        CoalignError: a claim has no sentence; its id is named.
    """
    have, rows = set(done), []
    for number, window in enumerate(_windows(pairs, metric)):
        missing = [index for index, (pair, _) in enumerate(window) if pair.id not in have]
        if not missing:
            continue
        found = metric.score_parts([parts for _, parts in window], label=f"Scoring, part {number + 1}")
        new = [_row(window[index][0], found[index]) for index in missing]
        rows += new
        if on_window:
            on_window(new)
    return rows


def _windows(pairs: Sequence[TextPair], metric: ClaimScorer) -> Iterator[list[tuple[TextPair, Parts]]]:
    window: list[tuple[TextPair, Parts]] = []
    size = 0
    for pair in pairs:
        try:
            parts = metric.parts(pair.context, pair.claim)
        except CoalignError as error:
            raise CoalignError(f"row {pair.id}: {error.message}", hint=error.hint) from error
        window.append((pair, parts))
        size += len(parts.chunks) * len(parts.sentences)
        if size >= WINDOW:
            yield window
            window, size = [], 0
    if window:
        yield window


def _row(pair: TextPair, found: ClaimScore) -> dict[str, Any]:
    return {
        "id": pair.id,
        "score": found.score,
        "label": pair.label,
        "sentences": [
            {
                "text": span.of(pair.claim),
                "start": span.start,
                "end": span.end,
                "score": score,
                "chunk": chunk,
            }
            for span, score, chunk in zip(
                found.sentences, found.sentence_scores, found.best_chunks, strict=True
            )
        ],
        "chunks": [{"start": one.start, "end": one.end} for one in found.chunks],
        "matrix": found.matrix,
        "truncated": found.truncated,
    }
