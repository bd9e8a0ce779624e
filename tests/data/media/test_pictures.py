"""One picture, one tensor; what is no picture is named."""

from __future__ import annotations

import base64
import contextlib
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import Picture, open_picture, picture_hash, picture_info
from coalign.data.media.sources import Stretch
from tests.data.media.making import TURNS, damaged, encoded, picture, stored_turned


def _pixels(source: Any, **how: Any) -> np.ndarray[Any, Any]:
    return np.asarray(open_picture(source, **how))


def _as_tar(folder: Path, data: bytes) -> Stretch:
    (folder / "one.png").write_bytes(data)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(folder / "one.png", "one.png")
    with tarfile.open(folder / "shard.tar") as tar:
        member = tar.getmember("one.png")
    return Stretch(folder / "shard.tar", "one.png", member.offset_data, member.size)


@pytest.mark.parametrize("orientation", TURNS)
def test_every_way_to_give_a_picture_gives_the_same_pixels(tmp_path: Path, orientation: int) -> None:
    one = picture()
    data = stored_turned(one, orientation)
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    coded = base64.b64encode(data).decode()
    sources = {
        "path": path,
        "text": str(path),
        "file URL": path.as_uri(),
        "bytes": data,
        "base64": coded,
        "base64 for URLs": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "base64 in lines": "\n".join(coded[start : start + 76] for start in range(0, len(coded), 76)),
        "data URL": f"data:image/png;base64,{coded}",
        "hub feature of bytes": {"bytes": data, "path": "x.png"},
        "hub feature of a path": {"bytes": None, "path": str(path)},
        "member of a tar": _as_tar(tmp_path, data),
        "member of a tar in a row of JSON": _as_tar(tmp_path, data).to_json(),
        "Pillow": Image.open(path),
        "array": np.asarray(one),
        "not opened yet": Picture("a b.png", folder=tmp_path),
    }
    assert {name: picture_hash(source) for name, source in sources.items()} == dict.fromkeys(
        sources, picture_hash(one)
    )
    info = picture_info(path)
    assert (info.width, info.height, info.orientation) == (*one.size, orientation)


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("orientation", TURNS)
def test_other_formats_are_turned_once(kind: str, options: dict[str, Any], orientation: int) -> None:
    one = picture()
    data = stored_turned(one, orientation, kind, **options)
    assert picture_hash(data) == picture_hash(one)
    assert (picture_info(data).width, picture_info(data).height) == one.size


def test_hash_tells_size_apart() -> None:
    assert picture_hash(np.zeros((2, 3), np.uint8)) != picture_hash(np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 300, 65535], [257, 32768, 128]], np.uint16)
    done: Counter[str] = Counter()
    assert _pixels(encoded(Image.fromarray(values), kind), conversions=done)[..., 0].tolist() == [
        [0, 1, 255],
        [1, 128, 0],
    ]
    assert done == {"16-bit grey scaled to 8 bits": 1}


def test_16_bit_colour_is_scaled() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 32768, 65535, 257 * 7, 257 * 200, 300) for _ in range(2))
    assert _pixels(_png(2, 2, 16, 2, rows))[0].tolist() == [[0, 128, 255], [7, 200, 1]]


def test_arrays_are_taken_by_their_stated_range() -> None:
    assert _pixels(np.array([[0, 300, 65535]], np.uint16))[0, :, 0].tolist() == [0, 1, 255]
    assert _pixels(np.array([[0.0, 0.5, 1.0]], np.float32))[0, :, 0].tolist() == [0, 128, 255]
    assert _pixels(np.array([[0, 255]], np.int64))[0, :, 0].tolist() == [0, 255]
    assert _pixels(np.array([[False, True]]))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([[300, 0]], np.int32), "int32 pixels from 0 to 300"),
        (np.array([[3_000_000_000]], np.uint32), "uint32 pixels from 3000000000"),
        (np.array([[-1]], np.int16), "int16 pixels from -1"),
        (np.array([[0.0, 7.5]], np.float32), "float pixels from 0 to 7.5"),
        (np.array([[np.nan]], np.float32), "NaN"),
        (np.zeros((3, 8, 9), np.uint8), r"shape \(3, 8, 9\)"),
        (np.zeros((0, 4), np.uint8), "shape"),
    ],
)
def test_pixels_without_a_stated_range_are_refused(values: np.ndarray[Any, Any], problem: str) -> None:
    with pytest.raises(MediaError, match=problem):
        open_picture(values)


def test_32_bit_pixels_beyond_16_bits_are_refused() -> None:
    data = encoded(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF")
    with pytest.raises(MediaError, match="32-bit pixels from 0 to 70000"):
        open_picture(data)


def test_alpha_is_composed_on_the_stated_background() -> None:
    values = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [0, 0, 0, 128]]], np.uint8)
    done: Counter[str] = Counter()
    assert _pixels(values, conversions=done).tolist() == [[[255, 255, 255], [200, 100, 0], [127, 127, 127]]]
    assert done == {"alpha composed on (255, 255, 255)": 1}
    assert _pixels(values, background=(0, 0, 9))[0, 0].tolist() == [0, 0, 9]


def test_palettes_and_their_transparency() -> None:
    one = Image.new("P", (2, 1))
    one.putpalette([10, 20, 30, 40, 50, 60])
    one.putdata([0, 1])
    assert _pixels(encoded(one))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert _pixels(encoded(one, transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_a_colour_that_is_transparent() -> None:
    grey = Image.fromarray(np.array([[0, 9]], np.uint8))
    assert _pixels(encoded(grey, transparency=9))[0, :, 0].tolist() == [0, 255]
    wide = Image.fromarray(np.array([[0, 700]], np.uint16))
    wide.info["transparency"] = 700
    assert _pixels(wide)[0, :, 0].tolist() == [0, 255]


def test_every_mode_of_pillow_is_converted_and_counted() -> None:
    for mode in (
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGBA",
        "RGBa",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "I;16",
        "I;16B",
    ):
        done: Counter[str] = Counter()
        found = open_picture(Image.new(mode, (3, 2)), conversions=done)
        assert (found.mode, found.size, done.total()) == ("RGB", (3, 2), 1), mode


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert _pixels(encoded(ink, kind))[4, 4].tolist() == [0, 255, 255]


def test_one_pixel() -> None:
    assert _pixels(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_the_first_of_several_frames_and_it_is_said(kind: str) -> None:
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(red, kind, save_all=True, append_images=[blue], **options)
    done: Counter[str] = Counter()
    assert _pixels(data, conversions=done)[0, 0].tolist() == [255, 0, 0]
    assert done["the first of several frames"] == 1
    assert picture_info(data).frames == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_half_a_file_is_named(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(picture(64, 64), kind)
    path = tmp_path / "half.picture"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"half\.picture: .*(truncated|damaged|not a picture)"):
        open_picture(path)


def test_half_a_progressive_jpeg() -> None:
    data = encoded(picture(64, 64), "JPEG", progressive=True)
    with pytest.raises(MediaError, match="truncated"):
        open_picture(data[: len(data) * 9 // 10])


def test_half_a_file_is_an_error_where_another_library_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(picture(64, 64), "JPEG")
    with pytest.raises(MediaError, match="truncated"):
        open_picture(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO"]
)
def test_damaged_files_are_decoded_or_named(kind: str) -> None:
    data = encoded(picture(24, 18), kind)
    for seed in range(60):
        with contextlib.suppress(MediaError):
            assert open_picture(damaged(data, f"{kind} {seed}")).mode == "RGB"
        with contextlib.suppress(MediaError):
            assert picture_info(damaged(data, f"{kind} {seed}")).width > 0


def test_a_byte_of_a_png_that_flipped_is_found() -> None:
    data = bytearray(encoded(picture(64, 64)))
    data[6000] ^= 0xFF
    with pytest.raises(MediaError, match="checksum of IDAT"):
        open_picture(bytes(data))


def test_a_hundred_megapixels_are_refused_by_the_header() -> None:
    rows = b"\0" * 12_501  # of 10,000 rows the first: decoding would fail
    data = _png(10_000, 10_000, 1, 0, rows)
    assert picture_info(data).width == 10_000
    with pytest.raises(
        MediaError, match=r"10000 x 10000 pixels by its header, not decoded, expected at most 89,478,485"
    ):
        open_picture(data)
    with pytest.raises(MediaError, match="truncated"):
        open_picture(data, max_pixels=100_000_000)
    with pytest.raises(MediaError, match="7 x 5 pixels"):
        open_picture(encoded(picture()), max_pixels=34)
    with pytest.raises(MediaError, match="7 x 5 pixels"):
        open_picture(np.asarray(picture()), max_pixels=34)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("https://example.org/a.png", "https://example.org/a.png: a URL, and nothing is fetched"),
        ("s3://bucket/a.png", "a URL"),
        ("no/such.png", "no/such.png: no such file"),
        ("", "empty"),
        (None, "empty"),
        (b"", "0 bytes"),
        (3, "the number 3"),
        (b"<!DOCTYPE html><html>", "a web page in place of a picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"%PDF-1.4", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\0" * 100, "not a picture"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64,", "0 bytes"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        ("a\0b", "no such file"),
        ("x" * 9000, "no such file"),
    ],
)
def test_what_is_no_picture(source: Any, problem: str) -> None:
    with pytest.raises(MediaError, match=problem):
        open_picture(source)


def test_messages_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(MediaError, match=r"a\.jpg: empty \(0 bytes\)"):
        open_picture(tmp_path / "a.jpg")
    with pytest.raises(MediaError, match="a folder, expected the path of a file"):
        open_picture(tmp_path)
    with pytest.raises(MediaError, match="row 3: not a picture"):
        open_picture(b"nothing of the kind", name="row 3")


def _png(width: int, height: int, depth: int, colours: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, depth, colours, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
