"""AlignScore: records of the tasks and their sources, files of pairs, whole runs, the command."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.messages import FieldError
from coalign.evaluation import alignscore
from coalign.evaluation.factuality.model import save_pair_classifier
from coalign.evaluation.factuality.records import (
    TaskRecord,
    assert_usable,
    labelled_pair,
    parse_record,
    read_task_records,
)
from coalign.evaluation.factuality.sources import CONVERTERS, converter
from coalign.evaluation.factuality.text_pairs import read_pairs
from tests.cli.conftest import coalign as coalign
from tests.evaluation.encoders import encoder_config, pair_classifier, pair_tokenizer, save_encoder
from tests.evaluation.test_pair_training import native_rows
from tests.preference.tiny_runs import write

SOURCE_ROWS: dict[str, dict[str, Any]] = {
    "snli": {"premise": "p", "hypothesis": "h", "label": -1},
    "mnli": {"premise": "p", "hypothesis": "h", "label": "contradiction"},
    "anli": {"premise": "p", "hypothesis": "h", "label": 0},
    "doc_nli": {"premise": "p", "hypothesis": "h", "label": "not_entailment"},
    "nli_fever": {"context": "e", "query": "c", "label": "SUPPORTS"},
    "vitaminc": {"evidence": "e", "claim": "c", "label": "NOT ENOUGH INFO"},
    "qqp": {"question1": "a", "question2": "b", "is_duplicate": "1"},
    "paws": {"sentence1": "a", "sentence2": "b", "label": 0},
    "sick": {"sentence_A": "a", "sentence_B": "b", "relatedness_score": 4.5},
    "stsb": {"sentence1": "a", "sentence2": "b", "label": 2.5},
    "squad": {"context": "c", "question": "q?", "answers": {"text": ["x", "y"]}, "wrong_answers": ["z"]},
    "squad_v2": {"context": "c", "question": "q?", "answers": {"text": []}},
    "race": {"article": "a", "question": "It is _ .", "options": ["one", "two"], "answer": "B"},
    "boolq": {"passage": "p", "question": "q?", "answer": False},
    "ms_marco": {"query": "q", "passages": {"passage_text": ["a", "b"], "is_selected": [0, 1]}},
    "gap": {"Text": "t", "Pronoun": "she", "A": "Ada", "A-coref": "TRUE", "B": "Bea", "B-coref": False},
    "wikihow": {"text": "t", "headline": "s"},
    "xsum": {"document": "t", "summary": "s"},
    "cnn_dailymail": {"article": "t", "highlights": "s"},
    "samsum": {"dialogue": "t", "summary": "s"},
}


def never(record: TaskRecord, **options: Any) -> Any:
    return labelled_pair(record, random.Random(0), augmentation=0.0, **options)


def converted(name: str) -> list[TaskRecord]:
    return list(converter(name)(SOURCE_ROWS[name]))


def test_every_converter_has_a_row_here() -> None:
    assert SOURCE_ROWS.keys() == CONVERTERS.keys()


@pytest.mark.parametrize("name", SOURCE_ROWS)
def test_a_row_becomes_pairs_with_labels_of_its_task(name: str) -> None:
    for record in converted(name):
        pair = never(record, others=[record, TaskRecord(record.task, "other", ("other summary",))])
        assert pair.head in ("tri", "bin", "reg")
        assert 0 <= pair.label <= 2


def test_values_of_the_conversions() -> None:
    first = {
        "snli": ("p", "h", "tri", 1),
        "mnli": ("p", "h", "tri", 2),
        "doc_nli": ("p", "h", "bin", 0),
        "vitaminc": ("e", "c", "tri", 1),
        "stsb": ("a", "b", "reg", 0.5),
    }
    assert {name: never(converted(name)[0]) for name in first} == first
    assert [never(one) for one in converted("squad")] == [("c", "q? x", "bin", 1), ("c", "q? z", "bin", 0)]
    assert converted("squad_v2") == []
    race = converted("race")[0]
    assert (race.text_b, race.text_c) == (("It is two .",), ("It is one .",))
    assert converted("boolq")[0].text_b == ("q? No.",)
    assert [never(one).label for one in converted("ms_marco")] == [0, 1]
    asked = 'Who does "she" refer to?'
    both = [("t", f"{asked} Ada", "bin", 1), ("t", f"{asked} Bea", "bin", 0)]
    assert [never(one) for one in converted("gap")] == both


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("snli", {"label": 3}),
        ("snli", {"premise": ""}),
        ("doc_nli", {"label": 0}),
        ("qqp", {"is_duplicate": 2}),
        ("stsb", {"label": 6}),
        ("squad", {"answers": None}),
        ("race", {"answer": "C"}),
        ("ms_marco", {"passages": {"passage_text": ["a"], "is_selected": []}}),
        ("gap", {"A-coref": "maybe"}),
    ],
)
def test_a_row_that_does_not_fit_is_named(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        converter(name)({**SOURCE_ROWS[name], **change})


def test_summaries_are_half_positive_and_their_negatives_come_from_others() -> None:
    records = [TaskRecord("summarization", f"text {i}", (f"sum {i}",)) for i in range(3)]
    draw = random.Random(0)
    pairs = [labelled_pair(records[0], draw, others=records) for _ in range(400)]
    positive = [one for one in pairs if one.label == 1]
    assert 150 < len(positive) < 250
    assert {one.text_b for one in positive} == {"sum 0"}
    assert {one.text_b for one in pairs if one.label == 0} == {"sum 1", "sum 2"}
    given = TaskRecord("multiple_choice_qa", "t", ("b",), ("c",))
    assert {labelled_pair(given, draw)[1:] for _ in range(50)} == {("b", "bin", 1), ("c", "bin", 0)}


def test_augmentation_keeps_labels_true() -> None:
    draw = random.Random(0)

    def seen(record: TaskRecord) -> set[Any]:
        return {labelled_pair(record, draw, augmentation=0.4) for _ in range(300)}

    alike, both = ("a", "a", "tri", 0), {("a", "b", "tri", 2), ("b", "a", "tri", 2)}
    assert seen(TaskRecord("nli", "a", ("b",), label=2)) == {*both, alike}
    assert seen(TaskRecord("nli", "a", ("b",), label=0)) == {("a", "b", "tri", 0), ("a", "a", "tri", 0)}
    assert ("b", "a", "bin", 0) in seen(TaskRecord("paraphrase", "a", ("b",), label=0))
    assert seen(TaskRecord("qa", "a", ("b",), ("c",), 1)) == {("a", "b c", "bin", 1)}
    assert seen(TaskRecord("sts", "a", ("b",), label=5)) == {("a", "b", "reg", 1.0)}


def test_records_of_a_file_and_their_faults(tmp_path: Path) -> None:
    texts = {"text_a": "a", "text_b": ["b"]}
    rows = [
        {"task": task, **texts, "orig_label": label} for task, label in (("nli", 0), ("nli", 7), ("qa", 1))
    ]
    path = write(tmp_path / "r.jsonl", [*rows, {"task": "odd", **texts}])
    with pytest.raises(DataError, match=r"3 of 4 rows") as caught:
        read_task_records(str(path), most=10)
    assert f"{path}:2: orig_label: the number 7, expected one of: -1, 0, 1, 2" in str(caught.value)
    assert f"{path}:3: text_c" in str(caught.value)
    kept = read_task_records(str(path), most=10, on_bad_record="skip")
    assert (len(kept.records), len(kept.problems), kept.rows) == (1, 3, 4)
    assert read_task_records(str(path), most=1).rows == 1
    with pytest.raises(ConfigError, match="snli"):
        converter("snil")


def test_a_lone_summary_has_no_negative() -> None:
    with pytest.raises(DataError, match="only record of summarization"):
        assert_usable([TaskRecord("summarization", "t", ("s",))])
    with pytest.raises(DataError, match="no record"):
        assert_usable([])
    assert parse_record({"task": "paraphrase", "text_a": "a", "text_b": "b", "label": True}).label == 1


HOSTILE = "<script>alert(1)</script> The sky is <b>blue</b>. \u202eIt rains."
RAIN = {"context": "The sky is blue. It rains.", "claim": "It rains. The grass is green."}
ROWS = [
    {"id": "a", **RAIN, "label": 1},
    {"id": "b", "context": HOSTILE, "claim": HOSTILE, "label": 0},
    {"id": "c", "context": "", "claim": "A cat sat on a mat.", "label": True},
    {"id": "d", "context": "red " * 90, "claim": "The red box holds four coins."},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_pair_classifier(pair_classifier(), pair_tokenizer(), tmp_path / "tiny", max_length=64)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", ROWS)


def run(folder: Path, **options: Any) -> Run:
    config = build(alignscore.Config, {"device": "cpu", **options})
    return execute("alignscore", alignscore, config, folder)


def test_a_run_scores_and_reports(tmp_path: Path, model: Path, pairs: Path) -> None:
    found = run(tmp_path / "run", data=str(pairs), model=str(model))
    rows = read_rows(found.artefacts / "scores.jsonl")
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    first = rows[0]
    assert [one["text"] for one in first["sentences"]] == ["It rains.", "The grass is green."]
    assert first["score"] == pytest.approx(sum(one["score"] for one in first["sentences"]) / 2)
    assert rows[3]["truncated"] == 1
    results = json.loads((found.artefacts / "results.json").read_text())
    assert results["labelled"] == 3
    assert results["roc_auc"]["low"] <= results["roc_auc"]["mean"] <= results["roc_auc"]["high"]
    assert results["claims_with_truncation"] == 1
    page = found.report.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b>blue" not in page
    assert "\u202e" not in page
    assert "did not fit the encoder" in page


def test_training_and_scoring_in_one_run(tmp_path: Path, pairs: Path) -> None:
    from coalign.evaluation.factuality.model import new_encoder

    encoder = save_encoder(new_encoder(encoder_config()), tmp_path / "encoder")
    native = write(tmp_path / "records.jsonl", native_rows(12))
    snli = write(tmp_path / "snli.jsonl", [{"premise": "it rains", "hypothesis": "it snows", "label": 2}] * 8)
    options = {
        "train": [str(native), f"snli={snli}"],
        "encoder": str(encoder),
        "data": str(pairs),
        "epochs": 1,
    }
    options |= {"batch_size": 4, "max_length": 40, "held_out": 0.2, "mlm": True}
    found = run(tmp_path / "run", **options)
    assert len(read_rows(found.artefacts / "scores.jsonl")) == 4
    notes = [one["note"] for one in found.events("data")]
    assert any("12 records" in note for note in notes)
    assert any("8 nli" in note for note in notes)
    weights = (found.model / "model.safetensors").read_bytes()
    again = run(tmp_path / "run", **options)
    assert (again.model / "model.safetensors").read_bytes() == weights
    assert "Three-way head" in found.report.read_text(encoding="utf-8")
    only = run(tmp_path / "score", data=str(pairs), model=str(tmp_path / "run"))
    assert read_rows(only.artefacts / "scores.jsonl") == read_rows(found.artefacts / "scores.jsonl")


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        run(tmp_path / "run")


def test_the_command_writes_rows_and_a_page(
    tmp_path: Path, model: Path, pairs: Path, coalign: Callable[..., Any]
) -> None:
    common = ("score", "alignscore", str(pairs), "--model", str(model), "--device", "cpu")
    shown = coalign(*common)
    assert shown.code == 0, shown.err
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    out, page = tmp_path / "scores.jsonl", tmp_path / "page.html"
    assert coalign(*common, "--out", str(out), "--html", str(page), "--mode", "bin").code == 0
    assert len(read_rows(out)) == 4
    assert "Factual consistency" in page.read_text()
    refused = coalign(*common, "--out", str(out))
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert "not a metric" in coalign("score", "alignscor", "x").err


def test_files_of_pairs(tmp_path: Path) -> None:
    csv = tmp_path / "p.csv"
    csv.write_text('article,summary,consistent\n"A, b.",C.,yes\nD.,E.,no\n')
    found = read_pairs(str(csv))
    assert found.columns == ("article", "summary", "consistent")
    read = [(one.context, one.claim, one.label) for one in found.pairs]
    assert read == [("A, b.", "C.", 1.0), ("D.", "E.", 0.0)]
    rows = [("a", " "), (None, "b"), ("a", "b", "maybe"), ("a", "b")]
    columns = ("context", "claim", "label")
    bad = write(tmp_path / "bad.jsonl", [dict(zip(columns, row, strict=False)) for row in rows])
    with pytest.raises(DataError, match="3 of 4 rows") as caught:
        read_pairs(str(bad))
    assert f"{bad}:1: claim: is empty, expected a text to score" in str(caught.value)
    assert f"{bad}:2: context" in str(caught.value)
    kept = read_pairs(str(bad), on_bad_record="skip")
    assert (len(kept.pairs), len(kept.problems)) == (1, 3)
    with pytest.raises(DataError, match="--claim-column"):
        read_pairs(str(write(tmp_path / "none.jsonl", [{"context": "a", "x": "b"}])))
    named = read_pairs(str(tmp_path / "none.jsonl"), claim="x", context="context")
    assert named.pairs[0].claim == "b"
    with pytest.raises(DataError, match="appears twice"):
        read_pairs(str(write(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])))
