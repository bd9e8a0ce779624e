"""`coalign cache`."""

import json
import os
import time

import pytest

from coalign.core import cache
from coalign.core.cache import use


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(cache.LIMIT, raising=False)
    return tmp_path / "cache"


def _make(root, name, size, age):
    """An entry of so many bytes that was used so many seconds ago."""
    path = root / name
    path.mkdir(parents=True)
    (path / "data.bin").write_bytes(b"a" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_command_shows_trims_and_clears(root, coalign):
    _make(root, "records/a", 3000, 30)
    _make(root, "tokens/b", 2000, 10)
    _make(root, "models/default", 10, 5)
    shown = coalign("cache").out
    assert "5 kB, prepared data at most 100.0 GB" in shown
    assert "records" in shown
    assert "default models in Hugging Face's layout" in shown
    whole = json.loads(coalign("cache", "--json").out)
    assert {one["name"]: one["bytes"] for one in whole["entries"]} == {
        "records": 3000, "tokens": 2000, "reference": 0, "engines": 0, "models": 10,
    }  # fmt: skip
    use(root / "tokens" / "b")
    assert "tokens/b" in (each := coalign("cache", "tokens").out)
    assert "in use" in each
    assert "Removed 1 of prepared data (3 kB)" in coalign("cache", "--trim", "2kB").out
    assert "In use, and kept: 1 (2 kB)" in coalign("cache", "--clear", "--yes").out
    assert f"Removed {root / 'models'}" in coalign("cache", "models", "--clear", "--yes").out
    assert not (root / "models").exists()


def test_the_command_refuses_what_it_cannot_do(root, coalign):
    wrong = coalign("cache", "record")
    assert (wrong.code, "Did you mean records?" in wrong.err) == (2, True)
    assert "--trim is for prepared data" in coalign("cache", "--trim", "1GB", "--clear").err
    assert "--trim: 'x' is no size" in coalign("cache", "--trim", "x").err
