"""`coalign cache`."""

import json

from coalign.core.cache import use
from tests.core.test_cache import make_entry
from tests.core.test_cache import root as root


def test_the_command_shows_trims_and_clears(root, coalign):
    make_entry(root, "records/a", 3000, 30)
    make_entry(root, "tokens/b", 2000, 10)
    make_entry(root, "models/default", 10, 5)
    shown = coalign("cache").out
    assert "5 kB, prepared data at most 100.0 GB" in shown
    assert "records" in shown
    assert "default models in Hugging Face's layout" in shown
    whole = json.loads(coalign("cache", "--json").out)
    assert {one["name"]: one["bytes"] for one in whole["entries"]} == {
        "records": 3000, "tokens": 2000, "reference": 0, "engines": 0, "fetched": 0, "models": 10,
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
