"""A model's identity follows what decides its answers, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from coalign.models.files import identity
from coalign.models.files.identity import model_identity
from coalign.models.files.loading import load_for_training, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def of(folder: Path, **changes) -> str:
    return model_identity(ModelOptions(model=str(folder), **changes))


def one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)].view(-1)[3] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "\n")


def generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')


@pytest.mark.parametrize("change", [one_weight, template, generation])
@pytest.mark.parametrize("block", [identity._BLOCK, 0])
def test_what_decides_the_answers_counts(folder, change, monkeypatch, block):
    monkeypatch.setattr(identity, "_BLOCK", block)
    before = of(folder)
    assert of(folder) == before
    (folder / "README.md").write_text("read me")
    (folder / "trainer_state.json").write_text("{}")
    assert of(folder) == before
    change(folder)
    assert of(folder) != before


def test_where_it_lies_does_not_count_and_how_it_is_loaded_does(folder, tmp_path):
    assert of(Path(shutil.copytree(folder, tmp_path / "copy"))) == of(folder)
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    changes = [
        {},
        {"dtype": "bfloat16"},
        {"chat_template": "chatml"},
        {"chat_template": str(tmp_path / "t.jinja")},
    ]
    found = [of(folder, **one) for one in changes]
    (tmp_path / "t.jinja").write_text("{{ messages[0].role }}")
    found.append(of(folder, **changes[-1]))
    assert len(set(found)) == 5


def test_an_adapter_counts_with_its_base(folder, tmp_path):
    options = ModelOptions(model=str(folder), device="cpu")
    adapter = save_model(load_for_training(options), load_tokenizer(options), tmp_path / "adapter")
    before = of(adapter)
    one_weight(folder)
    between = of(adapter)
    path = adapter / "adapter_model.safetensors"
    save_file({name: one + 1 for name, one in load_file(path).items()}, path)
    assert len({before, between, of(adapter)}) == 3


def test_large_files_are_read_once(folder, monkeypatch):
    monkeypatch.setattr(identity, "_BLOCK", 0)
    before = of(folder)
    monkeypatch.setattr(identity.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert of(folder) == before
