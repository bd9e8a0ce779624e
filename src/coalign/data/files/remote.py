"""Files of the hub and of remote file systems by their URLs, read as local ones are: each is fetched to the cache once.

`hf://datasets/owner/name/data/*.parquet` goes by the hub's own file system, `s3://`, `gs://`, `https://` and the others that
fsspec knows by the library that it names. A file is fetched when its turn to be read comes, and again only when it changes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coalign.core.cache import cache_root, hold_limit, use
from coalign.core.errors import CoalignError, DataError, MissingExtraError, in_one_line
from coalign.core.files import atomic_path
from coalign.core.progress import progress
from coalign.data.files.hub import hub_problem
from coalign.data.files.shards import assert_shards, is_glob, suffix_of

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_MEGABYTE = 1 << 20
KIND = "fetched"
"""Folder of the cache."""


def is_remote(name: str) -> bool:
    """Whether a name is a URL."""
    return _URL.match(name) is not None


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote file system.

    Attributes:
        path: in the file system.
        url: as messages name it.
    """

    system: Any
    path: str
    url: str

    def fetch(self) -> Path:
        """The file in the cache.

        Raises:
            DataError: it cannot be fetched.
            CoalignError: the disk is full.
        """
        try:
            state = str(self.system.ukey(self.path))
        except Exception as error:
            raise _failed(self.url, error) from error
        key = hashlib.sha256(f"{self.url}\0{state}".encode()).hexdigest()[:32]
        folder = cache_root() / KIND / key
        use(folder)
        made = folder / PurePosixPath(self.path).name
        if not made.is_file():
            with atomic_path(folder) as temporary:
                temporary.mkdir(parents=True)
                self._copy(temporary / made.name)
            hold_limit()
        return made

    def _copy(self, target: Path) -> None:
        try:
            size = self.system.size(self.path)
            with (
                progress(size and size // _MEGABYTE, f"Fetching {target.name}", "megabyte") as bar,
                self.system.open(self.path, "rb") as source,
                target.open("wb") as file,
            ):
                while part := source.read(_MEGABYTE):
                    file.write(part)
                    bar.advance(len(part) // _MEGABYTE)
        except OSError as error:
            if error.filename == str(target) or getattr(error, "errno", None) in (28, 122):
                raise
            raise _failed(self.url, error) from error
        except Exception as error:
            raise _failed(self.url, error) from error


def remote_files(url: str) -> list[RemoteFile]:
    """The files that a URL stands for: one, those of a folder, or those that a glob matches, in the order of their names.

    Raises:
        DataError: none is there, they are of several formats or splits, or the file system cannot be reached.
        MissingExtraError: the library of the file system is not installed.
    """
    system, path = _system(url)
    try:
        if is_glob(path):
            found = [one for one in system.glob(path) if not system.isdir(one)]
        elif system.isdir(path):
            inside = (str(one) for one in system.ls(path, detail=False))
            found = [one for one in inside if suffix_of(Path(one)) or one.endswith(".tar")]
        else:
            found = [path] if system.exists(path) else []
    except FileNotFoundError:
        found = []
    except Exception as error:
        raise _failed(url, error) from error
    scheme = url.partition("://")[0]
    if not found:
        what = "no file matches" if is_glob(path) else "no such file"
        raise DataError(f"{url}: {what}.", hint="Check the address; a glob matches names of files.")
    if not all(one.endswith(".tar") for one in found) and len(found) > 1:
        assert_shards([Path(one) for one in sorted(found)], url)
    return [RemoteFile(system, one, f"{scheme}://{one.lstrip('/')}") for one in sorted(found)]


def fetched(url: str) -> Iterator[Path]:
    """The files of a URL in the cache, each fetched when it is asked for. Errors are those of `remote_files` and `fetch`."""
    return (one.fetch() for one in remote_files(url))


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition("://")[0].lower()
    if scheme == "hf" and (problem := hub_problem()):
        raise DataError(
            f"{url}: the hub cannot be reached: {problem}.", hint="Go online, or name files on this machine."
        )
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(
            f"{url}: {scheme}:// needs a library that is not installed ({in_one_line(error)}).",
            hint=f"`pip install` it, as fsspec names it: {_library(scheme)}.",
        ) from error
    except Exception as error:
        raise _failed(url, error) from error


@functools.cache
def _library(scheme: str) -> str:
    from fsspec.registry import known_implementations

    return str(known_implementations.get(scheme, {}).get("err", scheme))


def _failed(url: str, error: Exception) -> CoalignError:
    if isinstance(error, CoalignError):
        return error
    return DataError(
        f"{url}: cannot be read ({in_one_line(error)}).",
        hint="Check the address, the connection and who may read it.",
    )
