"""What a choice came to, on disk: its sketches read back, the records that it picked, those that fell."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError
from coalign.core.files import atomic_path, open_to_append, write_all, write_json
from coalign.core.names import suggest
from coalign.core.progress import progress
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Choice, Joining, Kept, Made, Picks, Step, is_joining
from coalign.loops.steps.logs import KEPT, Item, Note, Records, lines_of, rejected_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Chosen:
    """The files of a choice: its sketches, `STEM.picked.npy` where it left records as they are and in their order, else
    their lines in `STEM.chosen`, and those of the records that fell.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self._sketches, self._type = folder / f"{stem}.sketches", folder / f"{stem}.sketch.json"
        self._picked, self._lines = folder / f"{stem}.picked.npy", folder / f"{stem}.chosen"
        self._rejects = folder / f"{stem}.fallen"

    def sketched(self, records: int) -> int:
        """How many sketches are there, at most one a record; one that was cut by a kill is dropped."""
        if not self._sketches.exists():
            return 0
        size = self._kind().itemsize * math.prod(self._shape())
        whole = min(records, self._sketches.stat().st_size // size)
        os.truncate(self._sketches, whole * size)
        return whole

    def add(self, choice: Choice, items: Sequence[Item]) -> None:
        """Spill the sketches of further records."""
        import numpy as np

        rows = [item.row for item in items]
        assert_columns(choice, rows)
        made = np.ascontiguousarray(choice.sketch(rows))
        if len(made) != len(rows):
            raise ValueError(f"{choice.name}: {len(made)} sketches of {len(rows)} records")
        self._keep_type(made)
        with open_to_append(self._sketches) as file:
            write_all(file, made.tobytes())

    def rejects(self) -> Iterator[bytes]:
        """The records that fell, as lines of `rejects.jsonl`."""
        with self._rejects.open("rb") as file:
            yield from file

    def records(self, before: Records) -> Records:
        """The records that were picked of those that it saw."""
        import numpy as np

        if self._picked.exists():
            return before.only(np.load(self._picked))
        return Records(self._lines, sum(1 for _ in lines_of(self._lines, KEPT)))

    def _keep_type(self, sketches: NDArray[Any]) -> None:
        """Keep what the bytes of sketches stand for; the first batch says it.

        Raises:
            ValueError: a batch whose sketches are of another type.
        """
        import numpy as np

        found = {"type": np.lib.format.dtype_to_descr(sketches.dtype), "shape": list(sketches.shape[1:])}
        settings = json.loads(json.dumps(found))
        if not self._type.exists():
            write_json(self._type, settings)
        if self._settings != settings:
            raise ValueError(f"{self._type.stem}: sketches of two types, now {settings}")

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return json.loads(self._type.read_text(encoding="utf-8"))

    def _kind(self) -> np.dtype[Any]:
        import numpy as np

        kind: Any = self._settings["type"]
        return np.dtype(kind if isinstance(kind, str) else [_field(one) for one in kind])

    def _shape(self) -> list[int]:
        return self._settings["shape"]

    def make(self, choice: Choice, records: Records) -> dict[str, Any]:
        """Choose, and write what was picked and what fell.

        Returns:
            `out` and `rejected` by reason.
        """
        import numpy as np

        picks = choice.choose(self._array())
        taken = np.zeros(records.count, dtype=bool)
        groups, asked = picks.groups, 0
        single = len(groups) == 0 or np.ndim(groups[0]) == 0
        for part in (np.asarray(groups, dtype=np.int64),) if single else map(list, groups):  # pyright: ignore[reportArgumentType]
            taken[part] = True
            asked += len(part)
        if np.count_nonzero(taken) < asked:
            raise ValueError(f"{choice.name}: a record is in two groups, expected one at most")
        fell: list[tuple[Item, str]] = []
        if is_joining(choice) or not single or bool(np.any(np.diff(np.asarray(groups, dtype=np.int64)) < 0)):
            out, fell = self._write_groups(choice, records, [groups_of(one) for one in groups])
        else:
            out = int(np.count_nonzero(taken))
            with atomic_path(self._picked) as path:
                np.save(path.with_suffix(".npy"), taken)
        return {"out": out, "rejected": dict(self._write_rejects(choice.name, records, picks, taken, fell))}

    def _array(self) -> NDArray[Any]:
        import numpy as np

        if not self._sketches.exists() or not self._sketches.stat().st_size:
            return np.empty(0)
        return np.memmap(self._sketches, dtype=self._kind(), mode="r").reshape(-1, *self._shape())

    def _write_groups(
        self, choice: Choice, records: Records, groups: Sequence[tuple[int, ...]]
    ) -> tuple[int, list[tuple[Item, str]]]:
        """Write what the groups make; how many records it is, and what fell in the making."""
        offsets, out, fell = records.offsets(), 0, []
        with records.log.open("rb") as file, atomic_path(self._lines) as path, path.open("wb") as target:

            def item(place: int) -> Item:
                file.seek(int(offsets[place]))
                return Item.of(file.readline())

            with progress(len(groups), choice.name, unit="record") as bar:
                for group in groups:
                    items = [item(place) for place in group]
                    for one, made in _joined(choice, items) if is_joining(choice) else ((None, items[0]),):
                        if one is None or isinstance(one, Kept):
                            target.write(b"+" + made.line)
                            out += 1
                        else:
                            fell.append((made, one.reason))
                    bar.advance()
        return out, fell

    def _write_rejects(
        self,
        name: str,
        records: Records,
        picks: Picks,
        taken: NDArray[np.bool_],
        fell: Sequence[tuple[Item, str]],
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        ids = _ids_of(records, picks, taken)
        why: Callable[[int], str] = (
            picks.reason if callable(picks.reason) else lambda _, text=picks.reason: text
        )

        def note(place: int) -> Note | None:
            found: Note = {"step": name}
            if picks.scores is not None:
                found["score"] = round(float(picks.scores[place]), 6)
            if picks.of is not None:
                found["of"] = ids[int(picks.of[place])]
            return found if len(found) > 1 else None

        with atomic_path(self._rejects) as path, path.open("wb") as file:
            for item, reason in fell:
                counts[reason] += 1
                file.write(rejected_line(item.parts, name, reason))
            for place, line in _not_taken(records, taken):
                reason = why(place)
                counts[reason] += 1
                file.write(rejected_line(line.rstrip(b"\n").split(b"\t"), name, reason, note(place)))
        return Counter(dict(counts.most_common()))


def groups_of(group: Any) -> tuple[int, ...]:
    """The places of a group: one, or several."""
    return tuple(map(int, group)) if hasattr(group, "__len__") else (int(group),)


def _field(one: Sequence[Any]) -> tuple[Any, ...]:
    """A field of a record type, out of JSON, which has lists alone."""
    return tuple(tuple(part) if isinstance(part, list) else part for part in one)


def _not_taken(records: Records, taken: NDArray[np.bool_]) -> Iterator[tuple[int, bytes]]:
    lines = zip(itertools.count(), records.lines(), strict=False)
    return itertools.compress(lines, ~taken)


def _ids_of(records: Records, picks: Picks, taken: NDArray[np.bool_]) -> dict[int, str]:
    """The ids of the records that stand for others, by place."""
    import numpy as np

    if picks.of is None:
        return {}
    wanted = np.zeros(records.count, dtype=bool)
    wanted[picks.of[~taken]] = True
    lines = itertools.compress(zip(itertools.count(), records.lines(), strict=False), wanted)
    return {place: json.loads(line[: line.index(b"\t")]) for place, line in lines}


def _joined(step: Joining, group: Sequence[Item]) -> Iterator[tuple[Made, Item]]:
    """What a group makes. It has the id of the group's first record, and the notes on all of them."""
    trace = group[0].trace
    if len(group) > 1:
        notes = {json.dumps(note, sort_keys=True): note for one in group for note in one.trace}
        trace = [*notes.values(), {"step": step.name, "from": [one.row["id"] for one in group]}]
    for one, row in children(group[0].row["id"], step.join([each.row for each in group])):
        yield one, Item(row, [*trace, {"step": step.name, **one.facts}] if one.facts else trace)


def children(name: str, made: Sequence[Made]) -> Iterator[tuple[Made, Row]]:
    """What a step made of a record, each with its id: the record's own, numbered where there are several."""
    for number, one in enumerate(made):
        wanted = name if len(made) == 1 else f"{name}.{number}"
        yield one, one.row if one.row.get("id") == wanted else {**one.row, "id": wanted}


def assert_columns(step: Step, rows: Sequence[Row]) -> None:
    """Refuse records without a column that a step needs.

    Raises:
        CoalignError: the first such record.
    """
    for column in step.needs:
        for row in rows:
            if column not in row:
                raise CoalignError(
                    f"Record {row['id']}: the step {step.name!r} needs the column {column!r}.",
                    hint=suggest(column, list(row), f"It has: {', '.join(row)}."),
                )
