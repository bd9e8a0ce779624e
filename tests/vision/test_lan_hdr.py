"""Video of alternating exposure: photometry, attention, windows, shots, metrics, the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import DataError, ModelError
from coalign.core.options import build
from coalign.data.media.hdr import write_hdr
from coalign.vision.exposures.attention import luminance_attention, moved_patches
from coalign.vision.exposures.measuring import distances
from coalign.vision.exposures.network import HDRNetwork, NetworkShape, frame_inputs, new_network
from coalign.vision.exposures.photometry import re_exposed, to_ldr, to_radiance, tone_mapped
from coalign.vision.exposures.report import by_shot
from coalign.vision.exposures.shots import Shot, read_shots
from coalign.vision.exposures.stages import is_suspicious, split
from coalign.vision.exposures.synthesis import (
    Synthesis,
    exposure_cycle,
    period_of,
    picked,
    synthesised,
    window_of,
)
from coalign.vision.exposures.training import RadianceTask
from coalign.vision.lan_hdr import Config
from tests.preference.tiny_runs import write

TINY = NetworkShape(frames=3, width=4, channels=6, blocks=1, merge_blocks=1, align_downscale=1)


@given(st.floats(1.0, 16.0), st.floats(1.0, 16.0), st.integers(0, 10**6))
def test_a_picture_is_brought_to_another_exposure(before: float, after: float, seed: int) -> None:
    radiance = torch.rand(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    taken, wanted = to_ldr(radiance, before), to_ldr(radiance, after)
    plain = (taken < 1) & (taken > 1e-3)
    torch.testing.assert_close(re_exposed(taken, before, after)[plain], wanted[plain], rtol=0, atol=1e-9)
    torch.testing.assert_close(to_radiance(taken, before)[plain], radiance[plain], rtol=0, atol=1e-9)


def test_black_has_a_gradient_that_is_finite() -> None:
    radiance = torch.tensor([0.0, 1e-12, 0.5], requires_grad=True)
    to_ldr(radiance, 4.0).sum().backward()
    assert radiance.grad is not None
    assert torch.isfinite(radiance.grad).all()
    assert to_ldr(torch.zeros(2), 4.0).tolist() == [0.0, 0.0]


def test_still_frames_have_equal_luminance_at_one_exposure() -> None:
    radiance = torch.rand(1, 3, 6, 6, dtype=torch.float64) * 0.1
    ldr = torch.stack([to_ldr(radiance, one) for one in (1.0, 8.0, 1.0)], 1)
    frames, luminance, reference = frame_inputs(ldr, torch.tensor([[1.0, 8.0, 1.0]]).double(), 1)
    torch.testing.assert_close(luminance, reference, rtol=0, atol=1e-9)
    assert frames.shape == (1, 3, 7, 6, 6)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_moved_patches_in_place_are_the_picture(height: int, width: int, seed: int) -> None:
    value = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    place = torch.arange(height * width).expand(2, -1)
    torch.testing.assert_close(moved_patches(value, place), value)


def test_attention_finds_content_that_was_moved() -> None:
    torch.manual_seed(0)
    scene = torch.randn(1, 4, 9, 9)
    query, key = scene[..., 1:8, 1:8], scene[..., 2:9, 0:7]
    projection = torch.randn(20, 36)
    found = luminance_attention(query, key, key, projection)
    rows = torch.arange(7)
    wanted = ((rows[:, None] - 1) * 7 + rows[None] + 1)[2:6, 1:5]
    torch.testing.assert_close(found.places.reshape(7, 7)[2:6, 1:5], wanted)
    torch.testing.assert_close(found.values[..., 3:5, 2:4], query[..., 3:5, 2:4])
    assert found.confidence[0, 0, 2:6, 1:5].min() > 0.999
    flat = luminance_attention(
        torch.ones(1, 4, 3, 3), torch.ones(1, 4, 3, 3), torch.ones(1, 4, 3, 3), projection
    )
    assert int(flat.places[0, 4]) == 4, "a patch without a border is found where it is whole"


def test_gradients_reach_the_matcher_through_the_confidence_alone() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 4, 3, 3, requires_grad=True) for _ in range(3))
    found = luminance_attention(query, key, value, torch.randn(5, 36))
    found.values.sum().backward(retain_graph=True)
    assert query.grad is None
    assert value.grad is not None
    found.confidence.sum().backward()
    assert query.grad is not None
    assert key.grad is not None


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("attention", ["luminance", "none"])
def test_the_network_takes_any_size(scale: int, attention: Any) -> None:
    shape = NetworkShape(
        frames=3, width=2, channels=4, blocks=1, merge_blocks=1, align_downscale=scale, attention=attention
    )
    network = new_network(shape, 1)
    ldr = torch.rand(1, 3, 3, 37, 50)
    radiance, gates = network.with_gates(ldr, torch.tensor([[1.0, 4.0, 1.0]]))
    assert radiance.shape == (1, 3, 37, 50)
    assert 0 <= float(radiance.min()) <= float(radiance.max()) <= 1
    assert gates.shape[:3] == (1, 3, 1)
    radiance.sum().backward()
    lacking = [name for name, one in network.named_parameters() if one.grad is None]
    unused = [name for name in lacking if not name.startswith(("alignment.luminance", "alignment.project"))]
    assert not unused
    assert bool(lacking) == (attention == "none")


def test_a_network_is_saved_whole(tmp_path: Path) -> None:
    network = new_network(TINY, 3).eval()
    network.save(tmp_path / "model")
    again = HDRNetwork.load(tmp_path)
    ldr, exposures = torch.rand(1, 3, 3, 16, 16), torch.tensor([[1.0, 4.0, 1.0]])
    torch.testing.assert_close(again(ldr, exposures), network(ldr, exposures), rtol=0, atol=0)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelError, match="not a network of lan-hdr"):
        HDRNetwork.load(tmp_path)


@given(st.integers(2, 12), st.integers(2, 9), st.integers(0, 10**6))
def test_frames_are_picked_in_order(count: int, wanted: int, seed: int) -> None:
    found = picked(count, wanted, np.random.default_rng(seed))
    assert len(found) == wanted
    assert found in (sorted(found), sorted(found, reverse=True))
    assert all(0 <= one < count for one in found)
    assert max(found) - min(found) < max(7, wanted)
    if count >= wanted:
        assert len({*found}) == wanted


@given(st.integers(1, 9), st.sampled_from([3, 5, 7]), st.integers(1, 3), st.data())
def test_a_window_keeps_the_order_of_exposures(count: int, frames: int, period: int, data: Any) -> None:
    place = data.draw(st.integers(0, count - 1))
    found = window_of(place, frames, count, period)
    assert found[frames // 2] == place
    assert all(0 <= one < count for one in found)
    if count >= 2 * period:
        assert all((one - place - offset + frames // 2) % period == 0 for offset, one in enumerate(found))


def test_exposures_repeat_after_a_period() -> None:
    assert period_of((1.0, 4.0, 1.0, 4.0, 1.0)) == 2
    assert period_of((1.0, 4.0, 16.0, 1.0)) == 3
    assert period_of((1.0, 4.0, 2.0)) == 3
    cycles = {tuple(exposure_cycle(Synthesis(3, 3, (), 8), np.random.default_rng(one))) for one in range(20)}
    assert cycles == {(1, 4, 16, 1), (4, 16, 1, 4), (16, 1, 4, 16)}


def _video(tmp_path: Path, count: int = 7, size: tuple[int, int] = (24, 40)) -> Shot:
    from PIL import Image

    rng = np.random.default_rng(1)
    for place in range(count):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{place}.png")
    return Shot("a", tuple(f"{place}.png" for place in range(count)), folder=tmp_path)


@pytest.mark.parametrize("exposures", [2, 3])
def test_both_windows_show_one_scene(exposures: Any, tmp_path: Path) -> None:
    shot = _video(tmp_path)
    synthesis = Synthesis(3, exposures, (4.0, 8.0), 16)
    for seed in range(6):
        found = synthesised(shot, synthesis, np.random.default_rng(seed))
        again = synthesised(shot, synthesis, np.random.default_rng(seed))
        assert found.ldr.shape == (2, 3, 3, 16, 16)
        assert torch.equal(found.ldr, again.ldr)
        assert torch.equal(found.ldr[0, 1:], found.ldr[1, :-1]), "the windows overlap"
        assert torch.equal(found.exposures[0, 1:], found.exposures[1, :-1])
        assert 0 <= float(found.target.min()) <= float(found.target.max()) <= 1
        exposure = float(found.exposures[0, 1])
        taken = to_radiance(found.ldr[0, 1], exposure)
        plain = found.ldr[0, 1] < 0.97  # noise also lies on what is saturated
        assert float((taken - found.target[0])[plain].abs().max()) < 6 * 1e-3


def test_a_shot_smaller_than_the_crop_is_enlarged(tmp_path: Path) -> None:
    found = synthesised(_video(tmp_path, 2, (10, 12)), Synthesis(3, 2, (4.0,), 32), np.random.default_rng(0))
    assert found.ldr.shape == (2, 3, 3, 32, 32)


def test_shots_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    _video(tmp_path, 2)
    _video_of_another_size = tmp_path / "other.png"
    from PIL import Image

    Image.new("RGB", (9, 9)).save(_video_of_another_size)
    frames = ["0.png", "1.png"]
    rows = [
        {"frames": ["0.png"]},
        {"frames": ["0.png", "gone.png"], "exposures": [1, 4]},
        {"frames": ["0.png", "other.png"], "exposures": [1, 4]},
        {"frames": frames, "exposures": [1]},
        {"frames": frames, "exposures": [1, 0]},
        {"frames": frames},
        {"frames": frames, "stops": [0, 2], "targets": ["x.exr"]},
    ]
    path = tmp_path / "shots.jsonl"
    write(path, rows)
    with pytest.raises(DataError) as raised:
        read_shots(str(path), exposures=True)
    lines = str(raised.value).splitlines()
    expected = ["1 frames", "gone.png", "9 x 9", "1 for 2 frames", "above 0", "missing", "1 for 2 frames"]
    for number, words in enumerate(expected, start=1):
        assert any(f"shots.jsonl:{number}: " in one and words in one for one in lines), (number, lines)


def test_folders_are_shots_with_exposures_in_stops(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        _video(tmp_path / name, 3)
        (tmp_path / name / "Exposures.txt").write_text("-2.0\n1.0\n-2.0\n")
    for place in range(3):
        write_hdr(tmp_path / "a" / f"{place}.exr", np.full((24, 40, 3), 0.25))
    found = read_shots(str(tmp_path), exposures=True)
    assert [one.id for one in found] == ["a", "b"]
    assert found[0].exposures == (1.0, 8.0, 1.0)
    target = found[0].target(1)
    assert target is not None
    assert target.shape == (24, 40, 3)
    assert found[1].targets is None


def test_exposures_in_a_wrong_order_are_noticed(tmp_path: Path) -> None:
    radiance = np.random.default_rng(0).random((8, 8, 3)) * 0.3
    exposures = (1.0, 4.0, 1.0, 4.0)
    frames = []
    for place, exposure in enumerate(exposures):
        from PIL import Image

        values = (radiance * exposure).clip(0, 1) ** (1 / 2.2)
        Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(tmp_path / f"{place}.png")
        frames.append(f"{place}.png")
    assert not is_suspicious(Shot("a", tuple(frames), exposures=exposures, folder=tmp_path))
    assert is_suspicious(Shot("a", tuple(frames), exposures=exposures[1:] + exposures[:1], folder=tmp_path))


def test_the_temporal_term_sees_change_alone() -> None:
    config = build(Config, {"data": "x", "frequency_weight": 0.0, "crop": 128})
    task = RadianceTask(config)
    target = torch.rand(1, 2, 3, 8, 8)

    class Offset(torch.nn.Module):
        def forward(self, ldr: torch.Tensor, exposures: torch.Tensor) -> torch.Tensor:
            wanted = tone_mapped(target.flatten(0, 1)) * 0.9
            return (torch.exp(wanted * np.log(5001.0)) - 1) / 5000.0

    batch = {
        "ids": ["a"],
        "ldr": torch.rand(1, 2, 3, 3, 8, 8),
        "exposures": torch.ones(1, 2, 3),
        "target": target,
    }
    metrics = task.loss(Offset(), batch, None).metrics  # type: ignore[arg-type]
    change = 0.1 * (tone_mapped(target[:, 0]) - tone_mapped(target[:, 1])).abs().mean()
    torch.testing.assert_close(metrics["temporal"], change[None], rtol=1e-3, atol=1e-4)
    assert "perceptual" not in metrics


def test_metrics_have_a_stated_range() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((16, 16, 3)) * 0.5).astype(np.float32)
    found = distances(target, target + np.float32(0.01))
    assert found["psnr_l"] == pytest.approx(40.0, abs=1e-3)
    assert distances(target, target)["ssim_mu"] == pytest.approx(1.0)
    assert distances(target, target)["psnr_mu"] == 100.0
    assert "ssim_l" not in distances(target[:5], target[:5])


def test_intervals_are_over_shots() -> None:
    rows = [{"id": "a", "psnr_mu": 1.0}, {"id": "b", "psnr_mu": None}, {"id": "a", "psnr_mu": 3.0}]
    first, second = by_shot(rows)
    assert (first["id"], first["psnr_mu"], first["ssim_l"]) == ("a", 2.0, None)
    assert (second["id"], second["psnr_mu"]) == ("b", None)


def test_shots_are_held_out_by_the_seed() -> None:
    shots = [Shot(str(one), ("a", "b")) for one in range(10)]
    held_out, kept = split(shots, 0.3, 1)
    assert len(held_out) == 3
    assert {one.id for one in held_out + kept} == {str(one) for one in range(10)}
    assert split(shots, 0.3, 1)[0] == held_out
    with pytest.raises(DataError, match="none is left"):
        split(shots[:1], 0.9, 0)


def test_the_check_measures_both_alignments() -> None:
    from coalign.checks.papers.vision.lan_hdr import prepared, trained

    material = prepared(100, steps=1, tested=4)
    for attention in ("luminance", "none"):
        found = trained(material, attention, steps=1)
        assert all(np.isfinite(one) for one in found.values())
        assert found["re-exposed luma"] < 1e-6
        assert found["matched with itself"] == 1.0
        assert 0.1 < found["saturated"] < 0.6
