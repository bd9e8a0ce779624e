"""Whole trainings on records with pictures, their checks beforehand, and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from coalign.cli.main import main
from coalign.core.errors import ModelError
from coalign.core.files import read_rows
from coalign.data.encoding import encode_records
from coalign.data.readers import read_records
from coalign.models.files.loading import load_tokenizer
from coalign.training.learning import learner
from coalign.training.losses.binary import mismatch_responses
from tests.data.media.making import encoded, picture
from tests.models.tiny_vision import TOKENS
from tests.preference.tiny_runs import notes, run_system, write
from tests.training.test_pictures import examples_of as examples_of
from tests.training.test_pictures import folder as folder
from tests.training.test_pictures import many as many
from tests.training.test_pictures import models as models
from tests.training.test_pictures import pairs as pairs
from tests.training.test_pictures import scored as scored


@pytest.mark.parametrize("name", ["llava", "idefics3"])
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_whole_trainings(models: dict[str, str], folder: Path, name: str, objective: str) -> None:
    data = write(folder / "pairs.jsonl", many())
    run = run_system(
        objective,
        learner(objective),
        folder / "run",
        model=models[name],
        data=str(data),
        eval_fraction=0.25,
        save_steps=0,
        max_length=400,
        epochs=1,
        batch_size=2,
    )
    adapter = load_file(run.model / "adapter_model.safetensors")
    assert adapter
    assert not any("vision" in one for one in adapter)
    assert any(bool(value.any()) for key, value in adapter.items() if "lora_B" in key)
    processor = hf.AutoProcessor.from_pretrained(run.model)
    assert type(processor).__name__.lower().startswith(name)
    tokenizer = load_tokenizer(str(run.model))
    again = encode_records(read_records(data, text_alone=False).records, tokenizer, pictures=True)
    assert any(one.pictures for one in again.records)
    assert json.loads((run.path / "status.json").read_text())["state"] == "done"
    page = run.report.read_text()
    assert page.count("<img ") >= 3
    assert "[picture] what is it" in page


def test_full_training_of_all_weights_is_saved_with_its_processor(
    models: dict[str, str], folder: Path
) -> None:
    data = write(folder / "pairs.jsonl", many())
    run = run_system(
        "sft",
        learner("sft"),
        folder / "run",
        model=models["llava"],
        data=str(data),
        tuning="full",
        eval_fraction=0.25,
        save_steps=0,
        max_length=400,
        batch_size=4,
    )
    model = hf.AutoModelForImageTextToText.from_pretrained(run.model)
    before = hf.AutoModelForImageTextToText.from_pretrained(models["llava"])
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    changed = {
        name for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(one, other)
    }  # fmt: skip
    assert any("multi_modal_projector" in one for one in changed)
    assert any("vision_tower" in one for one in changed)


def test_a_processor_that_needs_torchvision_is_one_clear_message(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found.")

    monkeypatch.setattr(hf.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"the processor of this llava model needs torchvision"):
        load_tokenizer(models["llava"])


def test_data_check_shows_the_picture_beside_its_tokens(
    models: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, page = write(folder / "pairs.jsonl", pairs()), folder / "report.html"
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", str(data), "--model", models["llava"], "--report", str(page)])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"<image>·×·{TOKENS}|" in out
    assert "records with pictures  3" in " ".join(out.split()).replace("pictures 3", "pictures  3")
    text = page.read_text()
    assert text.count("<img ") >= 4 + 3
    assert f"&lt;image&gt;·×·{TOKENS}|" in text


@pytest.mark.parametrize("options", [[], ["--model"]])
def test_data_check_names_pictures_that_cannot_be_decoded(
    models: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    (folder / "0.png").write_bytes(encoded(picture(64, 64))[:3000])
    data = write(folder / "pairs.jsonl", pairs())
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", str(data), *options, *([models["llava"]] if options else [])])
    assert caught.value.code == 1
    assert "pairs.jsonl:1: images: " in (out := capsys.readouterr().out)
    assert "0.png: image file is truncated" in out


def test_broken_pictures_are_skipped_on_request_with_their_number(
    models: dict[str, str], folder: Path
) -> None:
    (folder / "0.png").write_bytes(encoded(picture(64, 64))[:3000])
    options: dict[str, Any] = {"eval_fraction": 0.25, "save_steps": 0, "max_length": 400}
    data = write(folder / "pairs.jsonl", many())
    run = run_system(
        "sft",
        learner("sft"),
        folder / "run",
        model=models["llava"],
        data=str(data),
        on_bad_record="skip",
        **options,
    )
    assert "2 records with pictures that cannot be decoded were skipped" in notes(run)
    assert len(list(read_rows(run.path / "rejects.jsonl"))) == 2


def test_kto_borrows_from_the_same_question_on_another_picture(models: dict[str, str], folder: Path) -> None:
    rows = [
        {
            "image": f"{number}.png",
            "prompt": "what is it",
            "completion": f"number {number}",
            "label": number == 0,
        }
        for number in (0, 1)
    ]
    records = read_records(write(folder / "a.jsonl", rows), text_alone=False).records
    found = mismatch_responses(
        encode_records(records, load_tokenizer(models["llava"]), pictures=True).records
    )
    assert found[0].prompt_ids == found[1].prompt_ids
    assert found[0].response_ids[::-1] == found[1].response_ids


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_accumulation_over_records_with_and_without_pictures_gives_the_same_update(
    models: dict[str, str], folder: Path, name: str
) -> None:
    data = write(folder / "pairs.jsonl", many())
    options: dict[str, Any] = {"eval_fraction": 0.0, "save_steps": 0, "max_length": 400, "max_steps": 1}
    options |= {"model": models[name], "data": str(data), "adapter_dropout": 0.0}
    whole = run_system("dpo", learner("dpo"), folder / "whole", batch_size=8, **options)
    parts = run_system(
        "dpo", learner("dpo"), folder / "parts", batch_size=1, gradient_accumulation=8, **options
    )
    one, other = (load_file(run.model / "adapter_model.safetensors") for run in (whole, parts))
    for key, value in one.items():
        assert torch.allclose(value, other[key], atol=1e-4), key
    histories = [json.loads((run.artefacts / "train.json").read_text())["history"] for run in (whole, parts)]
    losses = [next(row["loss"] for row in rows if "loss" in row) for rows in histories]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
