"""Passes of a pipeline: steps that work together on a stream of records, and the logs that let them go on."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from coalign.core.engines.batches import Failed
from coalign.core.files import write_json
from coalign.core.machine.measure import measure
from coalign.core.progress import progress
from coalign.loops.rows import Row
from coalign.loops.steps.choosing import Chosen, assert_columns, children
from coalign.loops.steps.kinds import (
    Choice,
    Kept,
    Local,
    Made,
    Ordered,
    Rejected,
    Step,
    is_choice,
    is_ordered,
)
from coalign.loops.steps.logs import FALLEN, Batch, BatchLog, Item, Note, Records, lines_of, rejected_line
from coalign.loops.steps.usual import NOT_SCORABLE

Spread = Callable[[Local, Iterator[Sequence[Row]]], Iterator[Sequence["Sequence[Made] | Failed"]]]
"""Takes a step and batches of records; gives what becomes of each batch, in their order. A record that failed is rejected as not
scorable."""


def passes_of(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that work together. A choice is the last of its pass: its sketches are made while the records go by. What
    follows an ordered step and is neither ordered nor a choice begins a pass, so that the log says what the ordered
    step kept.
    """
    groups: list[list[Step]] = [[]]
    for step in steps:
        last = groups[-1][-1:]
        begins = getattr(step, "alone", False) or any(map(is_choice, last))
        if begins or (any(map(is_ordered, last)) and not is_ordered(step) and not is_choice(step)):
            groups.append([])
        groups[-1].append(step)
    return groups if groups[0] or len(groups) == 1 else groups[1:]


class Pass:
    """Steps that work together, local and ordered ones and at most one choice at the end.

    Args:
        folder: where the pass keeps its logs.
        number: of the pass.
        batch: most records at a time.
        spread: works through a step that begins a pass (`is_spread`), where others than this process do.
    """

    def __init__(
        self, folder: Path, number: int, steps: Sequence[Step], batch: int, spread: Spread | None = None
    ) -> None:
        name = "-".join("".join(c if c.isalnum() else "-" for c in step.name) for step in steps)[:60]
        stem = f"{number:02d}-{name or 'source'}"
        choices = [step for step in steps if is_choice(step)]
        self._steps = [step for step in steps if not is_choice(step)]
        self._choice: Choice | None = choices[0] if choices else None
        self._spread = spread if self._steps and is_spread(self._steps[0]) else None
        self._log = BatchLog(folder / f"{stem}.log")
        self._chosen = Chosen(folder, stem)
        self._done = folder / f"{stem}.done.json"
        self._batch = min([batch, *(getattr(step, "batch", batch) for step in steps)])

    @property
    def is_done(self) -> bool:
        return self._done.exists()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Of a pass that is done: `steps` with their counts, `seconds`, `peak_mb`."""
        return json.loads(self._done.read_text(encoding="utf-8"))

    def result(self, before: Records | None) -> Records:
        """The records that are left, in order, when the pass is done."""
        return self._chosen.records(self._passed(before)) if self._choice else self._passed(before)

    def rejects(self) -> Iterator[bytes]:
        """The records that fell, as lines of `rejects.jsonl`, in the order of the steps."""
        if self._log.path.exists():
            yield from lines_of(self._log.path, FALLEN)
        if self._choice is not None:
            yield from self._chosen.rejects()

    def work(self, before: Records | None, source: Iterable[Row], total: int | None) -> None:
        """Do what is missing and mark the pass as done.

        Args:
            before: the records of the pass before; None for the first pass, which takes those of `source`.
            total: records of `source`, where that is known.
        """
        with measure() as spent:
            counts: list[dict[str, Any]] = []
            if before is None:
                counts = self._stream(lambda: (Item(row, []) for row in source), total)
            elif self._steps:
                counts = self._stream(before.items, before.count)
            if self._choice is not None:
                records = self._passed(before)
                self._sketch(self._choice, records)
                made = self._chosen.make(self._choice, records)
                counts.append({"name": self._choice.name, "in": records.count, **made})
            for step in (*self._steps, self._choice):
                getattr(step, "close", lambda: None)()
        cost = {"seconds": round(spent.seconds, 3), "peak_mb": round(spent.peak_mb, 1)}
        write_json(self._done, {"steps": counts, **cost})

    def _passed(self, before: Records | None) -> Records:
        """The records that the local and ordered steps kept; a pass without any looks at those of the pass before."""
        if before is not None and not self._steps:
            return before
        return Records(self._log.path, sum(one.out[-1] for one in self._log.batches()))

    # -- local and ordered steps --------------------------------------------------------------------------------

    def _stream(self, items: Callable[[], Iterator[Item]], total: int | None) -> list[dict[str, Any]]:
        """The counts of every step.

        Args:
            items: begins anew at every call.
        """
        self._log.repair()
        done = sum(one.of for one in self._log.batches())
        self._remember()
        if self._choice is not None:
            self._sketch(self._choice, self._passed(None))
        label = ", ".join(step.name for step in self._steps) or "Reading"
        with progress(total, label, unit="record") as bar:
            bar.advance(done)
            for batch in self._log.append(self._batches(lambda: itertools.islice(items(), done, None))):
                bar.advance(batch.of)
                if self._choice is not None and batch.kept:
                    with uncollected():
                        self._chosen.add(self._choice, batch.kept)
        return self._counts()

    def _batches(self, items: Callable[[], Iterator[Item]]) -> Iterator[Batch]:
        batches, elsewhere = self._cut(items()), None
        if self._spread is not None:
            step = cast(Local, self._steps[0])
            elsewhere = self._spread(step, (_rows(step, several) for several in self._cut(items())))
        while not any(getattr(step, "full", False) for step in self._steps):
            with uncollected():
                several = next(batches, None)
                if several is None:
                    break
                made = None if elsewhere is None else next(elsewhere)
                batch = self._batch_of(several, made)
            yield batch

    def _cut(self, items: Iterator[Item]) -> Iterator[list[Item]]:
        while several := list(itertools.islice(items, self._batch)):
            yield several

    def _batch_of(
        self, several: Sequence[Item], elsewhere: Sequence[Sequence[Made] | Failed] | None
    ) -> Batch:
        alive: Sequence[Item] = several
        out, reasons, lines = [], [], []
        for step in self._steps:
            alive, fallen = _through(step, alive, elsewhere)
            elsewhere = None
            out.append(len(alive))
            reasons.append(Counter(reason for _, reason, _ in fallen))
            lines += [rejected_line(item.parts, step.name, why, note) for item, why, note in fallen]
        return Batch(len(several), out or [len(alive)], reasons, alive, lines)

    def _remember(self) -> None:
        """Tell the ordered steps what they kept in the batches that are there: they stand last among the steps and change
        nothing.
        """
        ordered: list[Ordered] = [step for step in self._steps if is_ordered(step)]
        if not ordered:
            return
        for item in Records(self._log.path, 0).items():
            for step in ordered:
                step.remember(item.row)
        places = {step.name: place for place, step in enumerate(ordered)}
        for one in map(json.loads, lines_of(self._log.path, FALLEN)):
            for step in ordered[: places.get(one["step"], 0)]:
                step.remember(one["row"])

    def _counts(self) -> list[dict[str, Any]]:
        came = 0
        out = [0] * len(self._steps)
        reasons: list[Counter[str]] = [Counter() for _ in self._steps]
        for batch in self._log.batches():
            came += batch.of
            for place, fell in enumerate(batch.reasons):
                out[place] += batch.out[place]
                reasons[place].update(fell)
        return [
            {"name": step.name, "in": into, "out": went, "rejected": dict(fell.most_common())}
            for step, into, went, fell in zip(self._steps, [came, *out], out, reasons, strict=False)
        ]

    # -- choices ------------------------------------------------------------------------------------------------

    def _sketch(self, choice: Choice, records: Records) -> None:
        """Make the sketches that are missing: all of a pass without other steps, else those that a kill has cut."""
        ready = self._chosen.sketched(records.count)
        if ready == records.count:
            return
        with progress(records.count, choice.name, unit="record") as bar:
            bar.advance(ready)
            items = itertools.islice(records.items(), ready, None)
            for size in self._sizes(records.count - ready):
                with uncollected():
                    self._chosen.add(choice, list(itertools.islice(items, size)))
                bar.advance(size)

    def _sizes(self, count: int) -> Iterator[int]:
        """The sizes of the batches of so many records."""
        return (min(self._batch, count - start) for start in range(0, count, self._batch))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles in the block. A batch is thousands of small objects without cycles, which let it begin again and
    again: a fifth of the time of cheap steps.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_spread(step: Step) -> bool:
    """Whether a step may be worked through elsewhere: it sees some records, keeps nothing of them, and has a model."""
    return getattr(step, "alone", False) and not is_ordered(step) and not is_choice(step)


def _rows(step: Step, items: Sequence[Item]) -> list[Row]:
    rows = [item.row for item in items]
    assert_columns(step, rows)
    return rows


def _through(
    step: Step, items: Sequence[Item], elsewhere: Sequence[Sequence[Made] | Failed] | None = None
) -> tuple[list[Item], list[tuple[Item, str, Note | None]]]:
    """The items that a step keeps, and those that fall at it, with reason and note.

    Args:
        elsewhere: what others made of the items; None where this process does.
    """
    rows = _rows(step, items)
    made: Sequence[Sequence[Made]]
    if elsewhere is not None:
        made = [
            [Rejected(row, f"{NOT_SCORABLE}: error", {"error": one.message})]
            if isinstance(one, Failed)
            else one
            for row, one in zip(rows, elsewhere, strict=True)
        ]
    elif is_ordered(step):
        made = [[_looked(step, row)] for row in rows]
    else:
        made = cast(Local, step)(rows) if rows else []
    kept: list[Item] = []
    fallen: list[tuple[Item, str, Note | None]] = []
    for item, several in zip(items, made, strict=True):
        if (
            len(several) == 1
            and isinstance(one := several[0], Kept)
            and one.row is item.row
            and not one.facts
        ):
            kept.append(item)
            continue
        for one, row in children(item.row["id"], several):
            note = {"step": step.name, **one.facts} if one.facts else None
            if isinstance(one, Kept):
                kept.append(item.becoming(row, note))
            else:
                fallen.append((item.becoming(row, None), one.reason, note))
    return kept, fallen


def _looked(step: Ordered, row: Row) -> Made:
    made = step.look(row)
    if isinstance(made, Kept):
        step.remember(row)
    return made
