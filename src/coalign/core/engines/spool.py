"""Items that wait on disk: written once, read one by one by any process, so that memory does not grow with their number."""

from __future__ import annotations

import pickle
import shutil
import uuid
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from coalign.core.cache import cache_root, trim, use
from coalign.core.errors import CoalignError, in_one_line
from coalign.core.files import open_to_append, write_all

Item = TypeVar("Item")
Seen = TypeVar("Seen")
WAITING = "engines"
"""Folder of the cache in which items wait."""


class Spool(Sequence[Item]):
    """Items in a file, of which memory holds eight bytes each.

    Args:
        items: pickled one by one as they are iterated.
        folder: where the file goes; by default a new one in the cache, which goes with this object.

    Raises:
        CoalignError: the disk is full, or an item cannot be written.
    """

    def __init__(self, items: Iterable[Item], folder: Path | None = None) -> None:
        self.folder = folder or _own_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, True)
        self.path = self.folder / "items.bin"
        self._ends = array("q")
        try:
            with open_to_append(self.path) as file:
                self._write(file, items)
        except BaseException:
            self.remove()
            raise

    def _write(self, file: IO[bytes], items: Iterable[Item]) -> None:
        total, held = 0, bytearray()
        for item in items:
            held += _pickled(item)
            self._ends.append(total + len(held))
            if len(held) >= 1 << 20:
                write_all(file, bytes(held))
                total, held = total + len(held), bytearray()
        write_all(file, bytes(held))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        places = range(len(self))[place]
        with self.path.open("rb") as file:
            if isinstance(places, int):
                return self._at(file, places)
            return [self._at(file, one) for one in places]

    def __iter__(self) -> Iterator[Item]:
        with self.path.open("rb") as file:
            for place in range(len(self)):
                yield self._at(file, place)

    def _at(self, file: IO[bytes], place: int) -> Item:
        start = self._ends[place - 1] if place else 0
        file.seek(start)
        return pickle.loads(file.read(self._ends[place] - start))

    def remove(self) -> None:
        """Remove the file."""
        shutil.rmtree(self.folder, ignore_errors=True)


class View(Sequence[Seen], Generic[Item, Seen]):
    """What a function makes of the items of a sequence, when it is asked for.

    Args:
        see: is given an item.
    """

    def __init__(self, items: Sequence[Item], see: Callable[[Item], Seen]) -> None:
        self._items, self._see = items, see

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Seen: ...
    @overload
    def __getitem__(self, place: slice) -> list[Seen]: ...
    def __getitem__(self, place: int | slice) -> Seen | list[Seen]:
        if isinstance(place, slice):
            return [self._see(one) for one in self._items[place]]
        return self._see(self._items[place])

    def __iter__(self) -> Iterator[Seen]:
        return map(self._see, self._items)


def _own_folder() -> Path:
    """A new folder in the cache, for this process alone; those of processes that were killed are removed."""
    trim(None, [WAITING])
    made = cache_root() / WAITING / f".{uuid.uuid4().hex}"
    use(made)
    return made


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CoalignError(
            f"A row cannot be sent to a worker: {in_one_line(error)}", hint="Use --engine local."
        ) from error
