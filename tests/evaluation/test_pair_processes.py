"""Training under a launcher of several processes."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coalign.cli.main import main
from coalign.core.files import write_rows
from coalign.evaluation.factuality import model
from coalign.evaluation.factuality.model import PairClassifier, new_encoder
from tests.evaluation.encoders import encoder_config, save_encoder
from tests.evaluation.test_pair_training import native_rows

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
    save_encoder(new_encoder(config), tmp_path / "encoder")
    write_rows(tmp_path / "records.jsonl", native_rows(29))
    write_rows(tmp_path / "pairs.jsonl", [{"context": "the sky is blue", "claim": "it rains"}])
    monkeypatch.setattr(model, "PairClassifier", functools.partial(PairClassifier, dropout=0.0))
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
