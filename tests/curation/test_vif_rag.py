"""Verified instructions: rules, programs that are cross-checked in the sandbox, replies, the benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.options import build
from coalign.core.processes.sandbox import SandboxOptions
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.curation.instructions import rules as words
from coalign.curation.instructions.benchmark import read_benchmark, read_rating
from coalign.curation.instructions.execution import sandboxed
from coalign.curation.instructions.queries import read_queries, read_rag
from coalign.curation.instructions.written import Case, cross_validate, parse_written
from coalign.data.readers import read_records
from coalign.judging.asked import options as asked_options
from coalign.models.backends import open as backends
from coalign.models.types import Prompts, Samples, Sampling
from tests.evaluation.scripted import ScriptedGenerator
from tests.preference.tiny_runs import write

UPPER = "def evaluate(response):\n    return response.isupper()"
SAME = "def evaluate(response):\n    return response == response.upper() != response.lower()"
NO_LOWER = (
    "def evaluate(response):\n    return not any(one.islower() for one in response) and response.isupper()"
)
YES = "def evaluate(response):\n    return True"
CASES: list[Case] = [
    (text, text.isupper()) for text in ("A", "b", "Cc", "DD!", "e e", "F 1", "g", "HI", "Jo", "K.")
]


def program(source: str, cases: list[Case] = CASES) -> str:
    value = {"func": source, "cases": [{"input": text, "output": good} for text, good in cases]}
    return f"Here it is:\n```json\n{json.dumps(value)}\n```"


@pytest.fixture(scope="module")
def run_programs() -> Any:
    return sandboxed(SandboxOptions(code_seconds=2.0), 0.5)


def test_programs_and_cases_bear_each_other_out(run_programs: Any) -> None:
    wrong: list[Case] = [("quiet", True)]
    late = "def evaluate(response):\n    while True:\n        pass"
    replies = [
        program(UPPER), program(SAME), program(NO_LOWER), program(YES, wrong), program("def evaluate(:"),
        program("raise SystemExit"), program(late), "no block", "```json\n{oops\n```", '```json\n{"func": 3}\n```',
    ]  # fmt: skip
    found = cross_validate(replies, run_programs)
    assert dict(found.functions) == {one: pytest.approx(10 / 11) for one in (UPPER, SAME, NO_LOWER)}
    assert found.accuracies[YES] < 0.8
    assert found.accuracies[late] == 0
    assert ("quiet", True) in found.cases
    assert found.alone == 1
    assert cross_validate([program(UPPER)] * 5, run_programs).reason == "fewer than 3 programs that run"
    few = [program(one, CASES[:4]) for one in (UPPER, SAME, NO_LOWER)]
    assert cross_validate(few, run_programs).reason == "fewer than 10 cases"
    assert cross_validate([], run_programs).functions == ()
    liars = [program(one, [(text, not good) for text, good in CASES]) for one in (UPPER, SAME, NO_LOWER)]
    assert cross_validate(liars, run_programs).reason == "no program is right in 80% of the cases"


def test_a_program_runs_where_it_can_do_nothing_to_this_process(run_programs: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    writes = f"def evaluate(response):\n    open({str(mark)!r}, 'w').close()\n    return True"
    prints = "print('ran')\ndef evaluate(response):\n    print('0')\n    return response == 'a'"
    loud = "def evaluate(response):\n    return 'yes' if response == 'a' else 1.0"
    assert run_programs([writes, prints, loud], ["a", "b"]) == [[None, None], [True, False], [None, True]]
    assert not mark.exists()


def test_what_a_reply_holds_is_read_leniently_and_no_more() -> None:
    value = {"func": "def evaluate(r):\\n    return 'x' in r", "cases": [{"input": "x", "output": "True"}]}
    found = parse_written(f"```json\n{json.dumps(value)}\n```")
    assert found
    assert found.source == "def evaluate(r):\n    return 'x' in r"
    assert found.cases == (("x", True),)
    escaped = {
        "func": "import requests\ndef evaluate(r):\n    return '\\n' in r",
        "cases": [{"input": 3, "output": True}, "x"],
    }
    kept = parse_written(f"```json\n{json.dumps(escaped)}\n```")
    assert kept
    assert kept.source == "def evaluate(r):\n    return '\\n' in r"
    assert kept.cases == ()


@pytest.mark.parametrize(
    ("reply", "score"),
    [("fine\nScore: 9", 9), ("Score: 10\n", 10), ("Score:9", None), ("Score: 9 of 10", None), ("Score: 11", None),
     ("Score: 9.", None), ("", None), ("Score: 1000000", None)],
)  # fmt: skip
def test_a_score_stands_at_the_end_or_nowhere(reply: str, score: int | None) -> None:
    assert words.read_score(reply) == score


def test_rules_become_one_sentence_after_the_query() -> None:
    assert words.instructed("who was she?", "use no commas") == "Who was she? Use no commas."
    assert (
        words.instructed("tell me of moss", "End with “Why?”. Use no commas")
        == "Tell me of moss. End with “Why?”. Use no commas."
    )
    assert words.parse_rules("Sure:\n- Use no commas.\n - Be short\n* no\n- .") == [
        "Use no commas",
        "Be short",
    ]
    assert words.chain(["a", "b.", "c"]) == "First: a, then: b, finally: c"
    assert words.joined(["a.", "b"]) == "a. b"


def test_composites_are_distinct_and_have_the_constraints_of_all_parts_or_none() -> None:
    import random

    bare, checked = (
        words.Rule("a"),
        [words.Rule(one, words.read_rules("bundled")[0].constraints) for one in "bc"],
    )
    found = list(words.compose([bare, *checked], [2, 3, 4], 9, random.Random(0), chains=0.5))
    assert sorted(len(one.parts) for one in found) == [2, 2, 2, 3]
    assert len({frozenset(one.parts) for one in found}) == 4


TURNS: dict[str, Iterator[str]] = {}


def supervisor(asked: str) -> str:
    """Writes rules, scores, programs and replies by what it is asked."""
    if asked.startswith("Write "):
        return "- Use no question mark.\n- answer in CAPITALS\n- " + "x" * 400
    if "Then rate" in asked and "[Reply]" in asked:
        return "Looked at it.\nScore: 3" if "NO IDEA" in asked else "Good.\nScore: 9"
    if "Then rate" in asked:
        return "They clash.\nScore: 2" if "CAPITALS" in asked and "lower" in asked else "Fine.\nScore: 8"
    if "Write a Python function" in asked:
        return program(next(TURNS.setdefault(asked, cycle((UPPER, SAME, NO_LOWER)))))
    return "NO IDEA" if "Who is unknown" in asked else "IT IS SO, AS THE PASSAGE SAYS"


class Varied(ScriptedGenerator):
    """Each sample is asked for anew."""

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Any) -> Samples:
        rest = {**how, "on_batch": None}
        each = [
            super(Varied, self).generate(prompts, replace(sampling, n=1), **rest) for _ in range(sampling.n)
        ]
        return [[one for samples in row for one in samples] for row in zip(*each, strict=True)]


OPTIONS = {"query_data": "chats.jsonl", "rag_data": "rag.jsonl", "data": "rules.txt", "requests": 2, "composites": 1, "sizes": [2],
           "programs": 6, "samples": 2, "ratings": 2, "queries_per_rule": 2, "rag_per_rule": 1, "query_characters": [5, 40],
           "function_seconds": 1.0}  # fmt: skip


def made(
    folder: Path,
    answer: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Varied] = Varied,
    **changes: Any,
) -> tuple[Run, Varied]:
    monkeypatch.chdir(folder)
    Path("rules.txt").write_text("Answer in CAPITALS\n", encoding="utf-8")
    write(
        Path("chats.jsonl"), [{"prompt": one} for one in ("What is moss?", "Who is unknown?", "x", "y" * 90)]
    )
    write(
        Path("rag.jsonl"),
        [
            {
                "question": "Where does it grow?",
                "passages": [{"title": "Moss", "text": "On stones."}, "In shade."],
            }
        ],
    )
    model = kind(answer)
    monkeypatch.setattr(backends, "open_generator", lambda *_: model)
    system = load_system("vif-rag")
    return execute("vif-rag", system, build(system.Config, {**OPTIONS, **changes}), folder / "run"), model


def test_rules_become_records_that_were_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = made(tmp_path, supervisor, monkeypatch)
    rows = [json.loads(line) for line in (run.artefacts / "replies" / "kept.jsonl").read_text().splitlines()]
    assert {row["completion"] for row in rows} == {"IT IS SO, AS THE PASSAGE SAYS"}
    rag = next(row for row in rows if row["made_of"]["pool"] == "rag")
    assert rag["prompt"].startswith("Passages:\n[1] Moss: On stones.\n[2] In shade.\n\n")
    assert "Question: Where does it grow? " in rag["prompt"]
    assert {row["made_of"]["consistency"] for row in rows} == {9.0}
    rejected = [
        json.loads(line)["reason"]
        for line in (run.artefacts / "replies" / "rejects.jsonl").read_text().splitlines()
    ]
    assert "mean score not above 8" in rejected  # of the query that nobody can answer
    rules = json.loads((run.artefacts / "rules" / "manifest.json").read_text())
    assert rules["kept"] == 1
    assert rules["steps"][1]["rejected"] == {"a seed rule": 2, "longer than 300 characters": 2}
    assert read_records(run.path, kind="demonstration").records
    verifiers = [json.loads(line) for line in (run.artefacts / "verifiers.jsonl").read_text().splitlines()]
    assert {len(row["verifiers"]) for row in verifiers} == {3}
    assert "Verified" in run.report.read_text(encoding="utf-8")


def test_what_is_longer_than_the_context_is_counted_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(Varied):
        context = 1024 + 300

        def encode(self, prompt: Any, index: int = 0) -> list[int]:
            return [0] * len(prompt[0]["content"])

    changes = {"requests": 0, "composites": 0, "sizes": [2, 3, 4], "ratings": 0}
    write(tmp_path / "long.jsonl", [{"question": "Where?", "passages": ["moss " * 100]}])
    run, _ = made(tmp_path, supervisor, monkeypatch, Short, **changes, rag_data="long.jsonl")
    manifest = json.loads((run.artefacts / "replies" / "manifest.json").read_text())
    assert manifest["steps"][0]["rejected"] == {"longer than the model's context": 1}
    assert manifest["kept"] > 0


def test_nothing_left_says_what_it_fell_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CoalignError, match=r"No rule has a verifier.*fewer than 3 programs that run"):
        made(tmp_path, lambda asked: "Score: 9", monkeypatch, requests=0)


def test_rules_without_a_query_are_refused(tmp_path: Path) -> None:
    system = load_system("vif-rag")
    with pytest.raises(ConfigError, match="give --query-data, --rag-data or both"):
        execute("vif-rag", system, build(system.Config, {}), tmp_path / "run")


def test_rules_with_constraints_need_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"rule": "Use no commas", "constraints": [{"verifier": "no_commas"}]},
             {"rule": "Shout", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}]  # fmt: skip
    write(tmp_path / "rules.jsonl", rules)
    changes = {"data": "rules.jsonl", "requests": 0, "rag_data": None, "rag_per_rule": 4}
    run, model = made(
        tmp_path,
        lambda asked: "Score: 9" if "Then rate" in asked else "“a”, “b”" if "Shout" in asked else "all right",
        monkeypatch,
        **changes,
    )
    rows = [json.loads(line) for line in (run.artefacts / "replies" / "kept.jsonl").read_text().splitlines()]
    assert {row["made_of"]["rule"] for row in rows} == {"Use no commas"}
    assert rows[0]["constraints"] == [{"verifier": "no_commas", "args": {}}]
    assert not any("Python" in one for one in model.asked)
    assert not (run.artefacts / "verifiers").exists()


BENCHMARK = [
    {"key": 0, "type": "ifnq", "prompt": "Who? No commas.", "question": "Who?", "answer_gold": "Ada/Ada Lovelace",
     "instruction_id_list": ["format_no_commas"], "kwargs": [{}], "response": "It was ada, yes"},
    {"key": 1, "type": "ifwebq", "prompt": "When? In JSON, titled.", "question": "When?", "answer_gold": "1/2/1990",
     "instruction_id_list": ["detectable_format:json_format", "structure_title"], "kwargs": [{}, None], "response": 'So:\n{"a": "1990"}'},
]  # fmt: skip


def scored(folder: Path, **changes: Any) -> Run:
    system = load_system("vif-rag")
    data = str(write(folder / "bench.jsonl", BENCHMARK))
    config = build(system.Config, {"eval_data": data, "responses": True, **changes})
    return execute("vif-rag", system, config, folder / "scored")


def test_a_benchmark_scores_rules_and_answers_of_the_same_items(tmp_path: Path) -> None:
    scores = json.loads((scored(tmp_path).artefacts / "scores.json").read_text())
    assert scores["all"] == {
        "strict_prompt_score": 0.0, "strict_instruction_score": 0.0, "loose_prompt_score": 0.0,
        "loose_instruction_score": 33.33, "answer_score": 50.0, "average": 41.66}  # fmt: skip
    assert scores["ifnq"]["average"] == (0.0 + 100.0) / 2
    assert scores["ifwebq"]["average"] == (50.0 + 0.0) / 2


def test_a_rating_that_cannot_be_read_is_asked_for_again_and_then_in_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = ScriptedGenerator(
        lambda asked: "Rating: [0.5]\nReason: [half]" if "Who?" in asked else "Rating: 1"
    )
    monkeypatch.setattr(asked_options, "open_named", lambda *_, **__: judge)
    run = scored(tmp_path, judge="http://127.0.0.1:9/v1", judge_tries=3)
    scores = json.loads((run.artefacts / "scores.json").read_text())
    assert scores["all"]["answer_score"] == 50.0
    assert "answer_score" not in scores["ifwebq"]
    assert len(judge.asked) == 1 + 3
    assert "1 ratings of answers could not be read" in run.report.read_text(encoding="utf-8")
    assert read_rating("Rating: [1]") == 1.0
    assert read_rating("Rating: [2]") is None


def test_every_record_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "instruction_id_list": ["no_such:rule"], "kwargs": [{}]},
        {"prompt": " ", "instruction_id_list": ["format_json"], "kwargs": [{}]},
        {"prompt": "b"},
    ]
    path = write(tmp_path / "b.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_benchmark(str(path))
    text = str(caught.value)
    assert f"{path}:1: instruction_id_list[0]: 'no_such:rule' is no known rule" in text
    assert f"{path}:2: prompt: is ' '" in text
    assert f"{path}:3: constraints: is missing" in text


def test_bad_queries_and_rules_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rag.jsonl", [{"question": "Who?", "contexts": ["a"]}, {"question": "Who?"}, {"contexts": ["a"]},
                                          {"question": "Q?", "ctxs": [{"title": "x"}]}])  # fmt: skip
    with pytest.raises(DataError) as caught:
        read_rag(str(path), 3)
    assert [
        f"rag.jsonl:{line}: {field}" in str(caught.value)
        for line, field in ((2, "passages"), (3, "question"), (4, "passages"))
    ] == [True] * 3
    chats = write(tmp_path / "chats.jsonl", [{"prompt": "Hi"}])
    with pytest.raises(DataError, match="none of 1 prompts is a single turn of 20 to 300 characters"):
        read_queries(str(chats), (20, 300))
    twice = tmp_path / "rules.txt"
    twice.write_text("Use no commas\n- use no  Commas\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rules.txt:2: rule: 'use no  Commas' occurs twice"):
        words.read_rules(str(twice))
    rows = write(
        tmp_path / "rules.jsonl", [{"rule": "a", "constraints": [{"verifier": "no_comma"}]}, {"text": "b"}]
    )
    with pytest.raises(DataError) as caught:
        words.read_rules(str(rows))
    assert "rules.jsonl:1: constraints[0].verifier: 'no_comma' is unknown" in str(caught.value)
    assert "rules.jsonl:2: rule: is None" in str(caught.value)
