from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.evaluation import alignscore
from coalign.evaluation.factuality.model import save_pair_classifier
from coalign.evaluation.factuality.text_pairs import read_pairs
from tests.cli.conftest import coalign as coalign
from tests.evaluation.encoders import encoder_config, pair_classifier, pair_tokenizer, save_encoder
from tests.evaluation.test_pair_training import native_rows
from tests.preference.tiny_runs import write

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
