"""Prepared data are held to a limit: what was not used for longest goes first, what a process makes use of stays."""

import os
import subprocess
import sys
import time

import pytest

from coalign.core import cache
from coalign.core.cache import Entry, entries, hold_limit, in_use, remove, size_of, trim, use
from coalign.core.errors import ConfigError


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(cache.LIMIT, raising=False)
    return tmp_path / "cache"


def make_entry(root, name, size, age):
    """An entry of so many bytes that was used so many seconds ago."""
    path = root / name
    path.mkdir(parents=True)
    (path / "data.bin").write_bytes(b"a" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def _names():
    return sorted(f"{one.kind}/{one.name}" for one in entries())


def test_what_was_not_used_for_longest_goes_first(root):
    for name, age in (("records/a", 30), ("tokens/b", 20), ("records/c", 10)):
        make_entry(root, name, 100, age)
    make_entry(root, "models/d", 1000, 99)
    assert [one.name for one in trim(250)] == ["a"]
    assert trim(250) == trim(None) == []
    assert _names() == ["records/c", "tokens/b"]
    assert (root / "models" / "d").exists()
    assert [one.name for one in trim(0, ["tokens"])] == ["b"]


def test_an_entry_that_is_opened_again_is_the_last_to_go_and_stays_while_its_process_lives(root):
    old, new = make_entry(root, "tokens/old", 100, 30), make_entry(root, "tokens/new", 100, 10)
    use(old)
    assert [one.name for one in entries()] == ["new", "old"]
    assert [one.name for one in trim(0)] == ["new"]
    assert old.exists()
    assert not new.exists()


def test_what_another_process_makes_use_of_stays_until_it_ends(root):
    path = make_entry(root, "tokens/a", 100, 30)
    script = "import sys, time; from pathlib import Path; from coalign.core.cache import use; use(Path(sys.argv[1])); print('', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "\n"
        (entry,) = entries()
        assert in_use(entry)
        assert trim(0) == []
        assert path.exists()
        other.kill()
    assert not in_use(entry)
    assert [one.name for one in trim(0)] == ["a"]


def test_what_a_killed_process_left_goes_without_a_limit(root):
    lost = make_entry(root, "tokens/.a1b2.x_y9.tmp", 10, 1)
    alive = make_entry(root, "tokens/.c3d4.abcd.tmp", 10, 1)
    own = make_entry(root, "records/.making-ff", 10, 1)
    use(root / "tokens" / "c3d4")
    (root / "tokens" / "a1b2.lock").touch()
    assert sorted(one.name for one in trim(None)) == [".making-ff", "a1b2"]
    assert (lost.exists(), alive.exists(), own.exists()) == (False, True, False)
    assert (root / "tokens" / "a1b2.lock").exists()


def test_the_limit_is_held_and_told(root, monkeypatch, capsys):
    for name, age in (("records/a", 30), ("records/b", 10)):
        make_entry(root, name, 1000, age)
    hold_limit()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(cache.LIMIT, "1.5 kB")
    hold_limit()
    assert capsys.readouterr().err == (
        "Cache: 1 of prepared data, not used for longest, removed (1 kB) to hold COALIGN_CACHE_LIMIT.\n"
    )
    assert _names() == ["records/b"]


def test_an_entry_that_is_gone_counts_as_removed(root):
    assert remove(Entry("records", "gone", root / "records" / "gone", 1, 0.0, False))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500MB", 5 * 10**8), ("1.5 tb", 15 * 10**11), ("none", None), ("20G", 2 * 10**10)],
)
def test_sizes(text, size):
    assert size_of(text, "it") == size


@pytest.mark.parametrize("text", ["", "-1", "much", "10 XB", "nan", "1e9"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match=r"--trim: .* is no size, expected such as 500MB"):
        size_of(text, "--trim")


def test_a_limit_that_is_no_size_is_told_before_the_work(root, monkeypatch):
    monkeypatch.setenv(cache.LIMIT, "lots")
    with pytest.raises(ConfigError, match="COALIGN_CACHE_LIMIT: 'lots' is no size"):
        use(root / "tokens" / "a")


def test_sizes_are_readable() -> None:
    assert [cache.shown_size(one) for one in (0, 999, 1500, 2.5e6, 3.25e9)] == [
        "0 B", "999 B", "2 kB", "2 MB", "3.2 GB",
    ]  # fmt: skip
