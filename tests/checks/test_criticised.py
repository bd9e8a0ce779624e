"""Criticised captions of drawn scenes: what is right, what a critique says, what the outcome of the check follows from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from coalign.checks.papers.platform import align_anything
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.drawn import criticised as world
from tests.checks.test_verdicts import rows_of, verdict_of

NAMES = range(14, 28)
"""The words for eight colours and six shapes."""


def test_a_critique_that_is_followed_gives_the_right_caption() -> None:
    one, draw = world.Captioned(3), stream(3, "test")
    scenes = one.scenes("test", 200)
    changed = 0
    for scene in scenes:
        caption = one.corrupt(world.caption_of(scene), draw)
        critique = world.critique_of(scene, caption)
        followed = [old if word == world.OK else word for old, word in zip(caption, critique, strict=True)]
        assert followed == world.caption_of(scene)
        assert world.right_share(scene, caption) == sum(word == world.OK for word in critique) / world.LENGTH
        for place, (said, right) in enumerate(zip(caption, followed, strict=True)):
            assert (said >= 22) == (right >= 22) == bool(place % 2), "colours and shapes keep their places"
        changed += sum(said != right for said, right in zip(caption, followed, strict=True))
    expected = 0.3 * (1 - (1 / world.COLOURS + 1 / world.SHAPES) / 2)
    assert changed / (200 * world.LENGTH) == pytest.approx(expected, abs=0.04)
    assert one.scenes("test", 200) == scenes
    assert one.scenes("other", 200) != scenes


def test_one_record_in_five_is_a_refinement_and_no_prompt_shows_the_answer() -> None:
    shown = world.Captioned(0).shown(50)
    refined = [one for one in shown if world.REFINE in one.contexts[0].prompt_ids]
    assert len(refined) == 10
    for one in shown:
        (record,) = one.contexts
        assert all(token in NAMES for token in record.response_ids[0])
        if one not in refined:
            assert len(record.prompt_ids) == world.LENGTH + 1


@pytest.mark.slow
def test_a_model_captions_and_refines() -> None:
    one = world.Captioned(100, unseen=50)
    base = one.start(records=4000, steps=600)
    material = align_anything.Captioner(one, base)
    assert one.measure(base, base)["right"] > 0.4
    assert align_anything.labelled(material).keys() == {"right"}


@pytest.mark.parametrize(
    ("ours", "labels", "start", "better", "outcome"),
    [
        ([0.9, 0.9, 0.9], 0.86, 0.7, 0.51, "seen"),
        ([0.9, 0.9, 0.89], 0.86, 0.7, 0.51, "not seen"),
        ([0.9, 0.9, 0.9], 0.86, 0.86, 0.51, "not seen"),
        ([0.9, 0.9, 0.9], 0.86, 0.7, [0.51, 0.5, 0.9], "not seen"),
    ],
)
def test_the_outcome_follows_from_the_rows(
    ours: Sequence[float],
    labels: float,
    start: float,
    better: float | Sequence[float],
    outcome: str,
    tmp_path: Path,
) -> None:
    fed = {
        "right": ours,
        "refinement better": better,
        "attributes gained": 0.2,
        "critique overlap": 0.3,
        "pairs": 300.0,
    }
    arms = {
        "start": {"right": start},
        "labelled pairs": {"right": labels},
        "language feedback": fed,
        "language feedback, a quarter of the critiques": {**fed, "right": 0.5, "refinement better": 0.0},
    }
    assert verdict_of("align-anything", rows_of(arms, seeds=3), tmp_path).outcome == outcome
