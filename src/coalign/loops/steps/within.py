"""Records that share something, compared among each other alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Rejected
from coalign.measures.texts.novelty import NoveltyPool


@dataclass
class NovelWithin:
    """Keeps the records whose text has ROUGE-L F of at most `most` with each text kept before that has the same key. All
    kept texts are remembered.

    Args:
        key: of a record (its prompt); None: nothing to compare, rejected.
        text: what is compared (its response).
    """

    name: str
    key: Callable[[Row], str | None]
    text: Callable[[Row], str]
    most: float
    needs: Sequence[str] = ()
    full: bool = field(default=False, init=False)
    _pools: dict[str, NoveltyPool] = field(default_factory=lambda: defaultdict(NoveltyPool), init=False)

    def look(self, row: Row) -> Made:
        key, text = self.key(row), self.text(row)
        if key is None or not text.strip():
            return Rejected(row, "no response")
        overlap = self._pools[key].overlap(text, at_least=self.most)
        if overlap > self.most:
            return Rejected(row, f"ROUGE-L above {self.most:g}", {"score": round(overlap, 6)})
        return Kept(row)

    def remember(self, row: Row) -> None:
        key = self.key(row)
        if key is not None:
            self._pools[key].add(self.text(row))
