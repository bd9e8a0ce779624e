"""The small training loop runs the product's engine and objectives."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from coalign.checks.steps import LIKELIHOOD, example, reference_logps, score, trained
from coalign.checks.tiny_models import TinyGRU, seeded, stream
from coalign.preference.pairwise import DPOConstants
from coalign.training.batches import collate
from coalign.training.objective import get_objective

PAIRS = [
    example([1, 2], [[3, 4, 5], [6]], [1.0, 0.0]),
    example([2], [[7, 3], [3, 3, 8, 1]], [1.0, 0.0]),
    example([4, 4, 1], [[5], [2, 2]], [1.0, 0.0]),
]


@pytest.fixture
def model() -> TinyGRU:
    return seeded(lambda: TinyGRU(9, width=8, layers=1), 0)


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
    settings = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2}
    reference = reference_logps(model, PAIRS)

    def run(purpose: str) -> TinyGRU:
        return trained(
            model,
            PAIRS,
            get_objective("dpo"),
            reference=reference,
            generator=stream(0, purpose),
            **settings,
        )

    one, two, other = run("a"), run("a"), run("b")
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
    fitted = trained(
        model,
        examples,
        LIKELIHOOD,
        steps=150,
        batch_size=2,
        learning_rate=3e-2,
        generator=stream(0, "order"),
    )
    assert torch.cat(reference_logps(fitted, examples)).min() > math.log(0.9)


def test_what_the_loop_cannot_do_is_an_error(model: TinyGRU) -> None:
    settings = {"steps": 1, "batch_size": 1, "learning_rate": 1.0, "generator": stream(0, "")}
    with pytest.raises(ValueError, match="dpo compares with a reference"):
        trained(model, PAIRS, get_objective("dpo"), **settings)
    stateful = dataclasses.replace(LIKELIHOOD, state=lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keeps a state"):
        trained(model, PAIRS, stateful, **settings)
