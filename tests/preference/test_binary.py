from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.data.convert import convert
from coalign.data.encoding import EncodedRecord
from coalign.data.records import Feedback, Preference, Source
from coalign.training.losses.binary import (
    KTOConstants,
    kto,
    kto_kl,
    kto_loss,
    mismatch_responses,
)
from tests.preference.batches import naive_records, scored_batch, sigmoid

NAN = math.nan
ratio = st.floats(-300, 300)


@given(h=st.lists(ratio, min_size=1, max_size=6), z0=st.floats(0, 20), gain=st.floats(0, 50))
@settings(max_examples=50)
def test_kto_is_bounded_and_monotone(h: list[float], z0: float, gain: float) -> None:
    ratios, zeros = torch.tensor(h, dtype=torch.float64), torch.zeros(len(h), dtype=torch.float64)
    for label, sign in ((1, 1.0), (0, -1.0)):
        labels = torch.full((len(h),), label)
        here = kto_loss(ratios, zeros, labels, torch.tensor(z0), beta=0.1)
        better = kto_loss(ratios + sign * gain, zeros, labels, torch.tensor(z0), beta=0.1)
        assert ((here >= 0) & (here <= 1)).all()
        assert (better <= here).all()


def test_kto_is_one_half_where_policy_and_reference_agree() -> None:
    logps = torch.tensor([-3.0, -700.0])
    losses = kto_loss(logps, logps, torch.tensor([1, 0]), torch.tensor(0.0), beta=0.1, undesirable_weight=1.5)
    assert losses.tolist() == [0.5, 0.75]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kto_on_extreme_ratios(dtype: torch.dtype) -> None:
    logps = torch.tensor([-1e5, -1.0, -1e5, -1.0], dtype=dtype, requires_grad=True)
    frozen = torch.tensor([-1.0, -1e5, -1.0, -1e5], dtype=dtype)
    losses = kto_loss(logps, frozen, torch.tensor([1, 1, 0, 0]), torch.tensor(0.0, dtype=dtype), beta=0.1)
    assert losses.tolist() == pytest.approx([1, 0, 0, 1])
    assert torch.isfinite(torch.autograd.grad(losses.sum(), logps)[0]).all()


def test_the_kl_is_a_clamped_mean_without_gradient() -> None:
    policy = torch.tensor([-1.0, -4.0], requires_grad=True)
    assert float(kto_kl(policy, torch.tensor([-3.0, -4.0]))) == 1.0
    assert float(kto_kl(policy, torch.tensor([0.0, 0.0]))) == 0.0
    assert float(kto_kl(policy[:0], policy[:0])) == 0.0
    assert not kto_kl(policy, torch.tensor([-3.0, -4.0])).requires_grad


@given(labels=st.lists(st.booleans(), min_size=1, max_size=6), seed=st.integers(0, 999))
@settings(max_examples=30)
def test_the_objective_equals_a_loop(labels: list[bool], seed: int) -> None:
    batch = scored_batch([[float(label), NAN] for label in labels], seed=seed)
    losses = kto(batch, KTOConstants(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7))
    records = naive_records(batch)
    kl = max(0.0, sum(borrowed["h"] for _, borrowed in records) / len(records))
    naive = [
        1.2 * (1 - sigmoid(0.3 * (own["h"] - kl))) if label else 0.7 * (1 - sigmoid(0.3 * (kl - own["h"])))
        for label, (own, _) in zip(labels, records, strict=True)
    ]
    assert losses.losses.tolist() == pytest.approx(naive)
    assert losses.metrics["kl"].tolist() == pytest.approx([kl] * len(labels))
    assert (~losses.metrics["rewards/chosen"].isnan()).tolist() == labels
    assert losses.metrics["rewards/rejected"].isnan().tolist() == labels


def test_no_gradient_through_mismatched_responses() -> None:
    batch = scored_batch([[1.0, NAN], [0.0, NAN]])
    (gradient,) = torch.autograd.grad(kto(batch, KTOConstants()).losses.sum(), batch.policy.token_logps)
    by_response = torch.split(gradient, batch.policy.lengths.tolist())
    assert all((by_response[row] != 0).all() for row in (0, 2))
    assert all((by_response[row] == 0).all() for row in (1, 3))


@pytest.mark.parametrize("values", [[[1.0, 0.0]], [[NAN, 1.0]], [[1.0, NAN], [NAN, NAN]]])
def test_a_batch_without_mismatched_responses_is_refused(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="mismatch_responses"):
        kto(scored_batch(values), KTOConstants())


def test_the_kl_is_shared_by_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes with unequal shares get the mean over all responses: here (1 + 2 + 3) and (-4)."""

    def add_the_other_process(total: torch.Tensor) -> None:
        total += torch.tensor([-4.0, 1.0])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_other_process)
    assert float(kto_kl(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))) == 0.5


def encoded(prompt: list[int], response: list[int], trained: list[bool] | None = None) -> EncodedRecord:
    masks = None if trained is None else [trained]
    return EncodedRecord(0, prompt, [response], masks, [1.0], False)


prompts = st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(lambda ids: len(set(ids)) > 1)


@given(prompts, st.integers(0, 3))
def test_a_borrowed_response_belongs_to_another_prompt(ids: list[int], seed: int) -> None:
    records = [encoded([one], [row, 9]) for row, one in enumerate(ids)]
    mismatched = mismatch_responses(records, seed=seed)
    lenders = [record.response_ids[1][0] for record in mismatched]
    for row, record in enumerate(mismatched):
        assert ids[lenders[row]] != ids[row]
        assert record.response_ids == [[row, 9], [lenders[row], 9]]
        assert record.prompt_ids == [ids[row]]
        assert record.values[0] == 1.0
        assert math.isnan(record.values[1])
    most = max(ids.count(one) for one in ids)
    if 2 * most <= len(ids):
        assert sorted(lenders) == [*range(len(ids))], "every response is borrowed once"


@pytest.mark.parametrize("pairs", [2, 3, 16, 100])
def test_of_split_pairs_chosen_and_rejected_responses_are_borrowed_alike(pairs: int) -> None:
    """A bug: the next record with another prompt always was a chosen response, so KTO's KL was estimated on them."""
    records = [encoded([row // 2], [row]) for row in range(2 * pairs)]
    lenders = [record.response_ids[1][0] for record in mismatch_responses(records)]
    assert sum(lender % 2 for lender in lenders) == pairs
    chosen_lend_to = [lender % 2 for lender in lenders[::2]]
    if pairs == 100:
        assert 30 < sum(chosen_lend_to) < 70, "which of the two a chosen response meets is chance"


def test_the_shuffle_is_that_of_the_seed() -> None:
    records = [encoded([row], [row]) for row in range(20)]
    firsts, again = (
        [mismatch_responses(records, seed=n)[0].response_ids[1][0] for n in range(8)] for _ in "ab"
    )
    assert firsts == again
    assert len({*firsts}) > 2


def test_a_borrowed_response_fits_the_length_limit() -> None:
    records = [encoded([1, 2, 3], [4]), encoded([5], [6, 7, 8], [True, False, True])]
    first, second = mismatch_responses(records, max_length=4)
    assert first.response_ids == [[4], [6]]
    assert first.trained == [[True], [True]]
    assert second.response_ids == [[6, 7, 8], [4]]
    assert second.trained == [[True, False, True], [True]]


def test_responses_to_one_prompt_cannot_be_mismatched() -> None:
    with pytest.raises(DataError, match="at least two different prompts, found 2 to one"):
        mismatch_responses([encoded([1], [2]), encoded([1], [3])])
    assert mismatch_responses([]) == []


def test_pairs_become_two_records_of_feedback() -> None:
    prompt: Any = [{"role": "user", "content": "Hi"}]
    pair = Preference(
        prompt=prompt, chosen="yes", rejected="no", source=Source("pairs.jsonl", 3, 2), plain=True
    )
    up, down = convert([pair], "preference", "feedback")
    assert isinstance(up, Feedback)
    assert isinstance(down, Feedback)
    assert (up.completion, up.label, down.completion, down.label) == ("yes", True, "no", False)
    assert up.prompt == down.prompt == pair.prompt
    assert (up.source, down.plain) == (pair.source, True)
