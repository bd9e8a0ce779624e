"""Several adapters over one base model in one server: `model` selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model

from coalign.core.errors import ConfigError
from coalign.core.runs import Run
from coalign.models.backends.open import open_transformers
from coalign.models.files.loading import load_model
from coalign.models.generation.adapter_bank import AdapterBank, named_adapters
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.web.serve import Served, make_app
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model
from tests.web.serving import running

PROMPTS = ("the sea", "the sky is", "green", "a user said the")


def save_adapter(folder: Path, base: str, seed: int, targets: list[str]) -> str:
    """A random adapter that changes what the model says."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=32, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted: Any = get_peft_model(
        load_model(ModelOptions(model=base, dtype="float32"), training=False), config
    )
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_B" in name:
                one.mul_(4)
    adapted.save_pretrained(folder)
    byte_tokenizer(CHATML).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`base`, and two adapters of it on different modules."""
    root = tmp_path_factory.mktemp("adapters")
    tokenizer = byte_tokenizer(CHATML)
    base = make_model("llama", dtype=torch.float32, vocab_size=len(tokenizer), eos_token_id=1)
    base.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    found = {"base": str(root / "base")}
    for seed, (name, targets) in enumerate(
        {"bio": ["q_proj", "v_proj"], "fin": ["gate_proj", "o_proj"]}.items()
    ):
        found[name] = save_adapter(root / name, found["base"], seed, targets)
    return found


@pytest.fixture(scope="module")
def address(folders: dict[str, str]) -> Iterator[str]:
    adapters = {name: path for name, path in folders.items() if name != "base"}
    bank = AdapterBank(ModelOptions(model=folders["base"], dtype="float32", device="cpu"), "base", adapters)
    with running(make_app(Served("base", bank.generators["base"], None, "base-hash", bank))) as at:
        yield f"{at}/v1"


@pytest.fixture(scope="module")
def alone(folders: dict[str, str]) -> dict[tuple[str, str], str]:
    """What each model says when it is the only one, an adapter merged into its base."""
    said = {}
    for name, path in folders.items():
        generator = open_transformers(ModelOptions(model=path, dtype="float32", device="cpu"))
        answers = generator.generate(PROMPTS, Sampling(max_new_tokens=12, temperature=0.0))
        said |= {(name, prompt): one[0].text for prompt, one in zip(PROMPTS, answers, strict=True)}
    assert len({said[name, PROMPTS[0]] for name in folders}) == 3, "the adapters say different things"
    return said


def test_requests_that_arrive_together_get_the_answers_of_their_own_model(
    address: str, folders: dict[str, str], alone: dict[tuple[str, str], str]
) -> None:
    asked = [(name, prompt) for prompt in PROMPTS for name in folders] * 2
    with (
        openai.OpenAI(base_url=address, api_key="x", max_retries=0) as client,
        ThreadPoolExecutor(12) as pool,
    ):

        def ask(one: tuple[str, str]) -> Any:
            return client.completions.create(model=one[0], prompt=one[1], max_tokens=12, temperature=0)

        answers = list(pool.map(ask, asked))
        assert [one.choices[0].text for one in answers] == [alone[one] for one in asked]
        assert [one.model for one in answers] == [name for name, _ in asked]
        pieces = client.completions.create(
            model="fin", prompt=PROMPTS[0], max_tokens=12, temperature=0, stream=True
        )
        assert "".join(one.choices[0].text for one in pieces) == alone["fin", PROMPTS[0]]
    answer = httpx.post(
        f"{address}/completions", json={"prompt": PROMPTS[0], "max_tokens": 12, "temperature": 0}
    ).json()
    assert (answer["model"], answer["choices"][0]["text"]) == ("base", alone["base", PROMPTS[0]])


def test_log_probabilities_of_an_echoed_prompt_are_the_adapters_own(
    address: str, folders: dict[str, str]
) -> None:
    body = {"prompt": PROMPTS[3], "max_tokens": 0, "echo": True, "logprobs": 1}
    found = {
        name: httpx.post(f"{address}/completions", json={**body, "model": name}).json()["choices"][0][
            "logprobs"
        ]
        for name in (*folders, *reversed(folders))
    }
    for name, path in folders.items():
        model = open_transformers(ModelOptions(model=path, dtype="float32", device="cpu"))
        ids = torch.tensor([model.encode(PROMPTS[3])])
        with torch.no_grad():
            logps: Any = model.model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        expected = logps.gather(1, ids[0, 1:, None])[:, 0].tolist()
        assert found[name]["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)


def test_all_models_are_listed_and_another_name_is_refused(address: str) -> None:
    with openai.OpenAI(base_url=address, api_key="x", max_retries=0) as client:
        listed = {one.id: one for one in client.models.list().data}
        assert [*listed] == ["base", "bio", "fin"]
        parents = [one.model_extra["parent"] for one in listed.values()]  # type: ignore[index]
        assert parents == [None, "base", "base"]
        prints = [one.model_extra["fingerprint"] for one in listed.values()]  # type: ignore[index]
        assert prints[0] == "base-hash"
        assert len({*prints}) == 3
        assert client.models.retrieve("bio").id == "bio"
        with pytest.raises(
            openai.NotFoundError, match="'law' is not served here; 'base' and 'bio' and 'fin' are"
        ) as caught:
            client.completions.create(model="law", prompt="x")
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("law")


def test_names_come_from_the_command_line_or_from_folders(tmp_path: Path) -> None:
    assert named_adapters(["bio=a/b", "runs/fin", "a=b=c"]) == {"bio": "a/b", "fin": "runs/fin", "a": "b=c"}
    odd = tmp_path / "x=y"
    odd.mkdir()
    assert named_adapters([str(odd)]) == {"x=y": str(odd)}
    for given, message in ((["a=b", "a=c"], "given twice"), (["=b"], "NAME=FOLDER"), (["a="], "NAME=FOLDER")):
        with pytest.raises(ConfigError, match=message):
            named_adapters(given)


def test_what_is_no_adapter_of_the_base_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    def bank(model: str, **adapters: str) -> AdapterBank[ModelOptions]:
        return AdapterBank(ModelOptions(model=model, device="cpu"), "base", adapters)

    with pytest.raises(ConfigError, match=r"adapter other: .* is a whole model"):
        bank(folders["base"], other=folders["base"])
    with pytest.raises(
        ConfigError, match=r"adapter other: absent is no folder here, expected an adapter folder"
    ):
        bank(folders["base"], other="absent")
    with pytest.raises(ConfigError, match="is an adapter: serve its base model"):
        bank(folders["bio"], fin=folders["fin"])
    tokenizer = byte_tokenizer(CHATML)
    other = tmp_path / "other"
    make_model("llama", vocab_size=len(tokenizer)).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match=r"adapter bio: .* adapts .*base, and .*other is served"):
        bank(str(other), bio=folders["bio"])


def test_the_command_finds_the_base_of_its_adapters(
    coalign: Callable[..., Any], folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[Served] = []
    monkeypatch.setattr("coalign.web.serve.make_app", lambda one, hosts=(): served.append(one))
    monkeypatch.setattr("coalign.web.local.serve_app", lambda app, socket: socket.close())
    run = Run(tmp_path / "law")
    run.path.mkdir()
    (run.path / "status.json").write_text("{}")
    run.publish_model(folders["fin"])
    done = coalign(
        "serve",
        "--port",
        "0",
        "--device",
        "cpu",
        "--adapter",
        f"bio={folders['bio']}",
        "--adapter",
        str(run.path),
    )
    assert done.code == 0, done.err
    assert "Model base and bio and law at" in done.err
    assert [*served[0].adapters.generators] == ["base", "bio", "law"]  # type: ignore[union-attr]
    for more, message in (
        (["--align", "urial"], "--adapter goes with a local model alone"),
        (["--name", "bio"], "bio is the name of the base model"),
    ):
        refused = coalign("serve", "--port", "0", "--adapter", f"bio={folders['bio']}", *more)
        assert refused.code == 2
        assert message in refused.err
