"""Progress on terminals, in logs, and switched off."""

from __future__ import annotations

import io
import sys

import pytest

from coalign.core.progress import PlainProgress, counted, duration, progress, rate, silent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def written(capsys, total: int | None, units: int, seconds: float) -> list[str]:
    clock = Clock()
    bar = PlainProgress(total, "Sampling", "sample", interval=10, clock=clock)
    for _ in range(units):
        clock.now += seconds
        bar.advance()
    bar.note("50 tokens/s")
    bar.close()
    return capsys.readouterr().err.splitlines()


def test_a_plain_line_every_tenth_of_the_work(capsys):
    lines = written(capsys, 200, 80, 1)
    assert lines[0] == "Sampling: 10/200 samples, 1 samples/s, 3:10 left"
    assert [line.split()[1] for line in lines] == ["10/200", "20/200", "40/200", "60/200", "80/200", "80/200"]
    assert lines[-1] == "Sampling: 80/200 samples, 1 samples/s, 50 tokens/s, 2:00 left"


def test_quick_work_has_few_lines_and_slow_work_is_not_silent(capsys):
    assert len(written(capsys, 100, 100, 0.5)) == 6, "every ten seconds at most"
    slow = written(capsys, 10_000, 30, 100)
    assert [line.split()[1] for line in slow[:4]] == ["1/10000", "7/10000", "13/10000", "19/10000"]
    hours = written(capsys, 1000, 1000, 20)
    assert len(hours) <= 45, "five and a half hours: a tenth of the work, or ten minutes"


def test_unknown_work_is_told_of_less_and_less_often(capsys):
    lines = written(capsys, None, 200, 1)
    assert [line.split()[1] for line in lines] == ["10", "30", "70", "150", "200"]


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


@pytest.mark.parametrize("total", [None, 3, 600])
def test_a_loop_is_counted_to_its_last_item(monkeypatch, capsys, total):
    monkeypatch.setitem(PlainProgress.__init__.__kwdefaults__, "interval", 0.0)
    count = total or 600
    assert list(counted(range(count), "Reading", total=total)) == list(range(count))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"Reading: {count}{f'/{count}' if total else ''} rows")


def test_parts_of_work_with_a_bar_show_none(monkeypatch, capsys):
    monkeypatch.setitem(PlainProgress.__init__.__kwdefaults__, "interval", 0.0)
    with silent():
        assert list(counted(range(3), "Reading")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    list(counted(range(3), "Reading"))
    assert "Reading: 3 rows" in capsys.readouterr().err


def test_rates_and_durations_are_readable():
    rates = [rate(one, "row") for one in (12.34, 1500.0, 0.25)]
    assert rates == ["12.3 rows/s", "1500 rows/s", "4 s/row"]
    assert [duration(one) for one in (42, 725, 3723)] == ["0:42", "12:05", "1:02:03"]
