"""Tools over the server, with the official client: offered, chosen, called, answered; whole and in a stream."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generation, Piece
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model
from tests.web.serving import serving

ASKED: list[Any] = [{"role": "user", "content": "High water in Husum?"}]


def tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]}
    return {"type": "function", "function": {"name": name, "description": "?", "parameters": schema}}


TOOLS: list[Any] = [tool("tide"), tool("wind")]
HUSUM = '{"harbour": "Husum"}'


def called(name: str, arguments: str = HUSUM) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Scripted:
    """Says `said`, cut at the first stop text, letter by letter where it is streamed."""

    def __init__(self) -> None:
        self.said, self.asked, self.finish = "", [], "stop"

    def _made(self, prompts: Any, sampling: Any) -> Generation:
        self.asked.append((prompts[0], sampling))
        cut = min((self.said.find(one) for one in sampling.stop if one in self.said), default=None)
        finish: Any = self.finish
        return Generation(self.said[:cut], finish_reason=finish, n_tokens=5)

    def generate(self, prompts: Any, sampling: Any, **how: Any) -> Any:
        made = [[self._made(prompts, sampling)] * sampling.n for _ in prompts]
        if how.get("on_batch"):
            how["on_batch"](dict(enumerate(made)))
        return made

    def stream(self, prompts: Any, sampling: Any) -> Any:
        made = self._made(prompts, sampling)
        for sample in range(sampling.n):
            for letter in made.text:
                yield Piece(0, sample, letter)
            yield Piece(0, sample, "", made)


@pytest.fixture(scope="module")
def served():
    model = Scripted()
    with serving(model) as address:
        yield model, openai.OpenAI(base_url=address, api_key="x", max_retries=0)


def create(client: Any, **values: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": ASKED, "tools": TOOLS, **values})


def collected(stream: Any) -> tuple[str, list[dict[str, str]], list[str]]:
    """What a client puts together of a stream: text, calls, reasons."""
    text, calls, reasons = "", [], []
    for event in stream:
        (choice,) = event.choices
        text += choice.delta.content or ""
        for one in choice.delta.tool_calls or ():
            if one.index == len(calls):
                calls.append({"id": one.id, "name": one.function.name, "arguments": ""})
            calls[one.index]["arguments"] += one.function.arguments or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    return text, calls, reasons


@pytest.mark.parametrize(
    ("said", "content", "calls", "reason"),
    [
        ("At six.", "At six.", [], "stop"),
        ("2 < 3 is {true}.", "2 < 3 is {true}.", [], "stop"),
        (called("tide"), None, ["tide"], "tool_calls"),
        (f"I look.\n{called('tide')}\n{called('wind')}", "I look.", ["tide", "wind"], "tool_calls"),
        ('[TOOL_CALLS] [{"name": "tide", "arguments": {"harbour": "Husum"}}]', None, ["tide"], "tool_calls"),
        ("<tool_call>tide</tool_call>", "<tool_call>tide</tool_call>", [], "stop"),
        ('{"answer": 6}', '{"answer": 6}', [], "stop"),
    ],
)
def test_calls_reach_the_client_whole_and_in_a_stream(served, said, content, calls, reason):
    model, client = served
    model.said = said
    (choice,) = create(client).choices
    assert choice.message.content == content
    assert [one.function.name for one in choice.message.tool_calls or ()] == calls
    assert all(
        json.loads(one.function.arguments) == {"harbour": "Husum"} for one in choice.message.tool_calls or ()
    )
    assert choice.finish_reason == reason
    text, streamed, reasons = collected(create(client, stream=True))
    assert text.strip() == (content or "")
    assert [one["name"] for one in streamed] == calls
    assert all(one["arguments"] == HUSUM and len(one["id"]) == 9 for one in streamed)
    assert reasons == [reason]
    assert '"name": "wind"' in model.asked[-1][0][0]["content"]


def test_results_go_back_as_the_client_writes_them(served):
    model, client = served
    model.said = called("tide")
    message = create(client).choices[0].message
    model.said = "At six."
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "06:00"}
    (choice,) = create(client, messages=[*ASKED, message, result]).choices
    assert choice.message.content == "At six."
    *_, said, observed = model.asked[-1][0]
    assert said == {"role": "assistant", "content": called("tide")}
    assert observed == {"role": "user", "content": "<tool_response>\n06:00\n</tool_response>"}
    create(client, messages=[*ASKED, message, result], tools=openai.omit)
    assert model.asked[-1][0][-1] == observed


def test_one_call_at_a_time_where_it_is_asked_for(served):
    model, client = served
    model.said = called("tide") + called("wind")
    (choice,) = create(client, parallel_tool_calls=False).choices
    assert [one.function.name for one in choice.message.tool_calls] == ["tide"]


def test_choices_of_tools(served):
    model, client = served
    model.said = "At six."
    (choice,) = create(client, tool_choice="none").choices
    assert choice.message.content == "At six."
    assert model.asked[-1][0] == ASKED
    model.said = f" {HUSUM}}}\n</tool_call>"
    named: Any = {"type": "function", "function": {"name": "wind"}}
    for stream in (False, True):
        answer = create(client, tool_choice=named, stream=stream)
        calls = (
            [(one["name"], one["arguments"]) for one in collected(answer)[1]]
            if stream
            else [(one.function.name, one.function.arguments) for one in answer.choices[0].message.tool_calls]
        )
        assert calls == [("wind", HUSUM)]
    assert model.asked[-1][0][-1] == {
        "role": "assistant",
        "content": '<tool_call>\n{"name": "wind", "arguments":',
    }
    model.said = f'tide", "arguments": {HUSUM}}}\n</tool_call>'
    (choice,) = create(client, tool_choice="required").choices
    assert choice.message.tool_calls[0].function.name == "tide"


def test_a_call_that_was_asked_for_and_is_none_is_an_error(served):
    model, client = served
    model.said = 'fog", "arguments": {}}'
    with pytest.raises(openai.InternalServerError, match="named none of those offered"):
        create(client, tool_choice="required")
    with pytest.raises(openai.APIError, match="named none of those offered"):
        collected(create(client, tool_choice="required", stream=True))
    model.said, model.finish = "ti", "length"
    try:
        with pytest.raises(openai.BadRequestError, match="does not fit in max_tokens"):
            create(client, tool_choice="required")
    finally:
        model.finish = "stop"


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools", "'tide' stands twice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools", "expected"),
        ({"tool_choice": {"type": "function", "function": {"name": "fog"}}}, "tool_choice", "'fog' is not among"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "expected"),
        ({"tool_choice": "any"}, "tool_choice", "expected"),
        ({"logprobs": True}, "logprobs", "do not go with tools"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "It"}]}, "messages", "not continued"),
        ({"messages": [*ASKED, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}]}, "messages", "tool_calls"),
    ],
)  # fmt: skip
def test_what_is_not_supported_of_tools_is_refused_by_name(served, change, param, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        create(served[1], **change)
    body: Any = caught.value.body
    assert body["param"] == param


CALLED: list[Any] = [
    *ASKED,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "tide", "arguments": HUSUM}}],
    },
    {"role": "tool", "content": "at six", "tool_call_id": "1"},
]
SEEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": [*CALLED, {"role": "user", "content": [SEEN]}]}, "messages", "pictures do not go with"),
        ({"logprobs": True, "stream": True}, "logprobs", "do not go with tools"),
        ({"messages": [*CALLED, {"role": "assistant", "content": "It"}]}, "messages", "not continued"),
    ],
)
def test_nor_is_it_where_earlier_messages_called_some(served, change, param, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        create(served[1], **{"messages": CALLED, "tools": openai.omit, **change})
    body: Any = caught.value.body
    assert body["param"] == param


WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>{\"name\": ' + c.function.name | tojson + ', \"arguments\": ' }}"
    "{{ c.function.arguments | tojson + '}' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, WITH_TOOLS])
def test_a_local_model_is_shown_tools_by_its_template_or_as_text(template):
    tokenizer = byte_tokenizer(template)
    model = make_model("llama", vocab_size=len(tokenizer), eos_token_id=1, max_position_embeddings=2048)
    with serving(TransformersGenerator(model, tokenizer)) as address:
        client = openai.OpenAI(base_url=address, api_key="x", max_retries=0)
        answer = create(client, max_tokens=3, temperature=0)
        if template == WITH_TOOLS:
            given = tokenizer.apply_chat_template(
                ASKED, tools=TOOLS, add_generation_prompt=True, return_dict=False
            )
            assert answer.usage.prompt_tokens == len(given)
        assert answer.choices[0].message.content is not None
        assert answer.usage.prompt_tokens > 300
        events = list(create(client, max_tokens=3, temperature=0, stream=True))
        assert (
            "".join(one.choices[0].delta.content or "" for one in events) == answer.choices[0].message.content
        )
