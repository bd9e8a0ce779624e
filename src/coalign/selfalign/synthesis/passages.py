"""Passages of a corpus, retrieved for tasks that a model wrote."""

from __future__ import annotations

from pathlib import Path

from coalign.data.passages import read_passages
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Rewrite
from coalign.measures.retrieval import BM25
from coalign.selfalign.synthesis.tasks import joined


class Passages:
    """The passages of a corpus (`coalign.data.passages.read_passages`), and the words that they have.

    Args:
        k: passages for a task.

    Raises:
        DataError: a corpus that cannot be used.
        MissingExtraError: the extra `retrieval` is not installed.
    """

    def __init__(self, corpus: Path, k: int) -> None:
        self.k, self.texts = k, {one.id: str(one) for one in read_passages(corpus)}
        self._names = list(self.texts)
        self._index = BM25(list(self.texts.values()))

    def step(self) -> Rewrite:
        """Adds `passages`, the ids of the passages that a task's text retrieves."""

        def retrieved(row: Row) -> Row:
            found = self._index.top(joined(row["instruction"], row["input"]), self.k)
            return {**row, "passages": [self._names[place] for place in found]}

        return Rewrite("passages", retrieved, needs=("instruction", "input"))
