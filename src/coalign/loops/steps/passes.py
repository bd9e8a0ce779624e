"""Passes of a pipeline: steps that work together on a stream of records, and the log that lets them go on."""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from coalign.core.errors import CoalignError
from coalign.core.files import append_rows, stream_rows, write_json
from coalign.core.measure import measure
from coalign.core.names import suggest
from coalign.core.progress import progress
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Choice, Kept, Local, Made, Ordered, Picks, Step, is_choice, is_ordered

Line = dict[str, Any]
"""What became of a record, or of a group: `kept` and `rejected`, and in `n` how many left each step of the pass."""


@dataclass(slots=True)
class Item:
    """A record on its way, and what the steps noted of it."""

    row: Row
    trace: list[dict[str, Any]]

    @property
    def json(self) -> dict[str, Any]:
        return {"row": self.row, "trace": self.trace} if self.trace else {"row": self.row}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Item:
        return cls(value["row"], value.get("trace", []))


def passes_of(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that work together. A choice is by itself and reads the log of the pass before, be that without steps; what
    follows an ordered step and is not ordered begins a pass, so that the log says what the ordered step kept.
    """
    groups: list[list[Step]] = [[]]
    for step in steps:
        last = groups[-1][-1:]
        begins = is_choice(step) or getattr(step, "alone", False) or any(map(is_choice, last))
        if begins or (any(map(is_ordered, last)) and not is_ordered(step)):
            groups.append([])
        groups[-1].append(step)
    return groups if groups[0] or len(groups) == 1 or is_choice(groups[1][0]) else groups[1:]


class Pass:
    """Steps that work together.

    Args:
        folder: of the pipeline.
        number: of the pass.
        batch: most records at a time.

    Attributes:
        log: one line for each record, or group of records, that came in.
    """

    def __init__(self, folder: Path, number: int, steps: Sequence[Step], batch: int) -> None:
        name = "-".join("".join(c if c.isalnum() else "-" for c in step.name) for step in steps)[:60]
        self.steps = steps
        self.log = folder / f"{number:02d}-{name or 'source'}.jsonl"
        self._done = self.log.with_suffix(".done.json")
        self._batch = min([batch, *(getattr(step, "batch", batch) for step in steps)])

    @property
    def is_done(self) -> bool:
        return self._done.exists()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Of a pass that is done: `records` that came in, `kept`, `steps`, `seconds`, `peak_mb`."""
        return json.loads(self._done.read_text(encoding="utf-8"))

    def kept(self) -> Iterator[Item]:
        """The records that are left, in order."""
        return (Item.of(one) for _, line in stream_rows(self.log) for one in line["kept"])

    def work(self, before: Pass | None, source: Iterable[Row], total: int | None) -> None:
        """Do what is missing and mark the pass as done.

        Args:
            before: the pass whose records are taken; of the first pass None, which takes those of `source`.
            total: records of `source`, where that is known.
        """
        with measure() as spent:
            first = self.steps[0] if self.steps else None
            append_rows(self.log, [])  # nothing torn, and a log even where nothing comes in
            if before is not None and first is not None and is_choice(first):
                self._choose(first, before)
            elif before is not None:
                self._stream(before.kept(), before.facts["kept"])
            else:
                self._stream((Item(row, []) for row in source), total)
            for step in self.steps:
                getattr(step, "close", lambda: None)()
        cost = {"seconds": round(spent.seconds, 3), "peak_mb": round(spent.peak_mb, 1)}
        write_json(self._done, {**self._counts(), **cost})

    # -- local and ordered steps --------------------------------------------------------------------------------

    def _stream(self, items: Iterator[Item], total: int | None) -> None:
        ready = sum(1 for _ in stream_rows(self.log))
        done = (
            ready // self._batch * self._batch
        )  # a batch that was cut is worked on whole, and its rest is written
        self._remember(done)
        with progress(total, ", ".join(step.name for step in self.steps) or "Reading", unit="record") as bar:
            bar.advance(done)
            items = itertools.islice(items, done, None)
            while not any(getattr(step, "full", False) for step in self.steps):
                batch = list(itertools.islice(items, self._batch))
                if len(batch) <= max(0, ready - done):
                    break
                append_rows(self.log, self._lines(batch)[max(0, ready - done) :])
                done += len(batch)
                bar.advance(len(batch))

    def _remember(self, lines: int) -> None:
        """Tell the ordered steps what they kept in the first lines: they stand last in a pass and change nothing."""
        ordered: list[Ordered] = [step for step in self.steps if is_ordered(step)]
        places = {step.name: place for place, step in enumerate(ordered)}
        if not ordered:
            return
        for _, line in itertools.islice(stream_rows(self.log), lines):
            for one in (*line["kept"], *line["rejected"]):
                kept_by = places.get(one["step"], 0) if "step" in one else None
                for step in ordered[:kept_by]:
                    step.remember(one["row"])

    def _lines(self, batch: Sequence[Item]) -> list[Line]:
        lines: list[Line] = [{"kept": [], "rejected": [], "n": []} for _ in batch]
        alive = list(enumerate(batch))
        for step in self.steps:
            rows = [item.row for _, item in alive]
            _assert_columns(step, rows)
            if is_ordered(step):
                made: Sequence[Sequence[Made]] = [[_looked(step, row)] for row in rows]
            else:
                made = cast(Local, step)(rows) if rows else []
            going: list[tuple[int, Item]] = []
            for (place, item), several in zip(alive, made, strict=True):
                for one, child in _children(step, item, several):
                    if isinstance(one, Kept):
                        going.append((place, child))
                    else:
                        lines[place]["rejected"].append(_fallen(step, child, one.reason))
            alive = going
            left = Counter(place for place, _ in alive)
            for place, line in enumerate(lines):
                line["n"].append(left[place])
        for place, item in alive:
            lines[place]["kept"].append(item.json)
        return lines

    # -- choices ------------------------------------------------------------------------------------------------

    def _choose(self, step: Choice, before: Pass) -> None:
        sketches: list[Any] = []
        lines, within = (
            array("Q"),
            array("I"),
        )  # where the log before has each record: byte of the line, place in it
        records = (
            (place, number, one["row"])
            for place, line in stream_rows(before.log)
            for number, one in enumerate(line["kept"])
        )
        while batch := list(itertools.islice(records, self._batch)):
            rows = [row for *_, row in batch]
            _assert_columns(step, rows)
            sketches.extend(step.sketch(rows))
            lines.extend(place for place, *_ in batch)
            within.extend(number for _, number, _ in batch)
        picks = step.choose(sketches)
        del sketches
        with before.log.open("rb") as file:

            def item(place: int) -> Item:
                file.seek(lines[place])
                return Item.of(json.loads(file.readline())["kept"][within[place]])

            self._write_picks(step, picks, len(lines), item)

    def _write_picks(self, step: Choice, picks: Picks, records: int, item: Any) -> None:
        """A line for each group, then one for each record in none."""
        taken = bytearray(records)
        for group in picks.groups:
            for place in _places(group):
                taken[place] += 1
        if max(taken, default=0) > 1:
            raise ValueError(f"{step.name}: a record is in two groups, expected one at most")

        def line_of(group: tuple[int, ...], picked: bool) -> Line:
            if picked:
                return _joined(step, [item(place) for place in group])
            return {"kept": [], "rejected": [_fallen(step, item(group[0]), picks.reason(group[0]))], "n": [0]}

        work = itertools.chain(
            ((_places(group), True) for group in picks.groups),
            (((place,), False) for place, used in enumerate(taken) if not used),
        )
        ready = sum(1 for _ in stream_rows(self.log))
        with progress(len(picks.groups) + taken.count(0), step.name, unit="record") as bar:
            bar.advance(ready)
            work = itertools.islice(work, ready, None)
            while batch := list(itertools.islice(work, self._batch)):
                append_rows(self.log, [line_of(*one) for one in batch])
                bar.advance(len(batch))

    # -- counting -----------------------------------------------------------------------------------------------

    def _counts(self) -> dict[str, Any]:
        reasons: dict[str, Counter[str]] = {step.name: Counter() for step in self.steps}
        records = kept = 0
        out = [0] * len(self.steps)
        for _, line in stream_rows(self.log):
            records += line.get("of", 1)
            kept += len(line["kept"])
            out = [one + more for one, more in zip(out, line["n"], strict=True)]
            for one in line["rejected"]:
                reasons[one["step"]][one["reason"]] += 1
        rows = [
            {"name": step.name, "in": came, "out": went, "rejected": dict(reasons[step.name].most_common())}
            for step, came, went in zip(self.steps, [records, *out], out, strict=False)
        ]
        return {"records": records, "kept": kept, "steps": rows}


def _places(group: int | tuple[int, ...]) -> tuple[int, ...]:
    return group if isinstance(group, tuple) else (group,)


def _joined(step: Choice, group: Sequence[Item]) -> Line:
    """The line of a group. What it makes has the id of its first record, and the notes on all of them."""
    item = group[0]
    if len(group) > 1:
        notes = {json.dumps(note, sort_keys=True): note for one in group for note in one.trace}
        item = Item(
            item.row, [*notes.values(), {"step": step.name, "from": [one.row["id"] for one in group]}]
        )
    line: Line = {"kept": [], "rejected": [], "n": [0], "of": len(group)}
    for one, child in _children(step, item, step.join([each.row for each in group])):
        if isinstance(one, Kept):
            line["kept"].append(child.json)
            line["n"][0] += 1
        else:
            line["rejected"].append(_fallen(step, child, one.reason))
    return line


def _children(step: Step, item: Item, made: Sequence[Made]) -> Iterator[tuple[Made, Item]]:
    """What a step made of a record, each with its id and its notes."""
    name = item.row["id"]
    for number, one in enumerate(made):
        row = {**one.row, "id": name if len(made) == 1 else f"{name}.{number}"}
        yield one, Item(row, [*item.trace, {"step": step.name, **one.facts}] if one.facts else item.trace)


def _fallen(step: Step, item: Item, reason: str) -> dict[str, Any]:
    return {**item.json, "step": step.name, "reason": reason}


def _looked(step: Ordered, row: Row) -> Made:
    made = step.look(row)
    if isinstance(made, Kept):
        step.remember(row)
    return made


def _assert_columns(step: Step, rows: Sequence[Row]) -> None:
    for row in rows:
        for column in step.needs:
            if column not in row:
                raise CoalignError(
                    f"Record {row['id']}: the step {step.name!r} needs the column {column!r}.",
                    hint=suggest(column, list(row), f"It has: {', '.join(row)}."),
                )
