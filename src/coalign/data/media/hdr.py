"""Pictures of high dynamic range: linear radiance as float32, from and to OpenEXR and Radiance files; and frames of a camera
at the depth that they were stored in.

OpenEXR's own module reads and writes EXR. Values that are NaN or infinite are named and refused; negative ones are refused or
counted and clipped, as the caller says. Radiance files go through OpenCV, unchanged in depth.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.core.extras import require
from coalign.core.files import atomic_path
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import MAX_PIXELS, open_picture
from coalign.data.media.sources import resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

HDR_SUFFIXES = (".exr", ".hdr", ".pic")
READABLE = "an OpenEXR (.exr) or Radiance (.hdr) file"
_EXR = b"v/1\x01"
_MUTED = threading.Lock()
_RADIANCE = (b"#?RADIANCE", b"#?RGBE")
Negative = Literal["refuse", "clip"]


def read_hdr(
    source: Any,
    *,
    name: str | None = None,
    folder: Path | None = None,
    negative: Negative = "refuse",
    max_pixels: int = MAX_PIXELS,
    conversions: Counter[str] | None = None,
) -> NDArray[np.float32]:
    """[height, width, 3] linear RGB, float32.

    Args:
        source: a path, bytes, base64, a data URL, a hub feature or a member of a tar; of OpenEXR the first part. Its colours
            are the channels R, G and B (of no layer, else of the only layer), or Y alone, which is grey.
        negative: values below 0 are refused, or counted and set to 0.
        max_pixels: refuse larger pictures by their header.
        conversions: counts `negative values set to 0`, `alpha left out`, `grey to RGB`.

    Raises:
        MediaError: absent, of another kind, damaged, too large, without colours, with NaN or infinite values, or with
            negative ones where these are refused.
    """
    done: Counter[str] = Counter() if conversions is None else conversions
    data, called = resolve(source, name, folder)
    start = _start(data)
    if start.startswith(_EXR):
        values = _read_exr(data, called, max_pixels, done)
    elif start.startswith(_RADIANCE):
        values = _read_radiance(data, called, max_pixels)
    else:
        raise MediaError(called, "not a picture of high dynamic range", READABLE)
    return _sound(values, called, negative, done)


def write_hdr(target: Path, values: NDArray[Any]) -> None:
    """Write linear RGB [height, width, 3] atomically: `.exr` in float32 (ZIP), `.hdr` in Radiance's shared exponents, which
    keep about two digits.

    The values are copied first: OpenEXR 3.5 writes a view as if it were contiguous, and OpenCV writes float64 through 8
    bits.

    Raises:
        MediaError: of another shape or suffix, NaN or infinite values; negative ones, which Radiance cannot hold.
    """
    name = str(target)
    found = np.array(values, np.float32, order="C")
    if found.ndim != 3 or found.shape[2] != 3 or not found.size:
        raise MediaError(name, f"values of shape {found.shape}", "[height, width, 3], not empty")
    suffix = target.suffix.lower()
    if suffix not in HDR_SUFFIXES[:2]:
        raise MediaError(name, f"the suffix {suffix or '(none)'}", ".exr or .hdr")
    if suffix == ".exr":
        _assert_finite(found, name)
    else:
        found = _sound(found, name, "refuse", Counter())
    with atomic_path(target) as path:
        if suffix == ".exr":
            exr = require("OpenEXR", "hdr")
            header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
            exr.File(header, {"RGB": found}).write(str(path))
        else:
            opencv = require("cv2", "hdr")
            _, encoded = opencv.imencode(".hdr", np.ascontiguousarray(found[..., ::-1]))
            path.write_bytes(encoded.tobytes())


def read_frame(
    source: Any, *, name: str | None = None, folder: Path | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.float32]:
    """[height, width, 3] RGB from 0 to 1, with all of 16 bits where the file has them (`open_picture` scales to 8).

    Args:
        source: as of `open_picture`.

    Raises:
        MediaError: see `open_picture`.
    """
    picture = open_picture(source, name=name, folder=folder, max_pixels=max_pixels)
    narrow = np.divide(np.asarray(picture), 255, dtype=np.float32)
    if isinstance(source, np.ndarray) or hasattr(source, "tobytes"):
        return narrow
    opencv = require("cv2", "hdr")
    data, _ = resolve(source, name, folder)
    stored = np.frombuffer(data if isinstance(data, bytes) else data.read_bytes(), np.uint8)
    with _silent(opencv):
        wide = opencv.imdecode(stored, opencv.IMREAD_ANYDEPTH | opencv.IMREAD_COLOR)
    if wide is None or wide.dtype != np.uint16 or wide.shape[:2] != narrow.shape[:2]:
        return narrow
    return np.divide(wide[..., ::-1], 65535, dtype=np.float32)


def _start(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data[:16]
    with data.open("rb") as file:
        return file.read(16)


@contextlib.contextmanager
def _file(data: bytes | Path) -> Iterator[Path]:
    """A path with the bytes: OpenEXR reads files alone."""
    if isinstance(data, Path):
        yield data
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.exr"
        path.write_bytes(data)
        yield path


def _read_exr(data: bytes | Path, name: str, max_pixels: int, done: Counter[str]) -> NDArray[np.float32]:
    exr = require("OpenEXR", "hdr")
    with _file(data) as path, _mute():
        try:
            with exr.File(str(path), header_only=True) as file:
                window = file.header()["dataWindow"]
            width, height = (int(high - low) + 1 for low, high in zip(*window, strict=True))
            _assert_size(width, height, name, max_pixels)
            with exr.File(str(path), separate_channels=True) as file:
                channels = {key: np.array(one.pixels) for key, one in file.channels().items()}
        except (RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise MediaError(name, f"damaged ({error})", "a whole OpenEXR file") from error
    layers = {key.rpartition(".")[0] for key in channels if key.rpartition(".")[2] in ("R", "Y")}
    layer = "" if "" in layers else next(iter(layers)) if len(layers) == 1 else None
    found = {key.rpartition(".")[2]: one for key, one in channels.items() if key.rpartition(".")[0] == layer}
    if layer is None or not ({"R", "G", "B"} <= found.keys() or found.keys() & {"Y", "RY", "BY"} == {"Y"}):
        raise MediaError(name, f"the channels {', '.join(channels)}", "R, G and B, or Y alone")
    if "A" in found:
        done["alpha left out"] += 1
    if "R" not in found:
        done["grey to RGB"] += 1
    planes = [found[key] for key in ("RGB" if "R" in found else "YYY")]
    if len({one.shape for one in planes}) > 1:
        raise MediaError(name, "channels of different sizes", "colours that are not subsampled")
    return np.stack([one.astype(np.float32) for one in planes], -1)


def _read_radiance(data: bytes | Path, name: str, max_pixels: int) -> NDArray[np.float32]:
    opencv = require("cv2", "hdr")
    content = data if isinstance(data, bytes) else data.read_bytes()
    for line in content[:4096].split(b"\n"):
        words = line.split()
        if len(words) == 4 and words[0] in (b"-Y", b"+Y") and words[1].isdigit() and words[3].isdigit():
            _assert_size(int(words[3]), int(words[1]), name, max_pixels)
            break
    with _silent(opencv):
        found = opencv.imdecode(np.frombuffer(content, np.uint8), opencv.IMREAD_UNCHANGED)
    if found is None:
        raise MediaError(name, "damaged", "a whole Radiance file")
    return np.ascontiguousarray(found[..., ::-1], dtype=np.float32)


@contextlib.contextmanager
def _silent(opencv: Any) -> Iterator[None]:
    """OpenCV tells of every damaged file on standard error."""
    log: Any = getattr(getattr(opencv, "utils", None), "logging", opencv)  # 5 has it there alone
    if not hasattr(log, "getLogLevel"):
        yield
        return
    level = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """OpenEXR tells of damaged files twice: with `print`, among what a command prints, and on standard error. The file is
    refused with the reason. Whatever else is printed meanwhile is lost, so only its calls stand in here.
    """
    with _MUTED, contextlib.redirect_stdout(io.StringIO()), open(os.devnull, "wb") as nowhere:
        try:
            sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, AttributeError):  # closed
            yield
            return
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _assert_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1 or width * height > max_pixels:
        raise MediaError(
            name, f"{width} x {height} pixels by its header, not decoded", f"1 to {max_pixels:,} pixels"
        )


def _assert_finite(values: NDArray[np.float32], name: str) -> None:
    bad = ~np.isfinite(values).all(-1)
    if bad.any():
        row, column = (int(one) for one in np.argwhere(bad)[0])
        raise MediaError(
            name,
            f"{int(bad.sum())} pixels that are NaN or infinite (the first in row {row}, column {column})",
            "finite values",
        )


def _sound(
    values: NDArray[np.float32], name: str, negative: Negative, done: Counter[str]
) -> NDArray[np.float32]:
    _assert_finite(values, name)
    below = values < 0
    if below.any():
        if negative == "refuse":
            row, column = (int(one) for one in np.argwhere(below.any(-1))[0])
            raise MediaError(
                name,
                f"{int(below.sum())} values below 0, down to {values.min():g} (the first in row {row}, column {column})",
                "radiance, which is not negative",
                hint="Ringing of a resize leaves such values; clip them.",
            )
        done["negative values set to 0"] += int(below.sum())
        values = np.where(below, np.float32(0), values)
    return values
