"""The world of classes and replies: exact scores, and the same numbers under the same seed."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from coalign.checks import starts
from coalign.checks.starts import Start, start_with, untrained_arm
from coalign.checks.steps import LIKELIHOOD
from coalign.checks.tiny_models import TinyGRU, seeded
from coalign.checks.worlds.replies.graded import GradedWorld
from coalign.checks.worlds.replies.replies import ReplyWorld, panels_of, self_training_arm


@pytest.fixture
def world() -> ReplyWorld:
    return ReplyWorld(seed=1, content=24)


def replies_of(world: ReplyWorld, places: list[int], prompt: list[int]) -> list[list[list[int]]]:
    """One reply of the symbols at these places of the class's order."""
    order = world.order[prompt[0] - 1]
    return [[[int(order[place]) + 1 + world.classes for place in places]]]


def test_scores_by_hand(world: ReplyWorld) -> None:
    prompt = [3]
    mixed = replies_of(world, [0, 1, 1, 6, 11, 12, 23, 12], prompt)  # places 0-5 are good, 0-11 allowed
    assert float(world.task_scores([prompt], mixed)) == pytest.approx(2 / 6)
    assert float(world.allowed_shares([prompt], mixed)) == pytest.approx(5 / 8)
    assert float(world.distinct_shares(mixed)) == pytest.approx(6 / 8)
    assert float(world.satisfaction([prompt], mixed)) == pytest.approx((5 / 8 + 6 / 8) / 2)
    best = replies_of(world, [0, 1, 2, 3, 4, 5, 6, 7], prompt)
    assert float(world.satisfaction([prompt], best)) == float(world.task_scores([prompt], best)) == 1


def test_symbols_that_are_no_content_satisfy_nothing(world: ReplyWorld) -> None:
    odd = [[[0, 1, 2, 3, 4, 5, 6, 7]]]
    assert float(world.allowed_shares([[1]], odd)) == float(world.task_scores([[1]], odd)) == 0


def test_the_vocabulary_is_that_of_the_model() -> None:
    assert ReplyWorld(seed=0).vocabulary == 45
    model = TinyGRU(45, width=96, layers=2)
    assert sum(one.numel() for one in model.parameters()) < 200_000


def test_quality_sets_the_share_of_good_symbols(world: ReplyWorld) -> None:
    for quality, expected in (((1.0, 1.0), 1.0), ((0.0, 0.0), 6 / 24), ((0.0, 1.0), 0.5 + 0.5 * 6 / 24)):
        rows = [row.contexts[0] for row in world.demonstrations(2000, "x", quality)]
        order = torch.stack([world.order[row.prompt_ids[0] - 1] for row in rows])
        symbols = torch.tensor([row.response_ids[0] for row in rows]) - 1 - world.classes
        good = (symbols[..., None] == order[:, None, :6]).any(-1).float().mean()
        assert float(good) == pytest.approx(expected, abs=0.02)


def test_everything_follows_from_seed_and_purpose(world: ReplyWorld) -> None:
    same, other = ReplyWorld(seed=1, content=24), ReplyWorld(seed=2, content=24)
    assert torch.equal(world.order, same.order)
    assert not torch.equal(world.order, other.order)
    assert world.prompts(50, "a") == same.prompts(50, "a") != world.prompts(50, "b")
    rows, same_rows = world.demonstrations(9, "a"), same.demonstrations(9, "a")
    assert [one.contexts[0].response_ids for one in rows] == [
        one.contexts[0].response_ids for one in same_rows
    ]


@pytest.fixture
def material(world: ReplyWorld) -> Start[ReplyWorld]:
    base = world.base_model(rows=64, epochs=1)
    prompts = world.prompts(24, "training")
    panels = panels_of(world, prompts, world.replies(base, prompts, 3, "training"))
    return start_with(world, base, panels, compared=())


def test_the_base_model_repeats_itself(world: ReplyWorld, material: Start[ReplyWorld]) -> None:
    again = ReplyWorld(seed=1, content=24).base_model(rows=64, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(material.base.parameters(), again.parameters(), strict=True))
    prompts = world.prompts(5, "x")
    assert world.replies(again, prompts, 2, "x") == world.replies(material.base, prompts, 2, "x")


def test_panels_are_all_the_best_and_the_first_replies(material: Start[ReplyWorld]) -> None:
    everything, best, first = (
        [one.contexts[0] for one in material.panels[name]] for name in ("all", "best", "first")
    )
    prompts = [row.prompt_ids for row in everything]
    scores = material.world.satisfaction(prompts, [row.response_ids for row in everything])
    for row, values, top, one in zip(everything, scores, best, first, strict=True):
        assert len(row.response_ids) == 3
        assert row.values == pytest.approx(values.tolist())
        assert top.response_ids == [row.response_ids[int(values.argmax())]]
        assert one.response_ids == row.response_ids[:1]


def test_an_arm_passes_twice_over_its_panel(
    material: Start[ReplyWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def record(model: TinyGRU, examples: list, *_: object, **settings: int) -> TinyGRU:
        seen.update(examples=examples, **settings)
        return model

    monkeypatch.setattr(starts, "trained", record)
    assert self_training_arm(LIKELIHOOD, None, "best", batch_size=8)(material) == untrained_arm(material)
    assert (seen["steps"], seen["batch_size"]) == (6, 8)
    assert seen["examples"] is material.panels["best"]


def test_measures_are_shares(world: ReplyWorld) -> None:
    model = seeded(lambda: TinyGRU(world.vocabulary, width=8, layers=1), 0).eval()
    measures = world.measure(model, prompts=20, samples=2)
    assert set(measures) == {"satisfaction", "task score"}
    assert all(0 <= value <= 1 and math.isfinite(value) for value in measures.values())
    assert measures == dataclasses.replace(world).measure(model, prompts=20, samples=2)


def test_the_graded_world_shows_answers_noise_and_grades_near_the_truth() -> None:
    world = GradedWorld(seed=1)
    prompts, replies = world.rows(400, "test")
    quality = world.quality(prompts, replies)[:, 0]
    assert float((quality == 1).float().mean()) == pytest.approx(0.3, abs=0.06)
    assert float(quality[quality < 1].mean()) == pytest.approx(6 / 26, abs=0.05)
    marks = {1 + world.classes + world.content + n for n in range(world.marks)}
    assert marks & {symbol for (reply,) in replies for symbol in reply}
    for one in world.graded(60, "test"):
        (record,) = one.contexts
        first, *reply, asks = record.prompt_ids
        assert asks == world.asks
        truth = float(world.quality([[first]], [[reply]]))
        grade = record.response_ids[0][0] - world.asks
        assert abs(grade - (1 + 9 * truth)) <= 1.5
        assert 1 <= grade <= 10
    assert max(max(reply) for (reply,) in replies) < world.asks


def test_a_base_model_of_the_graded_world_is_the_same_under_its_seed() -> None:
    world = GradedWorld(seed=1)
    one, other = (world.base(rows=200, graded=60, epochs=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    prompts, replies = world.rows(20, "test")
    grades = world.grades(one, prompts, replies)
    assert torch.all((grades >= 1) & (grades < 11))
