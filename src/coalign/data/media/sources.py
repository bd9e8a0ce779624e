"""What stands for a picture or a clip in data: a path, bytes, base64, a data URL, a hub feature, a member of a tar file."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from coalign.data.media.errors import MediaError
from coalign.data.messages import describe, shorten

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URL = re.compile(r"data:(?P<kind>[^,]*),(?P<data>.*)", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{40,}=*\s*")
_SIGNATURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....(?:WEBP|AVI )|BM|II\*\0|MM\0\*|P[1-6]\s|....ftyp"
    rb"|\x1aE\xdf\xa3|\0\0\0\x0cjP  ",
    re.DOTALL,
)
"""How files of pictures and clips begin: by it base64 is told from a name."""
LONGEST_PATH = 4096
"""Characters; longer text is no path on any usual system."""


@dataclass(frozen=True)
class Stretch:
    """A file within a file (a member of a tar), read when it is asked for.

    Attributes:
        name: of the member, for messages.
        offset, size: bytes.
    """

    path: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            MediaError: the outer file cannot be read, or is shorter than it was.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if len(data) != self.size:
            raise MediaError(
                str(self), f"only {len(data)} of {self.size} bytes", "the file as it was when it was listed"
            )
        return data

    def to_json(self) -> dict[str, str | int]:
        """What `resolve` takes for the same, in a row of JSON."""
        return {
            "path": str(self.path.absolute()),
            "member": self.name,
            "offset": self.offset,
            "size": self.size,
        }

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"


def resolve(source: Any, name: str | None = None, folder: Path | None = None) -> tuple[bytes | Path, str]:
    """What a source stands for, bytes or the path of a file, and how messages call it.

    Args:
        source: a path, bytes, base64, a data URL, a hub feature (a mapping with `bytes` and `path`), a `Stretch` or
            its `to_json`.
        name: for messages, where the source has no name of its own.
        folder: that relative paths start from.

    Raises:
        MediaError: empty, a URL (nothing is fetched), no such file, or something else.
    """
    match source:
        case bytes() | bytearray() | memoryview():
            return _filled(bytes(source), name or "<bytes>"), name or "<bytes>"
        case Stretch():
            return _filled(source.read(), str(source)), str(source)
        case Mapping() if {"path", "member", "offset", "size"} <= source.keys():
            return resolve(_stretch(source, folder), name)
        case Mapping() if {"bytes", "path"} & source.keys():
            called = name or str(source.get("path") or "<bytes>")
            if source.get("bytes") is not None:
                return resolve(source["bytes"], called, folder)
            if source.get("path"):
                return resolve(source["path"], name, folder)
            raise MediaError(called, "neither bytes nor a path", "one of them")
        case Path():
            return _file(source, name, folder)
        case str() if source.strip():
            return _of_text(source, name, folder)
        case _:
            found = "empty" if source is None or source == "" else describe(source)
            raise MediaError(name or "<data>", found, "a path, bytes, base64 or a data URL")


def _stretch(value: Mapping[str, Any], folder: Path | None) -> Stretch:
    path, member, place = value["path"], value["member"], (value["offset"], value["size"])
    if not isinstance(path, str) or not all(isinstance(one, int) and one >= 0 for one in place):
        raise MediaError(
            str(member), describe(dict(value)), "path, member, offset and size of a file in a file"
        )
    return Stretch(_placed(Path(path), folder), str(member), *place)


def _of_text(text: str, name: str | None, folder: Path | None) -> tuple[bytes | Path, str]:
    given = _DATA_URL.fullmatch(text)
    if given:
        called = name or f"<data:{given['kind']}>"
        if not given["kind"].endswith(";base64"):
            return _filled(unquote_to_bytes(given["data"]), called), called
        return _filled(_decoded(given["data"], called), called), called
    if _URL.match(text):
        url = urlsplit(text)
        if url.scheme == "file" and url.netloc in ("", "localhost"):
            return _file(Path(url2pathname(url.path)), name, folder)
        raise MediaError(
            shorten(text, 80),
            "a URL, and nothing is fetched from the network",
            "a file",
            hint="Download it first, and give the path of the file.",
        )
    if (
        _BASE64.fullmatch(text)
        and _SIGNATURE.match(_start(text))
        and not exists(_placed(Path(text), folder), text)
    ):
        return _decoded(text, name or "<base64>"), name or "<base64>"
    return _file(Path(text).expanduser(), name, folder)


def _start(text: str) -> bytes:
    """The first bytes of base64."""
    squeezed = "".join(text[:64].split())
    return _decode(squeezed[: len(squeezed) // 4 * 4])


def _decoded(text: str, name: str) -> bytes:
    try:
        return _decode(unquote_to_bytes("".join(text.split())).decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise MediaError(name, f"not base64 ({error})", "bytes in base64") from error


def _decode(text: str) -> bytes:
    plain = text.translate(str.maketrans("-_", "+/"))
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _filled(data: bytes, name: str) -> bytes:
    if not data:
        raise MediaError(name, "empty (0 bytes)", "the bytes of a file")
    return data


def _placed(path: Path, folder: Path | None) -> Path:
    return path if folder is None else folder / path


def exists(path: Path, text: str) -> bool:
    """Whether a text names a file that is there; one that is no path (base64) names none."""
    try:
        return len(text) < LONGEST_PATH and path.exists()
    except OSError:
        return False


def _file(path: Path, name: str | None, folder: Path | None) -> tuple[Path, str]:
    path = _placed(path, folder)
    called = name or str(path)
    text = str(path)
    try:
        if len(text) < LONGEST_PATH and path.is_file():
            if path.stat().st_size == 0:
                raise MediaError(called, "empty (0 bytes)", "a file that holds something")
            return path, called
        what = "a folder" if path.is_dir() else "no such file"
    except (OSError, ValueError):
        what = "no such file"
    raise MediaError(shorten(called, 200), what, "the path of a file that is there")


def unreadable(path: Path, error: OSError) -> MediaError:
    """A file that the system does not let us read."""
    return MediaError(str(path), f"cannot be read ({error.strerror})", "a file that can be read")
