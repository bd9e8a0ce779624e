"""A vLLM server of a command: started, watched and ended, adapters under new names, whole weights read anew, and what goes wrong.

The server is a stand-in that answers by rule; `tests/models/test_vllm_real.py` asks vLLM.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from coalign.core.errors import CoalignError, ConfigError, DataError, MissingExtraError, ModelError
from coalign.core.options import build
from coalign.models.backends import vllm_server
from coalign.models.backends.open import open_generator
from coalign.models.backends.options import BackendOptions, PolicyBackendOptions
from coalign.models.backends.vllm_served import PolicyOnServer
from coalign.models.files.loading import load_for_training, load_tokenizer
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from tests.models.stand_in import COMMAND, STAND_IN, StandIn, is_running

GREEDY = Sampling(64, temperature=0.0)
PROMPTS = [[{"role": "user", "content": text}] for text in ("the sea", "the sky is blue", "green")]


@pytest.fixture
def adapters(tiny_model, tmp_path) -> list[Path]:
    """Two adapters of the tiny model."""
    return [save_adapter(tiny_model, tmp_path / f"adapter-{seed}", seed) for seed in (1, 2)]


def save_adapter(base: str, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(load_for_training(ModelOptions(model=base, tuning="full")), settings).save_pretrained(
        folder
    )
    return folder


def weights(results: Any) -> set[str]:
    """Which weights answered."""
    return {one.text.split("|")[0] for samples in results for one in samples}


def assert_ends(*processes: int, within: float = 10.0) -> None:
    limit = time.monotonic() + within
    while any(map(is_running, processes)):
        assert time.monotonic() < limit, "the server lives on"
        time.sleep(0.05)


def test_prompts_go_as_token_ids_and_samples_come_back_as_they_were_drawn(stand_in, tiny_model):
    generator = stand_in.open(tiny_model)
    results = generator.generate(PROMPTS, Sampling(64, temperature=0.7, top_p=0.9, top_k=5, n=3, seed=4))
    local = TransformersGenerator(
        load_for_training(ModelOptions(model=tiny_model, tuning="full")), generator.tokenizer
    )
    bodies = sorted(stand_in.asked(), key=lambda one: one["seed"])
    encoded = [local.encode(prompt) for prompt in PROMPTS]
    assert {tuple(one["prompt"]) for one in bodies} == set(map(tuple, encoded))
    for ids, samples in zip(encoded, results, strict=True):
        body = next(one for one in bodies if one["prompt"] == ids)
        assert {name: body[name] for name in ("n", "temperature", "top_p", "top_k", "max_tokens")} == {
            "n": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 64,
        }  # fmt: skip
        assert [one.text.split("|")[1:] for one in samples] == [
            [str(len(ids)), str(body["seed"]), str(k)] for k in range(3)
        ]
        assert [one.finish_reason for one in samples] == ["stop"] * 3
        assert all(one.token_ids[-1] == generator.tokenizer.eos_token_id for one in samples)
    assert len({one["seed"] for one in bodies}) == 3
    assert generator.last_stats.samples == 9
    assert generator.generate([], GREEDY) == []


def test_greedy_samples_are_drawn_once(stand_in, tiny_model):
    samples = stand_in.open(tiny_model).generate(PROMPTS[:1], Sampling(64, temperature=0.0, n=3))[0]
    assert len(samples) == 3
    assert len(set(map(str, samples))) == 1
    assert (stand_in.asked()[0]["n"], "seed" in stand_in.asked()[0]) == (1, False)


def test_stop_strings_lengths_and_log_probabilities(stand_in, tiny_model):
    generator = stand_in.open(tiny_model)
    asked = Sampling(64, temperature=0.0, stop=("|None",), logprobs=True, top_logprobs=2)
    one = generator.generate(PROMPTS[:1], asked)[0][0]
    assert one.text.count("|") == 1
    assert one.finish_reason == "stop"
    assert stand_in.asked()[0]["stop"] == ["|None"]
    assert one.logprobs == pytest.approx([-0.5 - 0.01 * place for place in range(one.length)])
    assert len(one.tokens) == one.length
    assert [len(place) for place in one.top_logprobs] == [2] * one.length
    assert one.top_logprobs[0][0][1] == pytest.approx(-0.5)
    assert one.top_logprobs[0][1][1] == -3.0
    short = generator.generate(PROMPTS[:1], Sampling(3, temperature=0.0))[0][0]
    assert (short.length, short.finish_reason, short.logprobs) == (3, "length", None)


def test_what_is_done_is_not_asked_again(stand_in, tiny_model):
    kept = {}
    stand_in.open(tiny_model).generate(PROMPTS, GREEDY, done=[1], on_batch=kept.update)
    assert sorted(kept) == [0, 2]
    assert len(stand_in.asked()) == 2


def test_two_adapters_and_one_prompt(stand_in, tiny_model, adapters):
    """One server holds the base; each adapter has a name of its own, so no prompt of the other is answered with."""
    base = weights(stand_in.open(tiny_model).generate(PROMPTS[:1], GREEDY))
    first, second = (stand_in.open(folder) for folder in adapters)
    found = [weights(one.generate(PROMPTS[:1], GREEDY)) for one in (first, second, first)]
    assert found[0] == found[2]
    assert len({*found[0], *found[1], *base}) == 3
    names = [one["lora_name"] for one in stand_in.asked("/v1/load_lora_adapter")]
    assert len(set(names)) == len(names) == 3
    assert [one["lora_name"] for one in stand_in.asked("/v1/unload_lora_adapter")] == names[:2]
    assert len(stand_in.starts()) == 2  # the first one takes no adapters
    assert not is_running(stand_in.starts()[0]["started"])
    second.generate(PROMPTS[:1], GREEDY)
    second.generate(PROMPTS, GREEDY)
    assert len(stand_in.asked("/v1/load_lora_adapter")) == 4


def test_an_adapter_that_made_way_for_one_that_was_refused_is_pushed_again(
    stand_in, tiny_model, adapters, monkeypatch
):
    first, second = (stand_in.open(folder) for folder in adapters)
    right = weights(first.generate(PROMPTS[:1], GREEDY))
    post = vllm_server.VllmServer.post

    def refusing(self: Any, path: str, body: Any) -> Any:
        if path == "v1/load_lora_adapter":
            raise ModelError("this adapter does not fit")
        return post(self, path, body)

    with monkeypatch.context() as patched:
        patched.setattr(vllm_server.VllmServer, "post", refusing)
        with pytest.raises(ModelError, match="does not fit"):
            second.generate(PROMPTS[:1], GREEDY)
    assert weights(first.generate(PROMPTS[:1], GREEDY)) == right


def test_one_name_for_two_adapters_would_be_seen(stand_in, tiny_model, adapters, monkeypatch):
    """The test above can fail: with one name for all the second adapter answers with what the first one left."""
    monkeypatch.setattr(vllm_server, "_numbers", iter([1] * 9))
    found = [weights(stand_in.open(folder).generate(PROMPTS[:1], GREEDY)) for folder in adapters]
    assert found[0] == found[1]


def policy(tiny_model: str, folder: Path, tuning: str, stand_in: StandIn) -> tuple[Any, Any]:
    """A model in training, and what opens it on the server."""
    torch.manual_seed(0)
    options = ModelOptions(model=tiny_model, dtype="float32", tuning=tuning, device="cpu")
    model, tokenizer = load_for_training(options), load_tokenizer(options)
    backend = PolicyBackendOptions(backend="vllm-server", vllm_command=COMMAND)
    return model, lambda: PolicyOnServer(model, tokenizer, options, backend, folder)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_policy_s_weights_are_those_of_now(stand_in, tiny_model, tmp_path, tuning):
    model, opened = policy(tiny_model, tmp_path / "weights", tuning, stand_in)
    found = []
    for _ in range(3):
        generator = opened()
        found.append(weights(generator.generate(PROMPTS[:2], GREEDY)))
        assert weights(generator.generate(PROMPTS[:2], GREEDY)) == found[-1]
        for one in model.parameters():
            if one.requires_grad:
                one.data += 0.01
    assert [len(one) for one in found] == [1, 1, 1]
    assert len(set().union(*found)) == 3
    assert len(stand_in.starts()) == 1
    pushed = "/v1/load_lora_adapter" if tuning == "lora" else "/collective_rpc"
    assert len(stand_in.asked(pushed)) == 3


def test_whole_weights_have_their_tied_head_beside_them_and_no_value_head(stand_in, tmp_path):
    from coalign.models.scoring.values import make_value_head
    from tests.data.tokenizers import CHATML, byte_tokenizer
    from tests.models.tiny import make_model

    folder, tokenizer = tmp_path / "tied", byte_tokenizer(CHATML)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    plain: Any = make_model("llama_tied", vocab_size=len(tokenizer), **ids)
    plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, opened = policy(str(folder), tmp_path / "weights", "full", stand_in)
    model.add_module("value_head", make_value_head(model))
    saved, names = model.saved_dtype, list(model.state_dict())
    opened().generate(PROMPTS[:1], GREEDY)
    written = {}
    for file in sorted((tmp_path / "weights" / "whole").glob("*.safetensors")):
        written |= load_file(file)
    assert torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])
    assert written["lm_head.weight"].dtype == torch.float32  # as it is trained
    assert not json.loads((tmp_path / "weights/whole/config.json").read_text())["tie_word_embeddings"]
    assert not [name for name in written if "value_head" in name]
    assert (model.saved_dtype, list(model.state_dict())) == (saved, names)


def test_kept_prompts_of_earlier_weights_are_an_error(stand_in, tiny_model, tmp_path):
    stand_in.set(fault="keeps")
    with pytest.raises(ModelError, match="keeps prompts"):
        policy(tiny_model, tmp_path / "weights", "full", stand_in)[1]().generate(PROMPTS[:1], GREEDY)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"fault": "never"}, {"vllm_start_seconds": 1.0}, r"does not answer after 1 s\. Last in its log"),
        ({"fault": "ends"}, {}, r"ended before it answered, with status 3\..*ValueError: No available memory"),
        ({"version": "0.9.2"}, {}, r"vLLM 0\.9\.2 is too old .* expected 0\.11 or later"),
        ({"fault": "no ids"}, {}, r"vLLM 0\.32\.0 gives no token ids"),
        ({"fault": "few"}, {}, r"gave 0 of 1 samples"),
        ({"fault": "dies", "after": 2}, {}, r"ended while it was asked, with status 7\..*RuntimeError: out of memory"),
    ],
)  # fmt: skip
def test_a_server_that_fails_is_one_message(stand_in, tiny_model, settings, changes, message):
    stand_in.set(**settings)
    generator, kept = stand_in.open(tiny_model, **changes), {}
    with pytest.raises(ModelError, match=f"(?s){message}"):
        generator.generate(PROMPTS, GREEDY, on_batch=kept.update)
    if settings.get("fault") == "dies":
        stand_in.set()  # what was answered is kept, and a new one is started for the others
        left = generator.generate(PROMPTS, GREEDY, done=list(kept))
        assert [bool(one) for one in left] == [index not in kept for index in range(3)]
    else:
        vllm_server.end_server()
    started = stand_in.starts()
    assert_ends(started[0]["started"])


def test_an_adapter_and_a_prompt_that_the_server_refuses(stand_in, tiny_model, adapters):
    stand_in.set(fault="adapter")
    with pytest.raises(ModelError, match="refuses v1/load_lora_adapter: this adapter does not fit"):
        stand_in.open(adapters[0]).generate(PROMPTS[:1], GREEDY)
    vllm_server.end_server()
    stand_in.set(longest=8)
    with pytest.raises(DataError, match=r"prompt 1: vLLM refuses it: .*too long for me"):
        stand_in.open(tiny_model).generate(["sea", "zxqwvkjzxqwvkjzxqw"], GREEDY)
    with pytest.raises(DataError, match=r"at most .* the model's context of 256"):
        stand_in.open(tiny_model).generate(["sea " * 300], GREEDY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vllm_command": "/no/such/python"}, "--vllm-command: /no/such/python cannot be started"),
        ({"vllm_command": str(STAND_IN)}, "cannot be started"),
    ],
)
def test_a_command_that_cannot_be_started(stand_in, tiny_model, values, message):
    with pytest.raises(ConfigError, match=message):
        stand_in.open(tiny_model, **values).generate(PROMPTS[:1], GREEDY)


def test_vllm_that_is_nowhere_names_the_extra(stand_in, tiny_model, monkeypatch):
    monkeypatch.setattr(vllm_server, "is_installed", lambda name: False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtraError, match="vLLM is not found") as caught:
        stand_in.open(tiny_model, vllm_command=None).generate(PROMPTS[:1], GREEDY)
    assert "coalign[vllm]" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vllm_command": "python"}, "vllm_command has no effect"),
        ({"backend": "vllm-server", "vllm_start_seconds": 0}, "vllm_start_seconds"),
        ({"backend": "vllm-server", "endpoint": "http://127.0.0.1:1"}, "endpoint has no effect with backend: vllm-server"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_followed(values, message):
    with pytest.raises(ConfigError, match=message):
        build(BackendOptions, values)


def test_options_of_the_model_that_vllm_would_ignore(stand_in, tiny_model):
    options = ModelOptions(model=tiny_model, device="cpu")
    with pytest.raises(CoalignError, match=r"--device has no effect with --backend vllm-server"):
        open_generator(options, stand_in.options())


def test_the_key_and_the_arguments(stand_in, tiny_model, capsys):
    stand_in.open(tiny_model, vllm_argument=["--max-model-len=128"]).generate(PROMPTS[:1], GREEDY)
    arguments = stand_in.starts()[0]["arguments"]
    assert arguments[-1] == "--max-model-len=128"
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert os.environ[vllm_server.KEY_VARIABLE] not in shlex.join(arguments)
    log = Path(capsys.readouterr().err.partition("its log is ")[2].splitlines()[0])
    assert os.environ[vllm_server.KEY_VARIABLE] not in log.read_text()


def test_it_ends_with_what_it_started(stand_in, tiny_model):
    stand_in.open(tiny_model).generate(PROMPTS[:1], GREEDY)
    started = stand_in.starts()[0]
    assert is_running(started["started"])
    assert is_running(started["worker"])
    vllm_server.end_server()
    assert_ends(started["started"], started["worker"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_it_ends_with_a_command_that_is_killed(stand_in, tiny_model, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the sea"}\n')
    stand_in.set(fault="waits")
    command = [
        sys.executable,
        "-m",
        "coalign",
        "generate",
        "--backend",
        "vllm-server",
        "--vllm-command",
        COMMAND,
    ]
    files = ["--model", tiny_model, "--prompts", "prompts.jsonl", "--out", "out.jsonl"]
    with subprocess.Popen([*command, *files], cwd=tmp_path, stderr=subprocess.PIPE) as child:
        limit = time.monotonic() + 60
        while not ((tmp_path / "requests.jsonl").exists() and stand_in.asked()):
            assert child.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        assert is_running(stand_in.starts()[0]["started"])
        child.send_signal(signal.SIGKILL)
    assert_ends(stand_in.starts()[0]["started"])
