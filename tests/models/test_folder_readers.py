"""Model folders, adapters and logs that we write, read by other libraries and from the bare files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from coalign.core.runs import Run
from coalign.data.encoding import encode_prompt, encode_response
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.generation.endings import stop_token_ids
from coalign.models.modules import unwrap
from coalign.training.learning import learner
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model
from tests.preference.tiny_runs import pairs, run_system, write

CHAT = [
    {"role": "system", "content": "Be kind. Schön: 你好"},
    {"role": "user", "content": "Is 12.5 > 3?\n\nSay so."},
    {"role": "assistant", "content": "Yes."},
]
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of every way in which a model is saved."""
    folder = tmp_path_factory.mktemp("runs")
    data = str(write(folder / "pairs.jsonl", pairs()))
    tokenizer = byte_tokenizer(CHATML)
    made: dict[str, Run] = {}
    for base in ("llama", "llama_tied", "gpt2"):
        path = folder / base
        model: Any = make_model(base, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
        model.generation_config.update(temperature=0.6, top_p=0.9, do_sample=True)
        model.to(torch.bfloat16 if base == "gpt2" else torch.float32).save_pretrained(path)
        tokenizer.save_pretrained(path)
        for tuning in ("full", "lora"):
            made[f"{base} {tuning}"] = run_system(
                "dpo", learner("dpo"), folder / f"{base}-{tuning}",
                data=data, model=str(path), tuning=tuning, max_steps=2, eval_fraction=0.0,
            )  # fmt: skip
    made["llama merged"] = run_system(
        "dpo", learner("dpo"), folder / "merged",
        data=data, model=str(made["llama lora"].path), max_steps=2, eval_fraction=0.0,
    )  # fmt: skip
    return made


WAYS = [*(f"{base} {tuning}" for base in ("llama", "llama_tied", "gpt2") for tuning in ("full", "lora"))]
WAYS.append("llama merged")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().float()(IDS).logits


def bare(folder: Path) -> torch.Tensor:
    """Logits by the files alone: configuration and tensors; an adapter added to its base by hand."""
    settings = folder / "adapter_config.json"
    about = json.loads(settings.read_text()) if settings.exists() else None
    base = Path(about["base_model_name_or_path"]) if about else folder
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base)).float()
    weights = {name: one.float() for name, one in load_file(base / "model.safetensors").items()}
    found = model.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys
    assert {*found.missing_keys} <= {"lm_head.weight"}
    model.tie_weights()
    if about:
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {one.dtype for one in tensors.values()} == {torch.float32}
        modules = dict(model.named_modules())
        for name in [one for one in tensors if ".lora_A." in one]:
            down, up = tensors[name], tensors[name.replace(".lora_A.", ".lora_B.")]
            change = up @ down * about["lora_alpha"] / about["r"]
            weight: Any = modules[name.removeprefix("base_model.model.").partition(".lora_A")[0]].weight
            weight.data += change.T if about["fan_in_fan_out"] else change
    return logits(model)


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_the_same_in_transformers_peft_and_bare_files(runs: dict[str, Run], way: str) -> None:
    folder = runs[way].model
    ours = logits(load_model(str(folder), training=False))
    kind = AutoPeftModelForCausalLM if (folder / "adapter_config.json").exists() else AutoModelForCausalLM
    theirs = logits(kind.from_pretrained(folder))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(ours, bare(folder), atol=1e-4)
    base = way.partition(" ")[0]
    start = logits(AutoModelForCausalLM.from_pretrained(folder.parents[1] / base))
    assert not torch.allclose(ours, start, atol=1e-3), "it was trained"


@pytest.mark.parametrize("way", WAYS)
def test_the_tokenizer_is_the_same_in_transformers_and_tokenizers(runs: dict[str, Run], way: str) -> None:
    folder = runs[way].model
    ours, theirs = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("Schön: 你好\n\n 12.5<|im_end|>", "<|im_start|>user\n", ""):
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == plain.encode(text, add_special_tokens=False).ids
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("way", WAYS)
def test_the_chat_template_writes_what_was_trained_on(runs: dict[str, Run], way: str) -> None:
    folder = runs[way].model
    tokenizer = load_tokenizer(str(folder))
    trained = encode_prompt(tokenizer, CHAT[:2]) + encode_response(tokenizer, CHAT[:2], "Yes.")  # type: ignore[arg-type]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tokenize=False)
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    special = {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token}
    assert jinja2.Environment().from_string(source).render(messages=CHAT, **special) == text
    assert text.startswith(tokenizer.decode(trained))
    assert text.removeprefix(tokenizer.decode(trained)).strip() == ""


@pytest.mark.parametrize("way", [one for one in WAYS if "lora" not in one])
def test_generation_is_configured_as_before_and_ends(runs: dict[str, Run], way: str) -> None:
    folder = runs[way].model
    config = GenerationConfig.from_pretrained(folder)
    config.validate(strict=True)
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.6, 0.9)
    written = json.loads((folder / "generation_config.json").read_text())
    assert written["temperature"] == 0.6
    tokenizer = load_tokenizer(str(folder))
    ends = stop_token_ids(unwrap(load_model(str(folder), training=False)), tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends
    assert config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("way", ["llama full", "gpt2 lora"])
def test_logs_are_read_by_json_and_pandas(runs: dict[str, Run], way: str) -> None:
    pandas = pytest.importorskip("pandas")
    path = runs[way].path / "events.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    table = pandas.read_json(path, lines=True, convert_dates=False)
    assert list(table["event"]) == [row["event"] for row in rows]
    assert {"started", "plan", "data"} <= {*table["event"]}
