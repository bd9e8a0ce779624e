"""Questions about drawn scenes and answers to them, good and bad, as machines and people write them, and a small model that
learns to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.drawn.scene import COLOURS, PLACES, SHAPES, DrawnObject, Scene

ABOUT = ("colour", "place")
GENERIC = ("what is shown", "what is in this picture")


@dataclass(frozen=True)
class Told:
    """A question about a picture and an answer to it.

    Attributes:
        picture: its place among the pictures.
        good: whether the question can be answered and the answer is right.
        fact: the right colour or place; empty where nothing is asked that the picture tells.
    """

    picture: int
    question: str
    answer: str
    good: bool
    fact: str = ""


def question(shape: str, about: str) -> str:
    """About the colour or the place of the object of a shape."""
    return f"what colour is the {shape}" if about == "colour" else f"where is the {shape}"


def fact_of(one: DrawnObject, about: str) -> str:
    """The colour or the place of an object."""
    return one.colour if about == "colour" else one.place


def sentence(shape: str, about: str, fact: str) -> str:
    """A full answer."""
    return f"the {shape} is {fact if about == 'colour' else f'at the {fact}'}"


def absent_shape(scene: Scene, rng: np.random.Generator) -> str:
    """A shape that a scene does not have."""
    left = [one for one in SHAPES if one not in {each.shape for each in scene}]
    return left[rng.integers(len(left))]


def other_fact(fact: str, about: str, rng: np.random.Generator) -> str:
    """A wrong colour or place."""
    left = [one for one in (COLOURS if about == "colour" else PLACES) if one != fact]
    return left[rng.integers(len(left))]


def asked(scene: Scene, rng: np.random.Generator) -> tuple[DrawnObject, str]:
    """An object whose shape no other has, and what is asked about it."""
    shapes = [one.shape for one in scene]
    single = [one for one in scene if shapes.count(one.shape) == 1] or list(scene[:1])
    return single[rng.integers(len(single))], ABOUT[rng.integers(2)]


def ranked_questions(scene: Scene, rng: np.random.Generator) -> tuple[list[str], list[float]]:
    """Four questions and how good they are: answerable ones, a generic one, one about what is not there."""
    one, _ = asked(scene, rng)
    absent = question(absent_shape(scene, rng), ABOUT[rng.integers(2)])
    texts = [question(one.shape, "colour"), question(one.shape, "place"), GENERIC[rng.integers(2)], absent]
    return texts, [2.0, 2.0, 1.0, 0.0]


def ranked_answers(scene: Scene, rng: np.random.Generator) -> tuple[str, list[str], list[float]]:
    """A question and four answers: in a sentence, in a word, wrong, about something else."""
    one, about = asked(scene, rng)
    fact = fact_of(one, about)
    wrong = sentence(one.shape, about, other_fact(fact, about, rng))
    beside = sentence(absent_shape(scene, rng), about, fact)
    return (
        question(one.shape, about),
        [sentence(one.shape, about, fact), fact, wrong, beside],
        [2.0, 1.0, 0.0, 0.0],
    )


def swapped(values: Sequence[float], share: float, rng: np.random.Generator) -> tuple[float, ...]:
    """What an annotator says: with the chance `share` two of the values are exchanged."""
    found = list(values)
    if rng.random() < share:
        one, other = rng.permutation(len(found))[:2]
        found[one], found[other] = found[other], found[one]
    return tuple(found)


def instruction(picture: int, scene: Scene, rng: np.random.Generator, bad: float) -> Told:
    """One of a corpus: with the chance `bad` the question or the answer is bad, either alike."""
    one, about = asked(scene, rng)
    fact = fact_of(one, about)
    draw = rng.random()
    if draw >= bad:
        answer = sentence(one.shape, about, fact) if rng.random() < 0.5 else fact
        return Told(picture, question(one.shape, about), answer, True, fact)
    if draw < bad / 2:
        shape = absent_shape(scene, rng)
        if rng.random() < 0.5:
            return Told(picture, GENERIC[rng.integers(2)], f"a {one.shape}", False)
        return Told(
            picture, question(shape, about), sentence(shape, about, other_fact("", about, rng)), False
        )
    wrong = sentence(one.shape, about, other_fact(fact, about, rng))
    beside = sentence(absent_shape(scene, rng), about, other_fact(fact, about, rng))
    return Told(picture, question(one.shape, about), (wrong, beside)[rng.integers(2)], False, fact)


class Answerer(nn.Module):
    """A small model that answers questions about pictures: their tokens from a frozen encoder, then the text.

    Args:
        tokenizer: of whole words, with an end token.
        width: of the pictures' tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.decoder: LlamaForCausalLM = tiny_transformer(len(tokenizer), 64, 2, 4, positions=64)
        self.project = nn.Linear(width, 64)

    def logits(self, images: Tensor, ids: Tensor) -> Tensor:
        """[B, L, V] logits of the token after each of `ids` [B, L], given `images` [B, N, width]."""
        decoder: Any = self.decoder
        embedded = torch.cat([self.project(images), decoder.get_input_embeddings()(ids)], 1)
        return decoder(inputs_embeds=embedded, use_cache=False).logits[:, images.shape[1] :]

    def encoded(self, question: str, answer: str | None) -> tuple[list[int], int]:
        """(ids, where the answer begins): the question, the end token, the answer and the end token."""
        end = self.tokenizer.eos_token_id
        ask = [*self.tokenizer.encode(question, add_special_tokens=False), end]
        reply = [] if answer is None else [*self.tokenizer.encode(answer, add_special_tokens=False), end]
        return ask + reply, len(ask)


def trained_answerer(
    tokenizer: Any,
    images: Tensor,
    data: Sequence[Told],
    *,
    steps: int,
    batch: int,
    seed: int,
    rate: float = 2e-3,
) -> Answerer:
    """An answerer that has learnt the answers of `data`, token by token; questions are not learnt. Adam, a fresh model."""
    model = seeded(lambda: Answerer(tokenizer, images.shape[-1]), seed).train()
    rows = [model.encoded(one.question, one.answer) for one in data]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    learnt = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (tokens, begin) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        learnt[row, begin : len(tokens)] = True
    pictures = torch.tensor([one.picture for one in data])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    draw = stream(seed, "answers")
    for step in range(steps):
        picked = torch.randint(len(rows), (batch,), generator=draw)
        logits = model.logits(images[pictures[picked]], ids[picked, :-1])
        wanted = learnt[picked, 1:]
        loss = cross_entropy(logits[wanted], ids[picked, 1:][wanted])
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def exact_answers(model: Answerer, images: Tensor, data: Sequence[Told], *, longest: int = 9) -> float:
    """Share of questions whose greedy answer states the right colour or place and no other."""
    right = 0
    facts = [*COLOURS, *PLACES]
    for start in range(0, len(data), 100):
        part = data[start : start + 100]
        texts = [model.encoded(one.question, None)[0] for one in part]
        said: list[list[int]] = [[] for _ in part]
        for size in {len(one) for one in texts}:
            rows = [row for row, one in enumerate(texts) if len(one) == size]
            ids = torch.tensor([texts[row] for row in rows])
            seen = images[torch.tensor([part[row].picture for row in rows])]
            for _ in range(longest):
                ids = torch.cat([ids, model.logits(seen, ids)[:, -1:].argmax(-1)], 1)
            for row, tokens in zip(rows, ids[:, size:].tolist(), strict=True):
                end = model.tokenizer.eos_token_id
                said[row] = tokens[: tokens.index(end)] if end in tokens else tokens
        for one, tokens in zip(part, said, strict=True):
            text = model.tokenizer.decode(tokens)
            right += {fact for fact in facts if fact in text} == {one.fact}
    return right / len(data)
