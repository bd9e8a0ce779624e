"""Which passages of a corpus answer a query best: by their words, or by the nearness of sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from coalign.measures.retrieval import BM25

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.embedding import SentenceEncoder

Retriever = Literal["bm25", "dense"]


class Index(Protocol):
    """Passages that can be searched."""

    def top(self, query: str, k: int) -> list[int]:
        """Places of at most `k` passages, best first; of equal ones the first."""
        ...


@dataclass(frozen=True)
class DenseIndex:
    """Exact search by cosine similarity. Make one with `dense_index`.

    Attributes:
        embeddings: [N, D] of unit length.
    """

    encoder: SentenceEncoder
    embeddings: Tensor

    def scores(self, query: str) -> Tensor:
        """[N] cosine similarity of every passage to a query."""
        return self.embeddings @ self.encoder.encode([query])[0]

    def top(self, query: str, k: int) -> list[int]:
        return torch.sort(self.scores(query), descending=True, stable=True).indices[:k].tolist()


def dense_index(texts: Sequence[str], encoder: SentenceEncoder) -> DenseIndex:
    """Embed passages and keep them in memory: 4 D bytes a passage."""
    return DenseIndex(encoder, encoder.encode(texts))


def open_index(
    kind: Retriever, texts: Sequence[str], *, encoder: str = "default-encoder", device: str = "auto"
) -> Index:
    """An index of passages.

    Args:
        encoder: of sentences, for `dense`: `default-encoder`, a folder or a hub id.

    Raises:
        MissingExtraError: `bm25` without the extra `retrieval`.
        ModelError: an encoder that cannot be loaded.
        ValueError: `bm25` over passages without a word.
    """
    if kind == "bm25":
        return BM25(texts)
    from coalign.models.embedding import load_encoder

    return dense_index(texts, load_encoder(encoder, device=device))
