"""Exports: adapters folded in or apart, formats, what is copied as it is, and the upload against a stand-in of the hub."""

from __future__ import annotations

import shutil

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from coalign.cli.main import coalign
from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.models.adapters import add_adapter
from coalign.models.files.exporting import export, push
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from tests.models.hub_server import running

IDS = torch.arange(3, 15).reshape(2, 6)


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    """(folder of an adapter that is not zero, what the model says with it)"""
    folder = tmp_path_factory.mktemp("export") / "adapter"
    adapted = add_adapter(load_model(tiny_model, training=True), ModelOptions()).eval()
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


@pytest.fixture
def hub(monkeypatch):
    """A stand-in of the hub, and a token that it knows."""
    from huggingface_hub import constants

    with running() as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", one.token)
        yield one


def command(*words):
    return CliRunner().invoke(coalign, ["export", *map(str, words)])


def test_the_command_pushes_a_folder_with_its_card(adapter, hub, tmp_path):
    out = tmp_path / "pushed"
    result = command(
        adapter[0],
        "--out",
        out,
        "--max-shard-size",
        "50KB",
        "--dtype",
        "float16",
        "--push",
        "me/mine",
        "--private",
    )
    assert result.exit_code == 0, result.exception
    assert hub.private == {"models/me/mine": True}
    assert hub.files["models/me/mine"] == {one.name: one.read_bytes() for one in out.iterdir()}
    shards = sorted(one.name for one in out.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards[0].startswith("model-00001-of-")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float16


def test_bases_that_nobody_has_are_not_pushed(adapter, hub, tmp_path):
    result = command(adapter[0], "--adapter", "--out", tmp_path / "alone", "--push", "me/mine")
    assert isinstance(result.exception, ConfigError)
    assert "a folder that nobody else has" in str(result.exception)
    assert not hub.files
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_other"), "401"),
        (lambda hub, patch: setattr(hub, "refuse", 403), "You have no place here"),
        (
            lambda hub, patch: patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"),
            "refused",
        ),
    ],
)
def test_an_upload_that_fails_keeps_what_was_written_and_says_how_to_go_on(
    adapter, hub, tmp_path, monkeypatch, change, message
):
    change(hub, monkeypatch)
    result = command(adapter[0], "--out", tmp_path / "kept", "--push", "me/mine")
    assert isinstance(result.exception, ModelError)
    assert message in str(result.exception)
    assert f"hf upload me/mine {tmp_path / 'kept'}" in str(result.exception)
    assert (tmp_path / "kept" / "model.safetensors").is_file()


def test_a_push_that_cannot_work_is_refused_before_anything_is_written(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = command(adapter[0], "--out", tmp_path / "none", "--push", "me/mine")
    assert "no token for the hub" in str(result.exception)
    result = command(adapter[0], "--out", tmp_path / "none", "--push", "me/mine/too")
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def trained(adapter, tmp_path):
    """A run folder with an adapter, its card, and what it says of its data."""
    run = Run.start(tmp_path / "runs" / "mine", "sft", ModelOptions())
    card = "---\nlibrary_name: peft\ntags:\n- coalign\n- lora\n---\n\n# Mine\n\nA LoRA adapter for x.\n\n## How to load\n\n```python\nPeftModel\n```\n\n## Cost\n\n1 s.\n"
    shutil.copytree(adapter[0], run.model)
    (run.model / "README.md").write_text(card)
    write_json(run.path / "data.json", {"/secret/place/train.jsonl": "ab12"})
    run.log("data", note="train.jsonl: demonstrations")
    run.log("overlap", records=8, matches=2, exact=1, near=True)
    run.log("plan", records=38, held_out=2)
    (run.artefacts / "made.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    run.publish_records(run.artefacts / "made.jsonl")
    run.set_status(state="done")
    return run


def test_a_folded_adapter_has_a_card_that_loads_it_whole_and_one_of_its_data(trained, tmp_path):
    made = export(ModelOptions(model=str(trained.path)), tmp_path / "whole")
    card = (made / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "- lora" not in card
    assert "PeftModel" not in card
    assert "AutoModelForCausalLM.from_pretrained(path)" in card
    assert card.endswith("## Cost\n\n1 s.\n")
    data = (made / "DATA.md").read_text()
    assert "| train.jsonl | ab12 |" in data
    assert "/secret/place" not in data
    assert "38 records to learn from, 2 held out." in data
    assert "2 of 8 evaluation records have a prompt that is learnt from, 1 in the same words." in data


def test_records_of_a_run_are_pushed_as_a_data_set_with_a_card(trained, hub, tmp_path):
    result = command(trained.path, "--records", "--out", tmp_path / "data", "--push", "me/data")
    assert result.exit_code == 0, result.exception
    files = hub.files["datasets/me/data"]
    assert set(files) == {"README.md", "made.jsonl"}
    card = files["README.md"].decode()
    assert "data_files: made.jsonl" in card
    assert "n<1K" in card
    assert "3 records, made by" in card
    result = command(tmp_path, "--records", "--out", tmp_path / "no")
    assert "is no run folder" in str(result.exception)


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
        (["--outtype", "f16"], "--outtype has no effect without --format gguf"),
        (["--format", "gguf", "--dtype", "float16"], "--dtype has no effect with --format gguf"),
        (["--format", "gguf", "--max-shard-size", "1GB"], "--max-shard-size has no effect with"),
        (["--adapter", "--max-shard-size", "1GB"], "--max-shard-size has no effect on an adapter"),
        (["--max-shard-size", "large"], "is no size"),
        (["--records", "--revision", "main"], "--revision has no effect with --records"),
        (["--adapter", "--dtype", "float16"], "--dtype has no effect on an adapter"),
    ],
)
def test_flags_that_do_not_fit_are_refused(adapter, tmp_path, words, message):
    result = CliRunner().invoke(coalign, ["export", str(adapter[0]), "--out", str(tmp_path / "x"), *words])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
