"""Programs and their tests: forms of tasks, what a response comes to, what is scorable."""

from __future__ import annotations

import json
import math
import random

import pytest

from coalign.core.errors import DataError
from coalign.core.processes.sandbox import missing_reason
from coalign.data.readers import read_records
from coalign.judging.rewards.specs import parse_reward
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.isolation import IsolatedVerifiers, verify_here
from coalign.judging.verifiers.programs import (
    CodeTask,
    ProgramResult,
    program_of,
    read_code_tasks,
    run_all,
    run_tests,
)
from coalign.loops.prompts import open_values
from coalign.measures.texts.source_code import defines, extract_code, first_body, parse_python

HEAD = 'import math\n\n\ndef area(r):\n    """Of a circle."""\n'
TESTS = "def check(f):\n    assert abs(f(2) - 12.566) < 0.01\n"
GUARD = "namespaces" if missing_reason("bubblewrap") and not missing_reason("namespaces") else "bubblewrap"


@pytest.fixture(autouse=True)
def _needs_a_guard():
    if reason := missing_reason(GUARD):
        pytest.skip(reason)


@pytest.mark.parametrize(
    ("program", "tests", "ending"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2", "passed"),
        ("def f(x): return x", "assert f(1) == 2", "failed"),
        ("def g(x): return x", "assert f(1) == 2", "failed"),
        ("def f(x): raise KeyError(x)", "assert f(1) == 2", "failed"),
        ("import no_such_module", "", "failed"),
        ("import sys\nsys.exit(0)", "assert False", "failed"),
        ("import os\nos._exit(0)", "assert False", "failed"),
        ("print('[\"passed\", \"\"]')\nimport os\nos._exit(0)", "assert False", "failed"),
        ("def f(x) return x", "assert True", "unparsable"),
        ("def f(x):\n\treturn 1\n        return 2", "assert True", "unparsable"),
        ("x = '\x00'", "assert True", "unparsable"),
        ("Sure! Here is the program.", "assert True", "unparsable"),
        ("def f(x): return x", "assert f(1 == 2", "broken"),
        ("while True: pass", "assert True", "timeout"),
        ("def f(x): return x", "while True: f(1)", "timeout"),
        ("x = [1] * (1 << 30)", "assert True", "memory"),
        ("if __name__ == '__main__': input()", "assert True", "passed"),
        ("print('x' * 10_000_000)", "print('y')", "passed"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", "", "passed"),
        ("word = 'Grüße \\d 日本'", "assert len(word) == 11", "passed"),
    ],
)  # fmt: skip
def test_what_comes_of_a_program(program, tests, ending):
    found = run_tests(program, tests, seconds=1, memory_mb=256, guard=GUARD)
    assert found.ending == ending, found
    assert found.passed is {"passed": True, "failed": False}.get(ending)


@pytest.mark.parametrize(
    "response",
    [
        "    return math.pi * r**2\n",
        "    return math.pi * r**2\n\n\nprint(area(0) / 0)\n",
        "    return math.pi * r**2\n# and so on\ndef broken(:\n",
        "return math.pi * r**2",
        "square = r**2\nif r:\n    square *= math.pi\nreturn square",
        "def area(r):\n    return math.pi * r**2",
        f"{HEAD}    return math.pi * r**2",
        f"Of course:\n\n```python\n{HEAD}    return math.pi * r**2\n```\nIt squares.",
        "```\nx = 1\n```\n~~~py\ndef area(r):\n    return 3.1416 * r**2\n~~~",
        "```python\nprint(1)\n```\nand\n```python\ndef area(r):\n    return 3.1416 * r**2",
    ],
)
def test_what_a_response_comes_to(response):
    assert run_tests(program_of(HEAD, response, "area"), TESTS + "check(area)", guard=GUARD).passed


@pytest.mark.parametrize("response", ["    return 1", "return 1", "def one():\n    return 1"])
def test_a_head_without_a_docstring(response):
    assert run_tests(program_of("def one():\n", response, "one"), "assert one() == 1", guard=GUARD).passed


def test_a_prompt_in_words_is_no_part_of_the_program():
    assert program_of("Write area(r).", "```python\ndef area(r): ...\n```", "area") == "def area(r): ...\n"
    assert program_of("area", "x = 1") == "x = 1"


def test_code_in_texts():
    assert extract_code("no block") == "no block"
    assert extract_code("```sh\nls\n```\n```python\nx\n```") == "x\n"
    assert extract_code("```\nfirst\n```\n```\nsecond\n```") == "first\n"
    assert extract_code("````md\n```python\nx\n```\n````") == "```python\nx\n```\n"
    assert first_body("    a\n\n    b\n# c\nd\n    e") == "    a\n\n    b\n# c\n"
    assert defines("async def f(): ...\ny = 1", "f")
    assert defines("y = 1", "y")
    assert not defines("def g():\n    def f(): ...", "f")
    assert not defines("def f(", "f")
    assert parse_python("(" * 10_000) is None


def _file(tmp_path, *rows):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_tasks_of_three_forms(tmp_path):
    found = read_code_tasks(
        _file(
            tmp_path,
            {"task_id": "H/0", "prompt": HEAD, "entry_point": "area", "test": TESTS, "canonical_solution": "    return 3.14159 * r**2\n"},
            {"task_id": 7, "text": "Add.", "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "import math", "code": "def add(a, b): return a + b"},
            {"prompt": "Say hi.", "tests": "assert hi() == 'hi'"},
        )
    )  # fmt: skip
    assert [one.id for one in found] == ["H/0", "7", "2"]
    assert found[0].tests.endswith("check(area)\n")
    assert found[0].is_code
    assert found[1] == CodeTask(
        id="7",
        prompt="Add.",
        tests="import math\nassert add(1, 2) == 3",
        solution="def add(a, b): return a + b",
    )
    programs = [(program_of(one.prompt, one.solution or "", one.entry_point), one.tests) for one in found[:2]]
    kept: dict[int, ProgramResult] = {}
    results = run_all(programs, lambda *pair: run_tests(*pair, guard=GUARD), keep=kept.__setitem__)
    assert [one.passed for one in results] == [True, True]
    assert [*kept.values()] == results


def test_every_task_that_cannot_be_used_is_named(tmp_path):
    path = _file(
        tmp_path,
        {"prompt": "x", "tests": "assert ("},
        {"prompt": "x"},
        {"tests": "assert True"},
        {"prompt": "x", "tests": "pass", "entry_point": "a b"},
        {"prompt": "x", "tests": [1]},
        {"task_id": "a", "prompt": "x", "tests": "pass"},
        {"task_id": "a", "prompt": "x", "tests": "pass"},
    )
    with pytest.raises(DataError) as caught:
        read_code_tasks(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 of 7 code tasks cannot be used."
    for line, part in zip(
        lines[1:],
        ["1: tests: the tests are no Python", "2: tests: are missing", "3: prompt: is missing", "4: entry_point: 'a b'",
         "5: tests: list", "7: task_id: 'a' appears twice"],
        strict=True,
    ):  # fmt: skip
        assert f"tasks.jsonl:{part}" in line


def _constraint(**changes):
    return Constraint.from_json(
        {"verifier": "passes_tests", "tests": TESTS, "entry_point": "area", "seconds": 1, **changes}
    )


def test_as_a_verifier():
    right, wrong, late = (
        f"```python\ndef area(r):\n    {body}\n```"
        for body in ("return 3.1416 * r**2", "return r", "while 1: pass")
    )
    assert verify_here([(_constraint(), HEAD, one) for one in (right, wrong)]) == [1.0, 0.0]
    assert math.isnan(verify_here([(_constraint(), HEAD, late)])[0])
    assert verify_here([(_constraint(strict=True), HEAD, one) for one in (late, "def (")]) == [0.0, 0.0]
    isolated = IsolatedVerifiers()
    try:
        found = isolated([(_constraint(), HEAD, one) for one in (right, late)])
        assert found[0] == 1.0
        assert math.isnan(found[1])
        assert isolated.failed == 1
    finally:
        isolated.close()


def test_tests_that_are_no_python_are_refused_before_anything_runs():
    with pytest.raises(ConstraintError, match="the tests are no Python"):
        _constraint(tests="assert (")


def test_as_a_reward():
    spec = parse_reward("passes_tests:tests={test},entry_point={entry_point}")
    assert spec.columns == {"tests": "test", "entry_point": "entry_point"}


def test_nonsense_does_not_raise():
    draw = random.Random(0)
    pieces = [
        "```",
        "```python\n",
        "def area(r):",
        "\n",
        "    return r",
        "\t",
        "(",
        "\x00",
        "日",
        "\r\n",
        "'''",
    ]
    for _ in range(300):
        text = "".join(draw.choices(pieces, k=8))
        assert isinstance(program_of(HEAD, text, "area"), str)
        assert isinstance(extract_code(text), str)


def test_tests_are_columns_of_the_prompts(tmp_path):
    rows = [
        {"prompt": HEAD, "test": TESTS, "entry_point": "area"},
        {"prompt": "Say one.", "test": "assert one == 1", "entry_point": ""},
    ]
    records = read_records(str(_file(tmp_path, *rows)), kind="prompt").records
    values = open_values(
        ["passes_tests:tests={test},entry_point={entry_point},seconds=2"], records, unscorable="leave out"
    )
    assert values is not None
    asked = [
        {"id": one.id, "prompt": one.prompt, "responses": texts, "finish_reasons": ["stop"] * len(texts)}
        for one, texts in zip(
            records, (["    return 3.1416 * r**2", "    return r"], ["one = 1", "one = "]), strict=True
        )
    ]
    found = values(records, asked)
    assert found[0] == [1, 0]
    assert found[1][0] == 1
    assert math.isnan(found[1][1])
