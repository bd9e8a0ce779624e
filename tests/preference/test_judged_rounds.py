"""Rounds of criticism: critics, the loop of `coalign run cut --prompts`, and its continuation after a kill."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.judging.protocol import Rating, Rubric
from coalign.judging.verifiers.constraints import parse_constraints
from coalign.preference import cut
from coalign.preference.critiques import critics
from coalign.preference.critiques.critics import (
    Answered,
    ConstraintCritic,
    Criticism,
    JudgeCritic,
    without_verdict,
)

ROUNDS: dict[str, Any] = {"rounds": 2, "max_new_tokens": 6, "eval_fraction": 0.25, "learning_rate": 1e-3}


def prompts(n: int = 8, **columns: Any) -> list[dict[str, Any]]:
    limits = [{"verifier": "max_words", "n": 1}, {"verifier": "must_include", "keywords": ["sky"]}]
    return [{"prompt": f"Say {i}.", **(columns or {"constraints": limits})} for i in range(n)]


class Judge:
    """Rates by the answer's length, with a word about it."""

    name = "test"

    def __init__(self, failing: bool = False) -> None:
        self.failing = failing
        self.asked: list[Any] = []

    def rate(self, items: Any, *, rubric: Any = None, scale: Any = None, label: str = "") -> list[Rating]:
        self.asked += [(one.id, rubric, scale) for one in items]
        if self.failing:
            return [Rating(id=one.id, score=None, failure="malformed", reply="Hm.") for one in items]
        return [
            Rating(id=one.id, score=float(min(len(one.responses[0]), 10)), reply="Too short.\n[[2]]")
            for one in items
        ]

    compare: Any = None


def answered(text: str, name: str = "a") -> Answered:
    return Answered(name, [{"role": "user", "content": "Say it."}], text)


def test_programs_name_what_is_broken() -> None:
    constraints = parse_constraints([{"verifier": "max_words", "n": 2}, {"verifier": "max_words", "n": 9}])
    critic = ConstraintCritic({"a": constraints})
    fine, broken = critic([answered("two words"), answered("now there are four")])
    assert fine == Criticism("", True, 1.0)
    assert broken is not None
    assert not broken.fine
    assert broken.score == 0.5
    assert "at most 2 words" in broken.text
    assert "9" not in broken.text


def test_a_judge_criticises_with_its_reasons() -> None:
    judge = Judge()
    rubric = Rubric(criteria="length")
    critic = JudgeCritic(judge, fine_from=7.0, rubric=rubric)
    short, long = critic([answered("no"), answered("long enough", "b")])
    assert short == Criticism("Too short.", False, 2.0)
    assert long is not None
    assert long.fine
    assert judge.asked[0] == ("a", rubric, critics.SCALE)
    with pytest.raises(CoalignError, match="verdicts are missing"):
        JudgeCritic(Judge(failing=True), fine_from=7.0)([answered("x")])
    assert JudgeCritic(Judge(failing=True), fine_from=7.0, max_failures=1.0)([answered("x")]) == [None]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("It is wrong.\n[[3]]", "It is wrong."),
        ("[[3]]", ""),
        ("Bad [[3]] answer.\n**[[3]]**\n", "Bad  answer."),
        ("", ""),
    ],
)
def test_the_verdict_is_no_part_of_the_criticism(reply: str, words: str) -> None:
    assert without_verdict(reply) == words


def report_of(run: Run) -> dict[str, Any]:
    assert run.state == "done"
    return json.loads((run.path / "report.json").read_text())


def test_rounds_answer_criticise_and_learn(learn: Any) -> None:
    run = learn("cut", prompts=prompts(), **ROUNDS)
    titles = [section["title"] for section in report_of(run)["sections"]]
    assert titles[:2] == ["Rounds", "Held-out prompts side by side"]
    first, second = (run.artefacts / f"round-{n}" for n in (1, 2))
    asked = [{row["id"] for row in read_rows(folder / "propose.jsonl")} for folder in (first, second)]
    assert [len(one) for one in asked] == [3, 3]
    assert not asked[0] & asked[1], "every round has fresh prompts"
    assert read_records(first / "build.jsonl").kind == "judgment", "the data of `cut --data`"
    wrong = [row["judgment"] for row in read_rows(first / "build.jsonl") if not row["label"]]
    assert all(one.startswith("The reply does not keep to this") for one in wrong)
    for folder in (first, second):
        assert json.loads((folder / "model.json").read_text())["model"] == str(folder / "model")
    held_out = (first / "heldout-before.jsonl", second / "heldout-after.jsonl")
    assert [len(read_rows(one)) for one in held_out] == [2, 2]
    assert (run.model / "README.md").exists()
    assert run.status()["figures"].keys() == {"fine_before", "fine_after"}
    config = build(cut.Config, run.config())
    assert (config.threshold, config.unlikelihood_weight) == (1.1, 1.0), "the official recipe of rounds"


def test_a_round_without_faults_trains_nothing(learn: Any) -> None:
    rows = prompts(4, constraints=[{"verifier": "max_words", "n": 500}])
    with pytest.raises(DataError, match="found no fault in any answer"):
        learn("cut", prompts=rows, **{**ROUNDS, "rounds": 1})


def test_a_language_model_criticises(learn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "LanguageModelJudge", lambda *rest, **more: Judge())
    options = {
        **ROUNDS,
        "rounds": 1,
        "critic": "http://127.0.0.1:9/v1",
        "fine_from": 10.0,
        "eval_fraction": 0,
    }
    run = learn("cut", prompts=prompts(4, topic="none"), **options)
    (row, *_) = read_rows(run.artefacts / "round-1" / "measure.jsonl")
    assert (row["judgment"], row["score"]) == ("Too short.", min(len(row["responses"][0]), 10))
    assert "http://127.0.0.1:9/v1" in json.dumps(report_of(run)["facts"])
    assert "Nothing was held out" in report_of(run)["verdict"]["text"]


def test_prompts_that_cannot_be_judged_are_named(learn: Any) -> None:
    rows = prompts(4)
    del rows[2]["constraints"]
    with pytest.raises(DataError, match="1 of 4 prompts") as caught:
        learn("cut", prompts=rows, eval_fraction=0.0)
    assert "run-prompts.jsonl:3" in str(caught.value)
    assert "--critic" in str(caught.value)
    with pytest.raises(DataError, match="for 9 rounds"):
        learn("cut", None, "nine", prompts=rows, rounds=9)


def test_neither_data_nor_prompts(learn: Any) -> None:
    with pytest.raises(ConfigError, match="judged answers"):
        learn("cut")


def test_offline_training_keeps_its_recipe() -> None:
    config = build(cut.Config, {"data": "a"})
    assert (config.threshold, config.unlikelihood_weight) == (1.2, 0.5)
