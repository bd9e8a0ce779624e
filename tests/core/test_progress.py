"""Progress on terminals, in logs, and switched off."""

from __future__ import annotations

import io
import sys

import pytest

from coalign.core.progress import PlainProgress, duration, progress, rate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_plain_line_every_interval(capsys):
    clock = Clock()
    bar = PlainProgress(100, "Sampling", "sample", interval=10, clock=clock)
    for _ in range(40):
        clock.now += 0.5
        bar.advance()
    bar.note("50 tokens/s")
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Sampling: 20/100 samples, 2 samples/s, 0:40 left"
    assert lines[-1] == "Sampling: 40/100 samples, 2 samples/s, 50 tokens/s, 0:30 left"
    assert len(lines) == 3


def test_short_work_writes_nothing(capsys):
    with progress(3, "Reading", unit="row") as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars_also_inside_each_other(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress(2, "Outer [1/2]", unit="batch") as outer, progress(None, "Inner") as inner:
        inner.advance()
        inner.note("[loss] 0.5")
        outer.advance(2)
    shown = screen.getvalue()
    assert [part for part in ("Outer [1/2]", "Inner", "[loss] 0.5") if part not in shown] == []
    monkeypatch.setenv("COALIGN_PROGRESS", "0")
    before = screen.tell()
    with progress(1, "Nothing") as bar:
        bar.advance()
    assert screen.tell() == before


def test_the_display_is_free_again_after_an_error(monkeypatch):
    from coalign.core import progress as module

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(KeyError), progress(1, "Work"):
        raise KeyError
    assert module._live is None


def test_rates_and_durations_are_readable():
    rates = [rate(one, "row") for one in (12.34, 1500.0, 0.25)]
    assert rates == ["12.3 rows/s", "1500 rows/s", "4 s/row"]
    assert [duration(one) for one in (42, 725, 3723)] == ["0:42", "12:05", "1:02:03"]
