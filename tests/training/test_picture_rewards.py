"""Reward models over image-text-to-text models: one number in training, in use and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image

from coalign.core.errors import DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.convert import convert
from coalign.data.readers import read_records
from coalign.models.reward_model import load_reward_model
from coalign.training.reward_models import fit
from tests.data.media.making import encoded, picture
from tests.models.tiny_vision import save_tiny_idefics3, save_tiny_llava
from tests.preference.tiny_runs import assert_complete, notes, run_system, write

MODELS: dict[str, Any] = {"llava": save_tiny_llava, "idefics3": save_tiny_idefics3}


def rows(n: int = 12) -> list[dict[str, Any]]:
    """Every fourth without a picture, every fourth with two."""
    found = []
    for number in range(n):
        images = [[f"{number % 4}.png"], [], ["1.png", "2.png"], ["3.png"]][number % 4]
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": f"is it {number}"}]
        found.append(
            {
                "images": images,
                "prompt": [{"role": "user", "content": content}],
                "chosen": [{"role": "assistant", "content": "the sky is blue"}],
                "rejected": [{"role": "assistant", "content": "no"}],
            }
        )
    return found


def start(folder: Path, name: str, **options: Any) -> Run:
    folder.mkdir(exist_ok=True)
    for number, size in enumerate(((30, 20), (40, 70), (64, 10), (33, 33))):
        (folder / f"{number}.png").write_bytes(encoded(picture(*size, number)))
    model = MODELS[name](folder / "model") if not (folder / "model").exists() else folder / "model"
    given = {"eval_fraction": 0.25, "save_steps": 0, "max_length": 400, **options}
    data = write(folder / "rows.jsonl", rows())
    return run_system("reward-model", fit, folder / "run", model=str(model), data=str(data), **given)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "how", [{}, {"save": "adapter"}, {"tuning": "full"}], ids=["whole", "adapter", "full"]
)
def test_rewards_read_back_are_those_of_the_held_out_records(
    tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    run = start(tmp_path, name, **how)
    assert_complete(run)
    kept = {row["id"]: row["rewards"] for row in read_rows(run.artefacts / "held_out.jsonl")}
    records = convert(
        read_records(tmp_path / "rows.jsonl", text_alone=False).records, "preference", "ranking"
    )
    model = load_reward_model(str(run.path), device="cpu")
    found = {one.id: rewards for one, rewards in zip(records, model.score_records(records), strict=True)}
    assert kept
    for key, rewards in kept.items():
        assert found[key] == pytest.approx(rewards, abs=1e-5)
    alone = [model.score_records([one])[0] for one in records]
    assert [value for one in alone for value in one] == pytest.approx(
        [value for one in found.values() for value in one], abs=1e-4
    )


def test_the_number_is_that_of_trunk_and_head(tmp_path: Path) -> None:
    run = start(tmp_path, "llava")
    (record, *_) = convert(
        read_records(tmp_path / "rows.jsonl", text_alone=False).records, "preference", "ranking"
    )
    model = load_reward_model(str(run.path), device="cpu")
    processor = hf.AutoProcessor.from_pretrained(run.model)
    text = processor.apply_chat_template(rows()[0]["prompt"], add_generation_prompt=True)
    shown = Image.open(tmp_path / "0.png")
    for response, reward in zip(record.responses, model.score_records([record])[0], strict=True):  # type: ignore[attr-defined]
        how: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": False}
        made = processor(text=[f"{text}{response}<|im_end|>"], images=[[shown]], **how)
        with torch.no_grad():
            plain = model.model(**made).logits  # type: ignore[operator]
            states = model.model.model(**made).last_hidden_state  # type: ignore[operator, union-attr]
            own = model.model.score(states[0, -1])  # type: ignore[operator, union-attr]
        assert plain.item() == pytest.approx(reward, abs=1e-4)
        assert own.item() == pytest.approx(reward, abs=1e-4)


def test_the_picture_counts_and_equal_questions_are_told_apart(tmp_path: Path) -> None:
    run = start(tmp_path, "llava")
    asked = [
        {"image": f"{number}.png", "prompt": "what is it", "responses": ["the sky", "no"], "scores": [1, 0]}
        for number in (0, 3)
    ]
    records = read_records(write(tmp_path / "asked.jsonl", asked), text_alone=False).records
    first, second = load_reward_model(str(run.path), device="cpu").score_records(records)
    assert first != pytest.approx(second, abs=1e-4)


def test_records_whose_picture_would_be_cut_are_dropped_and_counted(tmp_path: Path) -> None:
    run = start(tmp_path, "llava", max_length=26)
    assert "training records with pictures have more than 26 tokens and were dropped" in notes(run)
    assert sum(event["records"] for event in run.events("encoded")) < 12
    with pytest.raises(DataError, match="more than 26 tokens with its pictures"):
        load_reward_model(str(run.path), device="cpu").score_records(
            convert(read_records(tmp_path / "rows.jsonl", text_alone=False).records, "preference", "ranking")
        )
    assert json.loads((run.model / "reward_model.json").read_text())["max_length"] == 26


def test_what_is_no_reward_model_and_no_language_model_is_said(tmp_path: Path) -> None:
    from coalign.core.errors import ModelError
    from coalign.models.files.loading import load_model

    run = start(tmp_path, "llava")
    with pytest.raises(ModelError, match="weights are missing"):
        load_model(str(run.model), training=False)
    with pytest.raises(ModelError):
        load_reward_model(str(tmp_path / "model"), device="cpu")
