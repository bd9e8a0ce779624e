"""JSON and YAML from outside: what cannot be read, shown or held is refused where it is read, whatever its form."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError
from coalign.core.files import append_rows, atomic_path, dump_json, parse_json, read_rows, write_rows
from coalign.core.options import load_file
from coalign.core.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}), ("", None), ("[1, x, 2024-01-31]", None), ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}", {"a": {"k": 1}, "b": {"k": 1, "l": 2}}), ("0x1f", 31), ("é: ü", {"é": "ü"}),
        ("x: '\\ud800'", {"x": "\\ud800"}), ("[" * 60 + "]" * 60, None), ("9" * 3000, None),
    ],
)  # fmt: skip
def test_yaml_that_is_sound(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert value is None or found == value


def bomb(width: int, depth: int) -> str:
    rows = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]\n" for n in range(1, depth))
    return f"a0: &a0 [x]\n{rows}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "line 1"), ("2024-02-30", "day is out of range|month"), ("a: 2024-13-45", "month must be in"), ("!!int x", "cannot be read|invalid literal"),
        ("!!bool 2024", "cannot be read"), ("!!float ''", "cannot be read"), ("9" * 5000, "5000 digits"), (f"0x{'f' * 20_000}", "20002 digits"),
        ("1" + ":5" * 3000, "digits"), ("[" * 70 + "]" * 70, "nested deeper than 64 levels"), ("{a: " * 100_000, "nested deeper"),
        (bomb(10, 9), "stands for more than 100000 values"), (bomb(2, 60), "stands for more"), ("&a [*a]", "holds itself"), ("&a {b: *a}", "holds itself"),
        ("x: \"\\ud800\"", "half a surrogate pair"), ("x" * (2**20 + 1), "expected at most 1048576"), ("*a", "undefined alias"), ("a: 1\n--- \nb: 2", "expected a single document"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"), ("\x00", "special characters"), ("? [a, b]\n: 1", "found unhashable|cannot be read|unhashable"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)
    assert time.monotonic() - started < 5


def test_a_configuration_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\n" + bomb(10, 9).replace("a0", "b0"))
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML"):
        load_file(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting"), ("9" * 5000, "4300 digits"), ("[" * 101 + "]" * 101, "nested deeper than 100 levels"), ('{"a":' * 500_000, "nested deeper"),
        ('"\\ud800"', "half a surrogate pair"), ('{"\\uDFFF": 1}', "half a surrogate pair"),
    ],
)  # fmt: skip
def test_json_that_is_refused(text: str, said: str) -> None:
    for one in (text, text.encode()):
        with pytest.raises(ValueError, match=said):
            parse_json(one)


def test_json_that_is_sound() -> None:
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json(json.dumps([[1]] * 500)) == [[1]] * 500
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"
    assert parse_json('"\\\\ud800"') == "\\ud800"
    assert parse_json('"\\ud800"', any_text=True) == "\ud800"


def test_rows_hold_whatever_was_read(tmp_path: Path) -> None:
    rows = [{"a": "é\ud800"}, {"\udfff": ["ü", float("nan")]}, {"c": "日"}]
    kept = [{"a": "é\ud800"}, {"\udfff": ["ü", None]}, {"c": "日"}]
    write_rows(tmp_path / "a.jsonl", rows)
    append_rows(tmp_path / "b.jsonl", rows)
    for name in ("a.jsonl", "b.jsonl"):
        assert read_rows(tmp_path / name) == kept
        assert "日".encode() in (tmp_path / name).read_bytes(), "only what must be is escaped"
    assert dump_json({"é": 1}, indent=2) == '{\n  "é": 1\n}'


def test_a_name_that_the_system_allows_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        with atomic_path(tmp_path / name) as path:
            path.write_text("a")
        assert (tmp_path / name).read_text() == "a"
