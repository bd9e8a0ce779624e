"""The frame shown at t, by decoding and presentation time."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from coalign.data.media.clips import Clip, clip_info
from coalign.data.media.errors import MediaError
from tests.data.media.making import damaged, number, picture, write_clip

TIMES = (0.0, 0.1, 0.2, 0.3, 1.0, 1.05, 1.1, 2.5, 2.6, 3.1)
"""Of a variable rate, with a gap."""
CONTAINERS = ("a.mp4", "a.mov", "a.mkv", "a.webm", "a.ts")


def _clip(folder: Path, name: str, every: int = 4) -> Path:
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    return write_clip(folder / name, TIMES, codec=codec, every=every)


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_frame_shown_at_a_time(tmp_path: Path, name: str) -> None:
    clip = Clip(_clip(tmp_path, name))
    info = clip.info
    assert (info.width, info.height, info.frames, info.variable, info.turned) == (64, 48, 10, True, False)
    assert clip.times == pytest.approx(TIMES)
    assert [number(one.pixels) for one in clip.frames()] == list(range(10))
    at = {3.0: 8, 0.05: 0, 1.04: 4, 0.0: 0, 2.6: 8, 1.05: 5, 0.9999: 3, 3.1: 9}
    frames = clip.frames_at(at)
    assert [number(one.pixels) for one in frames] == list(at.values())
    assert [one.time for one in frames] == pytest.approx([TIMES[place] for place in at.values()])
    assert [one.index for one in clip.frames_at([3.0, 3.0, 0.0])] == [8, 8, 0]


def test_what_a_clip_says_of_itself_is_known_from_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _clip(tmp_path, "a.mp4")
    expected, passes = Clip(path).info, []
    decoded = Clip._decoded
    monkeypatch.setattr(Clip, "_decoded", lambda *how: passes.append(1) or decoded(*how))
    clip = Clip(path)
    assert sum(1 for _ in clip.frames()) == clip.info.frames == 10
    assert (clip.info, len(passes)) == (expected, 1)
    other = Clip(path)
    next(iter(other.frames()))
    assert other.info == expected


def test_one_frame_far_from_its_key_frame(tmp_path: Path) -> None:
    clip = Clip(_clip(tmp_path, "a.mp4", every=1000))
    assert number(clip.frames_at([2.55])[0].pixels) == 7


def test_frames_in_equal_steps(tmp_path: Path) -> None:
    clip = Clip(_clip(tmp_path, "a.mkv"))
    steps = [(time, number(frame.pixels)) for time, frame in clip.frames_every(0.5)]
    assert steps == [(0.0, 0), (0.5, 3), (1.0, 4), (1.5, 6), (2.0, 6), (2.5, 7), (3.0, 8)]
    assert [one.index for one in clip.frames_spread(4)] == [3, 6, 6, 8]
    assert [one.index for one in clip.frames_spread(1)] == [6]


def test_a_clip_given_as_bytes_or_base64(tmp_path: Path) -> None:
    import base64

    path = _clip(tmp_path, "a.mp4")
    data = path.read_bytes()
    for source in (data, base64.b64encode(data).decode(), {"bytes": data, "path": None}, {"path": str(path)}):
        assert clip_info(source).frames == 10


def test_a_clip_of_one_frame_and_of_a_steady_rate(tmp_path: Path) -> None:
    one = Clip(write_clip(tmp_path / "one.mp4", [0.0]))
    assert (one.info.frames, one.info.rate, one.frames_at([0.0])[0].index) == (1, 0.0, 0)
    steady = clip_info(write_clip(tmp_path / "steady.mkv", [round(place / 30, 3) for place in range(9)]))
    assert not steady.variable
    assert steady.rate == pytest.approx(30, rel=1e-2)


@pytest.mark.parametrize(
    ("rotation", "mirrored", "corners"),
    [
        (None, False, "rgbk"),
        (90, False, "gkrb"),
        (180, False, "kbgr"),
        (-90, False, "brkg"),
        (None, True, "grkb"),
        (90, True, "kgbr"),
    ],
)
def test_frames_are_turned_as_the_container_says(
    tmp_path: Path, rotation: float | None, mirrored: bool, corners: str
) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32, 0] = stored[:24, 32:, 1] = stored[24:, :32, 2] = 250
    path = write_clip(
        tmp_path / "a.mp4", [0.0, 0.1], pictures=[stored] * 2, rotation=rotation, mirrored=mirrored
    )
    clip = Clip(path)
    shown = next(clip.frames()).pixels
    height, width = shown.shape[:2]
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    named = ["k" if shown[place].max() < 60 else "rgb"[int(shown[place].argmax())] for place in places]
    assert "".join(named) == corners
    assert (clip.info.width, clip.info.height) == (width, height)
    assert clip.info.turned == (rotation is not None or mirrored)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_half_a_clip_is_an_error(tmp_path: Path, name: str, share: float) -> None:
    data = _clip(tmp_path, name).read_bytes()
    half = tmp_path / f"half-{name}"
    half.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=rf"half-{name}: "):
        _ = Clip(half).info


def test_half_a_clip_whose_index_stands_first(tmp_path: Path) -> None:
    noise = [np.asarray(picture(64, 48, seed)) for seed in range(8)]
    path = write_clip(
        tmp_path / "a.mp4",
        [place / 10 for place in range(8)],
        pictures=noise,
        options={"movflags": "faststart"},
    )
    data = path.read_bytes()
    with pytest.raises(MediaError, match="cut off"):
        _ = Clip(data[: len(data) * 6 // 10]).info


@pytest.mark.parametrize("name", CONTAINERS)
def test_damaged_clips_are_decoded_or_named(tmp_path: Path, name: str) -> None:
    data = _clip(tmp_path, name).read_bytes()
    for seed in range(40):
        with contextlib.suppress(MediaError):
            clip = Clip(damaged(data, f"{name} {seed}"))
            assert clip.frames_at([clip.info.seconds / 2])[0].pixels.shape[2] == 3


def test_a_matroska_file_without_a_frame(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mkv", [0.0, 0.1]).read_bytes()
    cluster = data.index(b"\x1f\x43\xb6\x75")
    opened = data.index(b"\x18\x53\x80\x67") + 4
    live = data[:opened] + b"\x01" + b"\xff" * 7 + data[opened + 8 : cluster + 12]  # of unknown length
    with pytest.raises(MediaError, match=r"0 frames|no frame|End of file"):
        _ = Clip(live).info


@pytest.mark.parametrize("time", [-0.5, 99.0, float("nan")])
def test_a_time_outside_of_the_clip(tmp_path: Path, time: float) -> None:
    clip = Clip(_clip(tmp_path, "a.mp4"))
    with pytest.raises(MediaError, match=r"no frame at .* expected a time from 0 to 3.1"):
        clip.frames_at([time])


def test_what_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a clip")
    for source, problem in (
        (tmp_path / "text.mp4", "not a clip that can be read"),
        (tmp_path / "none.mp4", "no such file"),
        ("https://example.org/a.mp4", "a URL"),
        (b"", "0 bytes"),
    ):
        with pytest.raises(MediaError, match=problem):
            _ = Clip(source).info


def test_large_frames_are_refused_by_the_header(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="64 x 48 pixels by its header"):
        _ = Clip(_clip(tmp_path, "a.mp4"), max_pixels=3000).info
