"""Which passages help a reader: its answers without and with each of them, and what a reranker can learn from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coalign.data.passages import Passage, numbered
from coalign.data.records import Demonstration, Messages
from coalign.loops.rows import Row

Effect = Literal["both_correct", "aligned", "unaligned", "both_incorrect"]
"""What a passage does: the reader is right with and without it, only with it, only without it, or neither."""
BRIEFLY = "Answer in a few words."
JUDGING = "Say first whether the passages help to answer the question, then answer in a few words."
HELPS, HINDERS = "The passages help.", "The passages do not help."


def category_of(before: bool, after: bool) -> Effect:
    """What a passage does to a reader whose answer is right (or not) without it, and with it (section 3.1)."""
    if before:
        return "both_correct" if after else "unaligned"
    return "aligned" if after else "both_incorrect"


def reader_prompt(question: str, passages: Sequence[Passage], *, judging: bool = False) -> Messages:
    """What the reader is asked, with passages or without."""
    shown = f"Passages:\n\n{numbered(passages)}\n\n" if passages else ""
    text = f"{shown}{JUDGING if judging else BRIEFLY}\nQuestion: {question}"
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Preference:
    """What a reranker learns from one query.

    Attributes:
        query: the question or a rewrite of it.
        texts: [P] passages that were tried, those with which the reader is right first, each part in the order of the retriever.
        helped: [P] whether the reader is right with it.
        knew: whether it is right without any, so that `helped` passages are aligned knowledge where it is not, and the others
            unaligned where it is.
    """

    id: str
    query: str
    texts: tuple[str, ...]
    helped: tuple[bool, ...]
    knew: bool

    @property
    def labels(self) -> list[int]:
        """[P] class of the point-wise loss: 1 for aligned, 0 for unaligned knowledge, -1 for passages that change nothing."""
        kinds = [category_of(self.knew, one) for one in self.helped]
        return [{"aligned": 1, "unaligned": 0}.get(one, -1) for one in kinds]


def preference_row(
    id: str, query: str, knew: bool, passages: Sequence[Passage], right: Sequence[bool]
) -> Row:
    """What is kept of a question: its passages with what each does, in the order of the retriever."""
    effects = [category_of(knew, one) for one in right]
    told = [{**one.to_dict(), "effect": effect} for one, effect in zip(passages, effects, strict=True)]
    return {"id": id, "question": query, "before": knew, "passages": told}


def preference_of(row: Row, query: str, name: str, *, most: int) -> Preference | None:
    """What is learnt from a row under a query; None where no passage changes anything.

    Of passages that help and of those that do not, `most` each are taken, the first of the retriever's.
    """
    told = [(Passage(one["id"], one["text"], one["title"]), one["effect"]) for one in row["passages"]]
    right = [str(one) for one, effect in told if effect in ("aligned", "both_correct")][:most]
    wrong = [str(one) for one, effect in told if effect in ("unaligned", "both_incorrect")][:most]
    if not any(effect in ("aligned", "unaligned") for _, effect in told):
        return None
    helped = (True,) * len(right) + (False,) * len(wrong)
    return Preference(name, query, (*right, *wrong), helped, bool(row["before"]))


def pre_aligned(row: Row, answer: str) -> Demonstration | None:
    """A demonstration in which the reader judges one passage and answers: an aligned passage helps, an unaligned one does not."""
    found = next((one for one in row["passages"] if one["effect"] in ("aligned", "unaligned")), None)
    if found is None:
        return None
    said = HELPS if found["effect"] == "aligned" else HINDERS
    passage = Passage(found["id"], found["text"], found["title"])
    prompt = reader_prompt(row["question"], [passage], judging=True)
    return Demonstration(prompt=prompt, completion=f"{said} {answer}")


def effects(rows: Sequence[Row]) -> dict[str, int]:
    """How many passages do what."""
    counts: Counter[Any] = Counter(one["effect"] for row in rows for one in row["passages"])
    kinds: tuple[Effect, ...] = ("aligned", "unaligned", "both_correct", "both_incorrect")
    return {name: counts[name] for name in kinds}
