"""A whole model is saved in its own number format, with the chat template that it was trained with; other libraries
read both.
"""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from coalign.core.errors import ConfigError
from coalign.models.files.loading import load_for_training, load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from coalign.training.learning import learner
from tests.data.tokenizers import CHATML
from tests.models.tiny import make_model
from tests.preference.tiny_runs import pairs, run_system, save_tiny_model, write

TURNS = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>' + m['content'] + '<|eot|>' }}{% endfor %}"
)


def formats(folder) -> set[str]:
    """The number formats in a folder's weights, as another reader sees them."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    return found


@pytest.fixture(params=["tied", "untied", "gpt2"])
def half(request, tmp_path):
    """A model folder in bfloat16."""
    name = {"tied": "llama_tied", "untied": "llama", "gpt2": "gpt2"}[request.param]
    tokenizer = load_tokenizer(str(save_tiny_model(tmp_path / "other")))
    model = make_model(name, vocab_size=len(tokenizer)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")  # type: ignore[operator]
    tokenizer.save_pretrained(tmp_path / "half")
    return tmp_path / "half"


def stepped(options: ModelOptions):
    """A model whose weights moved by less than bfloat16 tells apart, and by more."""
    model = load_for_training(options)
    torch.manual_seed(3)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(torch.randn_like(one) * 1e-3)
    return model


@pytest.mark.parametrize(
    ("asked", "written", "dtype"),
    [
        ("auto", {"BF16"}, torch.bfloat16),
        ("bfloat16", {"BF16"}, torch.bfloat16),
        ("float16", {"F16"}, torch.float16),
        ("float32", {"F32"}, torch.float32),
    ],
)
def test_a_tuned_model_is_saved_in_its_own_format_unless_told_otherwise(
    half, tmp_path, asked, written, dtype
):
    options = ModelOptions(model=str(half), tuning="full", save_dtype=asked, device="cpu")
    model = stepped(options)
    assert model.dtype == torch.float32
    before = {name: one.clone() for name, one in model.state_dict().items()}
    saved = save_model(model, load_tokenizer(options), tmp_path / "out")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert formats(saved) == written
    assert load_file(saved / "model.safetensors").keys() == load_file(half / "model.safetensors").keys()
    again = AutoModelForCausalLM.from_pretrained(saved, dtype="auto")
    assert again.dtype == AutoConfig.from_pretrained(saved).dtype == dtype
    for name, one in again.state_dict().items():
        assert torch.equal(one, before[name].to(dtype)), name


def test_a_folder_that_does_not_say_its_format_is_asked_for_its_weights(half, tmp_path):
    config = json.loads((half / "config.json").read_text())
    del config["dtype"]
    (half / "config.json").write_text(json.dumps(config))
    options = ModelOptions(model=str(half), tuning="full", device="cpu")
    assert formats(save_model(stepped(options), load_tokenizer(options), tmp_path / "out")) == {"BF16"}


def test_a_merged_model_has_the_format_of_its_base_and_an_adapter_float32(half, tmp_path):
    options = ModelOptions(model=str(half), tuning="lora", device="cpu")
    tokenizer = load_tokenizer(options)
    adapter = save_model(stepped(options), tokenizer, tmp_path / "adapter")
    assert formats(adapter) == {"F32"}
    merged = save_model(stepped(options.at(adapter)), tokenizer, tmp_path / "merged")
    assert formats(merged) == {"BF16"}


def test_a_format_for_an_adapter_is_refused(half):
    with pytest.raises(ConfigError, match="save_dtype has no effect on an adapter"):
        load_for_training(ModelOptions(model=str(half), save_dtype="float32", device="cpu"))


def test_weights_that_a_format_cannot_hold_are_saved_as_they_are(half, tmp_path, caplog):
    options = ModelOptions(model=str(half), tuning="full", save_dtype="float16", device="cpu")
    model = stepped(options)
    with torch.no_grad():
        next(model.parameters())[0, 0] = 1e30
    with caplog.at_level(logging.WARNING):
        saved = save_model(model, load_tokenizer(options), tmp_path / "out")
    assert formats(saved) == {"F32"}
    assert "beyond torch.float16" in caplog.text


def test_a_run_says_the_format_and_saves_in_it(half, tmp_path):
    system, data = learner("dpo"), str(write(tmp_path / "pairs.jsonl", pairs()))
    asked = {"data": data, "model": str(half), "tuning": "full", "max_steps": 1, "eval_fraction": 0.0}
    run = run_system("dpo", system, tmp_path / "run", **asked)
    assert run.events("plan")[0]["saved"] == "bfloat16"
    assert formats(run.model) == {"BF16"}
    assert {"F32"} == formats(next((run.checkpoints / "train").glob("checkpoint-*")))


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_run_saves_the_chat_template_that_it_trained_with(tmp_path, tuning):
    base = save_tiny_model(tmp_path / "base", template=None)
    template = tmp_path / "turns.jinja"
    template.write_text(TURNS)
    system, data = learner("sft"), str(write(tmp_path / "pairs.jsonl", pairs()))
    asked = {"data": data, "tuning": tuning, "max_steps": 1, "eval_fraction": 0.0}
    run = run_system("sft", system, tmp_path / "run", model=str(base), chat_template=str(template), **asked)
    assert AutoTokenizer.from_pretrained(run.model).chat_template == TURNS
    next_run = run_system("sft", system, tmp_path / "next", model=str(run.path), **asked)
    assert AutoTokenizer.from_pretrained(next_run.model).chat_template == TURNS
    other = run_system(
        "sft", system, tmp_path / "other", model=str(run.path), chat_template="chatml", **asked
    )
    assert "im_start" in AutoTokenizer.from_pretrained(other.model).chat_template
    if tuning == "full":
        ends = GenerationConfig.from_pretrained(run.model).eos_token_id
        assert load_tokenizer(str(base)).convert_tokens_to_ids("<|eot|>") in ends


def test_one_of_several_templates_of_a_tokenizer(tmp_path):
    folder = save_tiny_model(tmp_path / "base", template={"tool_use": CHATML, "rag": TURNS})  # type: ignore[arg-type]
    tokenizer = load_tokenizer(ModelOptions(model=str(folder), chat_template="rag"))
    model = load_model(str(folder), training=False)
    saved = save_model(model, tokenizer, tmp_path / "out")
    assert (saved / "chat_template.jinja").read_text() == TURNS
    assert load_tokenizer(str(saved)).chat_template == TURNS


def test_weights_in_shards_say_their_format(tmp_path):
    folder = save_tiny_model(tmp_path / "base")
    weights = {name: one.half() for name, one in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names, sizes = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        sizes |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": sizes}))
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    options = ModelOptions(model=str(folder), tuning="full", device="cpu")
    assert formats(save_model(stepped(options), load_tokenizer(options), tmp_path / "out")) == {"F16"}
