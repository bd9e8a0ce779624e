"""Self-Specialization on a tiny base model that writes tasks; retrieval; tests after examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.measures.short_answers import answer_f1
from coalign.measures.texts.text_metrics import rouge_l
from coalign.report.html import read_report
from coalign.selfalign import self_specialization as system
from coalign.selfalign.synthesis.few_shot import read_exam
from coalign.selfalign.synthesis.passages import Passages
from coalign.selfalign.synthesis.tasks import SeedTask
from tests.contract.small import MODELS, SMALL
from tests.preference.tiny_runs import run_system, write
from tests.selfalign.writer import SEEDS

ITEMS = [
    {
        "id": f"t{n}",
        "prompt": f"Name the colour of the {one}.",
        "completion": "It is blue.",
        "set": f"set {n % 2}",
    }
    for n, one in enumerate(("road", "bird", "moor"))
]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("writer") / "writer"
    MODELS["asker"](folder)
    return str(folder)


def start(model: str, folder: Path, **changes: Any) -> Run:
    data = str(write(folder.parent / "seeds.jsonl", SEEDS))
    test = str(write(folder.parent / "test.jsonl", ITEMS))
    options = {
        **SMALL["self-specialization"].options,
        "model": model,
        "data": data,
        "eval_data": test,
        "rounds": 1,
    }
    return run_system("self-specialization", system, folder, **{**options, **changes})


def test_what_is_trained_on_has_neither_examples_nor_passages(writer: str, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "sky.txt").write_text("The sky at noon, they say, is blue.\n\nThe sea is grey.")
    other = str(write(tmp_path / "other.jsonl", [{"prompt": "Add 1 and 2.", "completion": "3"}]))
    run = start(writer, tmp_path / "run", corpus=str(corpus), passages=1, other_data=other)
    rows = read_rows(run.artefacts / "round-1/tasks/kept.jsonl")
    assert all({"passages", "seeds"} <= row["made_of"].keys() for row in rows)
    for one in read_records(run.path).records:
        assert "noon" not in one.prompt[0]["content"]
        assert "Response" not in one.prompt[0]["content"]
    figures = run.status()["figures"]
    assert figures["trained_on"] == len(rows) + len(SEEDS)
    assert {
        "domain_f1,_0-shot",
        "domain_f1,_1-shot",
        "other_f1,_1-shot",
        "domain_f1,_1-shot_before",
    } <= figures.keys()
    titles = [one.title for one in read_report(run.report).sections]
    assert {"By data set (domain)", "Test items side by side (other)"} <= {*titles}


def test_without_test_data_nothing_is_claimed(writer: str, tmp_path: Path) -> None:
    run = start(writer, tmp_path / "run", eval_data=None, shots=[0, 5])
    report = read_report(run.report)
    assert report.verdict.outcome == "neutral"
    assert "nothing is claimed" in report.verdict.text


def test_the_request_for_an_answer_holds_role_examples_passages_and_task() -> None:
    config = build(system.Config, {"data": "x", "domain": "colours", "demonstrations": 2})
    seeds = [SeedTask(f"s{n}", f"Do {n}.", "this" if n else "", f"done {n}") for n in range(2)]
    row = {"id": "a", "instruction": "Do it.", "input": "now", "passages": ["f#1"]}
    text = system.answer_prompt(row, seeds, config, {"f#1": "A fact."})
    assert text == system.answer_prompt(row, seeds, config, {"f#1": "A fact."})
    assert text.startswith("You are an expert in colours.")
    assert text.endswith("###\nPassages:\n- A fact.\nInstruction: Do it.\nInput: now\nResponse:")
    assert "###\nInstruction: Do 0.\nResponse: done 0\n" in text
    assert "###\nInstruction: Do 1.\nInput: this\nResponse: done 1\n" in text


def test_passages_are_paragraphs_that_share_words(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("One fact about iron.\n\n" + "gold " * 200)
    (tmp_path / "deep/b.md").write_text("Silver and iron, iron!")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    passages = Passages(tmp_path, 2)
    assert [*passages.texts] == ["a.txt#1", "a.txt#2", "a.txt#3", "deep/b.md#1"]
    row = {"id": "x", "instruction": "What is iron", "input": ""}
    ((made,),) = passages.step()([row])
    assert made.row["passages"] == ["deep/b.md#1", "a.txt#1"]
    ((made,),) = passages.step()([{**row, "instruction": "zinc"}])
    assert made.row["passages"] == []


def test_a_corpus_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Passages(tmp_path / "none", 1)
    with pytest.raises(DataError, match="no text"):
        Passages(tmp_path, 1)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.txt: cannot be read as UTF-8"):
        Passages(tmp_path, 1)


def test_examples_are_the_same_for_every_model_and_test_items_are_no_seeds(tmp_path: Path) -> None:
    seeds = [SeedTask(one["id"], one["instruction"], "", one["output"]) for one in SEEDS]
    path = str(write(tmp_path / "test.jsonl", ITEMS))
    exam = read_exam("domain", path, seeds, [2, 2, 0], "exact")
    assert exam.shots == [2, 0]
    assert exam.sets == ["set 0", "set 1", "set 0"]
    prompt = exam.prompt(exam.items[0], 2)
    assert prompt == exam.prompt(exam.items[0], 2)
    assert [one["role"] for one in prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert prompt[-1]["content"] == ITEMS[0]["prompt"]
    leaked = str(
        write(tmp_path / "leaked.jsonl", [*ITEMS, {"prompt": SEEDS[0]["instruction"], "completion": "x"}])
    )
    with pytest.raises(DataError, match=r"leaked\.jsonl:4: prompt: it is among the seed tasks"):
        read_exam("domain", leaked, seeds, [0], "f1")


def test_seeds_need_answers(tmp_path: Path) -> None:
    seeds = str(write(tmp_path / "bare.jsonl", [{"id": "a", "instruction": "Do it."}]))
    with pytest.raises(DataError, match="1 seeds have no answer"):
        run_system("self-specialization", system, tmp_path / "run", data=seeds)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": [1]}, "shots has no effect without eval_data"),
        ({"metric": "exact"}, "metric has no effect without eval_data"),
        ({"passages": 2}, "passages has no effect without corpus"),
        ({"eval_data": "x", "shots": []}, "shots is empty"),
        ({"rules": ["copy"]}, "'copy' is no rule"),
    ],
)
def test_options_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(system.Config, {"data": "x", **values})


@pytest.mark.parametrize(
    ("one", "other", "f1", "longest"),
    [
        ("the blue sky", "blue sky", 1.0, 0.8),
        ("sky blue", "blue sky", 1.0, 0.5),
        ("", "", 1.0, 0.0),
        ("x", "y", 0.0, 0.0),
    ],
)
def test_word_f1_and_rouge_l(one: str, other: str, f1: float, longest: float) -> None:
    assert answer_f1(one, other) == pytest.approx(f1)
    assert rouge_l(one, other) == pytest.approx(longest)
