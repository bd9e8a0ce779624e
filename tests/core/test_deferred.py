"""Imports that wait: nothing is loaded before the first use, and afterwards everything is as after a plain import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from coalign.core.deferred import defer, load_deferred
sys.path.insert(0, {folder!r})
defer("heavy", "absent", "json")
import json
import heavy
import heavy
assert type(heavy).__name__ == "_Deferred" and "ran" not in vars(heavy)
"""


@pytest.mark.parametrize(
    "use",
    [
        "assert heavy.ran == [1]",
        "from heavy import ran; assert ran is heavy.ran",
        "import heavy.part; assert heavy.part.whole is heavy",
        "from heavy import part; assert part.whole is heavy",
        "assert heavy.made_on_demand == 'made_on_demand'",
        "load_deferred(); assert vars(heavy)['ran'] == [1]",
    ],
)
def test_a_deferred_module_loads_in_place_at_its_first_use(tmp_path: Path, use: str) -> None:
    package = tmp_path / "heavy"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from heavy import part\nran = [1]\ndef __getattr__(name): return name\n"
    )
    (package / "part.py").write_text("import heavy as whole\n")
    after = "\nassert type(heavy) is type(sys) and sys.modules['heavy'] is heavy and heavy.__path__\n"
    _run(CODE.format(folder=str(tmp_path)) + use + after)


def test_a_deferred_import_that_fails_says_why_every_time(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import no_such_library\n")
    use = """
for _ in range(2):
    try:
        import heavy
        heavy.anything
    except ModuleNotFoundError as error:
        assert error.name == "no_such_library"
    else:
        raise AssertionError
"""
    _run(CODE.format(folder=str(tmp_path)) + use)


def test_what_is_absent_or_loaded_is_left_alone() -> None:
    _run(
        "import json, sys\nfrom coalign.core.deferred import defer\ndefer('json', 'no_such_library')\n"
        "assert sys.modules['json'] is json and type(json) is type(sys)\nassert 'no_such_library' not in sys.modules"
    )


def _run(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
