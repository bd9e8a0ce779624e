"""Search by words and by embeddings over the same passages."""

from __future__ import annotations

import pytest
import torch

from coalign.models.retrieval import dense_index, open_index


class Letters:
    """Embeds a text by the counts of its letters a, b and c."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        counts = torch.tensor([[float(text.count(one)) for one in "abc"] for text in texts])
        return torch.nn.functional.normalize(counts, dim=-1)


def test_the_nearest_come_first_and_of_equal_ones_the_first() -> None:
    index = dense_index(["b", "aab", "c", "aab"], Letters())  # type: ignore[arg-type]
    assert index.top("aa", 3) == [1, 3, 0]
    assert index.top("c", 9) == [2, 0, 1, 3]


def test_words_find_passages_in_every_script() -> None:
    pytest.importorskip("bm25s")
    index = open_index("bm25", ["The bridge is green.", "Der Turm ist grün.", "桥是绿色的。"])
    assert [index.top(one, 1) for one in ("grün", "桥", "bridge", "zinc")] == [[1], [2], [0], []]
