"""Every stored vector file passes, and the runner fails what it must fail."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coalign.core.errors import MissingExtraError
from tests.vectors.__main__ import main
from tests.vectors.compare import Mismatch, Tolerance, largest_error
from tests.vectors.runner import Case, VectorFileError, compare, compute, known_slugs, read_cases

FILES = sorted((Path(__file__).parent / "data").glob("*.json"))
EXAMPLE = Path(__file__).parent / "data" / "asft.json"


def stored_cases() -> Iterator[Case]:
    for path in FILES:
        with contextlib.suppress(VectorFileError):  # fails `test_file`, must not stop the others' collection
            yield from read_cases(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path: Path) -> None:
    assert read_cases(path)


@pytest.mark.parametrize("case", stored_cases(), ids=lambda case: f"{case.slug}-{case.name}")
def test_case(case: Case) -> None:
    try:
        outputs = compute(case)
    except MissingExtraError as error:
        pytest.skip(str(error))
    outcome = compare(case, outputs)
    assert outcome.failure is None, f"{outcome.failure} (largest error {outcome.error:.2e})"


def test_every_adapter_has_stored_vectors() -> None:
    assert known_slugs() == [path.stem for path in FILES]


def edited(tmp_path: Path, **changes: Any) -> str:
    content = {**json.loads(EXAMPLE.read_text()), **changes}
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    return str(path)


CASE = json.loads(EXAMPLE.read_text())["cases"][0]


def cases_with(**outputs: Any) -> list[dict[str, Any]]:
    return [{**CASE, "outputs": {**CASE["outputs"], **outputs}}]


WRONG = cases_with(loss=CASE["outputs"]["loss"] * (1 + 1e-5))


def test_a_right_file_exits_zero_with_a_line_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(EXAMPLE)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [case.name for case in read_cases(EXAMPLE)]
    assert all(line.endswith("pass") for line in lines[1:-1])
    assert lines[-1].startswith("6 passed, 0 failed")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (WRONG, "FAIL  loss: error above 1e-06"),
        (cases_with(entropy=1.0), "entropy: not computed"),
        ([{**CASE, "inputs": {}}], "FAIL  KeyError"),
    ],
    ids=["a wrong number", "an output that is not computed", "an adapter that raises"],
)
def test_what_fails(cases: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([edited(tmp_path, cases=cases)]) == 1
    assert message in capsys.readouterr().out


def test_a_stated_tolerance_counts(tmp_path: Path) -> None:
    for tolerance in (1e-4, {"rtol": 1e-4, "atol": 1e-9}):
        assert main([edited(tmp_path, cases=WRONG, tolerance=tolerance)]) == 0
    assert main([edited(tmp_path, cases=[{**WRONG[0], "tolerance": 1e-6}], tolerance=1e-4)]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slug": "asfd"}, "no adapter for the slug 'asfd'. Did you mean asft"),
        ({"slug": "../asft"}, "no adapter"),
        ({"slug": None}, "not a vector file"),
        ({"cases": []}, "no cases"),
        ({"cases": [{"name": "x", "inputs": {}, "params": {}, "outputs": {}}]}, "states no outputs"),
        ({"cases": [{"name": "x", "inputs": [], "outputs": {"loss": 1}}]}, "`inputs` is not a mapping"),
        ({"cases": ["x"]}, "expected a mapping with a `name`"),
        ({"tolerance": "loose"}, "neither a number"),
        ({"tolerance": {"rtol": 0, "atol": 1}}, "neither a number"),
        ({"tolerance": math.inf}, "out of range"),
    ],
)
def test_a_file_that_cannot_be_run_exits_two(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([edited(tmp_path, **changes), str(EXAMPLE)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "6 passed" in captured.out


def test_unreadable_files_exit_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"slug": "asft", ')
    assert main([str(broken), str(tmp_path / "absent.json"), str(tmp_path)]) == 2
    assert "3 of 3 files could not be run" in capsys.readouterr().out


EQUAL = [(torch.tensor([1.0, 2.0]), [1.0, 2.0]), (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]), ([], [])]
EQUAL += [(np.float32(0.5), 0.5), (math.nan, math.nan), (-math.inf, -math.inf)]
EQUAL += [({"a": (None, True)}, {"a": [None, True]})]
APART = [(110.0, 100.0, 0.1), (0.1, 0.0, 0.1), (1.5, 1, 0.5), (1, 1.5, 1 / 3)]
APART += [(*two, math.inf) for two in ((0.0, math.nan), (math.nan, 0.0), (math.inf, -math.inf))]


@pytest.mark.parametrize(("actual", "expected", "error"), [*((*two, 0.0) for two in EQUAL), *APART])
def test_the_largest_error(actual: Any, expected: Any, error: float) -> None:
    assert largest_error(actual, expected, Tolerance(), "x") == pytest.approx(error)


NEVER = [([1.0], [1.0, 2.0]), (1.0, [1.0]), ([1.0], 1.0), ("yes", "no"), (1, True), (True, 1)]
NEVER += [(2**60 + 1, 2**60), (None, 0.0), (0.0, None), ({"a": 1, "b": 2}, {"a": 1}), ({}, {"a": 1})]
NEVER += [([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0, 4.0]])]


@pytest.mark.parametrize(("actual", "expected"), NEVER)
def test_what_never_matches(actual: Any, expected: Any) -> None:
    with pytest.raises(Mismatch):
        largest_error(actual, expected, Tolerance(), "x")
