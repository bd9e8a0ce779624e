"""Pictures of high dynamic range: what was written is what is read, and what cannot be used is named."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coalign.data.media.errors import MediaError
from coalign.data.media.hdr import read_frame, read_hdr, write_hdr
from coalign.measures.media.pictures import PERFECT, psnr, ssim

pytest.importorskip("cv2")
OpenEXR = pytest.importorskip("OpenEXR")


def _radiance(height: int = 5, width: int = 7) -> np.ndarray:
    return (np.random.default_rng(3).random((height, width, 3)) * 40).astype(np.float32)


def _exr(path: Path, channels: dict[str, np.ndarray]) -> Path:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(path))
    return path


@pytest.mark.parametrize(
    "view",
    [
        lambda one: one,
        lambda one: one[::-1, ::-1],
        lambda one: one[:, ::2],
        lambda one: one.transpose(1, 0, 2),
        lambda one: one.astype(np.float64),
    ],
)
@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
def test_views_and_wide_numbers_are_written_as_they_are(
    view: Callable[[np.ndarray], np.ndarray], suffix: str, tmp_path: Path
) -> None:
    values = view(_radiance())
    path = tmp_path / f"picture{suffix}"
    write_hdr(path, values)
    tolerance = 0 if suffix == ".exr" else 40 / 128
    np.testing.assert_allclose(read_hdr(path), values, rtol=0, atol=tolerance)
    assert read_hdr(path).dtype == np.float32


def test_the_same_from_bytes_and_base64(tmp_path: Path) -> None:
    path = tmp_path / "a.exr"
    write_hdr(path, _radiance())
    data = path.read_bytes()
    for source in (data, f"data:image/x-exr;base64,{base64.b64encode(data).decode()}", {"bytes": data}):
        np.testing.assert_array_equal(read_hdr(source), _radiance())


@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(suffix: str, bad: float, tmp_path: Path) -> None:
    values = _radiance()
    values[2, 3, 1] = bad
    with pytest.raises(
        MediaError, match=r"1 pixels that are NaN or infinite \(the first in row 2, column 3\)"
    ):
        write_hdr(tmp_path / f"a{suffix}", values)
    assert not (tmp_path / f"a{suffix}").exists()


def test_not_a_number_and_negative_values_are_named(tmp_path: Path) -> None:
    values = _radiance()
    values[4, 6] = -2.0
    path = tmp_path / "a.exr"
    write_hdr(path, values)
    with pytest.raises(MediaError, match=r"3 values below 0, down to -2 \(the first in row 4, column 6\)"):
        read_hdr(path)
    done: Counter[str] = Counter()
    clipped = read_hdr(path, negative="clip", conversions=done)
    assert clipped[4, 6].tolist() == [0, 0, 0]
    assert done == {"negative values set to 0": 3}
    with pytest.raises(MediaError, match="below 0"):
        write_hdr(tmp_path / "a.hdr", values)
    values[0, 1, 2] = np.nan
    _exr(path, {"RGB": values})
    with pytest.raises(MediaError, match=r"a\.exr: 1 pixels that are NaN"):
        read_hdr(path, negative="clip")


def test_channels_of_every_kind(tmp_path: Path) -> None:
    values = _radiance()
    planes = {name: np.ascontiguousarray(values[..., place]) for place, name in enumerate("RGB")}
    half = {name: one.astype(np.float16) for name, one in planes.items()}
    done: Counter[str] = Counter()
    np.testing.assert_allclose(read_hdr(_exr(tmp_path / "half.exr", half)), values, rtol=1e-3)
    with_alpha = {**planes, "A": planes["R"], "Z": planes["G"]}
    np.testing.assert_array_equal(read_hdr(_exr(tmp_path / "a.exr", with_alpha), conversions=done), values)
    grey = read_hdr(_exr(tmp_path / "y.exr", {"Y": planes["G"]}), conversions=done)
    np.testing.assert_array_equal(grey, np.repeat(values[..., 1:2], 3, -1))
    layer = {f"diffuse.{name}": one for name, one in planes.items()}
    np.testing.assert_array_equal(read_hdr(_exr(tmp_path / "layer.exr", layer)), values)
    assert done == {"alpha left out": 1, "grey to RGB": 1}
    with pytest.raises(MediaError, match="the channels Z, expected R, G and B, or Y alone"):
        read_hdr(_exr(tmp_path / "z.exr", {"Z": planes["R"]}))


@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
def test_damaged_and_large_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_hdr(path, _radiance(64, 64))
    with pytest.raises(MediaError, match="64 x 64 pixels by its header, not decoded"):
        read_hdr(path, max_pixels=64)
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.95):
        (tmp_path / f"cut{suffix}").write_bytes(data[: int(share * len(data))])
        with pytest.raises(MediaError, match=rf"cut\{suffix}: "):
            read_hdr(tmp_path / f"cut{suffix}")
    with pytest.raises(MediaError, match="not a picture of high dynamic range"):
        read_hdr(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(MediaError, match="no such file"):
        read_hdr(tmp_path / f"gone{suffix}")


def test_frames_keep_sixteen_bits(tmp_path: Path) -> None:
    import cv2

    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        cv2.imwrite(str(tmp_path / name), values[..., ::-1])
        np.testing.assert_allclose(read_frame(tmp_path / name), values / 65535, rtol=0, atol=1e-6)
    narrow = (values // 257).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "b.png"), narrow[..., ::-1])
    np.testing.assert_allclose(read_frame(tmp_path / "b.png"), narrow / 255, rtol=0, atol=1e-6)
    np.testing.assert_allclose(read_frame(narrow), narrow / 255, rtol=0, atol=1e-6)


def _ssim_of_one_window(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = np.cov(x.ravel(), y.ravel())
    top = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    return top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))


def test_similarity_is_the_mean_over_whole_windows() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((9, 10)) + 100, rng.random((9, 10)) + 100
    each = [
        _ssim_of_one_window(x[row : row + 7, column : column + 7], y[row : row + 7, column : column + 7], 2.0)
        for row in range(3)
        for column in range(4)
    ]
    assert ssim(x, y, data_range=2.0) == pytest.approx(np.mean(each), abs=1e-9)
    both = ssim(np.stack([x, y], -1), np.stack([y, y], -1), data_range=2.0)
    assert both == pytest.approx((np.mean(each) + 1) / 2, abs=1e-9)
    with pytest.raises(ValueError, match="at least 7 x 7"):
        ssim(x[:6], y[:6], data_range=1.0)


def test_noise_has_a_ratio_to_the_stated_range() -> None:
    target = np.zeros((4, 4, 3))
    assert psnr(target, target + 0.1, data_range=1.0) == pytest.approx(20)
    assert psnr(target, target + 0.1, data_range=10.0) == pytest.approx(40)
    assert psnr(target, target, data_range=1.0) == PERFECT
    where = np.zeros((4, 4, 1), bool)
    assert np.isnan(psnr(target, target, data_range=1.0, where=where))
    where[0, 0] = True
    found = target.copy()
    found[0, 0] = 0.1
    assert psnr(target, found, data_range=1.0, where=where) == pytest.approx(20)
    with pytest.raises(ValueError, match="expected above 0"):
        psnr(target, target, data_range=0)
    with pytest.raises(ValueError, match="expected the same"):
        psnr(target, target[:2], data_range=1.0)


@pytest.mark.parametrize("name", ["a.exr", "a.hdr"])
def test_libraries_print_nothing_of_a_file_that_is_refused(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_hdr(tmp_path / name, np.random.default_rng(0).uniform(0.1, 9, (64, 40, 3)).astype(np.float32))
    data = (tmp_path / name).read_bytes()
    print("before")
    with pytest.raises(MediaError, match="damaged"):
        read_hdr(data[: len(data) * 6 // 10])
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")
