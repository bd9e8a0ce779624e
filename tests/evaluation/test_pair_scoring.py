from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.evaluation.factuality.functions import headed_scorer
from coalign.evaluation.factuality.pair_scoring import PairEncoder, kept_lengths
from coalign.models.batching import length_batches
from tests.evaluation.encoders import WORDS, Counting, pair_classifier, pair_tokenizer

TOKENIZER = pair_tokenizer()
WORD_LISTS = st.lists(st.sampled_from(WORDS[:20]), max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(WORD_LISTS, WORD_LISTS.filter(bool), st.sampled_from([8, 15, 30, 64]))
def test_pairs_are_encoded_and_cut_as_the_tokenizer_does(first: str, second: str, longest: int) -> None:
    found = PairEncoder(TOKENIZER, longest).encode([(first, second)])[0]
    whole = TOKENIZER(first, second)["input_ids"]
    room = longest - 4 - len(second.split())
    how = "only_first" if room >= 1 else "longest_first"
    expected = TOKENIZER(first, second, truncation=how, max_length=longest)["input_ids"]
    assert found.ids == expected
    assert found.truncated == (len(whole) > longest)


def test_a_long_claim_cuts_both_texts() -> None:
    assert kept_lengths(3, 4, 10) == (3, 4)
    assert kept_lengths(20, 4, 10) == (6, 4)
    assert kept_lengths(0, 30, 10) == (0, 10)
    assert kept_lengths(30, 30, 9) == (4, 5)
    with pytest.raises(ValueError, match="at least 6"):
        PairEncoder(TOKENIZER, 5)


def test_scores_do_not_depend_on_batch_padding_or_order_and_repeat_costs_nothing() -> None:
    draw = random.Random(0)
    sizes = [(draw.randint(0, 50), draw.randint(1, 9)) for _ in range(20)]
    pairs = [tuple(" ".join(draw.choices(WORDS, k=k)) for k in both) for both in sizes]
    model = pair_classifier()
    alone = headed_scorer(model, TOKENIZER, 64, batch_tokens=1)(pairs).scores
    scorer = headed_scorer(model, TOKENIZER, 64, batch_tokens=300)
    counting = Counting(scorer)
    shuffled = draw.sample(pairs, len(pairs))
    found = scorer([*shuffled, *pairs])
    assert counting.rows == len(set(pairs))
    expected = [alone[pairs.index(one)] for one in shuffled] + alone
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor(expected), atol=2e-6, rtol=0)
    assert max(alone) - min(alone) > 0.05, "the scores differ, so the comparison says something"


def test_padding_to_the_longest_gives_what_padding_to_the_limit_gives() -> None:
    model = pair_classifier()
    inputs = TOKENIZER("a cat sat", "a dog", padding="max_length", max_length=64, return_tensors="pt")
    with torch.no_grad():
        padded = model(inputs["input_ids"], inputs["attention_mask"]).tri.softmax(-1)[0, 0]
    found = headed_scorer(model, TOKENIZER, 64)([("a cat sat", "a dog")]).scores[0]
    assert abs(found - float(padded)) < 1e-6


def test_no_pairs() -> None:
    assert headed_scorer(pair_classifier(), TOKENIZER, 64)([]).scores == []


@given(st.lists(st.integers(0, 100), max_size=50), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], limit: int) -> None:
    batches = length_batches(lengths, lambda longest: limit // max(longest, 1))
    assert sorted(row for one in batches for row in one) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= max(limit, len(rows))
