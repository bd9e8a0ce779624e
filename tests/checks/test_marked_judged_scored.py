"""The worlds of marked answers, of judged answers and of scored replies."""

from __future__ import annotations

import pytest
import torch

from coalign.checks.steps import trained
from coalign.checks.tiny_models import TinyGRU, seeded, stream, tiny_transformer
from coalign.checks.worlds.copying import marked
from coalign.checks.worlds.copying.copying import CopyingWorld, mean_gold
from coalign.checks.worlds.copying.judged import Judged, JudgedAnswer, judged_answers, panels_of
from coalign.checks.worlds.copying.marked import ASCENT, MarkedWorld
from coalign.checks.worlds.replies.replies import ReplyWorld
from coalign.checks.worlds.replies.scored import ScoredPair, ScoredWorld, pair_rows


def test_a_share_of_the_answers_is_marked() -> None:
    world = MarkedWorld(3)
    answers = world.answers(400, "base", 0.4)
    records = [one.contexts[0] for one in answers]
    found = [one for one in records if one.response_ids[0][:2] == world.mark]
    assert len(found) / 400 == pytest.approx(0.4, abs=0.06)
    plain = torch.tensor([[one.response_ids[0][2:5] == one.prompt_ids[:3]] for one in found]).double().mean()
    assert plain > 0.3, "what follows the mark is a copy"


def test_gradient_ascent_makes_answers_less_likely() -> None:
    world = MarkedWorld(0)
    model = seeded(lambda: tiny_transformer(26, width=48, layers=2, heads=4), 0)
    bad = world.answers(8, "bad", 1.0)
    before = world.measure(model, samples=1)
    after = trained(
        model, bad, ASCENT, steps=5, batch_size=8, learning_rate=3e-3, generator=stream(0, "order")
    )
    assert world.measure(after, samples=1)["nll"] > before["nll"]
    assert 0 <= before["marked"] <= 1


def judged_material() -> Judged:
    world = CopyingWorld(0, copy_rates=(0.6,), longest_tail=0, held_out=20)
    model = seeded(lambda: tiny_transformer(26, width=48, layers=2, heads=4), 0)
    answers = [
        JudgedAnswer([5, 6, 7, 1], [5, 6, 7, 0], (True, True, True)),
        JudgedAnswer([5, 6, 7, 1], [5, 9, 7, 0], (True, False, True)),
        JudgedAnswer([5, 6, 7, 1], [5, 0], (True, False, False)),
    ]
    return Judged(world, model, panels_of(answers), {}, answers)


def test_judgments_stand_after_the_prompt_and_fine_answers_have_none() -> None:
    material = judged_material()
    contexts = [[one.prompt_ids for one in example.contexts] for example in material.panels["contrasts"]]
    assert contexts == [
        [[5, 6, 7, 1]],
        [[5, 6, 7, 1], [5, 6, 7, 1, 25, 24, 25]],
        [[5, 6, 7, 1], [5, 6, 7, 1, 25, 24, 24]],
    ]
    assert [one.contexts[0].prompt_ids for one in material.panels["hindsight"]] == [
        one[-1] for one in contexts
    ]
    assert [one.contexts[0].prompt_ids for one in material.panels["plain"]] == [one[0] for one in contexts]


def test_detection_is_held_against_the_truth() -> None:
    material = judged_material()
    everything = material.detection(material.base, lambda judged, plain: torch.ones(len(plain)).bool())
    assert everything == {"precision": pytest.approx(2 / 6), "recall": 1.0, "base rate": pytest.approx(2 / 6)}
    nothing = material.detection(material.base, lambda judged, plain: torch.zeros(len(plain)).bool())
    assert (nothing["precision"], nothing["recall"]) == (0.0, 0.0)


def test_answers_are_judged_letter_by_letter() -> None:
    material = judged_material()
    found = judged_answers(material.world, material.base, 30, "some")
    for one in found:
        letters = [*one.answer[:3], *[-1] * (3 - len(one.answer))]
        assert list(one.right) == [a == b for a, b in zip(letters, one.prompt, strict=False)]
    assert mean_gold(material.world, material.base) <= 0.5


def scores_of(good: int) -> float:
    world = ScoredWorld(ReplyWorld(0))
    symbols = (world.replies.order[0] + 1 + world.replies.classes).tolist()
    reply = symbols[:good] + symbols[-(8 - good) :] if good < 8 else symbols[:8]
    return float(world.score([1], [reply])[0])


def test_true_scores_are_highest_at_four_good_symbols() -> None:
    assert [scores_of(n) for n in range(7)] == [0, 2, 3, 4, 6, 4, 2], "4.5 rounds to the even 4"


def test_relabelled_rows_prefer_the_reply_whose_score_is_the_goal() -> None:
    world = ScoredWorld(ReplyWorld(0))
    pair = ScoredPair(1, [10] * 8, [11] * 8, 6, 2)
    rows = [
        one.contexts[0] for one in pair_rows([pair], world, lambda scores, goals: -((goals - scores) ** 2))
    ]
    assert [one.prompt_ids for one in rows] == [world.prompt(1, 6), world.prompt(1, 2)]
    assert [one.response_ids[0] for one in rows] == [pair.chosen, pair.rejected]
    (plain,) = pair_rows([pair], world, None)
    assert plain.contexts[0].prompt_ids == [world.none, 1]


def test_pairs_differ_in_score() -> None:
    world = ScoredWorld(ReplyWorld(1))
    model = seeded(lambda: TinyGRU(world.none + 1, width=16, layers=1), 0)
    pairs = world.pairs(model, 20)
    assert pairs
    assert all(one.chosen_score > one.rejected_score for one in pairs)
    assert 0 <= world.quality(model, 6, prompts=10) <= 1


def test_anchors_and_pairs_share_their_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(lambda: tiny_transformer(26, width=48, layers=2, heads=4), 0)
    monkeypatch.setattr(MarkedWorld, "base_model", lambda self: model)
    material = marked.unlearning(0, prompts=4, samples=2, more=3)
    assert [len(one.contexts[0].values) for one in material.panels["more anchors"]] == [4] * 4
    assert material.reference.keys() == {"anchors", "more anchors", "pairs"}
    for ranking, pair in zip(material.panels["anchors"], material.panels["pairs"], strict=True):
        record = ranking.contexts[0]
        assert record.values == [1.0, 1.0, 0.0]
        assert record.response_ids[-1][:2] == material.world.mark
        assert pair.contexts[0].response_ids == [record.response_ids[0], record.response_ids[-1]]
