"""A world of passages and a tiny reader: it reads plainly stated facts, stumbles over indirect ones, and knows some by heart.

A fact gives an entity's attribute a value. A passage states a fact plainly (`e a IS v`), or indirectly (`e a IS NOT w BUT u`, where u
is another word for v), with filler words around it. The reader, a small transformer trained from scratch, has only ever seen
plain ones, and two in five of the facts without any passage. A question has eight passages: two that state its fact plainly, two that do so indirectly, two on
the same entity and another attribute, two on others. Nothing but its form tells which of the first four the reader can use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.data.passages import Passage
from coalign.data.questions import Question

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM

ENTITIES, ATTRIBUTES, VALUES, FILLERS = 60, 6, 24, 8
WORDS = (
    ["[pad]", "[cls]", "[sep]", "[ask]", "IS", "NOT", "BUT"]
    + [f"e{n}" for n in range(ENTITIES)]
    + [f"a{n}" for n in range(ATTRIBUTES)]
    + [f"v{n}" for n in range(VALUES)]
    + [f"u{n}" for n in range(VALUES)]
    + [f"f{n}" for n in range(FILLERS)]
)
IDS = {word: place for place, word in enumerate(WORDS)}
LENGTH = 8
"""Words of a passage."""


@dataclass(frozen=True)
class ReaderWorld:
    """What the arms of a seed share.

    Attributes:
        training, test: questions with eight passages each, in the order of words in common with the question.
    """

    seed: int
    reader: LlamaForCausalLM
    training: list[Question]
    test: list[Question]


def reader_world(seed: int, *, steps: int = 600, batch_size: int = 128) -> ReaderWorld:
    """Draw the facts, train the reader (Adam, 1e-3), and find eight passages for each question."""
    draw = stream(seed, "facts")
    values = torch.randint(VALUES, (ENTITIES, ATTRIBUTES), generator=draw)
    known = torch.rand(ENTITIES, ATTRIBUTES, generator=draw) < 0.4
    reader = seeded(lambda: tiny_transformer(len(WORDS), width=64, layers=2, heads=4), seed)
    _train(reader, values, known, stream(seed, "reading"), steps, batch_size)
    facts = [(e, a) for e in range(ENTITIES) for a in range(ATTRIBUTES)]
    order = torch.randperm(len(facts), generator=draw).tolist()
    questions = [_question(facts[place][0], facts[place][1], values, draw) for place in order]
    half = 2 * len(questions) // 3
    return ReaderWorld(seed, reader, questions[:half], questions[half:])


def answers_of(reader: LlamaForCausalLM, asked: Sequence[tuple[Question, Passage | None]]) -> list[str]:
    """The reader's most probable word to each question, with a passage or without."""
    rows = [_asked(one.question, passage.text if passage else "") for one, passage in asked]
    reader.eval()
    with torch.no_grad():
        best = [
            reader(torch.tensor(rows[start : start + 512])).logits[:, -1].argmax(-1)
            for start in range(0, len(rows), 512)
        ]
    return [WORDS[place] for place in torch.cat(best).tolist()]


def relevance_pairs(count: int, draw: torch.Generator) -> tuple[list[tuple[str, str]], list[int]]:
    """Queries and passages of drawn values, and whether the passage is about the query's fact, however it says so: what a
    reranker that knows no reader is trained on.
    """
    pairs, labels = [], []
    for e, a, v, kind, far in torch.randint(1 << 30, (count, 5), generator=draw).tolist():
        e, a, v, w = e % ENTITIES, a % ATTRIBUTES, v % VALUES, far % VALUES
        told_e, told_a = e, a
        if kind % 4 == 2:
            told_a = (a + 1 + far % (ATTRIBUTES - 1)) % ATTRIBUTES
        elif kind % 4 == 3:
            told_e = (e + 1 + far % (ENTITIES - 1)) % ENTITIES
        plain, indirect = ["IS", f"v{v}"], ["IS", "NOT", f"v{w}", "BUT", f"u{v}"]
        words = [f"e{told_e}", f"a{told_a}", *(plain if kind // 4 % 2 else indirect)]
        pairs.append((f"e{e} a{a}", _filled(words, draw)))
        labels.append(int(kind % 4 < 2))
    return pairs, labels


def _asked(question: str, passage: str) -> list[int]:
    words = passage.split() or ["[pad]"] * LENGTH
    return [IDS[one] for one in [*words, "[ask]", *question.split()]]


def _question(entity: int, attribute: int, values: Tensor, draw: torch.Generator) -> Question:
    def pick(n: int, *without: int) -> int:
        return next(one for one in torch.randperm(n, generator=draw).tolist() if one not in without)

    value = int(values[entity, attribute])
    e, a, v = f"e{entity}", f"a{attribute}", f"v{value}"
    told = [[e, a, "IS", v]] * 2
    told += [[e, a, "IS", "NOT", f"v{pick(VALUES, value)}", "BUT", f"u{value}"] for _ in range(2)]
    for _ in range(2):
        other = pick(ATTRIBUTES, attribute)
        told.append([e, f"a{other}", "IS", f"v{int(values[entity, other])}"])
    for _ in range(2):
        who, what = pick(ENTITIES, entity), pick(ATTRIBUTES, attribute)
        told.append([f"e{who}", f"a{what}", "IS", f"v{int(values[who, what])}"])
    texts = [_filled(one, draw) for one in told]
    ties = torch.rand(len(texts), generator=draw).tolist()
    shared = [len({e, a} & {*one.split()}) for one in texts]
    order = sorted(range(len(texts)), key=lambda place: (-shared[place], ties[place]))
    passages = tuple(Passage(str(number), texts[place]) for number, place in enumerate(order, 1))
    return Question(f"{e} {a}", f"{e} {a}", (v,), passages=passages)


def _filled(words: list[str], draw: torch.Generator) -> str:
    """The words in a row at a drawn place among fillers."""
    free = LENGTH - len(words)
    before = int(torch.randint(free + 1, (), generator=draw))
    fillers = [f"f{int(one)}" for one in torch.randint(FILLERS, (free,), generator=draw)]
    return " ".join([*fillers[:before], *words, *fillers[before:]])


def _train(
    reader: LlamaForCausalLM,
    values: Tensor,
    known: Tensor,
    draw: torch.Generator,
    steps: int,
    batch_size: int,
) -> None:
    """Six in ten records ask of a passage with a drawn value, the others of a known fact, half of them with another passage."""
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-3)
    facts = known.nonzero().tolist()
    reader.train()
    for _ in range(steps):
        rows, targets = [], []
        kinds = torch.rand(batch_size, generator=draw).tolist()
        numbers = torch.randint(1 << 30, (batch_size, 4), generator=draw).tolist()
        for kind, (one, two, three, four) in zip(kinds, numbers, strict=True):
            e, a, v = one % ENTITIES, two % ATTRIBUTES, three % VALUES
            text = ""
            if kind < 0.8:
                text = _filled([f"e{e}", f"a{a}", "IS", f"v{v}"], draw)
            if kind >= 0.6:
                known_e, known_a = facts[four % len(facts)]
                if (known_e, known_a) == (e, a):
                    text = ""
                e, a = known_e, known_a
                v = int(values[e, a])
            rows.append(_asked(f"e{e} a{a}", text))
            targets.append(IDS[f"v{v}"])
        loss = torch.nn.functional.cross_entropy(
            reader(torch.tensor(rows)).logits[:, -1], torch.tensor(targets)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
