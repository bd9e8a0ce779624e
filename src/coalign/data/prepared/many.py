"""Records beyond a few thousand lie on disk and are read when they are asked for: sequences like lists, of any length."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
import uuid
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast, overload

import numpy as np

from coalign.core.cache import cache_root, use
from coalign.core.files import atomic_path
from coalign.data.prepared.packing import pack, unpack
from coalign.data.records import Record

MANY = 10_000
"""Records from which on they are kept on disk."""
DIGEST = "digest.txt"
_CHUNK = 1 << 14
_MAKING = ".making-"
T = TypeVar("T")
R = TypeVar("R", bound=Record)


class OnDisk(Sequence[T]):
    """A sequence whose items are made when they are asked for.

    Attributes:
        digest: of all items, by content; the same items in another order have another one.
    """

    digest: str

    def at(self, place: int) -> T:
        """The item at a place from 0 on."""
        raise NotImplementedError

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self.at(one) for one in range(*place.indices(len(self)))]
        within = place + len(self) if place < 0 else place
        if not 0 <= within < len(self):
            raise IndexError(f"{place} of {len(self)}")
        return self.at(int(within))

    def __iter__(self) -> Iterator[T]:
        return map(self.at, range(len(self)))


class RecordStore(OnDisk[Record]):
    """Records in a folder that `gathered` wrote.

    Args:
        remove: the folder is this object's, and goes with it.
    """

    def __init__(self, folder: Path, *, remove: bool = False) -> None:
        self.folder = folder
        self.digest = (folder / DIGEST).read_text(encoding="ascii")
        self._ends = np.load(folder / "ends.npy")
        self._file = (folder / "records.bin").open("rb", buffering=0)
        self._lock = threading.Lock()
        self._finalize = weakref.finalize(self, shutil.rmtree, folder, True) if remove else None

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, place: int) -> Record:
        start = int(self._ends[place - 1]) if place else 0
        size = int(self._ends[place]) - start
        if hasattr(os, "pread"):  # forks share the place in the file
            return unpack(os.pread(self._file.fileno(), size, start))
        with self._lock:
            self._file.seek(start)
            return unpack(self._file.read(size))

    def __iter__(self) -> Iterator[Record]:
        with (self.folder / "records.bin").open("rb", buffering=1 << 20) as file:
            start = 0
            for first in range(0, len(self), _CHUNK):
                for end in self._ends[first : first + _CHUNK].tolist():
                    yield unpack(file.read(end - start))
                    start = end

    def kept(self, name: str, make: Callable[[Record], bytes]) -> np.ndarray:
        """[N, size] bytes that are made of every record, which are all of one size; made once and kept beside them."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            data = bytearray()
            for one in self:
                data += make(one)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.frombuffer(data, np.uint8).reshape(len(self), -1))
        return np.load(path, mmap_mode="r")

    def keep(self, folder: Path) -> RecordStore:
        """Move them to a folder that stays; they are at either place until then."""
        if self._finalize is None:
            raise ValueError(f"{self.folder} is kept already")
        self._file.close()
        self._finalize.detach()
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder.rename(folder)
        except OSError:  # another process was first
            if not (folder / DIGEST).exists():
                raise
            shutil.rmtree(self.folder, ignore_errors=True)
        return RecordStore(folder)


class Selection(OnDisk[T]):
    """Items of several sequences, by their places in all of them one after the other; an item may come again."""

    def __init__(self, parts: Sequence[Sequence[T]], places: np.ndarray) -> None:
        self.parts = parts
        self.places = places
        self._starts = np.cumsum([0, *map(len, parts)])

    @property
    def digest(self) -> str:  # type: ignore[override]
        made = hashlib.blake2b(np.ascontiguousarray(self.places, dtype="<i8").tobytes(), digest_size=16)
        for one in self.parts:
            made.update(digest_of(cast("Sequence[Any]", one)).encode())
        return made.hexdigest()

    def __len__(self) -> int:
        return len(self.places)

    def at(self, place: int) -> T:
        row = int(self.places[place])
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[part][row - int(self._starts[part])]


def are_many(records: Sequence[Any]) -> bool:
    """Whether so many are kept on disk."""
    return len(records) >= MANY


def gathered(records: Iterable[R]) -> Sequence[R]:
    """The records: as a list while they are few or hold what no file holds (pictures), on disk once they are many."""
    source = iter(records)
    few = list(itertools.islice(source, MANY))
    if not are_many(few):
        return few
    store, left = _stored(lambda folder: write_records(folder, itertools.chain(few, source)))
    if left is None:
        return cast("Sequence[R]", store)
    return [*cast("Sequence[R]", store), cast(R, left), *source]


def put_together(parts: Sequence[Path]) -> Sequence[Record]:
    """The records of folders that `write_records` wrote, one folder after the other, as `gathered` gives them."""
    store, _ = _stored(lambda folder: _join(folder, parts))
    return store if are_many(store) else [*store]


def taken(records: Sequence[T], places: np.ndarray) -> Sequence[T]:
    """The items at these places."""
    if isinstance(records, OnDisk):
        if isinstance(records, Selection):
            return Selection(records.parts, records.places[places])
        return Selection([records], places)
    return [records[place] for place in places.tolist()]


def joined(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """The items of all sequences, one sequence after the other."""
    whole = [one for one in parts if len(one)]
    if len(whole) == 1:
        return whole[0]
    if any(isinstance(one, OnDisk) for one in whole):
        return Selection(whole, np.arange(sum(map(len, whole))))
    return [*itertools.chain(*whole)]


def digest_of(records: Sequence[Record]) -> str:
    """Of records by content.

    Raises:
        ValueError: as `pack`.
    """
    if isinstance(records, OnDisk):
        return records.digest
    made = hashlib.blake2b(digest_size=16)
    for one in records:
        made.update(pack(one))
    return made.hexdigest()


def _stored(write: Callable[[Path], T]) -> tuple[RecordStore, T]:
    """What `write` makes in a folder, which goes with it, and what it returned."""
    folder = cache_root() / "records" / f"{_MAKING}{uuid.uuid4().hex}"
    use(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        told = write(temporary)
    return RecordStore(folder, remove=True), told


def write_records(folder: Path, records: Iterable[Record]) -> Record | None:
    """Write records and what tells where each ends into a folder that is there.

    Returns:
        The first record that cannot be written, with which it stopped.
    """
    ends, total, digest, left = array("q"), 0, hashlib.blake2b(digest_size=16), None
    with (folder / "records.bin").open("wb", buffering=1 << 20) as file:
        for one in records:
            try:
                data = pack(one)
            except ValueError:
                left = one
                break
            total += file.write(data)
            ends.append(total)
            digest.update(data)
        _sync(file)
    np.save(folder / "ends.npy", np.frombuffer(ends, np.int64) if ends else np.zeros(0, np.int64))
    (folder / DIGEST).write_text(digest.hexdigest(), encoding="ascii")
    return left


def _join(folder: Path, parts: Sequence[Path]) -> None:
    digest = hashlib.blake2b(digest_size=16)
    with (folder / "records.bin").open("wb") as file:
        for part in parts:
            with (part / "records.bin").open("rb") as source:
                while data := source.read(1 << 20):
                    file.write(data)
                    digest.update(data)
        _sync(file)
    ends, total = [np.zeros(0, np.int64)], 0
    for part in parts:
        ends.append(np.load(part / "ends.npy") + total)
        total = int(ends[-1][-1]) if len(ends[-1]) else total
    np.save(folder / "ends.npy", np.concatenate(ends))
    (folder / DIGEST).write_text(digest.hexdigest(), encoding="ascii")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    with contextlib.suppress(OSError):
        os.fsync(file.fileno())
