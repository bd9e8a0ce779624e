"""Rankings that a judge is shown to go by: fixed ones from a file, and a queue of those that came up on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError
from coalign.data.records import Messages, Ranking
from coalign.judging.store import content_hash

BUNDLED = "bundled"
NONE = "none"
ASSET = Path(__file__).parent / "assets" / "rankings.jsonl"


@dataclass(frozen=True)
class Demonstration:
    """A ranking to go by.

    Attributes:
        responses: best first.
    """

    prompt: Messages
    responses: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same for equal demonstrations."""
        return content_hash([self.prompt_key, self.responses])

    @property
    def prompt_key(self) -> str:
        """The same for equal prompts."""
        return content_hash([(one["role"], one["content"]) for one in self.prompt])


class DemonstrationQueue:
    """The rankings that came up last, first in, first out, apart for each topic; of one prompt only the last.

    Args:
        size: most demonstrations of a topic; 0 keeps none.
        rows: what `rows` gave.
    """

    def __init__(self, size: int, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.size = size
        self._queues: dict[str, list[Demonstration]] = {}
        for row in rows:
            self.push(row["topic"], Demonstration(row["prompt"], tuple(row["responses"])))

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, topic: str, one: Demonstration) -> None:
        """Take in a ranking; the oldest of its topic goes when there are too many."""
        others = [each for each in self._queues.get(topic, []) if each.prompt_key != one.prompt_key]
        self._queues[topic] = [*others, one][-self.size :] if self.size else []

    def of(self, topic: str) -> tuple[Demonstration, ...]:
        """Those of a topic, the oldest first."""
        return tuple(self._queues.get(topic, ()))

    def rows(self) -> list[dict[str, Any]]:
        """Everything in it, ready for JSON."""
        return [
            {"topic": topic, "prompt": one.prompt, "responses": list(one.responses)}
            for topic, queue in self._queues.items()
            for one in queue
        ]


def read_demonstrations(source: str) -> tuple[Demonstration, ...]:
    """The fixed demonstrations: `bundled` for ours, `none`, or a file of rankings or pairs.

    Raises:
        DataError: the file cannot be read, or a record orders nothing.
    """
    from coalign.data.convert import converted
    from coalign.data.readers import read_records

    if source == NONE:
        return ()
    found = read_records(str(ASSET) if source == BUNDLED else source)
    demonstrations, problems = [], []
    for record in converted(found, "ranking"):
        assert isinstance(record, Ranking)
        if len(set(record.scores)) < len(record.scores):
            problems.append(record.problem("scores", "has equal ones", "an order of all responses"))
        ranked = sorted(zip(record.scores, record.responses, strict=True), reverse=True)
        demonstrations.append(Demonstration(record.prompt, tuple(text for _, text in ranked)))
    if problems:
        raise DataError(f"{source}: {len(problems)} rankings cannot be shown as demonstrations.", problems)
    return tuple(demonstrations)
