"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere, nothing on request.

`COALIGN_PROGRESS=0` turns it off.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID
    from rich.text import Text

PLAIN_INTERVAL = 10.0
"""Least seconds between plain lines."""
SHARE = 0.1
"""Of the work, between plain lines: a log of hours is ten lines long."""
SILENCE = 600.0
"""Most seconds between plain lines while something is done."""

_MANY, _TOGETHER = 10_000, 256
"""Items from which on `counted` counts so many at a time: a display takes longer than many an item."""
T = TypeVar("T")

_live: RichProgress | None = None  # the display on the terminal; work inside other work adds its bar to it
_silent = False


class Progress(Protocol):
    """What `progress` yields."""

    def advance(self, count: int = 1) -> None:
        """Count `count` more units of work as done."""
        ...

    def note(self, text: str) -> None:
        """Show `text` with the progress (a loss, tokens a second); it replaces the note before."""
        ...


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Show nothing of the work in the block: for parts of work that has a bar of its own, so many that each would add one."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


@contextlib.contextmanager
def progress(total: int | None, label: str, unit: str = "row") -> Iterator[Progress]:
    """Show the progress of the work in the block; of several processes under a launcher the first shows its own.

    Args:
        total: units of work; None when it is not known.
        label: what is being done.
        unit: what is counted, in the singular; the rate is shown in units per second.
    """
    if _silent or os.environ.get("COALIGN_PROGRESS") == "0" or os.environ.get("RANK", "0") != "0":
        yield _Silent()
    elif sys.stderr.isatty():
        with _terminal(total, label, unit) as bar:
            yield bar
    else:
        lines = PlainProgress(total, label, unit)
        yield lines
        lines.close()


def counted(items: Iterable[T], label: str, unit: str = "row", total: int | None = None) -> Iterator[T]:
    """The items with their progress, for loops that go through all of them: the display ends with the last item."""
    step = 1 if total is not None and total < _MANY else _TOGETHER
    with progress(total, label, unit) as bar:
        done = 0
        for done, item in enumerate(items, start=1):
            yield item
            if done % step == 0:
                bar.advance(step)
        bar.advance(done % step)


class _Silent:
    def advance(self, count: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class PlainProgress:
    """Progress as plain lines, for logs and pipes: the first after the interval, one every tenth of the work, at least one
    every ten minutes. Where nobody knows how much there is, the time between lines doubles. Work shorter than the interval
    writes nothing.

    Args:
        interval: least seconds between lines.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str,
        *,
        interval: float = PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._interval, self._clock = interval, clock
        self._done, self._note = 0, ""
        self._started = self._written = clock()
        self._due = 0
        """Units done at which the next line is written; 0: the first."""

    def advance(self, count: int = 1) -> None:
        self._done += count
        self._write_when_due()

    def note(self, text: str) -> None:
        self._note = text
        self._write_when_due()

    def close(self) -> None:
        """Write the last line, if any was written before."""
        if self._written > self._started:
            self._write()

    def _write_when_due(self) -> None:
        since = self._clock() - self._written
        if since >= self._interval and (self._done >= self._due or since >= SILENCE):
            self._write()

    def _write(self) -> None:
        self._written = self._clock()
        if self._total is None:
            self._interval = min(2 * self._interval, SILENCE)
        else:
            step = max(1, math.ceil(SHARE * self._total))
            self._due = (self._done // step + 1) * step
        seconds = self._written - self._started
        count = f"{self._done}/{self._total}" if self._total is not None else str(self._done)
        parts = [f"{self._label}: {count} {plural(self._unit)}"]
        if self._done:
            parts.append(rate(self._done / seconds, self._unit))
        if self._note:
            parts.append(self._note)
        if self._total is not None and 0 < self._done < self._total:
            left = seconds * (self._total - self._done) / self._done
            parts.append(f"{duration(left)} left")
        print(", ".join(parts), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminal(total: int | None, label: str, unit: str) -> Iterator[Progress]:
    global _live
    if _live is not None:
        yield _add_bar(_live, total, label, unit)
        return
    _live = _rich_progress()
    try:
        with _live as display:
            yield _add_bar(display, total, label, unit)
    finally:
        _live = None


def _rich_progress() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(rate(speed, task.fields["unit"]) if speed else "")

    class NotesBelow(RichProgress):
        """Notes have a line of their own: beside the bar they would push it off a narrow terminal."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["note"]:
                    yield Text(f"  {task.fields['note']}", "dim", no_wrap=True, overflow="ellipsis")

    return NotesBelow(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
    )


def _add_bar(display: RichProgress, total: int | None, label: str, unit: str) -> Progress:
    task: TaskID = display.add_task(label, total=total, unit=unit, note="")

    class Bar:
        def advance(self, count: int = 1) -> None:
            display.advance(task, count)

        def note(self, text: str) -> None:
            display.update(task, note=text)

    return Bar()


def rate(per_second: float, unit: str) -> str:
    """`12.3 rows/s`; slower than one a second as `4.5 s/row`."""
    if per_second >= 1:
        return (
            f"{per_second:.3g} {plural(unit)}/s"
            if per_second < 1000
            else f"{per_second:.0f} {plural(unit)}/s"
        )
    return f"{1 / per_second:.3g} s/{unit}"


def plural(unit: str) -> str:
    """The plural of an English unit: `batches`, `records`."""
    return f"{unit}es" if unit.endswith(("ch", "sh", "s", "x")) else f"{unit}s"


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
