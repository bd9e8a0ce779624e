"""Scenes of two squares: pictures show what their descriptions say, captions leave out what is asked for later, both parts learn."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from coalign.measures.media.spatial import parse_spatial_prompt, spatial_outcome
from coalign.models.diffusion.pixels import to_tensor
from tests.checks.test_verdicts import rows_of, verdict_of

pytest.importorskip("diffusers")
from coalign.checks.worlds.drawn import squares as world


def test_a_picture_obeys_both_descriptions_of_its_scene_and_its_mirror_image_no_sideways_one() -> None:
    scenes = world.drawn_squares(200, random.Random(3))
    assert {one.relation for one in scenes} == set(world.PHRASES)
    for scene in scenes:
        picture = to_tensor(scene.picture())
        assert {one.label for one in world.detected_squares(picture)} == {scene.first, scene.second}
        for prompt in scene.descriptions():
            assert parse_spatial_prompt(prompt.text) is not None
            shown, turned = (
                spatial_outcome(prompt, world.detected_squares(one), width=world.SIDE, height=world.SIDE)
                for one in (picture, picture.flip(-1))
            )
            assert shown.correct
            assert turned.correct is (prompt.relation in ("above", "below"))


def test_no_caption_is_a_description_that_is_asked_for_later() -> None:
    draw = random.Random(5)
    scenes, asked = world.drawn_squares(500, draw), world.asked_descriptions(96, draw)
    never = {one.text for one in asked}
    assert len(never) == 96
    for scene, told in zip(scenes, world.captioned(scenes, asked, draw), strict=True):
        mine = {one.text for one in scene.descriptions()}
        assert told.spatial in mine - never if mine - never else told.spatial is None
        assert set(told.general.split()) == {"a", "square", "and", scene.first, scene.second}


def test_denoiser_and_encoder_learn_alike_whenever_and_the_start_stays() -> None:
    draw = random.Random(7)
    scenes = world.drawn_squares(6, draw)
    pictures, captions = np.stack([one.picture() for one in scenes]), world.captioned(scenes, [], draw)
    start = world.new_model(1)
    before = copy.deepcopy(start.state_dict())
    first, second = (
        world.trained_on_squares(
            start, pictures, captions, share=0.5, steps=3, batch_size=4, learning_rate=1e-2, seed=1
        )
        for _ in range(2)
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(before[name], start.state_dict()[name])
    for part in ("unet.write.1.weight", "text_encoder.words.weight"):
        assert not torch.equal(before[part], first.state_dict()[part])
    found = world.obeyed(first, world.asked_descriptions(3, draw), 1)
    assert found["pictures with both"] <= 3 * world.PICTURES
    assert set(found) >= {"OA", "VISOR_cond", "VISOR_cond, left and right"}


@pytest.mark.parametrize(
    ("obeyed", "objects", "outcome"),
    [
        ([46.1, 56.0, 90.0], 85.1, "seen"),
        ([46.0, 56.0, 90.0], 85.1, "mixed"),
        ([46.1, 56.0, 90.0], 85.0, "mixed"),
        ([39.0, 39.1, 39.2], 90.1, "mixed"),
        ([20.0, 39.0, 59.0], 90.1, "mixed"),
        ([39.0, 39.0, 39.1], 90.1, "not seen"),
    ],
)
def test_the_outcome_follows_from_the_rows(
    obeyed: Sequence[float], objects: float, outcome: str, tmp_path: Path
) -> None:
    arms = {
        "general captions": {"VISOR_cond": 36.1, "OA": 90.1},
        "half spatial": {"VISOR_cond": obeyed, "OA": objects},
        "half spatial, mirrored": {"VISOR_cond": 36.1, "OA": 90.1},
    }
    rows = rows_of({arm: {**one, "VISOR_cond, left and right": 50.0} for arm, one in arms.items()}, seeds=3)
    assert verdict_of("spright", rows, tmp_path).outcome == outcome
