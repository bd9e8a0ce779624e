from __future__ import annotations

import torch

from coalign.checks.tiny_models import stream
from coalign.checks.worlds.facts import entities


def test_halves_are_disjoint_and_half_known() -> None:
    world = entities.entity_world(0, known=20, unknown=20, steps=1, batch_size=4)
    pairs = [tuple(one) for part in (world.learning, world.test) for one in part.prompts.tolist()]
    assert len(set(pairs)) == 40
    assert len(world.learning.prompts) == len(world.test.prompts) == 20
    assert world.test.answers.min() >= entities.NAMES
    again = entities.entity_world(0, known=20, unknown=20, steps=1, batch_size=4)
    assert torch.equal(again.learning.prompts, world.learning.prompts)
    for one, other in zip(again.base.parameters(), world.base.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tuned_model_answers_as_it_learnt() -> None:
    world = entities.entity_world(1, known=8, unknown=8, steps=200, batch_size=8)
    known = world.learning.prompts[:4]
    assert (entities.greedy_answers(world.base, known) == world.learning.answers[:4]).all()
    settings = {"steps": 60, "batch_size": 4, "learning_rate": 1e-3, "order": "order"}
    silent = entities.tuned(world.base, known, torch.full((4,), entities.IDK_TOKEN), 1, **settings)
    assert (entities.greedy_answers(silent, known) == entities.IDK_TOKEN).all()
    drawn = entities.sampled_answers(silent, known, 5, stream(1, "draw"))
    assert drawn.shape == (4, 5)
    assert (drawn < entities.IDK_TOKEN).all()
