"""Passages of a folder of text, retrieved for tasks that a model wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from coalign.core.errors import DataError
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Rewrite
from coalign.selfalign.synthesis.tasks import joined

if TYPE_CHECKING:
    from coalign.measures.retrieval import BM25

SUFFIXES = (".txt", ".md")
MOST_WORDS = 150
"""Words of a passage; a longer paragraph is cut into several."""


class Passages:
    """The paragraphs of all text files below a folder.

    Args:
        folder: of `.txt` and `.md` files, in UTF-8.
        k: passages for a task.

    Raises:
        DataError: no such folder, a file that is not text, or no passage.
        MissingExtraError: the extra `retrieval` is not installed.
    """

    def __init__(self, folder: Path, k: int) -> None:
        self.k, self.texts = k, dict(_passages(folder))
        if not self.texts:
            raise DataError(
                f"{folder}: no text.",
                hint=f"Files with {' or '.join(SUFFIXES)} are read, in all folders below.",
            )
        self._names = list(self.texts)
        self._index: BM25 = _index(list(self.texts.values()))

    def step(self) -> Rewrite:
        """Adds `passages`, the ids of the passages that a task's text retrieves."""

        def retrieved(row: Row) -> Row:
            found = self._index.top(joined(row["instruction"], row["input"]), self.k)
            return {**row, "passages": [self._names[place] for place in found]}

        return Rewrite("passages", retrieved, needs=("instruction", "input"))


def _index(texts: list[str]) -> BM25:
    from coalign.measures.retrieval import BM25

    return BM25(texts)


def _passages(folder: Path) -> list[tuple[str, str]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder.", hint="A corpus is a folder of text files.")
    found = []
    for path in sorted(one for one in folder.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
        number = 0
        for paragraph in re.split(r"\n\s*\n", text):
            words = paragraph.split()
            for start in range(0, len(words), MOST_WORDS):
                number += 1
                found.append(
                    (f"{path.relative_to(folder)}#{number}", " ".join(words[start : start + MOST_WORDS]))
                )
    return found
