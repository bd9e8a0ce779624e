"""GGUF files: read back by Transformers to the same logits and tokens, by llama.cpp to the same greedy answers; adapters apart;
models and tokenizers that llama.cpp would compute otherwise.
"""

from __future__ import annotations

import json
import shutil
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from coalign.core.errors import ConfigError, ModelError
from coalign.models.adapters import add_adapter
from coalign.models.files.exporting import export_gguf
from coalign.models.files.llama_cpp.tokens import described
from coalign.models.files.llama_cpp.writing import write_adapter, write_model
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from tests.models.llama_cpp import CASES, LLAMA3, TEXT, make_tokenizer, save, wrapped

gguf = pytest.importorskip("gguf")

IDS = torch.randint(5, 260, (1, 40), generator=torch.Generator().manual_seed(0))
ERRORS = {"f32": 0.0, "f16": 0.01, "bf16": 0.06, "q8_0": 0.25}
"""Largest difference of a logit, of models whose logits have a spread of about one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model of a case, made once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = save(tmp_path_factory.mktemp("gguf") / f"tiny-{name}", *CASES[name])
        return made[name]

    return folder


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_the_same_model_and_tokenizer(model, tmp_path, name):
    folder = model(name)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    for outtype, error in ERRORS.items():
        file = write_model(ModelOptions(model=str(folder)), tmp_path / f"{outtype}.gguf", outtype)
        read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
        with torch.no_grad():
            found = (read(IDS).logits - expected).abs().max().item()
        assert found <= error, outtype
        assert found > 0 or outtype == "f32"
    before = AutoTokenizer.from_pretrained(folder)
    after = AutoTokenizer.from_pretrained(tmp_path, gguf_file="f32.gguf")
    chat = [{"role": "user", "content": TEXT}]
    assert after(TEXT).input_ids == before(TEXT).input_ids
    assert after.apply_chat_template(chat) == before.apply_chat_template(chat)
    assert (after.bos_token, after.eos_token) == (before.bos_token, before.eos_token)


def entries(file):
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in reader.tensors}
    return fields, tensors


def test_scaled_positions_are_said_as_llama_cpp_reads_them(tmp_path):
    folder = save(tmp_path / "m", "llama", "llama-bpe", {"rope_parameters": LLAMA3})
    fields, tensors = entries(write_model(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32"))
    plain = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    slowed = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb.inv_freq
    assert plain / tensors["rope_freqs.weight"] == pytest.approx(slowed.numpy(), rel=1e-6)
    assert tensors["rope_freqs.weight"][0] == 1  # the fastest pair stays as it is
    assert tensors["rope_freqs.weight"][-1] == pytest.approx(8)
    assert fields["tokenizer.ggml.pre"] == "llama-bpe"
    assert fields["tokenizer.ggml.add_bos_token"] is True
    scaled = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    folder = save(tmp_path / "n", "llama", "gpt-2", {"rope_parameters": scaled})
    fields, _ = entries(write_model(ModelOptions(model=str(folder)), tmp_path / "b.gguf", "f32"))
    assert fields["llama.rope.scaling.type"] == "linear"
    assert fields["llama.rope.scaling.factor"] == 4


def test_a_sliding_window_that_the_family_has_not_is_the_context(tmp_path, caplog):
    folder = save(tmp_path / "m", "mistral", "tekken", {"sliding_window": 64})
    fields, _ = entries(write_model(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32"))
    assert fields["llama.context_length"] == 64
    assert "a context of 64 tokens, the window" in caplog.text


def test_ids_without_a_token_are_filled_up_and_kinds_told_apart(model, tmp_path):
    fields, _ = entries(write_model(ModelOptions(model=str(model("llama2"))), tmp_path / "a.gguf", "q8_0"))
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    kind = dict(zip(tokens, kinds, strict=True))
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    expected = {"<unk>": 2, "<s>": 3, "<0x0A>": 6, "▁": 1, tokens[-1]: 5}
    assert {one: kind[one] for one in expected} == expected
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("gpt2", {}, "of the family gpt2 are not written"),
        ("gemma", {}, "of the family gemma are not written"),
        ("llama", {"hidden_act": "gelu"}, "the activation gelu"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
            "a sliding window",
        ),
        (
            "gemma2",
            {"head_dim": 8, "query_pre_attn_scalar": 16},
            "query_pre_attn_scalar 16 beside heads of 8",
        ),
        (
            "gemma2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "another order of sliding and full",
        ),
        ("gemma3", {"layer_types": ["full_attention"] * 2}, "each 6th full"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "positions scaled by yarn",
        ),
    ],
)
def test_models_that_llama_cpp_would_compute_otherwise_are_refused(tmp_path, architecture, settings, message):
    folder = save(tmp_path / "m", architecture, "gpt-2", settings)
    with pytest.raises(ModelError, match=message):
        write_model(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f16")
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("qwen2", {"normalizer": {"type": "Lowercase"}}, "no rule that splits text"),
        ("gpt-2", {"pre_tokenizer": {"type": "Whitespace"}}, "no rule that splits text"),
        (
            "gpt-2",
            {
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "use_regex": True,
                    "trim_offsets": True,
                }
            },
            "no rule that splits text",
        ),
        ("gemma", {"normalizer": {"type": "NFKC"}}, "would treat spaces otherwise"),
        (
            "gemma",
            {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
            "would treat spaces otherwise",
        ),
        ("gpt-2", {"model": {"ignore_merges": True}}, "no rule that splits text"),
        ("gpt-2", {"model": {"dropout": 0.1}}, "no BPE with dropout"),
    ],
)
def test_tokenizers_that_llama_cpp_would_split_otherwise_are_refused(kind, change, message):
    found = json.loads(make_tokenizer(kind).backend_tokenizer.to_str())
    model = {**found["model"], **change.pop("model", {})}
    tokenizer = wrapped({**found, **change, "model": model})
    with pytest.raises(ModelError, match=message):
        list(described(tokenizer, 2000, "it"))


def test_a_vocabulary_beyond_the_embedding_is_refused():
    with pytest.raises(ModelError, match=r"tokens, but an embedding of 20 rows"):
        list(described(make_tokenizer("qwen2"), 20, "it"))


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    """Folder of an adapter (rank and alpha differ by module) on a model, by the kind of adapter and the case."""

    def make(case="llama", **settings):
        folder = tmp_path_factory.mktemp("adapter") / "mine"
        base = load_model(str(model(case)), training=True)
        adapted = add_adapter(base, ModelOptions(adapter_rank=4, adapter_alpha=8.0, **settings)).eval()
        torch.manual_seed(0)
        for name, one in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(one, std=0.2)
        save_model(adapted, load_tokenizer(str(model(case))), folder)
        return folder

    return make


@pytest.mark.parametrize(("case", "kind"), [("llama", "lora"), ("llama", "rslora"), ("qwen2", "lora")])
def test_an_adapter_apart_is_the_difference_of_the_folded_model_from_its_base(
    adapter, model, tmp_path, case, kind
):
    folder = adapter(case, adapter_kind=kind)
    fields, parts = entries(write_adapter(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32"))
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    _, base = entries(write_model(ModelOptions(model=str(model(case))), tmp_path / "b.gguf", "f32"))
    _, whole = entries(write_model(ModelOptions(model=str(folder)), tmp_path / "w.gguf", "f32"))
    changed = {name for name in base if not np.array_equal(base[name], whole[name])}
    assert {name.rpartition(".")[0] for name in parts} == changed
    for name in changed:
        a, b = parts[f"{name}.lora_a"], parts[f"{name}.lora_b"]
        delta = fields["adapter.lora.alpha"] / b.shape[-1] * b @ a  # as llama.cpp does it
        np.testing.assert_allclose(delta, whole[name] - base[name], atol=1e-5)


def test_alphas_of_single_modules_are_in_the_matrices(adapter, tmp_path):
    folder = shutil.copytree(adapter(), tmp_path / "own")
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["alpha_pattern"] = {"layers.1.mlp.up_proj": 24}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    _, own = entries(write_adapter(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32"))
    _, same = entries(write_adapter(ModelOptions(model=str(adapter())), tmp_path / "b.gguf", "f32"))
    ratios = {name: (own[name] / same[name]).mean() for name in own}
    assert {name for name, ratio in ratios.items() if ratio != 1} == {"blk.1.ffn_up.weight.lora_b"}
    assert ratios["blk.1.ffn_up.weight.lora_b"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "no adapter with use_dora"),
        ({"modules_to_save": ["lm_head"]}, "no adapter with modules_to_save"),
        ({"bias": "all"}, "no adapter with bias"),
        ({"peft_type": "IA3"}, "of LoRA alone"),
    ],
)
def test_adapters_that_llama_cpp_cannot_apply_are_refused(adapter, tmp_path, change, message):
    folder = shutil.copytree(adapter(), tmp_path / "own")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(ModelError, match=message):
        write_adapter(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32")


def test_an_adapter_without_its_weights_is_one_line(adapter, tmp_path):
    folder = shutil.copytree(adapter(), tmp_path / "own")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors cannot be read"):
        write_adapter(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32")


def test_a_head_that_an_adapter_parted_from_the_embedding_is_written(model, tmp_path):
    adapted = add_adapter(
        load_model(str(model("smollm")), training=True), ModelOptions(adapter_targets=["lm_head", "q_proj"])
    )
    for name, one in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(one, std=0.2)
    folder = save_model(adapted, load_tokenizer(str(model("smollm"))), tmp_path / "adapter")
    _, tensors = entries(write_model(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32"))
    with torch.no_grad():
        expected = adapted.eval()(IDS).logits
        read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32)
        assert "output.weight" in tensors
        torch.testing.assert_close(read(IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_whole_model_is_no_adapter_and_a_weight_beyond_float16_is_named(model, tmp_path):
    with pytest.raises(ConfigError, match="is a whole model"):
        write_adapter(ModelOptions(model=str(model("llama"))), tmp_path / "a.gguf", "f32")
    large = AutoModelForCausalLM.from_pretrained(model("llama"))
    with torch.no_grad():
        large.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    folder = shutil.copytree(model("llama"), tmp_path / "large")
    large.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight: a weight is beyond float16"):
        write_model(ModelOptions(model=str(folder)), tmp_path / "b.gguf", "f16")
    assert not (tmp_path / "b.gguf").exists()


def test_a_folder_holds_the_file_and_the_card_says_how_it_is_run(adapter, tmp_path):
    folder = shutil.copytree(adapter(), tmp_path / "own")
    (folder / "README.md").write_text(
        "---\nlibrary_name: peft\nbase_model: a/b\nbase_model_relation: adapter\ntags:\n- lora\n---\n\n# Mine\n\n## How to load\n\nPEFT\n"
    )
    made = export_gguf(ModelOptions(model=str(folder)), tmp_path / "out", "q8_0")
    assert {one.name for one in made.iterdir()} == {"own-q8_0.gguf", "README.md"}
    card = (made / "README.md").read_text()
    assert "llama-cli -m own-q8_0.gguf" in card
    assert "library_name: gguf" in card
    assert "base_model_relation: quantized" in card
    assert "PEFT" not in card
    apart = export_gguf(ModelOptions(model=str(folder)), tmp_path / "apart", "f16", adapter=True)
    assert "--lora own-f16.gguf" in (apart / "README.md").read_text()


@pytest.mark.parametrize("name", [*CASES, "llama with an adapter"])
def test_llama_cpp_gives_the_same_greedy_answers_and_tokens(model, adapter, tmp_path, name):
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp as a wheel; seen with 2026.10.11549")
    apart = adapter() if name not in CASES else None
    folder = model(name if name in CASES else "llama")
    params = xllamacpp.CommonParams()
    params.model.path = str(write_model(ModelOptions(model=str(folder)), tmp_path / "a.gguf", "f32"))
    if apart is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path = str(write_adapter(ModelOptions(model=str(apart)), tmp_path / "l.gguf", "f32"))
        lora.scale = 1.0
        params.lora_adapters = [lora]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)

    def ask(path, **body):
        headers = {"Content-Type": "application/json"}
        request = Request(server.listening_address + path, json.dumps(body).encode(), headers)
        return json.loads(urlopen(request).read())["tokens"]

    expected = load_model(str(apart or folder), training=False).generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, IDS.shape[1] :]
    said = ask("/completion", prompt=IDS[0].tolist(), n_predict=12, temperature=0.0, return_tokens=True)
    assert said == expected.tolist()[: len(said)]
    assert len(said) > 3
    split = ask("/tokenize", content=TEXT, add_special=True, parse_special=True)
    assert split == AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
