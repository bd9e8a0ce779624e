"""Check of `dpa-rag`: a reranker that knows what its reader can use, against one that knows relevance alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide
from coalign.checks.tiny_models import seeded, stream
from coalign.checks.worlds.facts.readers import (
    IDS,
    LENGTH,
    WORDS,
    ReaderWorld,
    answers_of,
    reader_world,
    relevance_pairs,
)
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.reading.knowledge import Preference, preference_of, preference_row
from coalign.curation.reading.reranker import Loss, RerankerOptions, loss_weights, reranker_losses

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.data.questions import Question

SIMILARITY, POINTWISE, ALL = "relevance", "point-wise alone", "three losses, min-norm weights"
STEPS, QUERIES, RELEVANCE_STEPS = 600, 8, 600


@dataclass(frozen=True)
class Labelled:
    """A world, what the reader's answers say of the training questions, and a reranker that knows no reader."""

    world: ReaderWorld
    examples: list[Preference]
    base: _Encoder


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Passages that are ordered by what helps the reader let it answer better than those that are most relevant.

    Rule:
        Accuracy of the reader with the first passage. Seen: three losses above relevance by 0.10 or more in the mean and
        above 0 in every seed, and not below point-wise alone by more than 0.02 in the mean. Not seen: above relevance by
        less than 0.03. Mixed: between.

    Setting:
        360 facts of 60 entities, eight passages each: two state it plainly, two in words that the reader does not know, two
        speak of another attribute, two of others. Reader: transformer of 2 layers and width 64, 600 steps on plain passages
        and two in five of the facts. Labels are its answers without and with each passage of 240 questions; 120 to test on.
        Reranker: encoder of 2 layers and width 64 that was trained to tell relevant passages (600 steps, the arm relevance),
        then 600 steps of 8 queries, Adam 3e-4; gradients of the losses by the encoder.
    """
    arms = {
        SIMILARITY: _before,
        POINTWISE: partial(_reranked, losses=["pointwise"]),
        ALL: partial(_reranked, losses=["pointwise", "pairwise", "contrastive"]),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_prepare, arms=arms)
    gains, against = rows.gaps("accuracy", ALL, SIMILARITY), rows.gap("accuracy", ALL, POINTWISE)
    mean = rows.gap("accuracy", ALL, SIMILARITY)
    seen = mean >= 0.10 and min(gains.values()) > 0 and against >= -0.02
    return rows.verdict(
        check,
        outcome=decide(seen=seen, not_seen=mean < 0.03),
        summary={
            "accuracy, three losses - relevance": mean,
            "accuracy, three losses - point-wise": against,
            **{f"{name}, {arm}": rows.mean(name, arm) for arm in arms for name in ("accuracy", "F1")},
            "right without passages": rows.mean("without", SIMILARITY),
        },
    )


def _prepare(seed: int) -> Labelled:
    world = reader_world(seed)
    rows = labelled(world, world.training)
    examples = [preference_of(row, row["question"], row["id"], most=2) for row in rows]
    return Labelled(world, [one for one in examples if one is not None], _relevance(seed))


def _relevance(seed: int) -> _Encoder:
    """An encoder that was trained to tell passages on the query's fact from others, in whatever form."""
    model = seeded(_Encoder, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    draw = stream(seed, "relevance")
    for _ in range(RELEVANCE_STEPS):
        pairs, labels = relevance_pairs(64, draw)
        loss = torch.nn.functional.cross_entropy(model(_ids(pairs))[1], torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def labelled(world: ReaderWorld, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What each passage does to the reader."""
    before = answers_of(world.reader, [(one, None) for one in questions])
    after = iter(answers_of(world.reader, [(one, each) for one in questions for each in one.passages]))
    return [
        preference_row(
            one.id,
            one.question,
            alone in one.answers,
            one.passages,
            [next(after) in one.answers for _ in one.passages],
        )
        for one, alone in zip(questions, before, strict=True)
    ]


def _before(given: Labelled) -> Measures:
    return _measured(given, _scores(given.base, given.world.test))


def _reranked(given: Labelled, *, losses: list[Loss]) -> Measures:
    seed = given.world.seed
    model = copy.deepcopy(given.base)
    settings = RerankerOptions(losses=losses)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    draw = stream(seed, "reranker/order")
    for _ in range(STEPS):
        places = torch.randint(len(given.examples), (QUERIES,), generator=draw).tolist()
        examples = [given.examples[place] for place in places]
        embeddings, logits = model(_ids([(one.query, text) for one in examples for text in one.texts]))
        batch = {
            "ids": places,
            "helped": torch.tensor([int(each) for one in examples for each in one.helped]),
            "labels": torch.tensor([label for one in examples for label in one.labels]),
            "queries": torch.tensor([place for place, one in enumerate(examples) for _ in one.texts]),
        }
        each = torch.stack([one.mean() for one in reranker_losses(embeddings, logits, batch, settings)])
        weights = torch.ones(1)
        if len(losses) > 1:
            weights = loss_weights(each, list(model.encoder.parameters()), exact=True).float()
        optimizer.zero_grad()
        (weights * each).sum().backward()
        optimizer.step()
    return _measured(given, _scores(model, given.world.test))


def _scores(model: _Encoder, questions: Sequence[Question]) -> list[list[float]]:
    model.eval()
    with torch.no_grad():
        outputs = [model(_ids([(one.question, each.text) for each in one.passages]))[1] for one in questions]
    return [(one[:, 1] - one[:, 0]).tolist() for one in outputs]


def _measured(given: Labelled, scores: Sequence[Sequence[float]]) -> Measures:
    """Accuracy with the first passage, and F1 of calling passages helpful whose score is above 0."""
    test = given.world.test
    first = [max(range(len(one)), key=one.__getitem__) for one in scores]
    found = answers_of(
        given.world.reader, [(one, one.passages[place]) for one, place in zip(test, first, strict=True)]
    )
    rows = labelled(given.world, test)
    truth = [each["effect"] in ("aligned", "both_correct") for row in rows for each in row["passages"]]
    told = [value > 0 for one in scores for value in one]
    both = sum(a and b for a, b in zip(truth, told, strict=True))
    return {
        "accuracy": sum(said in one.answers for said, one in zip(found, test, strict=True)) / len(test),
        "F1": 2 * both / max(sum(truth) + sum(told), 1),
        "without": sum(bool(row["before"]) for row in rows) / len(rows),
        "examples": float(len(given.examples)),
    }


def _ids(pairs: Sequence[tuple[str, str]]) -> Tensor:
    """[N, T] ids of query and passage."""
    return torch.tensor(
        [[IDS[word] for word in ["[cls]", *query.split(), "[sep]", *text.split()]] for query, text in pairs]
    )


class _Encoder(torch.nn.Module):
    """A small bidirectional encoder of pairs, and a head of two outputs."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=LENGTH + 4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
        )  # fmt: skip
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.head = torch.nn.Linear(64, 2)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 64] states of the first token, [N, 2] outputs."""
        states = self.encoder(input_ids=ids).last_hidden_state[:, 0]
        return states, self.head(states)
