"""Encoded records on disk: token ids as one memory-mapped array, with where each prompt and each response ends.

A training over a million records holds a few numbers a record in memory, and none of their tokens.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from coalign.core.errors import RecordProblem
from coalign.core.files import write_json
from coalign.data.encoding import EncodedRecord
from coalign.data.prepared.many import OnDisk

_COLUMNS = {
    "ends": "q",
    "first": "q",
    "owners": "q",
    "values": "d",
    "truncated": "b",
    "masked": "b",
    "spans": "q",
    "ids": "B",
    "id_ends": "q",
    "tags": "H",
}
"""Array of a store to its type (`array.array`).

Attributes:
    ends: of every prompt and every response in the tokens, a record's prompt before its responses.
    first: of each record its prompt among these; one number more than records.
    owners: `EncodedRecord.record_index`. values: of each response. truncated, masked: whether `trained` is no None.
    spans: [M, 3] stretches of responses that are not trained on: which of `ends`, from, to.
    ids, id_ends: UTF-8 of each id. tags: places in `meta.json`'s list.
"""
_FLUSH = 1 << 20
META = "meta.json"


@dataclass(frozen=True)
class Lengths:
    """What is told of encoded records without their tokens.

    Attributes:
        prompts: [N] tokens of each prompt.
        responses: [R] tokens of each response.
        owners: [R] the record of each response.
        values: [R] `EncodedRecord.values`.
    """

    prompts: np.ndarray
    responses: np.ndarray
    owners: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, records: Sequence[EncodedRecord]) -> Lengths:
        """Of records in memory."""
        counts = [len(one.response_ids) for one in records]
        return cls(
            np.array([len(one.prompt_ids) for one in records], dtype=np.int64),
            np.array([len(ids) for one in records for ids in one.response_ids], dtype=np.int64),
            np.repeat(np.arange(len(records)), counts),
            np.array([value for one in records for value in one.values], dtype=np.float64),
        )

    @property
    def tokens(self) -> np.ndarray:
        """[N] of each record: its prompt once, and its responses."""
        return self.prompts + np.bincount(
            self.owners, weights=self.responses, minlength=len(self.prompts)
        ).astype(np.int64)


class TokenWriter:
    """Writes encoded records into a folder; use as a context, then `finish`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.count = 0
        self._file = (folder / _tokens_of(0)).open("wb")
        self._tokens, self._written = array("i"), 0
        self._columns: dict[str, array[Any]] = {name: array(kind) for name, kind in _COLUMNS.items()}
        self._extras: dict[str, tuple[array[float], array[int]]] = {}
        self._tags: dict[str, int] = {}
        self._largest, self._longest = (-1, 0), (-1, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, one: EncodedRecord, name: str, tag: str, extras: dict[str, list[float]]) -> None:
        """Append a record without pictures, with its id, its source in a mix and its columns."""
        columns = self._columns
        columns["first"].append(len(columns["ends"]))
        for place, ids in enumerate((one.prompt_ids, *one.response_ids)):
            self._tokens.extend(ids)
            columns["ends"].append(self._written + len(self._tokens))
            if place and one.trained is not None:
                for start, end in _untrained(one.trained[place - 1]):
                    columns["spans"].extend((len(columns["ends"]) - 1, start, end))
            self._largest = max(self._largest, (max(ids, default=-1), -self.count))
        longest = len(one.prompt_ids) + max(map(len, one.response_ids), default=0)
        self._longest = max(self._longest, (longest, -self.count))
        columns["owners"].append(one.record_index)
        columns["values"].extend(one.values)
        columns["truncated"].append(one.truncated)
        columns["masked"].append(one.trained is not None)
        columns["ids"].frombytes(name.encode("utf-8", "surrogatepass"))
        columns["id_ends"].append(len(columns["ids"]))
        columns["tags"].append(self._tags.setdefault(tag, len(self._tags)))
        for column, values in extras.items():
            kept, ends = self._extras.setdefault(column, (array("d"), array("q")))
            kept.extend(values)
            ends.append(len(kept))
        self.count += 1
        if len(self._tokens) > _FLUSH:
            self._flush()

    def finish(self, **told: Any) -> None:
        """Write what is left, and `told` (JSON) beside it."""
        self._flush()
        self._columns["first"].append(len(self._columns["ends"]))
        for name, column in self._columns.items():
            np.save(self.folder / f"{name}.npy", np.array(column))
        for place, pair in enumerate(self._extras.values()):
            _save_extra(self.folder, place, *map(np.array, pair))
        extremes = {"largest": self._largest, "longest": self._longest}
        meta = {"tags": list(self._tags), "extras": list(self._extras), **extremes, **told}
        write_json(self.folder / META, meta)

    def _flush(self) -> None:
        self._file.write(self._tokens.tobytes())
        self._file.flush()
        self._written += len(self._tokens)
        self._tokens = array("i")


class TokenStore(OnDisk[EncodedRecord]):
    """The encoded records of a folder that a `TokenWriter` wrote; tokens are read where they are asked for.

    Attributes:
        meta: what `finish` was told.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = folder.name
        self.meta = read_meta(folder)
        arrays = {name: _mapped(folder / f"{name}.npy") for name in _COLUMNS}
        self.ends, self.first, self._owners = arrays["ends"], arrays["first"], arrays["owners"]
        self._values, self._truncated, self._masked = (
            arrays[name] for name in ("values", "truncated", "masked")
        )
        self._spans = arrays["spans"].reshape(-1, 3)
        self._ids, self._id_ends, self._tags = arrays["ids"], arrays["id_ends"], arrays["tags"]
        self._extras = {
            name: tuple(_mapped(folder / f"extra{place}{what}.npy") for what in ("", "_ends"))
            for place, name in enumerate(self.meta["extras"])
        }
        files = itertools.takewhile(
            Path.exists, (folder / _tokens_of(number) for number in itertools.count())
        )
        self._tokens = [
            np.memmap(one, np.int32, "r") if one.stat().st_size else np.zeros(0, np.int32) for one in files
        ]
        self._starts = np.cumsum([0, *map(len, self._tokens)])

    def __len__(self) -> int:
        return len(self._owners)

    def __getstate__(self) -> Path:
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)

    def at(self, place: int) -> EncodedRecord:
        first, last = int(self.first[place]), int(self.first[place + 1])
        ends = self.ends[first:last].tolist()
        start = int(self.ends[first - 1]) if first else 0
        part = int(np.searchsorted(self._starts, start, side="right")) - 1
        # a record without tokens may begin where the last file ends
        tokens, before = self._tokens[min(part, len(self._tokens) - 1)], int(self._starts[part])
        pieces = [
            tokens[begin - before : end - before].tolist()
            for begin, end in zip([start, *ends[:-1]], ends, strict=True)
        ]
        return EncodedRecord(
            int(self._owners[place]),
            pieces[0],
            pieces[1:],
            self._trained(first + 1, pieces[1:]) if self._masked[place] else None,
            self._values[first - place : last - place - 1].tolist(),
            bool(self._truncated[place]),
        )

    @property
    def extremes(self) -> list[int]:
        """The first records that have the largest token id and the longest text."""
        return sorted({-self.meta[name][1] for name in ("largest", "longest")}) if len(self) else []

    def id(self, place: int) -> str:
        """The id of a record."""
        start = int(self._id_ends[place - 1]) if place else 0
        return self._ids[start : int(self._id_ends[place])].tobytes().decode("utf-8", "surrogatepass")

    def tag(self, place: int) -> str:
        """The source of a record in a mix."""
        return self.meta["tags"][int(self._tags[place])]

    def extras(self, place: int) -> dict[str, list[float]]:
        """The columns of a record."""
        return {
            name: values[int(ends[place - 1]) if place else 0 : int(ends[place])].tolist()
            for name, (values, ends) in self._extras.items()
        }

    def tags(self) -> tuple[list[str], np.ndarray]:
        """Names of the sources, and [N] which of them each record is of."""
        return self.meta["tags"], self._tags

    def lengths(self) -> Lengths:
        """See `Lengths`."""
        sizes = np.diff(self.ends, prepend=0).astype(np.int32)
        counts = np.diff(self.first) - 1
        prompts = np.zeros(len(sizes), bool)
        prompts[self.first[:-1]] = True
        owners = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return Lengths(sizes[prompts], sizes[~prompts], owners, self._values)

    def problems(self) -> tuple[RecordProblem, ...]:
        """`Encoded.dropped`."""
        return tuple(RecordProblem(**one) for one in self.meta.get("dropped", ()))

    def _trained(self, first: int, responses: Sequence[list[int]]) -> list[list[bool]]:
        """Masks over responses, of which `first` is the first among `ends`."""
        masks = [[True] * len(ids) for ids in responses]
        low, high = np.searchsorted(self._spans[:, 0], (first, first + len(responses)))
        for which, start, end in self._spans[low:high].tolist():
            masks[which - first][start:end] = [False] * (end - start)
        return masks


def merge(parts: Sequence[Path], folder: Path, **told: Any) -> None:
    """Make one store of several, whose records follow each other. Tokens are moved and not copied, what tells where they
    are is joined; the parts are stores no longer.

    Args:
        told: as of `TokenWriter.finish`.
    """
    folder.mkdir(parents=True)
    metas = [read_meta(one) for one in parts]

    def starts(sizes: Iterable[int]) -> np.ndarray:
        return np.cumsum([0, *sizes])

    def column(name: str) -> list[np.ndarray]:
        return [np.load(one / f"{name}.npy") for one in parts]

    def shifted(found: Sequence[np.ndarray], by: np.ndarray) -> list[np.ndarray]:
        return [one + start for one, start in zip(found, by[: len(found)], strict=True)]

    records, pieces = starts(map(len, column("owners"))), starts(map(len, column("ends")))
    shifts = {
        "ends": starts(int(one[-1]) if len(one) else 0 for one in column("ends")),
        "id_ends": starts(map(len, column("ids"))),
        "first": pieces,
    }
    tags = list(dict.fromkeys(tag for one in metas for tag in one["tags"]))
    for name in _COLUMNS:
        found = column(name)
        if name == "first":
            found = [*(one[:-1] for one in found), np.zeros(1, np.int64)]
        elif name == "spans":
            by = np.repeat(pieces[:-1], [len(one) // 3 for one in found])
            whole = np.concatenate(found).reshape(-1, 3)
            whole[:, 0] += by
            found = [whole.reshape(-1)]
        elif name == "tags":
            numbers = [np.array([tags.index(tag) for tag in one["tags"]], found[0].dtype) for one in metas]
            found = [own[one] for own, one in zip(numbers, found, strict=True)]
        np.save(
            folder / f"{name}.npy", np.concatenate(shifted(found, shifts[name]) if name in shifts else found)
        )
    extras = list(dict.fromkeys(name for one in metas for name in one["extras"]))
    for place, name in enumerate(extras):
        pairs = [
            [np.load(part / f"extra{one['extras'].index(name)}{what}.npy") for what in ("", "_ends")]
            for part, one in zip(parts, metas, strict=True)
            if name in one["extras"]
        ]
        ends = shifted([ends for _, ends in pairs], starts(len(values) for values, _ in pairs))
        _save_extra(folder, place, np.concatenate([values for values, _ in pairs]), np.concatenate(ends))
    extremes = {
        name: max(
            (one[name][0], one[name][1] - int(start)) for one, start in zip(metas, records, strict=False)
        )
        for name in ("largest", "longest")
    }
    write_json(folder / META, {"tags": tags, "extras": extras, **extremes, **told})
    for number, one in enumerate(parts):
        (one / _tokens_of(0)).rename(folder / _tokens_of(number))


def read_meta(folder: Path) -> dict[str, Any]:
    """What `TokenWriter.finish` was told of a store, and what it knows of it."""
    return json.loads((folder / META).read_text(encoding="utf-8"))


def _tokens_of(number: int) -> str:
    """The file of a store's tokens, or of a part of them."""
    return f"tokens-{number:06}.bin"


def _mapped(path: Path) -> np.ndarray:
    """An array of a file, of which the system holds in memory what was looked at, as long as there is room."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _save_extra(folder: Path, place: int, values: np.ndarray, ends: np.ndarray) -> None:
    np.save(folder / f"extra{place}.npy", values)
    np.save(folder / f"extra{place}_ends.npy", ends)


def told_problems(problems: Sequence[RecordProblem]) -> list[dict[str, Any]]:
    """Problems as JSON, for `TokenWriter.finish`."""
    return [asdict(one) for one in problems]


def _untrained(mask: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches of a mask that are false."""
    found: list[tuple[int, int]] = []
    for place, counts in enumerate(mask):
        if not counts:
            if found and found[-1][1] == place:
                found[-1] = (found[-1][0], place + 1)
            else:
                found.append((place, place + 1))
    return found
