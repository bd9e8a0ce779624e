"""`coalign run curate`: recipes, sources of every layout, bad rows, going on, and a result that other commands take."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coalign.core import options
from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.checking.check import check_records
from coalign.data.readers import scan_records
from coalign.judging.protocol import Cost, JudgeItem, Rating
from coalign.loops.curation import run as curate
from coalign.loops.curation.label_step import read_label
from coalign.loops.curation.recipe import make_steps, parse_recipe
from coalign.loops.pipeline import Curated
from coalign.models.types import Generation, Sampling
from coalign.report.html import read_report
from tests.preference.tiny_runs import write

USUAL = "exact, near, length min=4 max=40, quality, top by=quality share=0.5"


def corpus(n: int = 60) -> list[dict[str, Any]]:
    """Questions with answers; every tenth answer is there twice, every tenth but for a word."""
    draw, text = random.Random(0), "the a to of and with harbour lamp slowly paints seven doors under rain"
    pool = text.split()
    rows: list[dict[str, Any]] = []
    for i in range(n):
        answer = " ".join(draw.choices(pool, k=24)) + "."
        rows.append({"prompt": f"Tell me about {i}", "completion": answer})
        if i % 10 == 0:
            rows += [dict(rows[-1]), {**rows[-1], "completion": answer[:-1] + " again."}]
    return [*rows, {"prompt": "Hm?", "completion": "# #"}]


def curated(folder: Path, data: list[str], steps: list[Any], **more: Any) -> Run:
    config = options.build(curate.Config, {"data": data, "steps": steps, **more})
    run = Run.start(folder, "curate", config)
    curate.run(config, run)
    return run


def result(run: Run) -> Curated:
    return Curated(run.artefacts / curate.ARTEFACT)


def test_a_recipe_makes_records_that_other_commands_take(tmp_path: Path) -> None:
    data = write(tmp_path / "corpus.jsonl", corpus())
    run = curated(tmp_path / "run", [str(data)], USUAL.split(", "))
    done = result(run)
    counts = {step["name"]: (step["in"], step["out"]) for step in done.manifest["steps"]}
    assert counts["exact"] == (73, 67)
    assert counts["near"] == (67, 61)
    assert counts["length"] == (61, 60)
    assert counts["top"] == (60, 30)
    assert run.records == done.kept
    found = check_records(scan_records(run.path))
    assert (found.usable, found.kind, found.n_records, found.n_bad) == (True, "demonstration", 30, 0)
    report = read_report(run.report)
    assert "30 of 73 records were kept" in report.verdict.text
    assert report.next_commands[1].command == f"coalign run sft --data {run.path}"
    assert {one.title for one in report.sections} >= {
        "Records: what came of them",
        "Records: kept and rejected",
    }


def test_a_file_of_steps_is_the_same_as_a_command_line(tmp_path: Path) -> None:
    written = tmp_path / "recipe.yaml"
    written.write_text(
        "- exact\n- near:\n- length: {min: 4, max: 40}\n- quality\n- top: {by: quality, share: 0.5}\n",
        "utf-8",
    )
    assert parse_recipe([str(written)]) == parse_recipe(USUAL.split(", "))
    nested = tmp_path / "nested.yml"
    nested.write_text("steps: [exact, {mix: {weights: {a: 1, b: 2}}}]", "utf-8")
    assert parse_recipe([str(nested)]) == parse_recipe(["exact", "mix weights=a:1;b:2"])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["exakt"], "step 1: 'exakt' is no step. Did you mean exact"),
        (["exact", "near threshold=2"], "step 2: near: threshold: '2' is not usable"),
        (["near permutations=10 bands=3"], "bands 3 do not divide"),
        (["length"], "give min, max or both"),
        (["length min=9 max=3"], "min 9 is above max 3"),
        (["match pattern=("], "no regular expression"),
        (["top by=x"], "give share or k"),
        (["top by=x share=0.1 k=3"], "give share or k"),
        (["above by=x"], "than: is required"),
        (["near 0.8"], "'0.8', expected NAME=VALUE"),
        (["near 'x"], "cannot be read"),
        ([{"near": 3}], "expected a mapping"),
        ([7], "7, expected a name"),
        ([], "none, expected at least one"),
        (["no.yaml"], r"no\.yaml: no such file"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(steps: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(steps)


def test_every_problem_of_a_recipe_is_told() -> None:
    with pytest.raises(ConfigError) as error:
        parse_recipe(["exakt", "length mn=2"])
    assert "step 1" in str(error.value)
    assert "mn: is not an option" in str(error.value)


def test_a_kind_that_comes_again_has_a_name_of_its_own() -> None:
    steps = make_steps(parse_recipe(["take k=2", "take k=1", "take k=1 name=last"]), None)  # type: ignore[arg-type]
    assert [one.name for one in steps] == ["take", "take 2", "last"]


def test_options_of_a_judge_need_a_step_that_asks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="criteria has no effect without a step judge"):
        options.build(curate.Config, {"data": ["x"], "steps": ["exact"], "criteria": "short"})


def test_sources_are_read_one_after_the_other_and_mixed(tmp_path: Path) -> None:
    web = write(tmp_path / "web.jsonl", [{"text": f"page {i}"} for i in range(30)])
    books = write(tmp_path / "books.jsonl", [{"text": f"book {i}"} for i in range(30)])
    mix = {"mix": {"weights": {str(web): 1, str(books): 3}, "size": 20}}
    done = result(curated(tmp_path / "run", [str(web), str(books)], [mix]))
    kept = list(done.rows())
    assert [sum(row["source"] == str(one) for row in kept) for one in (web, books)] == [5, 15]
    assert all(row["id"].startswith(row["source"]) for row in kept)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Say it"}, {"role": "assistant", "content": "harbour"}]},
        {"conversations": [{"from": "human", "value": "Say it"}, {"from": "gpt", "value": "harbour"}]},
        {"instruction": "Say it", "input": "", "output": "harbour"},
        {"prompt": "Say it", "responses": ["harbour", "lamp"], "scores": [1, 2]},
        {"text": "Say it harbour"},
    ],
)
def test_texts_of_every_layout_are_looked_at(tmp_path: Path, row: dict[str, Any]) -> None:
    data = write(tmp_path / "a.jsonl", [row, {**row, "id": "other"}])
    done = result(
        curated(tmp_path / "run", [str(data)], ["match pattern=harbour", "match pattern=Say", "exact"])
    )
    assert [one["id"] for one in done.rows()] == ["0"]


def test_rows_that_cannot_be_read_stop_it_or_are_rejected(tmp_path: Path) -> None:
    data = tmp_path / "torn.jsonl"
    data.write_text('{"text": "a good row"}\n{"text": \n[1]\n{"text": "another"}\n', "utf-8")
    with pytest.raises(DataError, match=r"torn\.jsonl:2"):
        curated(tmp_path / "a", [str(data)], ["exact"])
    done = result(curated(tmp_path / "b", [str(data)], ["exact"], on_bad_record="skip"))
    assert [row["text"] for row in done.rows()] == ["a good row", "another"]
    assert done.reasons() == {"readable: not a record": 2}
    assert "torn.jsonl:2" in read_rows(done.rejects)[0]["row"]["unreadable"]


def test_a_corpus_without_text_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"title": "x"}])
    with pytest.raises(DataError, match="no column that holds text"):
        curated(tmp_path / "a", [str(data)], ["exact"])
    with pytest.raises(DataError, match="no column body"):
        curated(tmp_path / "b", [str(data)], ["exact"], text_column="body")
    done = result(curated(tmp_path / "c", [str(data)], ["exact"], text_column="title"))
    assert done.manifest["kept"] == 1


class Words:
    """Scores the number of words; fails on answers with a digit."""

    name = "words"

    def rate(self, items: Sequence[JudgeItem], **_: Any) -> list[Rating]:
        return [
            Rating(id=one.id, score=None, failure="malformed", cost=Cost(calls=1, tokens=2))
            if any(map(str.isdigit, one.responses[0]))
            else Rating(
                id=one.id, score=len(one.responses[0].split()), prompt_hash="h", cost=Cost(calls=1, tokens=2)
            )
            for one in items
        ]


def test_judged_responses_become_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalign.judging.options.make_judge", lambda *_: Words())
    answers = {
        "p": ["one two", "one", "one two three"],
        "q": ["same size", "and same"],
        "r": ["3 words here"],
    }
    rows = [{"prompt": key, "completion": one} for key, several in answers.items() for one in several]
    data = write(tmp_path / "a.jsonl", rows)
    steps = ["judge", "pair by=score gap=1"]
    with pytest.raises(
        CoalignError, match=r"judge: 1 of 6 records have no score: not scorable: malformed \(1\)"
    ):
        curated(tmp_path / "run", [str(data)], steps)
    run = curated(tmp_path / "run", [str(data)], steps, max_failures=0.5)
    done = result(run)
    (pair,) = done.rows()
    assert (pair["chosen"], pair["rejected"]) == ("one two three", "one")
    assert scan_records(run.path).kind == "preference"
    assert read_report(run.report).next_commands[1].command == f"coalign run dpo --data {run.path}"
    assert done.tokens() == {"judge": (0, 12)}
    (notes,) = done.provenance
    assert {
        "step": "judge",
        "score": 3,
        "judge": "words",
        "prompt_hash": "h",
        "tokens": 2,
        "prompt_tokens": None,
    } in notes["steps"]
    assert "Cost" in {one.title for one in read_report(run.report).sections}


def test_verifiers_filter_responses(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "completion": "a b c"}, {"prompt": "y", "completion": "a b c d e"}]
    data = write(tmp_path / "a.jsonl", rows)
    done = result(curated(tmp_path / "run", [str(data)], ["verify by=max_words:4"]))
    assert [row["prompt"] for row in done.rows()] == ["x"]
    assert list(done.reasons()) == ["verify: not at most 4 words"]
    with pytest.raises(ConfigError, match="expected a verifier"):
        curated(tmp_path / "other", [str(data)], ["verify by=judge:brevity"])


def test_a_run_of_another_recipe_is_not_continued(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", corpus(10))
    curated(tmp_path / "run", [str(data)], ["exact"])
    with pytest.raises(CoalignError, match="another configuration"):
        curated(tmp_path / "run", [str(data)], ["near"])


def test_records_of_a_run_are_data_of_the_next(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", corpus(20))
    first = curated(tmp_path / "one", [str(data)], ["exact"])
    second = curated(tmp_path / "two", [str(first.path)], ["take k=5"])
    rows = list(result(second).rows())
    assert [row["id"] for row in rows] == [row["id"] for row in list(result(first).rows())[:5]]
    assert json.loads(json.dumps(rows)) == rows


SAID = {
    "Add one and two": ["maths", "Maths.", "It is maths"],
    "Write a loop": ["code", "code", "other"],
    "Hm?": ["maths", "code", "other"],
    "Both": ["maths or code", "maths", "code"],
    "Silent": ["I cannot tell", "", "algebra"],
}


class Voter:
    """Answers as `SAID` has it, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[Any], sampling: Sampling, **_: Any) -> list[list[Generation]]:
        assert sampling.n == 3
        assert sampling.temperature == 1.0
        self.asked += prompts
        return [
            [Generation(one) for one in next(said for text, said in SAID.items() if text in prompt)]
            for prompt in prompts
        ]


def test_labels_are_voted_on_and_what_voters_disagree_on_is_for_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voter = Voter()
    monkeypatch.setattr("coalign.models.backends.open.open_generator", lambda *_, **__: voter)
    data = write(tmp_path / "prompts.jsonl", [{"prompt": one} for one in SAID])
    step = "label labels=maths;code;other column=domain"
    run = curated(tmp_path / "run", [str(data)], [step], max_failures=0.5)
    done = result(run)
    assert [(row["domain"], row["domain_agreement"]) for row in done.rows()] == [
        ("maths", 1.0),
        ("code", 0.666667),
    ]
    rejects = {row["row"]["prompt"]: row for row in read_rows(done.rejects)}
    assert rejects["Hm?"]["reason"] == rejects["Both"]["reason"] == "for review: the votes disagree"
    (noted,) = rejects["Both"]["steps"]
    assert (noted["votes"], noted["asked"]) == ({"maths": 1, "code": 1}, 3)
    assert rejects["Silent"]["reason"] == "not scorable: no label in any answer"
    assert all("maths, code, other" in one and "domain" in one for one in voter.asked)


def test_too_many_answers_without_a_label_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalign.models.backends.open.open_generator", lambda *_, **__: Voter())
    data = write(tmp_path / "prompts.jsonl", [{"prompt": "Silent"}])
    with pytest.raises(CoalignError, match="1 of 1 records have no score"):
        curated(tmp_path / "run", [str(data)], ["label labels=maths;code"])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("maths", "maths"), ("**Maths**", "maths"), ("aftermaths", None), ("maths, code", None), ("", None),
        ("hard maths", "hard maths"), ("C++", "C++"), ("C", "C"), ("not c++ but c", None),
    ],
)  # fmt: skip
def test_a_label_is_a_whole_word_and_the_only_one(text: str, label: str | None) -> None:
    assert read_label(text, ["maths", "hard maths", "code", "C", "C++"]) == label


@pytest.mark.parametrize("labels", ["maths", "maths;Maths", "maths;"])
def test_fewer_than_two_labels_are_refused(labels: str) -> None:
    with pytest.raises(ConfigError, match="expected two or more that differ"):
        parse_recipe([f"label labels={labels}"])


def test_several_answers_to_a_prompt_become_distinct_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalign.judging.options.make_judge", lambda *_: Words())
    again = "a b c d e f g h"
    rows = [
        {"prompt": "p", "responses": [again, again + " i", "x y", "z", " "], "tokens": [8, 9, 2, 1, 1]},
        {"prompt": "q", "responses": [again, "k l m n o"], "constraints": ["max_words:4", "min_words:1"]},
        {"prompt": "r", "responses": ["s", "t"]},
    ]
    data = write(tmp_path / "answers.jsonl", rows)
    steps = ["distinct most=0.7", "judge", "pair by=score gap=1 worst=3"]
    done = result(curated(tmp_path / "run", [str(data)], steps, unfold=True))
    (pair,) = done.rows()
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (
        [{"role": "user", "content": "p"}],
        again,
        "z",
    )
    assert done.reasons() == {
        "distinct: ROUGE-L above 0.7": 1,
        "distinct: no response": 1,
        "pair: neither best nor worst": 1,
        "pair: no two scores apart, or all above 3": 4,
    }
    rejects = {row["id"]: row["row"] for row in read_rows(done.rejects)}
    assert (rejects["0-1"]["tokens"], rejects["0-1"]["completion"]) == (9, again + " i")
    assert rejects["1-0"]["constraints"] == ["max_words:4", "min_words:1"]


def test_rows_with_one_answer_are_unfolded_to_themselves(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "same"}, {"prompt": "q", "completion": "same"}]
    data = write(tmp_path / "a.jsonl", rows)
    done = result(curated(tmp_path / "run", [str(data)], ["distinct most=0"], unfold=True))
    assert [(row["id"], row["prompt"]) for row in done.rows()] == [("0", "p"), ("1", "q")]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{topic}", "no column 'topic'"), ("{text.size}", "cannot be filled in"), ("{text[x]}", "cannot be filled in"),
        ("{", "cannot be filled in"), ("{0}", "cannot be filled in"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_filled_in_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, said: str
) -> None:
    monkeypatch.setattr("coalign.models.backends.open.open_generator", lambda *_, **__: Voter())
    data = write(tmp_path / "prompts.jsonl", [{"prompt": "Hm?"}])
    step = {"label": {"labels": ["maths", "code"], "prompt": prompt}}
    with pytest.raises(CoalignError, match=f"Record 0: label: prompt.*{said}"):
        curated(tmp_path / "run", [str(data)], [step])
