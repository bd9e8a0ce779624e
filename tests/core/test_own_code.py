"""Code of the user: files and modules, their neighbours, and what is said where something is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coalign.core.errors import ConfigError, in_one_line
from coalign.core.faults import FAULT, told
from coalign.core.own_code import load_code, names_code


@pytest.fixture(autouse=True)
def path_as_before() -> Iterator[None]:
    before, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_file_is_imported_once_and_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("FACTOR = 3\n")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport neighbour\n"
        "@dataclass(kw_only=True)\nclass Constants:\n    a: int = 1\n"
        "def triple(n):\n    return n * neighbour.FACTOR\n"
    )
    code = f"{tmp_path}/mine.py"
    assert load_code(f"{code}:triple", "reward")(2) == 6
    assert load_code(f"{code}:Constants", "reward") is load_code(f"{code}:Constants", "reward")


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def name():\n    return {folder!r}\n")
    assert [load_code(f"{tmp_path}/{one}/mine.py:name", "reward")() for one in ("a", "b")] == ["a", "b"]


def test_modules() -> None:
    assert load_code("math:sqrt", "property")(9) == 3


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("no.py:f", None, "no.py: no such file"),
        ("mine.py:f", "x = 1/0", "mine.py cannot be imported .ZeroDivisionError"),
        ("mine.py:f", "def (", "mine.py cannot be imported .SyntaxError"),
        ("mine.py:f", "import nothing_of_this_name", "cannot be imported .ModuleNotFoundError"),
        ("mine.py:f", "def g(): pass\ndef _h(): pass", "has no 'f', expected one of: g\\."),
        ("mine.py", "def g(): pass", "names no function"),
        ("no_such_module:f", None, "no_such_module cannot be imported"),
    ],
)
def test_what_is_missing(
    text: str, source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / "mine.py").write_text(source + "\n")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=message):
        load_code(text, "reward")
    assert (
        not [one for one in set(sys.modules) - before if one.startswith("mine_")]
        or "names" in message
        or "has no" in message
    )


def test_what_is_a_file_s_code() -> None:
    assert names_code("a/b.py:f")
    assert not any(map(names_code, ("dpo", "max_words:20", "judge:is this file.py:f?", "module:f")))


def test_an_error_of_ones_own_code_is_no_fault_of_coalign(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(n):\n    return n.nothing\n")
    broken = load_code(f"{tmp_path}/mine.py:broken", "reward")
    with pytest.raises(AttributeError) as raised:
        broken(3)
    text = told(raised.value)
    assert "AttributeError at mine.py:2: 'int' object has no attribute 'nothing'" in text
    assert f"This was raised in {(tmp_path / 'mine.py').resolve()}." in text
    assert FAULT not in text
    with pytest.raises(ZeroDivisionError) as other:
        _ = 1 / 0
    assert FAULT in told(other.value)


def test_messages_of_others_are_one_line_and_cut(tmp_path: Path) -> None:
    assert in_one_line(ValueError("one\n  two")) == "ValueError: one two"
    assert in_one_line(ValueError()) == "ValueError"
    assert in_one_line(ValueError("one"), named=False) == "one"
    assert in_one_line(ValueError("x" * 1000), named=False) == "x" * 299 + "…"
    (tmp_path / "loud.py").write_text("raise ValueError('long ' * 1000)")
    with pytest.raises(ConfigError, match="cannot be imported") as raised:
        load_code(f"{tmp_path}/loud.py:f", "reward")
    assert len(str(raised.value)) < 500
