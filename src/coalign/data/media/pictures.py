"""One picture, one tensor: however a picture comes, its pixels are the same, and every conversion is counted.

Sizes are read from the header and checked before anything is decoded. Pictures are turned as their EXIF orientation
says; of several frames or pages the first is taken; 16 bits a pixel are scaled to 8, never clipped; what is transparent
is composed on a background that the caller states; colours are converted without regard to colour profiles, as the
processors of Hugging Face do it. A file that ends early is an error: a picture half grey is not the picture.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.extras import require
from coalign.data.media.errors import MediaError
from coalign.data.media.sources import LONGEST_PATH, resolve, unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Colour = tuple[int, int, int]

MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
"""Pixels (89 million) above which a picture is refused by its header. Where Pillow begins to warn."""
WHITE = (255, 255, 255)
FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "ICO",
)  # fmt: skip
"""Formats that are decoded. Pillow would start Ghostscript for others, and take any bytes for TGA, which has no mark."""
READABLE = "a PNG, JPEG, GIF, WebP, AVIF, BMP, TIFF, PNM, JPEG 2000 or ICO file"
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_HEADER = threading.Lock()


@dataclass(frozen=True)
class PictureInfo:
    """What the header says.

    Attributes:
        width, height: pixels, after the turn that EXIF asks for.
        mode: of Pillow, as stored: `RGB`, `L`, `I;16`, `P`, `CMYK`, ...
        frames: frames or pages; the first is the picture.
        orientation: of EXIF, 1 to 8.
    """

    width: int
    height: int
    mode: str
    format: str
    frames: int = 1
    orientation: int = 1


@dataclass(frozen=True)
class Picture:
    """A picture of data, decoded when it is opened.

    Attributes:
        source: see `open_picture`.
        name: for messages, where the source has none.
        folder: that a relative path starts from.
    """

    source: Any
    name: str | None = None
    folder: Path | None = None

    def open(self, **how: Any) -> Image.Image:
        """The picture; arguments and errors are those of `open_picture`."""
        return open_picture(self.source, name=self.name, folder=self.folder, **how)

    def info(self) -> PictureInfo:
        """What its header says; errors are those of `picture_info`."""
        return picture_info(self.source, name=self.name, folder=self.folder)

    @property
    def key(self) -> str:
        """What tells it from others without decoding it: its path, or a hash of its bytes."""
        return self.source_key if self.folder is None or self._held() else str(self.folder / self.source_key)

    @property
    def source_key(self) -> str:
        """The same wherever the data lie: the path as they have it, or a hash of the bytes."""
        source = self._source()
        if self._held():
            return hashlib.sha256(source.encode() if isinstance(source, str) else source).hexdigest()
        return str(source)

    def _source(self) -> Any:
        given = self.source
        return (given.get("bytes") or given.get("path")) if isinstance(given, dict) else given

    def _held(self) -> bool:
        """Whether the source is the picture itself and not where it lies."""
        one = self._source()
        return isinstance(one, bytes | bytearray) or (isinstance(one, str) and len(one) >= LONGEST_PATH)

    def written(self) -> str:
        """As a file of records holds it: an absolute path, or a data URL."""
        data, _ = resolve(self.source, self.name, self.folder)
        if isinstance(data, Path):
            return str(data.absolute())
        return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"

    @property
    def called(self) -> str:
        """How messages call it."""
        if self.name is not None:
            return self.name
        path = self.source.get("path") if isinstance(self.source, dict) else self.source
        if isinstance(path, str | Path) and len(str(path)) < 256 and not str(path).startswith("data:"):
            return str(path if self.folder is None else self.folder / path)
        return str(path) if hasattr(path, "offset") else "<data>"


def open_picture(
    source: Any,
    *,
    name: str | None = None,
    folder: Path | None = None,
    background: Colour = WHITE,
    max_pixels: int = MAX_PIXELS,
    conversions: Counter[str] | None = None,
) -> Image.Image:
    """The picture in RGB, 8 bits a channel.

    Args:
        source: a path, bytes, base64, a data URL, a hub feature (`{"bytes", "path"}`), a member of a tar, a picture of
            Pillow, or an array [height, width] or [height, width, 1, 2, 3 or 4 channels] (bytes; 16-bit integers; floats
            in 0 to 1; other integers in 0 to 255).
        name: for messages, where the source has none of its own.
        folder: that relative paths start from.
        background: that transparent pixels are composed on.
        max_pixels: refuse larger pictures by their header.
        conversions: counts what was done: `turned as EXIF says`, `16-bit grey scaled to 8 bits`, `alpha composed on
            (255, 255, 255)`, `palette to RGB`, `the first of several frames`.

    Raises:
        MediaError: as `file: problem`: absent, a URL, no picture, truncated, too large, pixels without a stated range.
    """
    image = require("PIL.Image", "images")
    done: Counter[str] = Counter() if conversions is None else conversions
    if isinstance(source, Picture):
        name, folder, source = name or source.name, folder or source.folder, source.source
    called = name or "<picture>"
    if isinstance(source, np.ndarray):
        found = _of_array(source, called, max_pixels)
    elif isinstance(source, image.Image):
        _assert_size(source, called, max_pixels)
        found = _loaded(source, name or str(getattr(source, "filename", "") or called), done)
    else:
        data, called = resolve(source, name, folder)
        with _quiet(), _opened(data, called) as opened:
            _assert_size(opened, called, max_pixels)
            if opened.format == "PNG":
                _assert_sound_png(data, called)
            found = _loaded(opened, called, done)
    return _rgb(found, called, background, done)


def picture_info(source: Any, *, name: str | None = None, folder: Path | None = None) -> PictureInfo:
    """What the header says; nothing is decoded.

    Raises:
        MediaError: absent, a URL, or no picture.
    """
    data, called = resolve(source, name, folder)
    with _quiet(), _opened(data, called) as opened:
        width, height = opened.size
        turn = _orientation(opened)
        if turn in _TURNED and opened.format != "TIFF":  # there Pillow tells the size after the turn
            width, height = height, width
        frames = _counted_frames(opened)
        return PictureInfo(width, height, opened.mode, str(opened.format), frames, turn)


def picture_hash(source: Any, **how: Any) -> str:
    """SHA-256 over size and pixels, so that equal pictures are equal whichever way they are stored.

    Args:
        source, how: of `open_picture`.
    """
    picture = open_picture(source, **how)
    digest = hashlib.sha256(f"{picture.width}x{picture.height}:".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _whole_files() -> Iterator[None]:
    """Files that end early are errors, also where another library has told Pillow to fill them with grey."""
    files: Any = require("PIL.ImageFile", "images")
    filled, files.LOAD_TRUNCATED_IMAGES = files.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        files.LOAD_TRUNCATED_IMAGES = filled


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: of metadata that is damaged, which says nothing of the pixels, and of what is converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(data: bytes | Path, name: str) -> Image.Image:
    """The header. The pixels are counted by us, so Pillow's own bound is off while the header is read."""
    image: Any = require("PIL.Image", "images")
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    with _HEADER:
        bound, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
        try:
            return image.open(stream, formats=FORMATS)
        except image.UnidentifiedImageError as error:
            raise MediaError(name, _unknown(data), READABLE) from error
        except Exception as error:  # decoders raise errors of all kinds for damaged files
            if isinstance(data, Path) and isinstance(error, OSError) and error.strerror:
                raise unreadable(data, error) from error
            raise MediaError(name, f"a damaged header ({error})", READABLE) from error
        finally:
            image.MAX_IMAGE_PIXELS = bound


def _unknown(data: bytes | Path) -> str:
    """Why nothing decodes it."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            data = file.read(512)
    start = data[:512].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        return "an SVG drawing, which has no pixels"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page in place of a picture"
    if data[:4] == b"v/1\x01" or data[:10] in (b"#?RADIANCE", b"#?RGBE\n"):
        return "a picture of high dynamic range, whose values a picture of 8 bits cannot hold"
    return "not a picture that can be read"


def _assert_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise MediaError(name, f"{width} x {height} pixels", "one pixel at least")
    if width * height > max_pixels:
        raise MediaError(
            name,
            f"{width} x {height} pixels by its header, not decoded",
            f"at most {max_pixels:,} pixels",
            hint="Scale it down, or raise the limit (max_pixels).",
        )


def _assert_sound_png(data: bytes | Path, name: str) -> None:
    """Compare the checksums of a PNG's pixels and palette, which Pillow does not: damage would be other pixels."""
    content = data if isinstance(data, bytes) else data.read_bytes()
    place = 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        kind, end = content[place + 4 : place + 8], place + 8 + size
        if end + 4 > len(content):
            return  # cut: decoding tells whether pixels are missing
        if kind in _PIXEL_CHUNKS and zlib.crc32(content[place + 4 : end]) != int.from_bytes(
            content[end : end + 4]
        ):
            raise MediaError(
                name,
                f"damaged (the checksum of {kind.decode()} is wrong)",
                "a whole file that can be decoded",
            )
        place = end + 4


_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")


def _loaded(picture: Image.Image, name: str, done: Counter[str]) -> Image.Image:
    """The first frame, decoded and turned."""
    operations = require("PIL.ImageOps", "images")
    if _counted_frames(picture) > 1 and picture.tell() == 0:
        done["the first of several frames"] += 1
    turn = _orientation(picture)
    try:
        with _whole_files():
            picture.load()
        turned = operations.exif_transpose(picture)
    except Exception as error:  # as above
        raise MediaError(name, _broken(error), "a whole file that can be decoded") from error
    if turn != 1:
        done["turned as EXIF says"] += 1
    return turned


def _broken(error: Exception) -> str:
    reason = str(error).rstrip(".")
    return reason if "truncated" in reason else f"damaged ({reason or type(error).__name__})"


def _orientation(picture: Image.Image) -> int:
    try:
        turn = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read says nothing; Pillow raises all kinds of errors
        return 1
    return turn if turn in range(1, 9) else 1


def _counted_frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # as above; decoding says what is wrong
        return 1


def _rgb(picture: Image.Image, name: str, background: Colour, done: Counter[str]) -> Image.Image:
    """Any mode as RGB."""
    mode = picture.mode
    clear = picture.info.get("transparency")
    if mode in _WIDE:
        found = _narrowed(picture, name, done)
        if isinstance(clear, int):
            alpha = _image(np.where(np.asarray(picture) == clear, 0, 255).astype(np.uint8))
            found.putalpha(alpha)
            mode, picture = "LA", found
        else:
            return found.convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or clear is not None:
        return _composed(picture, background, done)
    if mode != "RGB":
        what = _NAMES.get(mode, mode)
        done[f"{what} to RGB"] += 1
        try:
            return picture.convert("RGB")
        except ValueError as error:
            raise MediaError(
                name, f"pixels of the mode {mode}", "colours that can be converted to RGB"
            ) from error
    picture.info.clear()
    return picture if type(picture).__module__ == "PIL.Image" else picture.copy()


_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_NAMES = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK"}


def _composed(picture: Image.Image, background: Colour, done: Counter[str]) -> Image.Image:
    image = require("PIL.Image", "images")
    layered = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    if np.asarray(layered)[..., 3].min() == 255:
        done[f"{picture.mode} without transparent pixels to RGB"] += 1
        return layered.convert("RGB")
    done[f"alpha composed on {background}"] += 1
    below = image.new("RGBA", layered.size, (*background, 255))
    return image.alpha_composite(below, layered).convert("RGB")


def _narrowed(picture: Image.Image, name: str, done: Counter[str]) -> Image.Image:
    """Grey of more than 8 bits as L."""
    values = np.asarray(picture)
    if picture.mode == "F":
        done["float grey scaled to 8 bits"] += 1
        return _image(_from_floats(values, name))
    if picture.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise MediaError(
            name,
            f"32-bit pixels from {values.min()} to {values.max()}",
            "values of at most 16 bits, or floats from 0 to 1",
            hint="No range is stated for them: scale them first.",
        )
    done["16-bit grey scaled to 8 bits"] += 1
    return _image(_from_16_bits(values))


def _from_16_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """65535 becomes 255: rounded division by 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_floats(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise MediaError(name, "pixels that are NaN or infinite", "floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise MediaError(
            name,
            f"float pixels from {low:g} to {high:g}",
            "floats from 0 to 1",
            hint="No range is stated for them: scale them first.",
        )
    return np.rint(values * 255.0).astype(np.uint8)


def _of_array(values: NDArray[Any], name: str, max_pixels: int) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if (
        values.ndim not in (2, 3)
        or (values.ndim == 3 and values.shape[2] not in (2, 3, 4))
        or not values.size
    ):
        raise MediaError(
            name,
            f"an array of shape {values.shape}",
            "[height, width] or [height, width, 1 to 4 channels], not empty",
        )
    if values.shape[0] * values.shape[1] > max_pixels:
        raise MediaError(
            name, f"{values.shape[1]} x {values.shape[0]} pixels", f"at most {max_pixels:,} pixels"
        )
    return _image(_bytes_of(values, name))


def _bytes_of(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    narrow: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "b": lambda: values.astype(np.uint8) * np.uint8(255),
        "f": lambda: _from_floats(values, name),
    }
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.uint16:
        return _from_16_bits(values)
    if values.dtype.kind in narrow:
        return narrow[values.dtype.kind]()
    if values.dtype.kind in "iu":
        if values.min() < 0 or values.max() > 255:
            raise MediaError(
                name, f"{values.dtype} pixels from {values.min()} to {values.max()}", "0 to 255, or uint16"
            )
        return values.astype(np.uint8)
    raise MediaError(name, f"an array of {values.dtype}", "numbers")


def _image(values: NDArray[np.uint8]) -> Image.Image:
    return require("PIL.Image", "images").fromarray(np.ascontiguousarray(values))
