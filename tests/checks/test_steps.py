"""The small training loop runs the product's engine and objectives."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch

from coalign.checks.steps import LIKELIHOOD, example, prepared, reference_logps, score, trained
from coalign.checks.tiny_models import TinyGRU, seeded, stream
from coalign.training.batches import Example, collate
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import Losses, NoConstants, Objective, ScoredBatch, get_objective

PAIRS = [
    example([1, 2], [[3, 4, 5], [6]], [1.0, 0.0]),
    example([2], [[7, 3], [3, 3, 8, 1]], [1.0, 0.0]),
    example([4, 4, 1], [[5], [2, 2]], [1.0, 0.0]),
]


@pytest.fixture
def model() -> TinyGRU:
    return seeded(lambda: TinyGRU(9, width=8, layers=1), 0)


def fitted(
    model: TinyGRU,
    examples: list[Example],
    objective: Objective = LIKELIHOOD,
    order: str = "order",
    **options: Any,
) -> TinyGRU:
    settings = {"steps": 3, "batch_size": 2, "learning_rate": 1e-2, **options}
    return trained(model, examples, objective, generator=stream(0, order), **settings)


def test_the_reference_is_aligned_with_every_choice_of_examples(model: TinyGRU) -> None:
    reference = reference_logps(model, PAIRS)
    assert [len(one) for one in reference] == [4, 6, 3]
    rows = [2, 0]
    batch = collate([PAIRS[row] for row in rows])["batch"]
    scored = score(model, batch, [reference[row] for row in rows])
    assert scored.reference is not None
    torch.testing.assert_close(scored.policy.sums(), scored.reference.sums())
    losses = get_objective("dpo").loss(scored, DPOConstants()).losses
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)


def test_training_moves_a_copy_and_repeats_itself(model: TinyGRU) -> None:
    before = copy.deepcopy(model.state_dict())
    reference = reference_logps(model, PAIRS)
    dpo = get_objective("dpo")
    one, two, other = (fitted(model, PAIRS, dpo, order, reference=reference, steps=6) for order in "aab")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    batch = collate(PAIRS)["batch"]
    scored = score(one, batch, reference)
    margins = scored.policy.sums() - scored.reference.sums()  # type: ignore[union-attr]
    chosen, rejected = scored.pairs()
    assert (margins[chosen] > margins[rejected]).all()


def test_likelihood_is_learnt(model: TinyGRU) -> None:
    examples = [example([1], [[2, 3, 4]]), example([2], [[5, 5]])]
    learnt = fitted(model, examples, steps=150, learning_rate=3e-2)
    assert torch.cat(reference_logps(learnt, examples)).min() > math.log(0.9)


def test_what_the_loop_cannot_do_is_an_error(model: TinyGRU) -> None:
    with pytest.raises(ValueError, match="dpo compares with a reference"):
        fitted(model, PAIRS, get_objective("dpo"))


def test_a_state_sees_every_batch_before_its_loss(model: TinyGRU) -> None:
    class Count:
        seen = 0

        def update(self, batch: ScoredBatch, constants: object) -> None:
            assert not torch.is_grad_enabled()
            self.seen += batch.n_records

    counts: list[int] = []

    def loss(batch: ScoredBatch, constants: NoConstants) -> Losses:
        assert isinstance(batch.state, Count)
        counts.append(batch.state.seen)
        return LIKELIHOOD.loss(batch, constants)

    stateful = dataclasses.replace(LIKELIHOOD, loss=loss, state=Count)  # type: ignore[arg-type]
    fitted(model, PAIRS, stateful)
    assert counts == [2, 4, 6]


def test_columns_reach_the_objective(model: TinyGRU) -> None:
    seen: list[list[float]] = []

    def loss(batch: ScoredBatch, constants: NoConstants) -> Losses:
        seen.append(sorted(batch.extras["weight"].tolist()))
        return LIKELIHOOD.loss(batch, constants)

    examples = [example([1], [[2, 3]], weight=0.5), example([2], [[4]], weight=2.0)]
    weighted = dataclasses.replace(LIKELIHOOD, loss=loss, columns=("weight",))
    fitted(model, examples, weighted, steps=1)
    assert seen == [[0.5, 2.0]]


def test_a_watcher_sees_the_model_after_every_step(model: TinyGRU) -> None:
    seen: dict[int, float] = {}

    def watch(step: int, policy: TinyGRU) -> None:
        seen[step] = float(policy.head.bias.detach().sum())

    last = fitted(model, PAIRS, on_step=watch)
    assert list(seen) == [1, 2, 3]
    assert len(set(seen.values())) == 3
    assert seen[3] == float(last.head.bias.detach().sum())


def test_prepared_examples_have_the_responses_that_the_objective_adds() -> None:
    thumbs = [example([1], [[2, 3]], [1.0], weight=1.0), example([4], [[5]], [0.0], weight=2.0)]
    with_borrowed = prepared(thumbs, get_objective("kto"))
    assert [one.contexts[0].response_ids for one in with_borrowed] == [[[2, 3], [5]], [[5], [2, 3]]]
    assert [one.extras for one in with_borrowed] == [{"weight": [1.0]}, {"weight": [2.0]}]
    assert prepared(thumbs, get_objective("dpo")) == thumbs
