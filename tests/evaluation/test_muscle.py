"""MUSCLE: flips, test items, masks and loss, and whole runs on tiny models: adapters continued, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError, ModelError
from coalign.evaluation import muscle
from coalign.evaluation.muscle import compatibility_losses, old_version_mask
from coalign.evaluation.regressions.flips import QUADRANTS, flips, quadrant, smooth_flips
from coalign.evaluation.regressions.tasks import Task, folded, last_number, read_task, scores
from coalign.measures.texts.text_metrics import rouge_1
from coalign.models.files.loading import load_model
from coalign.models.options import ModelOptions
from coalign.training.distillation import IGNORED, TokenExample, collate
from tests.preference.tiny_runs import run_system, save_tiny_model, write

ITEMS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40)
SCORES = st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=40)


@given(ITEMS)
def test_flips_explain_the_change_of_accuracy(items: list[tuple[int, int, int]]) -> None:
    old, new, truth = zip(*items, strict=True)
    found = flips(old, new, truth)
    assert found.accuracy_new - found.accuracy_old == pytest.approx(found.pfr - found.nfr)
    assert found.nfr <= found.nfr_mc + 1e-12
    assert found.nfr <= found.accuracy_old + 1e-12
    if found.btc is not None:
        assert found.btc == pytest.approx(1 - found.nfr / found.accuracy_old)
    assert flips(old, old, truth).nfr_mc == 0


@given(SCORES)
def test_score_flips_explain_the_change_of_the_mean(items: list[tuple[float, float]]) -> None:
    old, new = zip(*items, strict=True)
    found = smooth_flips(old, new)
    assert found.score_new - found.score_old == pytest.approx(
        found.gain * found.pfr - found.loss * found.nfr, abs=1e-9
    )
    back = smooth_flips(new, old)
    assert (found.nfr, found.loss) == (back.pfr, back.gain)


def test_a_margin_silences_small_differences() -> None:
    found = smooth_flips([0.5, 0.5, 0.5], [0.52, 0.48, 0.9], margin=0.05)
    assert (found.pfr, found.nfr, found.loss) == (pytest.approx(1 / 3), 0.0, 0.0)


def test_quadrants() -> None:
    found = [quadrant(was, now) for was in (True, False) for now in (True, False)]
    assert tuple(found) == QUADRANTS


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 old and 1 new"):
        flips([1, 2], [1], [1, 2])
    with pytest.raises(ValueError, match="no items"):
        flips([], [], [])
    with pytest.raises(ValueError, match="finite"):
        smooth_flips([0.1], [float("nan")])
    with pytest.raises(ValueError, match="margin"):
        smooth_flips([0.1], [0.2], margin=-1)


NUMBERS = {"She has 12 apples, so the answer is 1,234.50.": "1234.5", "#### 72": "72", "-3": "-3"}
NUMBERS |= {"about .5": "0.5", "100": "100", "7.00": "7", "none": None, "": None, "The share is 3/4": "0.75"}
NUMBERS |= {"It costs 1.000.000": "1000000", "Version 2.0.0": None}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_rouge_1_counts_clipped_unigrams() -> None:
    assert rouge_1("the the the cat", "The cat sat.") == pytest.approx(2 * 2 / (4 + 3))
    assert rouge_1("same words", "Words same!") == 1
    assert rouge_1("", "words") == 0
    assert rouge_1("...", "...") == 0


def test_the_metric_follows_the_rows(tmp_path: Path) -> None:
    choice = write(tmp_path / "c.jsonl", [{"question": "q", "choices": ["a", "b"], "answer": 1}])
    number = write(tmp_path / "n.jsonl", [{"prompt": "2+2?", "completion": "2+2 = 4. #### 4"}])
    text = write(tmp_path / "t.jsonl", [{"prompt": "Sum up.", "completion": "A short text."}])
    found = [read_task(str(path)) for path in (choice, number, text)]
    assert [one.metric for one in found] == ["choice", "number", "rouge1"]
    assert [one.truths for one in found] == [["b"], ["4"], ["A short text."]]
    assert "compared by number (--metric), the first ones as '4'" in found[1].guessed
    assert read_task(str(text), "exact").truths == ["a short text"]


def test_metrics_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    text = write(tmp_path / "t.jsonl", [{"prompt": "p", "completion": "no number"}])
    with pytest.raises(ConfigError, match="choices"):
        read_task(str(text), "choice")
    with pytest.raises(DataError, match=r"t\.jsonl:1: completion: holds no number"):
        read_task(str(text), "number")


def test_scores_of_answers(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "4"}, {"prompt": "q", "completion": "5"}]
    items = read_task(str(write(tmp_path / "n.jsonl", rows)))
    assert scores(items, [folded("It is 4.0", "number"), ""]) == [1.0, 0.0]
    assert scores(Task("exact", items.items), ["4", ""]) == [1.0, 0.0]
    empty = Task("number", [replace(one, completion="none") for one in items.items])
    assert scores(empty, [folded("I do not know.", "number")] * 2) == [0.0, 0.0]
    rouge = Task("rouge1", items.items)
    assert scores(rouge, ["4", "nothing"]) == [1.0, 0.0]


N, V = 6, 5


def logits(seed: int) -> torch.Tensor:
    return torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LABELS, ROWS = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    "mask", ["student_wrong", "old_right", "all_old", "token_likelihood", "sequence_likelihood"]
)
@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_a_student_that_equals_both_versions_has_nothing_to_learn(mask: Any, seed: int) -> None:
    student = logits(seed)
    losses = compatibility_losses(student, student, student, LABELS, ROWS, temperature=2.0, mask=mask)
    torch.testing.assert_close(losses, torch.zeros(N, dtype=torch.float64), atol=1e-12, rtol=0)


@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
@settings(max_examples=20)
def test_losses_are_divergences(seed: int, shift: float) -> None:
    student, old, new = logits(seed), logits(seed + 1), logits(seed + 2)
    losses = compatibility_losses(student, old, new, LABELS, ROWS, temperature=2.0)
    assert bool((losses >= -1e-12).all())
    moved = compatibility_losses(student + shift, old - shift, new + shift, LABELS, ROWS, temperature=2.0)
    torch.testing.assert_close(moved, losses)


def test_the_sequence_mask_needs_every_token_of_the_row() -> None:
    student, old = torch.zeros(N, V), torch.zeros(N, V)
    old[torch.arange(N), LABELS] = 1.0
    student[1, LABELS[1]] = 5.0  # row 0 has one token that the student knows better
    masks = {"token_likelihood": [True, False, *[True] * 4], "sequence_likelihood": [False] * 3 + [True] * 3}
    for name, expected in masks.items():
        assert old_version_mask(name, student, old, LABELS, ROWS).tolist() == expected  # type: ignore[arg-type]


def test_no_gradient_reaches_the_versions() -> None:
    student, old, new = (one.requires_grad_(True) for one in (logits(0), logits(1), logits(2)))
    compatibility_losses(student, old, new, LABELS, ROWS, temperature=2.0).sum().backward()
    assert student.grad is not None
    assert old.grad is None
    assert new.grad is None


def test_the_first_token_and_padding_are_not_learned() -> None:
    batch = collate([TokenExample([5, 6, 7], [True] * 3), TokenExample([8, 9], [False, True])])
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, 9, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("versions")
    return save_tiny_model(folder / "old", seed=1), save_tiny_model(folder / "new", seed=2)


def task(folder: Path, n: int = 8) -> Path:
    rows = (
        {"question": f"Which, {i}?", "choices": ["red", "blue", f"no {i}"], "answer": i % 3} for i in range(n)
    )
    return write(folder / "test.jsonl", rows)


def demonstrations(folder: Path, n: int = 8) -> Path:
    return write(folder / "train.jsonl", [{"prompt": f"Which, {i}?", "completion": "red"} for i in range(n)])


def start(folder: Path, versions: tuple[Path, Path], **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    given = {"old": str(versions[0]), "model": str(versions[1]), "data": str(task(folder)), **options}
    return run_system("muscle", muscle, folder / "run", **given)


def result_of(run: Any) -> dict[str, Any]:
    return json.loads((run.artefacts / "result.json").read_text())


def weights_of(run: Any) -> dict[str, torch.Tensor]:
    return load_model(ModelOptions(model=str(run.model)), training=False).state_dict()


def test_without_training_data_it_reports(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    run = start(tmp_path, versions)
    result = result_of(run)
    assert result["metric"] == "choice"
    assert "compatible" not in result
    assert not run.model.exists()
    answers = [json.loads(line) for line in (run.artefacts / "answers-old.jsonl").read_text().splitlines()]
    assert {row["responses"][0] for row in answers} <= {"red", "blue", *(f"no {i}" for i in range(8))}
    sections = json.loads(run.report.with_suffix(".json").read_text())["sections"]
    assert [one["kind"] for one in sections] == ["comparison", "samples", "key_values", "key_values"]


def test_the_same_version_breaks_nothing(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    result = result_of(start(tmp_path, (versions[0], versions[0])))
    assert (result["new"]["nfr"], result["new"]["nfr_mc"], result["new"]["pfr"]) == (0, 0, 0)


def test_training_pulls_towards_the_old_version(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    data = str(demonstrations(tmp_path))
    run = start(tmp_path / "a", versions, train_data=data, epochs=3, mask="all_old", adapter_rank=4)
    history = json.loads((run.artefacts / "training.json").read_text())["history"]
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    assert losses[-1] < losses[0]
    assert result_of(run)["compatible"]["n"] == 8
    # its adapter is trained further: the frozen copy is what the new version says, and is not saved
    told = [event["note"] for event in run.events("data")]
    assert "8 of 8 evaluation records have a prompt that is trained on" in told[-1]
    assert told[-1] in run.report.read_text(encoding="utf-8").replace("&#39;", "'")
    further = start(tmp_path / "b", (versions[0], run.model), train_data=data, epochs=1)
    assert not (further.model / "shipped").exists()
    assert result_of(further)["compatible"]["n"] == 8
    weights = [weights_of(one) for one in (run, further)]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ModelError, match="adapter_rank has no effect"):
        start(tmp_path / "c", (versions[0], run.model), train_data=data, adapter_rank=2)


def test_versions_with_different_tokenizers_are_refused(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    other = save_tiny_model(tmp_path / "other", template=None)
    with pytest.raises(ModelError, match="different chat templates"):
        start(tmp_path, (other, versions[1]), train_data=str(demonstrations(tmp_path)))


def test_bad_training_data_is_named(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    bad = write(tmp_path / "train.jsonl", [{"prompt": "p"}])
    with pytest.raises(CoalignError, match=r"train\.jsonl"):
        start(tmp_path, versions, train_data=str(bad))
