from __future__ import annotations

import random

import pytest
import torch

from coalign.checks.worlds.facts import boxes as world
from coalign.evaluation.factuality.records import Task


def test_documents_are_longer_than_the_encoder_and_half_are_supported() -> None:
    made = world.documents(20, random.Random(0))
    assert sum(one for _, _, one in made) == 10
    for document, claim, supported in made:
        assert len(document.split()) > 1.5 * world.LIMIT
        sentences = [f"{one}." for one in claim.rstrip(".").split(". ")]
        assert len(sentences) == 3
        assert sum(one in document for one in sentences) == (3 if supported else 2)


@pytest.mark.parametrize("task", ["nli", "paraphrase", "qa", "sts"])
def test_training_pairs_have_words_of_the_vocabulary(task: Task) -> None:
    draw = random.Random(0)
    pairs = [world.training_pair(task, draw) for _ in range(60)]
    assert len({one.label for one in pairs}) == (3 if task in ("nli", "sts") else 2)
    ids = world.fact_tokenizer()([one.text_a for one in pairs], [one.text_b[0] for one in pairs])["input_ids"]
    assert max(map(len, ids)) <= world.LIMIT
    assert not any(3 in one for one in ids), "no word is unknown"


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder, tokenizer = world.AligningEncoder().eval(), world.fact_tokenizer()
    short = tokenizer("the n1 box holds v1 coins .", "the n1 box", return_tensors="pt")
    padded = tokenizer(
        "the n1 box holds v1 coins .", "the n1 box", return_tensors="pt", padding="max_length", max_length=40
    )
    with torch.no_grad():
        one, other = (encoder(**inputs).last_hidden_state[:, 0] for inputs in (short, padded))
    torch.testing.assert_close(one, other)
