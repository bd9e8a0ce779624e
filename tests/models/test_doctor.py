"""`coalign doctor` and `coalign chat` through their commands."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from coalign.cli.doctor import doctor
from coalign.cli.serving.chat import chat
from coalign.core.errors import ConfigError
from coalign.core.runs import Run
from coalign.models.adapters import add_adapter
from coalign.models.files import defaults, loading
from coalign.models.files.loading import load_model
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from tests.models.test_loading import llama

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def folder(tmp_path):
    """A tiny chat model that speaks words."""
    words = ["<end>", "system", "user", "assistant", "hello", "you", "red", "green", "blue", "<unk>"]
    raw = Tokenizer(models.WordLevel({one: number for number, one in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = llama(vocab_size=10, num_hidden_layers=1, max_position_embeddings=32, eos_token_id=0)
    return save_model(model, tokenizer, tmp_path / "model")


@pytest.fixture
def adapter(folder, tmp_path):
    model = add_adapter(load_model(str(folder), training=True), ModelOptions())
    for one in model.parameters():
        if one.requires_grad:
            torch.nn.init.normal_(one)
    return save_model(model, loading.load_tokenizer(str(folder)), tmp_path / "adapter")


def say(*lines: str, args: list[str]):
    return CliRunner().invoke(chat, args, input="\n".join(lines) + "\n", catch_exceptions=False)


GREEDY = ["--temperature", "0", "--max-new-tokens", "4"]


def test_a_scripted_chat_answers_every_line(folder):
    result = say("hello", "", "you", "/exit", "never", args=[str(folder), *GREEDY])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert f"{folder} on cpu" in result.stderr


def test_reset_forgets(folder):
    result = say("hello", "/reset", "hello", "hello", args=[str(folder), "--max-new-tokens", "4"])
    first, second, _ = result.stdout.splitlines()
    assert first == second
    assert "forgotten" in result.stderr
    assert "Unknown command /what" in say("/what", args=[str(folder)]).stderr


def test_a_long_chat_drops_its_oldest_turns_and_says_so(folder):
    result = say(*["hello you red"] * 6, args=[str(folder), *GREEDY])
    assert len(result.stdout.splitlines()) == 6
    assert "the oldest 1 turns were dropped" in result.stderr
    with pytest.raises(ConfigError, match="has room for 28"):
        say("red " * 40, args=[str(folder), *GREEDY])


def test_the_base_answers_beside_the_adapter(folder, adapter):
    plain = say("hello", args=[str(folder), *GREEDY]).stdout.splitlines()
    tuned = say("hello", args=[str(adapter), *GREEDY]).stdout.splitlines()
    assert plain != tuned
    both = say("hello", args=[str(adapter), "--compare", "base", *GREEDY]).stdout.splitlines()
    assert both == ["base:", *plain, f"{adapter}:", *tuned, ""]
    other = say("hello", args=[str(adapter), "--compare", str(folder), *GREEDY]).stdout.splitlines()
    assert other == [f"{folder}:", *plain, f"{adapter}:", *tuned, ""]


def test_a_run_is_compared_with_the_model_of_its_configuration(folder, tmp_path):
    run = Run.start(tmp_path / "run", "act", ModelOptions(model=str(folder)))
    save_model(load_model(str(folder), training=False), loading.load_tokenizer(str(folder)), run.model)
    lines = say("hello", args=[str(run.path), "--compare", "base", *GREEDY]).stdout.splitlines()
    assert lines[0] == "base:"
    assert lines[1] == lines[3]
    with pytest.raises(ConfigError, match="neither an adapter nor a run"):
        say("hello", args=[str(folder), "--compare", "base"])


def test_without_a_template_text_is_continued(folder):
    (folder / "chat_template.jinja").unlink()
    assert say("hello", args=[str(folder), *GREEDY]).exit_code == 0
    with pytest.raises(ConfigError, match="has no chat template"):
        say("hello", args=[str(folder), "--system", "you"])


def test_doctor_reports_and_advises(monkeypatch):
    monkeypatch.setattr(defaults, "wheel_file", lambda _: None)
    result = CliRunner().invoke(doctor, ["--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1  # no default model can be had
    assert found["hub"] == {"reachable": False, "reason": "no network"}
    assert found["versions"]["torch"]
    assert [one["advice"] for one in found["problems"] if one["needed"]] == [
        "pip install 'coalign[default-models]'"
    ]
    text = CliRunner().invoke(doctor).stdout
    for heading in ("Versions", "Machine", "Extras", "Caches", "Models", "Problems"):
        assert f"{heading}\n  " in text
    assert "hub: not reachable: no network" in text
    monkeypatch.setattr(defaults, "hub_problem", lambda *_: None)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0, "it is content when the hub answers"
    assert "hub: reachable" in result.stdout


def test_doctor_finds_a_damaged_copy(monkeypatch):
    copy = defaults.DEFAULTS["chat"].converted
    copy.mkdir(parents=True)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 1
    assert f"Remove {copy}" in result.stdout
