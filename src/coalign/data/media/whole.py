"""Half a clip is told by the lengths that its container states: decoders read it without an error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from coalign.data.media.errors import MediaError
from coalign.data.media.sources import unreadable

_MP4_BOXES = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
    b"moof",
    b"styp",
    b"sidx",
    b"uuid",
    b"pnot",
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def assert_whole(data: bytes | Path, name: str) -> None:
    """Compare the lengths that an MP4, MKV, WebM or AVI states with the file's: FFmpeg decodes half a file, or nothing of
    it, without an error.

    Raises:
        MediaError: it ends early.
    """
    try:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            stated = _stated_size(file, size)
    except OSError as error:
        assert isinstance(data, Path)
        raise unreadable(data, error) from error
    if stated > size:
        raise MediaError(
            name, f"cut off: {size:,} of {stated:,} bytes", "the whole file", hint="Fetch it again."
        )


def _stated_size(file: Any, size: int) -> int:
    """Bytes that the file says it has; 0 where it says nothing."""
    start = file.read(12)
    if start[4:8] in _MP4_BOXES:
        return _end_of_boxes(file, size)
    if start[:4] == _EBML:
        return _end_of_segment(file)
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return int.from_bytes(start[4:8], "little") + 8
    return 0


def _end_of_boxes(file: Any, size: int) -> int:
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4])
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16])
        if length < 8:  # 0: up to the end of the file
            return size
        place += length
    return place


def _end_of_segment(file: Any) -> int:
    """The end of Matroska's segment; 0 where its length is not known (a stream)."""
    file.seek(4)
    head = _ebml_size(file)
    if head is None:
        return 0
    file.seek(head, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _ebml_size(file)
    return 0 if length is None else file.tell() + length


def _ebml_size(file: Any) -> int | None:
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + file.read(width - 1))
    return None if value == (1 << 7 * width) - 1 else value
