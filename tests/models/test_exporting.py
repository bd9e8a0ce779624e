"""Exports: adapters folded in or apart, formats, what is copied as it is, and the upload against a stand-in of the hub."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from coalign.cli.main import coalign
from coalign.core.errors import ConfigError, ModelError
from coalign.models.adapters import add_lora
from coalign.models.files.exporting import export, push
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions

IDS = torch.arange(3, 15).reshape(2, 6)


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    """(folder of an adapter that is not zero, what the model says with it)"""
    folder = tmp_path_factory.mktemp("export") / "adapter"
    adapted = add_lora(load_model(tiny_model, training=True), ModelOptions()).eval()
    torch.manual_seed(0)
    for name, one in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(one, std=0.1)
    save_model(adapted, load_tokenizer(tiny_model), folder)
    (folder / "README.md").write_text("# The card")
    with torch.no_grad():
        return folder, adapted(IDS).logits


def test_an_adapter_becomes_a_whole_model_that_plain_transformers_loads(adapter, tmp_path):
    folder, expected = adapter
    made = export(ModelOptions(model=str(folder), save_dtype="float32"), tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(made).chat_template
    assert (made / "README.md").read_text() == "# The card"
    half = export(ModelOptions(model=str(folder), save_dtype="bfloat16"), tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16


def test_an_adapter_apart_and_a_whole_model_are_copied(adapter, tiny_model, tmp_path):
    folder, _ = adapter
    apart = export(ModelOptions(model=str(folder)), tmp_path / "apart", adapter=True)
    assert {one.name for one in apart.iterdir()} == {one.name for one in folder.iterdir()}
    whole = export(ModelOptions(model=tiny_model), tmp_path / "whole")
    weights = "model.safetensors"
    assert (whole / weights).read_bytes() == (tmp_path.__class__(tiny_model) / weights).read_bytes()
    with pytest.raises(ConfigError, match="is a whole model"):
        export(ModelOptions(model=tiny_model), tmp_path / "none", adapter=True)


def test_the_command_pushes_with_the_folder_and_refuses_bases_that_nobody_has(adapter, tmp_path, monkeypatch):
    folder, _ = adapter
    calls = []

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo, private, exist_ok):
            calls.append((repo, private, exist_ok))
            return SimpleNamespace(repo_id=repo, __str__=lambda self: f"hub/{repo}")

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append((repo_id, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    out = str(tmp_path / "pushed")
    result = CliRunner().invoke(
        coalign,
        ["export", str(folder), "--out", out, "--push", "me/mine", "--private"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert calls == [("me/mine", True, True), ("me/mine", out)]
    alone = ["export", str(folder), "--adapter", "--out", str(tmp_path / "alone"), "--push", "me/mine"]
    result = CliRunner().invoke(coalign, alone)
    assert isinstance(result.exception, ConfigError)
    assert "a folder that nobody else has" in str(result.exception)
    assert len(calls) == 2
    assert not (tmp_path / "alone").exists()


def test_a_missing_token_is_one_line(tmp_path, monkeypatch):
    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, *args, **more):
            raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(ModelError, match="no token for the hub"):
        push(tmp_path, "me/mine", private=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--private"], "--private has no effect"),
        (["--adapter", "--dtype", "float16"], "--dtype has no effect on an adapter"),
    ],
)
def test_flags_that_do_not_fit_are_refused(adapter, tmp_path, words, message):
    result = CliRunner().invoke(coalign, ["export", str(adapter[0]), "--out", str(tmp_path / "x"), *words])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
