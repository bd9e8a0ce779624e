"""Clients and harnesses that others wrote, against `coalign serve`; each where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses, Sampling
from tests.web.serving import serving
from tests.web.test_serve import ASKED, make

QUESTION = "is the sea blue?"
SHORT: dict[str, Any] = {"max_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def generator() -> Any:
    return make()


@pytest.fixture(scope="module")
def address(generator: Any) -> Iterator[str]:
    with serving(generator) as one:
        yield one


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(tmp_path)


def said(generator: Any, prompt: Any, most: int = 5, **how: Any) -> str:
    return generator.generate([prompt], Sampling(most, temperature=0.0, **how))[0][0].text


def test_openai_over_a_conversation(address: str, generator: Any) -> None:
    openai = pytest.importorskip("openai")

    async def converse() -> tuple[list[Any], str]:
        async with openai.AsyncOpenAI(base_url=address, api_key="x") as client:
            messages: list[Any] = list(ASKED)
            for more in ("and the sky?", "why?"):
                answer = await client.chat.completions.create(model="tiny", messages=messages, **SHORT)
                messages += [answer.choices[0].message, {"role": "user", "content": more}]
            stream = await client.chat.completions.create(
                model="tiny", messages=messages, stream=True, stream_options={"include_usage": True}, **SHORT
            )
            pieces = [event async for event in stream]
        assert pieces[-1].usage.completion_tokens <= 5
        return messages, "".join(one.choices[0].delta.content or "" for one in pieces if one.choices)

    messages, streamed = asyncio.run(converse())
    plain = [
        one if isinstance(one, dict) else {"role": "assistant", "content": one.content} for one in messages
    ]
    assert streamed == said(generator, plain)


def test_litellm(address: str, generator: Any) -> None:
    litellm = pytest.importorskip("litellm")
    where: dict[str, Any] = {"api_base": address, "api_key": "x", **SHORT}
    answer = litellm.completion(model="openai/tiny", messages=ASKED, **where)
    assert answer.choices[0].message.content == said(generator, ASKED)
    assert answer.usage.completion_tokens <= 5
    pieces = litellm.completion(model="openai/tiny", messages=ASKED, stream=True, **where)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == said(generator, ASKED)
    text = litellm.text_completion(model="text-completion-openai/tiny", prompt=QUESTION, **where)
    assert text.choices[0].text == said(generator, QUESTION)
    with pytest.raises(litellm.BadRequestError, match="is not supported here"):
        litellm.completion(model="openai/tiny", messages=ASKED, frequency_penalty=1.0, **where)


def test_langchain(address: str, generator: Any) -> None:
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(model="tiny", base_url=address, api_key="x", max_retries=0, **SHORT)
    asked = [(one["role"], one["content"]) for one in ASKED]
    assert chat.invoke(asked).content == said(generator, ASKED)
    assert "".join(one.content for one in chat.stream(asked)) == said(generator, ASKED)
    answers = chat.batch([[("user", word)] for word in ("sea", "sky", "sun")])
    assert [one.content for one in answers] == [
        said(generator, [{"role": "user", "content": word}]) for word in ("sea", "sky", "sun")
    ]
    text = langchain.OpenAI(model="tiny", base_url=address, api_key="x", max_retries=0, **SHORT)
    assert text.invoke(QUESTION) == said(generator, QUESTION)


def test_inspect(address: str, generator: Any, tmp_path: Path) -> None:
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, system_message

    config = GenerateConfig(max_tokens=5, temperature=0, max_retries=0, seed=1, stop_seqs=["zzz"])
    model = get_model("openai-api/coalign/tiny", base_url=address, api_key="x", config=config)
    expected = said(generator, ASKED)
    samples = [
        Sample(input=ASKED[1]["content"], target=expected),
        Sample(input=ASKED[1]["content"], target="\x07"),
    ]
    task = inspect_ai.Task(
        dataset=samples, solver=[system_message(ASKED[0]["content"]), generate()], scorer=includes()
    )
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    assert [one.output.completion for one in log.samples] == [expected, expected]
    assert log.results.scores[0].metrics["accuracy"].value == 0.5


def test_lm_evaluation_harness(address: str, generator: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    folder = tmp_path / "tokenizer"
    generator.tokenizer.save_pretrained(folder)
    harness = LocalCompletionsAPI(
        base_url=f"{address}/completions",
        model="tiny",
        tokenizer=str(folder),
        max_length=200,
        num_concurrent=1,
        batch_size=2,
    )
    pairs = [(QUESTION, " yes"), (QUESTION, " no, not at all"), ("two and two", " are four")]
    instances = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    for (prompt, answer), (found, greedy) in zip(pairs, harness.loglikelihood(instances), strict=True):
        ids, whole = generator.encode(prompt), generator.encode(prompt + answer)
        scored = score_responses(generator.model, Responses([ids], [whole[len(ids) :]], [0])).sums()
        assert found == pytest.approx(scored[0].item(), abs=1e-3)
        assert isinstance(greedy, bool | int)
    wanted = {"until": ["zzz"], "max_gen_toks": 5, "temperature": 0}
    (text,) = harness.generate_until([Instance("generate_until", {}, (QUESTION, wanted), 0)])
    assert text == said(generator, QUESTION)
