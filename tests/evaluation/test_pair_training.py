"""Training on text pairs, in one process and under a launcher of several."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coalign.cli.main import main
from coalign.core.files import write_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.evaluation.factuality import model, training
from coalign.evaluation.factuality.pair_scoring import PairEncoder
from coalign.evaluation.factuality.records import TaskRecord
from tests.evaluation.encoders import encoder_config, pair_tokenizer, save_encoder


def records(n: int = 24) -> list[TaskRecord]:
    draw = random.Random(1)
    made = []
    for i in range(n):
        first = f"the {draw.choice(['red', 'blue'])} box holds {draw.choice(['four', 'five'])} coins ."
        nli, other = TaskRecord("nli", first, ("it rains .",), label=1), "the sky is blue ."
        alike = TaskRecord("nli", first, (first,), label=0), TaskRecord("sts", first, (first,), label=5.0)
        made.append((alike[0], nli, TaskRecord("paraphrase", first, (other,), label=0), alike[1])[i % 4])
    return made


def new_model(seed: int = 0, *, masked: bool = False) -> model.PairClassifier:
    torch.manual_seed(seed)
    config = encoder_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return model.PairClassifier(model.new_encoder(config), masked=masked, dropout=0.0)


def options(**changes: Any) -> training.EncoderTraining:
    given = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 40, "logging_steps": 1, **changes}
    return build(training.EncoderTraining, given)


def native_rows(n: int) -> list[dict[str, Any]]:
    """The records as a file has them."""
    return [
        {"task": one.task, "text_a": one.text_a, "text_b": list(one.text_b), "orig_label": one.label}
        for one in records(n)
    ]


def weights(one: model.PairClassifier) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in one.parameters()])


def fit(folder: Path, **changes: Any) -> tuple[model.PairClassifier, Any]:
    made, config = new_model(masked=changes.pop("masked", False)), options(**changes)
    run = Run.start(folder, "alignscore", config, seed=0)
    return made, training.fit_pair_classifier(made, pair_tokenizer(), records(), records(8), config, run)


def test_losses_of_all_heads_fall_and_are_logged(tmp_path: Path) -> None:
    _, result = fit(tmp_path, epochs=25, masked=True, augmentation=0.0)
    first, last = result.history[0], [row for row in result.history if "loss" in row][-1]
    for head in ("bin", "tri", "reg", "mlm"):
        assert last[f"losses/{head}"] < first[f"losses/{head}"], head
    evaluated = [row for row in result.history if "eval_accuracy/tri" in row]
    assert evaluated[-1]["eval_loss"] < evaluated[0]["eval_loss"]
    assert all(0 <= row["eval_accuracy/tri"] <= 1 for row in evaluated)
    assert len(evaluated) == 25
    assert result.steps == 75


def test_the_update_does_not_depend_on_how_a_step_is_cut(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path / "a", max_steps=3)
    cut, _ = fit(tmp_path / "b", max_steps=3, batch_size=2, gradient_accumulation=4)
    torch.testing.assert_close(weights(whole), weights(cut), atol=2e-6, rtol=1e-4)


def test_pairs_depend_on_seed_epoch_and_record_alone() -> None:
    data = training.TaskRecordData(records(40), seed=3, augmentation=0.3)
    order = training.KeyedShuffle(40, 3)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(first) == list(range(40))
    assert sorted(second) == list(range(40, 80))
    assert [data[one] for one in first] == [data[one] for one in first]
    assert any(data[i] != data[i + 40] for i in range(40)), "another epoch draws again"


def test_masked_tokens_are_of_texts_and_their_share_is_right() -> None:
    tokenizer = pair_tokenizer()
    collate = training.PairCollator(PairEncoder(tokenizer, 40), masked=True)
    data = training.TaskRecordData(records(), 0, 0.0)
    batches = [collate([data[i + 24 * epoch] for i in range(24)]) for epoch in range(20)]
    plain = training.PairCollator(PairEncoder(tokenizer, 40))([data[i] for i in range(24)])
    masked = total = hidden = 0
    for one in batches:
        labels, ids = one["pair_labels"]["mlm"], one["inputs"]["input_ids"]
        chosen = labels != model.IGNORED
        assert not (plain["inputs"]["attention_mask"][chosen] == 0).any()
        assert not torch.isin(labels[chosen], torch.tensor(tokenizer.all_special_ids)).any()
        masked += int(chosen.sum())
        hidden += int((ids[chosen] == tokenizer.mask_token_id).sum())
        total += int(one["inputs"]["attention_mask"].sum()) - 4 * 24
    assert abs(masked / total - 0.15) < 0.02
    assert abs(hidden / masked - 0.8) < 0.05
    again = collate([data[i] for i in range(24)])
    assert torch.equal(again["inputs"]["input_ids"], batches[0]["inputs"]["input_ids"])


def test_chance_costs_one_and_a_lone_row_weighs_as_much_as_many() -> None:
    logits = model.PairLogits(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 1))
    labels = {
        "bin": torch.tensor([1, 0, 1, model.IGNORED]),
        "tri": torch.tensor([model.IGNORED] * 3 + [2]),
        "reg": torch.full((4,), float(model.IGNORED)),
    }
    assert float(model.weigh(*model.joint_sums(logits, labels))) == pytest.approx(2)
    empty = {name: torch.full_like(value, model.IGNORED) for name, value in labels.items()}
    assert float(model.weigh(*model.joint_sums(logits, empty))) == 0


def test_an_encoder_without_pooler_gets_one() -> None:
    from transformers import DistilBertConfig

    config = DistilBertConfig(vocab_size=120, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    made = model.PairClassifier(model.new_encoder(config))
    assert made.pooler is not None
    inputs = pair_tokenizer()("the sky", "is blue", return_tensors="pt")
    assert made(**inputs).tri.shape == (1, 3)


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    plain, _ = fit(tmp_path / "a", max_steps=2)
    saved, _ = fit(tmp_path / "b", max_steps=2, gradient_checkpointing=True)
    torch.testing.assert_close(weights(plain), weights(saved), atol=1e-6, rtol=1e-4)


_WORKER = """
import sys, functools, torch
from coalign.cli.main import main
from coalign.evaluation.factuality import model
torch.set_num_threads(1)
model.PairClassifier = functools.partial(model.PairClassifier, dropout=0.0)
main(sys.argv[1:])
"""


def arguments(folder: Path, out: Path, batch: int) -> list[str]:
    """29 records, of which 5 are held out: an odd number, so that no two processes share them evenly."""
    files = {"--train": "records.jsonl", "--encoder": "encoder", "--data": "pairs.jsonl"}
    options = {name: folder / file for name, file in files.items()} | {"--out": out, "--batch-size": batch}
    fixed = (
        "--held-out 0.17 --max-steps 3 --max-length 12 --learning-rate 1e-3 --logging-steps 1 --device cpu"
    )
    return ["run", "alignscore", *[str(one) for item in options.items() for one in item], *fixed.split(" ")]


def results(out: Path) -> tuple[dict[str, Any], torch.Tensor]:
    weights = load_file(str(out / "model" / "model.safetensors"))
    trained = json.loads((out / "artefacts" / "training.json").read_text())
    return trained, torch.cat([weights[name].flatten() for name in sorted(weights)])


def test_two_processes_train_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` with two gloo processes: the losses, the held-out losses and the weights of one process."""
    config = encoder_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(0)
    save_encoder(model.new_encoder(config), tmp_path / "encoder")
    write_rows(tmp_path / "records.jsonl", native_rows(29))
    write_rows(tmp_path / "pairs.jsonl", [{"context": "the sky is blue", "claim": "it rains"}])
    monkeypatch.setattr(model, "PairClassifier", functools.partial(model.PairClassifier, dropout=0.0))
    with pytest.raises(SystemExit) as end:
        main(arguments(tmp_path, tmp_path / "one", 8))
    assert not end.value.code
    script = tmp_path / "worker.py"
    script.write_text(_WORKER)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    settings = (
        "--mixed_precision no --num_processes 2 --num_machines 1 --dynamo_backend no --main_process_port 0"
    )
    launcher += settings.split(" ")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = os.pathsep.join(one for one in sys.path if one)
    command = [*launcher, str(script), *arguments(tmp_path, tmp_path / "two", 4)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (one, weights), (two, other) = results(tmp_path / "one"), results(tmp_path / "two")
    assert one["truncated"] > 0
    assert two["truncated"] == one["truncated"]
    assert len(one["history"]) == len(two["history"])
    for expected, found in zip(one["history"], two["history"], strict=True):
        timing = {name for name in expected if "runtime" in name or "per_second" in name}
        assert found.keys() == expected.keys()
        for name in expected.keys() - timing:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    torch.testing.assert_close(other, weights, rtol=1e-3, atol=2e-5)
    files = [tmp_path / name / "artefacts" / "scores.jsonl" for name in ("one", "two")]
    first, second = (json.loads(file.read_text())["score"] for file in files)
    assert first == pytest.approx(second, abs=1e-4)
