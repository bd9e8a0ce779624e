"""Tools in conversations: calls trained and observations not, a place for tools in any template, calls in a model's text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.data.checking.check import UNTRAINED, check_records
from coalign.data.encoding import encode_records, shorten
from coalign.data.frame import Frame
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, PromptRecord, Reply
from coalign.data.templates import choose_template, shipped_templates
from coalign.data.tools.fallback import written_into
from coalign.data.tools.parsing import may_be_call, parse_calls
from coalign.data.tools.written import missing_call, writes_tools
from coalign.data.writers import write_records
from tests.data.tokenizers import CHATML, byte_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "When the tide is high.",
        "parameters": {
            "type": "object",
            "properties": {"harbour": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["harbour"],
        },
    },
}
ASKED = [{"role": "user", "content": "High water in Husum?"}]


def call(day, harbour="Husum"):
    return {"type": "function", "function": {"name": "tide", "arguments": {"harbour": harbour, "day": day}}}


STEPS = [
    {"role": "assistant", "content": "I look.", "tool_calls": [call(1), call(2)]},
    {"role": "tool", "content": "06:12"},
    {"role": "tool", "content": "07:01"},
]
ROW = {"messages": [*ASKED, *STEPS, {"role": "assistant", "content": "06:12 and 07:01."}], "tools": [TOOL]}


def with_tools(template=CHATML):
    tokenizer = byte_tokenizer(template)
    choose_template(tokenizer, "tools")
    return tokenizer


def read(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    return read_records(path, kind="demonstration", text_alone=False).records[0]


def test_a_trajectory_is_one_reply_whose_observations_are_not_trained(tmp_path):
    record = read(tmp_path, ROW)
    assert record.prompt == ASKED
    assert isinstance(record.completion, Reply)
    assert [one["role"] for one in record.completion.steps] == ["assistant", "tool", "tool"]
    tokenizer = with_tools()
    (one,) = encode_records([record], tokenizer).records
    assert one.trained is not None
    trained = tokenizer.decode([i for i, m in zip(one.response_ids[0], one.trained[0], strict=True) if m])
    rest = tokenizer.decode([i for i, m in zip(one.response_ids[0], one.trained[0], strict=True) if not m])
    assert trained.count("<tool_call>") == 2
    assert '"day": 2' in trained
    assert trained.endswith("06:12 and 07:01.<|im_end|>")
    assert "06:12\n</tool_response>" in rest
    assert "tool_call>" not in rest
    whole = tokenizer.decode(one.prompt_ids + one.response_ids[0])
    written = tokenizer.apply_chat_template(ROW["messages"], tools=[TOOL], tokenize=False)
    assert written.startswith(whole)
    cut = shorten([one], [record], None, None, len(one.prompt_ids) + 30).records[0]
    assert len(cut.trained[0]) == len(cut.response_ids[0]) == 30


def test_observations_and_calls_in_other_words(tmp_path):
    """The role `observation`, arguments as text, tools as text, and a completion column of several messages."""
    said = [*STEPS[1:], ROW["messages"][-1]]
    text = [
        {**one, "function": {**one["function"], "arguments": json.dumps(one["function"]["arguments"])}}
        for one in STEPS[0]["tool_calls"]
    ]
    messages = [
        *ASKED,
        {**STEPS[0], "tool_calls": text},
        *({**one, "role": "observation"} if one["role"] == "tool" else one for one in said),
    ]
    other = read(tmp_path, {"messages": messages, "tools": [json.dumps(TOOL)]})
    record = read(tmp_path, ROW)
    assert other == record
    path = tmp_path / "written.jsonl"
    write_records(path, [record], form="conversational")
    assert read_records(path, text_alone=False).records[0] == record
    with pytest.raises(DataError, match="cannot be used here"):
        read_records(path)
    with pytest.raises(DataError, match="steps beside its text"):
        write_records(path, [record])


def test_the_token_picture_tells_calls_from_observations(tmp_path):
    record = read(tmp_path, ROW)
    path = tmp_path / "rows.jsonl"
    check = check_records(read_records(path, text_alone=False), with_tools())
    names = [name for name, _ in check.pictures[0].responses]
    assert names == ["completion", UNTRAINED, "completion"]
    assert "06:12" in "".join(check.pictures[0].responses[1][1])
    assert [name for name, _ in check.examples[0].responses] == names
    assert record.tools == [TOOL]


NAMES_ALONE = (
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}<|start|>{{ m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
DROPS_RESULTS = NAMES_ALONE.replace("c.function.name", "c.function | tojson").replace(
    "{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}"
)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            CHATML,
            "tools: the chat template leaves them out, expected a template that writes tools, or --chat-template tools",
        ),
        (NAMES_ALONE, "leaves out 'harbour' of the answer"),
        (DROPS_RESULTS, "leaves out what a tool returned"),
    ],
)
def test_what_a_template_drops_of_a_trajectory_is_named(tmp_path, template, message):
    tokenizer = byte_tokenizer(template)
    assert not writes_tools(tokenizer)
    with pytest.raises(DataError, match=message):
        encode_records([read(tmp_path, ROW)], tokenizer)


@pytest.mark.parametrize("name", sorted(shipped_templates()))
def test_every_shipped_template_takes_a_place_for_tools(tmp_path, name):
    """And writes conversations without tools as before."""
    plain, tokenizer = byte_tokenizer(CHATML), byte_tokenizer(CHATML)
    choose_template(plain, name)
    choose_template(tokenizer, f"{name}+tools")
    talk = PromptRecord(prompt=[*ASKED, {"role": "assistant", "content": "At six."}, *ASKED])
    assert Frame(tokenizer).texts(talk) == Frame(plain).texts(talk)
    assert writes_tools(tokenizer)
    record = read(tmp_path, ROW)
    encoded = encode_records([record], tokenizer).records[0]
    assert encoded.trained is not None
    system = Demonstration(
        prompt=[{"role": "system", "content": "Be brief."}, *ASKED], completion="Six.", tools=[TOOL]
    )
    assert "Be brief." in Frame(tokenizer).texts(system)[0]


def test_a_tokenizer_without_a_template_has_no_place(tmp_path):
    tokenizer = byte_tokenizer(None)
    with pytest.raises(ConfigError, match="no template of the model's own"):
        choose_template(tokenizer, "tools")


def test_messages_with_tools_as_text_are_what_the_template_writes():
    messages = [*ASKED, *STEPS]
    plain = byte_tokenizer(CHATML)
    text = plain.apply_chat_template(written_into(messages, [TOOL]), tokenize=False)
    assert text == with_tools().apply_chat_template(messages, tools=[TOOL], tokenize=False)
    assert [one["role"] for one in written_into(messages, [TOOL])] == ["system", "user", "assistant", "user"]
    first = written_into(ASKED, [TOOL], knows_system=False)
    assert len(first) == 1
    assert first[0]["content"].endswith("High water in Husum?")


NAMES = {"tide", "add"}
GIVEN = {"harbour": "Husum", "day": 1}
HERMES = '<tool_call>\n{"name": "tide", "arguments": {"harbour": "Husum", "day": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"I look.\n{HERMES}", "I look.", [GIVEN]),
        (f"{HERMES}\n{HERMES}", "", [GIVEN, GIVEN]),
        (HERMES.removesuffix("</tool_call>"), "", [GIVEN]),
        (f"{HERMES}<tool_response>\n05:00\n</tool_response> At five.", "", [GIVEN]),
        ("<tool_call><function=tide>\n<parameter=harbour>\nHusum\n</parameter>\n<parameter=day>\n1\n</parameter></function></tool_call>", "", [GIVEN]),
        ('{"name": "tide", "parameters": {"harbour": "Husum", "day": 1}}', "", [GIVEN]),
        ('<|python_tag|>{"name": "tide", "parameters": {"harbour": "Husum", "day": 1}}; {"name": "add"}', "", [GIVEN, {}]),
        ('[TOOL_CALLS] [{"name": "tide", "arguments": {"harbour": "Husum", "day": 1}}]', "", [GIVEN]),
        ('[{"name": "tide", "arguments": {"harbour": "Husum", "day": 1}}]', "", [GIVEN]),
        ('[TOOL_CALLS]tide[ARGS]{"harbour": "Husum", "day": 1}[TOOL_CALLS]add[ARGS]{}', "", [GIVEN, {}]),
        ('<tool_call>{"name": "tide", "arguments": "{\\"harbour\\": \\"Husum\\", \\"day\\": 1}"}</tool_call>', "", [GIVEN]),
        ('{"name": "Ada", "age": 3}', '{"name": "Ada", "age": 3}', []),
        ("At six.", "At six.", []),
    ],
)  # fmt: skip
def test_calls_of_the_common_families_are_read(text, content, calls):
    found = parse_calls(text, NAMES)
    assert found.content == content
    assert [one.arguments for one in found.calls] == calls
    assert all(one.problem is None for one in found.calls)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<tool_call>tide Husum</tool_call>", "the call cannot be read ('tide Husum'), expected one JSON object"),
        ('<tool_call>{"name": "tide", "arguments": "Husum"}</tool_call>', "the arguments of tide are not a JSON object ('Husum')"),
        ('<tool_call>{"name": "tide", "arguments": [1]}</tool_call>', "are not a JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', "cannot be read"),
        ("<tool_call>", "cannot be read"),
        ("[TOOL_CALLS] soon", "expected a JSON list"),
        ("<|python_tag|>print(1)", "cannot be read"),
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_read_says_why(text, problem):
    (one,) = parse_calls(text, NAMES).calls
    assert one.arguments is None
    assert problem in (one.problem or "")


@settings(max_examples=60)
@given(st.text(alphabet='<>[]{}"/:,; tool_callTOLCAS|python_tag1\n', max_size=60))
def test_no_text_makes_the_parser_raise(text):
    parse_calls(text, NAMES)
    place = may_be_call(text)
    assert place is None or 0 <= place < max(len(text), 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=6), VALUES, max_size=3))
def test_what_the_fallback_writes_is_read_back(arguments):
    calls = [{"function": {"name": "tide", "arguments": arguments}}] * 2
    (said,) = written_into([{"role": "assistant", "content": "", "tool_calls": calls}], [])
    assert missing_call(said["content"], calls) is None
    if "tool_call>" not in json.dumps(arguments) and "<tool_response>" not in json.dumps(arguments):
        assert [one.arguments for one in parse_calls(said["content"], NAMES).calls] == [arguments] * 2


@pytest.mark.parametrize("size", range(1, len(HERMES)))
def test_a_stream_holds_back_what_may_become_a_call(size):
    text = f"I look. {HERMES}"[: 8 + size]
    assert may_be_call(text) == 8
    assert may_be_call("2 < 3 is true.") is None
