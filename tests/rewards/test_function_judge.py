"""A function of the user as judge: what it is given, who wins, from the command line, and options that do not fit."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from coalign.cli.main import coalign
from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.judging.options import JudgeOptions
from coalign.judging.protocol import JudgeItem
from coalign.judging.scoring_judges import function_judge

SHORT = """
def short(completions, topic=None, **rest):
    assert rest["prompts"][0][0]["role"] == "user"
    sizes = [len(one[0]["content"].split()) for one in completions]
    return [-size - (5 if name == "long" else 0) for size, name in zip(sizes, topic or [None] * len(sizes))]

def against(completions, references):
    return [float(one[0]["content"] == right) for one, right in zip(completions, references)]
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(SHORT)
    monkeypatch.chdir(tmp_path)
    return "own.py"


def item(*responses: str, **more) -> JudgeItem:
    return JudgeItem(id="1", prompt=[{"role": "user", "content": "Why?"}], responses=responses, **more)


def test_the_higher_number_wins_and_columns_and_references_are_given(code):
    judge = function_judge(f"{code}:short", tie_margin=0.5)
    verdicts = judge.compare([item("one two", "one"), item("one", "two")], orders="both")
    assert [one.opinions[0].choice for one in verdicts] == ["second", "tie"]
    assert [one.score for one in judge.rate([item("a b"), item("a b", extra={"topic": "long"})])] == [-2, -7]
    right = function_judge(f"{code}:against").rate(
        [item("yes", reference="yes"), item("no", reference="yes")]
    )
    assert [one.score for one in right] == [1, 0]


def test_it_judges_from_the_command_line(code, tmp_path):
    rows = [{"prompt": f"Ask {n}", "chosen": "Yes.", "rejected": "Well, it depends."} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    words = [
        "judge",
        "--data",
        "pairs.jsonl",
        "--judge",
        "function",
        "--judge-function",
        f"{code}:short",
        "--out",
        "out",
    ]
    result = CliRunner().invoke(coalign, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "status.json").read_text())["figures"]
    assert 1.0 in figures.values() or 100.0 in figures.values()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"judge": "function"}, "judge: function needs it"),
        ({"judge_function": "a.py:b"}, "judge_function goes with judge: function"),
        (
            {"judge": "function", "judge_function": "a.py:b", "model": "x"},
            "model has no effect with judge: function",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        build(JudgeOptions, values)
