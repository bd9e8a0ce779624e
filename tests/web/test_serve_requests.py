"""Requests as clients make them: replies put back, flags, echoed prompts, methods, and one that breaks the loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import openai
import pytest

from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.models.generation.decode_loop import DecodeLoop
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses
from tests.models.test_generation import PROMPTS
from tests.web.serving import asked
from tests.web.test_serve import ASKED, make


@pytest.fixture(scope="module")
def generator():
    return make()


@pytest.fixture(scope="module")
def client(generator):
    with asked(generator) as (_, one):
        yield one


def test_a_reply_can_be_put_back_as_the_client_dumps_it(client):
    first = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=4, temperature=0)
    dumped = first.choices[0].message.model_dump()
    bare = {"role": "assistant", "content": first.choices[0].message.content}
    assert {"refusal", "annotations", "tool_calls"} <= dumped.keys()
    more = {"role": "user", "content": "and the sky?"}
    empty = {**dumped, "tool_calls": [], "reasoning_content": "", "annotations": []}
    said = [
        client.chat.completions.create(
            model="tiny", messages=[*ASKED, reply, more], max_tokens=8, temperature=0
        )
        for reply in (bare, dumped, empty)
    ]
    assert len({(one.choices[0].message.content, one.usage.prompt_tokens) for one in said}) == 1
    silent = [*ASKED, {"role": "assistant", "content": None}, more]
    assert client.chat.completions.create(model="tiny", messages=silent, max_tokens=1).choices
    calling = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    with pytest.raises(openai.BadRequestError, match=r"messages\.2\.tool_calls"):
        client.chat.completions.create(model="tiny", messages=[*ASKED, calling, more])


@pytest.mark.parametrize(
    ("last", "flags", "refused"),
    [
        ("assistant", {"add_generation_prompt": True}, "add_generation_prompt"),
        (
            "assistant",
            {"add_generation_prompt": True, "continue_final_message": False},
            "continue_final_message",
        ),
        ("assistant", {"add_generation_prompt": False, "continue_final_message": True}, None),
        ("user", {"add_generation_prompt": False}, "add_generation_prompt"),
        ("user", {"continue_final_message": True}, "continue_final_message"),
        ("user", {"add_generation_prompt": True, "continue_final_message": False}, None),
    ],
)
def test_flags_of_the_last_turn_are_followed_or_refused(client, last, flags, refused):
    messages = [*ASKED, *([{"role": "assistant", "content": "It is"}] if last == "assistant" else [])]
    ask = {"model": "tiny", "messages": messages, "max_tokens": 2, "extra_body": flags}
    if refused is None:
        assert client.chat.completions.create(**ask).choices
        return
    with pytest.raises(openai.BadRequestError, match="is not supported here") as caught:
        client.chat.completions.create(**ask)
    assert caught.value.body["param"] == refused


def test_prompts_are_echoed_with_their_log_probabilities(client, generator):
    text, top = "is the sea blue?", 3
    ids = generator.encode(text)
    by_text, by_ids = (
        client.completions.create(
            model="tiny", prompt=one, echo=True, max_tokens=3, logprobs=top, temperature=0
        )
        for one in (text, [ids])
    )
    plain = client.completions.create(model="tiny", prompt=text, max_tokens=3, logprobs=top, temperature=0)
    choice, said = by_text.choices[0], plain.choices[0]
    assert choice.text == by_ids.choices[0].text == text + said.text
    assert by_text.usage == plain.usage
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(ids) + 3
    assert (logprobs.token_logprobs[0], logprobs.top_logprobs[0]) == (None, None)
    assert "".join(logprobs.tokens[: len(ids)]) == text
    assert logprobs.token_logprobs[-3:] == pytest.approx(said.logprobs.token_logprobs)
    scored = score_responses(generator.model, Responses([ids[:1]], [ids[1:]], [0])).token_logps
    assert logprobs.token_logprobs[1 : len(ids)] == pytest.approx(scored.tolist(), abs=1e-5)
    for token, logp, best in zip(
        logprobs.tokens[1 : len(ids)],
        logprobs.token_logprobs[1 : len(ids)],
        logprobs.top_logprobs[1 : len(ids)],
        strict=True,
    ):
        assert max(best.values()) >= logp - 1e-6
        assert (token in best) == (logp >= min(best.values()) - 1e-6)
    alone = client.completions.create(model="tiny", prompt=[text, "b"], echo=True, max_tokens=0, logprobs=1)
    assert [one.text for one in alone.choices] == [text, "b"]
    assert alone.choices[0].logprobs.token_logprobs == pytest.approx(logprobs.token_logprobs[: len(ids)])
    assert alone.usage.completion_tokens == 0
    long = generator.tokenizer.decode([65] * 250)
    whole = client.completions.create(model="tiny", prompt=long, echo=True, max_tokens=0, logprobs=1)
    assert len(whole.choices[0].logprobs.tokens) == len(generator.encode(long))


def test_a_method_around_a_local_model_knows_its_prompts():
    inner = make()
    method = BestOfGenerator(inner, cast(Any, None), 2)
    method._best = lambda prompts, batch, count: {index: mine[:count] for index, mine in batch.items()}
    with asked(method) as (address, client):
        assert httpx.get(f"{address}/models").json()["data"][0]["max_model_len"] == 256
        usage = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=2).usage
        assert usage.prompt_tokens == len(inner.encode(ASKED))
        long = [{"role": "user", "content": "w" * 150}]
        assert client.chat.completions.create(model="tiny", messages=long).choices


def test_a_request_that_breaks_the_loop_breaks_only_its_own(monkeypatch):
    generator, whole = make(), DecodeLoop._ended
    generator.stop_ids = []

    def poisoned(self):
        if any(row.of.sampling.top_k == 7 and len(row.ids) > 3 for row in self._live):
            raise ValueError("a row that cannot be decoded")
        return whole(self)

    with asked(generator) as (_, client):

        def ask(number, **values):
            stream = number % 2 == 1
            values = {
                "prompt": PROMPTS[number % 7],
                "seed": number,
                "max_tokens": 40,
                "stream": stream,
                **values,
            }
            found = client.completions.create(model="tiny", **values)
            return "".join(one.choices[0].text for one in found) if stream else found.choices[0].text

        expected = [ask(number) for number in range(8)]
        monkeypatch.setattr(DecodeLoop, "_ended", poisoned)

        def ask_or_fail(number):
            if number % 5:
                return ask(number)
            with pytest.raises(openai.APIError):
                ask(number, extra_body={"top_k": 7})
            return None

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask_or_fail, range(8)))
        assert together == [None if number % 5 == 0 else text for number, text in enumerate(expected)]
