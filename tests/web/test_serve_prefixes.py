"""`coalign serve` and `coalign chat` go on from what they computed of earlier prompts."""

from __future__ import annotations

import re
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner

from coalign.cli.serving.chat import chat
from coalign.core.errors import ConfigError
from coalign.models.generation.prefix_cache.options import PromptCacheOptions, keep_prompts
from coalign.models.generation.prefix_cache.store import BLOCK
from coalign.web.serve import Served, make_app
from tests.web.serving import running
from tests.web.test_serve import make

SYSTEM = "You answer in few words, kindly, and never of the weather. " * 2


def conversation(client: openai.OpenAI, **how: Any) -> tuple[list[str], list[Any]]:
    """Three turns and the usage of each."""
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    said, usages = [], []
    for turn in range(3):
        messages.append({"role": "user", "content": f"Question {turn}: is the sea blue?"})
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, **how)
        said.append(answer.choices[0].message.content or "")
        usages.append(answer.usage)
        messages.append({"role": "assistant", "content": said[-1]})
    return said, usages


def test_a_conversation_is_the_same_and_its_usage_and_the_figures_tell_what_was_kept() -> None:
    plain, kept = make(), make()
    (cache,), told = keep_prompts(PromptCacheOptions(prompt_cache=0.01), [kept, kept])
    assert told == []
    with (
        running(make_app(Served("tiny", plain))) as first,
        running(make_app(Served("tiny", kept, prefixes=[cache]))) as second,
    ):
        clients = [openai.OpenAI(base_url=f"{one}/v1", api_key="x", max_retries=0) for one in (first, second)]
        for how in ({"temperature": 0}, {"temperature": 1.0, "seed": 3}):
            (right, without), (mine, usages) = (conversation(one, **how) for one in clients)
            assert mine == right
            assert [one.prompt_tokens_details.cached_tokens for one in without] == [0, 0, 0]
            counts = [one.prompt_tokens_details.cached_tokens for one in usages]
            if how["temperature"] == 0:
                assert counts[0] == 0
            for before, usage, count in zip(usages, usages[1:], counts[1:], strict=False):
                assert count >= before.prompt_tokens // BLOCK * BLOCK - BLOCK
                assert count < usage.prompt_tokens
        asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": SYSTEM}], "max_tokens": 2}
        *_, last = clients[1].chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        assert last.usage is not None
        assert last.usage.prompt_tokens_details.cached_tokens == 0
        text = httpx.get(f"{second}/metrics", trust_env=False).text
        for one in clients:
            one.close()
    found = dict(re.findall(r"^(coalign_prompt_cache\S+) (\S+)$", text, re.M))
    assert found == {
        "coalign_prompt_cache_lookups_total": "7",
        "coalign_prompt_cache_hits_total": str(cache.hits),
        "coalign_prompt_cache_tokens_total": str(cache.tokens),
        "coalign_prompt_cache_bytes": str(cache.bytes),
    }
    assert cache.hits >= 5


def test_a_size_that_no_model_can_use_is_refused_and_zero_keeps_none() -> None:
    class Elsewhere:
        inner = object()

    assert keep_prompts(PromptCacheOptions(prompt_cache=0), [make()]) == ([], [])
    caches, told = keep_prompts(PromptCacheOptions(), [Elsewhere()])
    assert (caches, told) == ([], ["No prompt cache: what answers is no one local model."])
    with pytest.raises(ConfigError, match="--prompt-cache has no effect here: what answers"):
        keep_prompts(PromptCacheOptions(prompt_cache=2.0), [Elsewhere()])


def test_a_chat_says_the_same_with_and_without(model: str) -> None:
    words = [model, "--dtype", "float32", "--temperature", "0", "--max-new-tokens", "9"]
    with_cache, without = (
        CliRunner().invoke(chat, [*words, *more], input="hi\nand then\nwhy?\n", catch_exceptions=False)
        for more in ([], ["--prompt-cache", "0"])
    )
    assert with_cache.exit_code == 0
    assert with_cache.stdout == without.stdout
