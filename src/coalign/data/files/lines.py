"""Text files line by line, plain or compressed: only a part of one is in memory."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from coalign.core.errors import DataError
from coalign.data.files.columnar import NoRowsError

_CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def text_lines(path: Path, name: str, readable: str) -> Iterator[bytes]:
    """The lines of a file, without their ends.

    Args:
        name: of the source, for messages.
        readable: what can be read, for messages.

    Raises:
        DataError: cannot be read, damaged, empty, or no text in UTF-8; where it is damaged later on, when it comes to
            that.
    """
    return _lines(_checked(_chunks(path, name), name, readable))


def lines_between(path: Path, name: str, readable: str, start: int, end: int) -> Iterator[bytes]:
    """The lines of a stretch of bytes of a file that is not compressed, cut where lines end. Other arguments and errors are
    those of `text_lines`.
    """
    chunks = _between(path, name, start, end)
    return _lines(chunks if start else _checked(chunks, name, readable))


def is_compressed(path: Path) -> bool:
    """Whether a file is, whatever its name.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    return start.startswith(_GZIP) or start == _ZSTD


def whole_text(path: Path, name: str, readable: str) -> bytes:
    """A file at once. Arguments and errors are those of `text_lines`."""
    data = b"".join(_checked(_chunks(path, name), name, readable))
    if not data.strip():
        raise _empty(name)
    return data


def _chunks(path: Path, name: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start.startswith(_GZIP):
                with gzip.open(file) as plain:
                    yield from iter(lambda: plain.read(_CHUNK), b"")
            elif start == _ZSTD:
                yield from _unzstd(iter(lambda: file.read(_CHUNK), b""))
            else:
                yield from iter(lambda: file.read(_CHUNK), b"")
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise DataError(
            f"{name}: the compressed data is cut off or damaged ({error}).", hint="Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}).") from error


def _between(path: Path, name: str, start: int, end: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            while data := file.read(min(_CHUNK, end - file.tell())):
                yield data
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}).") from error


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard

    frame = None
    for chunk in chunks:
        data = chunk
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from error
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame ends early")


def _checked(chunks: Iterator[bytes], name: str, readable: str) -> Iterator[bytes]:
    """The chunks of a text in UTF-8, without a byte order mark."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= 8192:
            break
    if not start:
        raise _empty(name)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name}: UTF-16 text.", hint="Save it as UTF-8.")
    if b"\0" in start[:8192]:
        raise DataError(f"{name}: binary data, not text.", hint=f"Readable: {readable}.")
    yield from itertools.chain([start.removeprefix(b"\xef\xbb\xbf")], chunks)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _empty(name: str) -> NoRowsError:
    return NoRowsError(f"{name}: the file is empty.", hint="One record a line is needed.")
