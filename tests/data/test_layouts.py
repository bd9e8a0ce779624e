"""Layouts of the hub's well-known data sets: read as what, or refused with what to rename."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.data import records as schema
from coalign.data.columns import recognise
from tests.data.test_columns import SYSTEM, assistant, parse, user

ASK, GOOD, BAD = "Name a river.", "The Loire.", "The Moon."
RIVER = [user(ASK)]
PAIR = {"chosen": GOOD, "rejected": BAD}
PREFERENCE, BRIEF = (schema.Preference(prompt=one, **PAIR) for one in (RIVER, [SYSTEM, *RIVER]))
HISTORY = [["My name is Ana.", "Hello Ana."]]
ASKED = [user("My name is Ana."), assistant("Hello Ana."), *RIVER]
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"country": "France"}}}
TEXT_CALL = {"type": "function", "function": {"name": "look", "arguments": '{"country": "France"}'}}
SHAREGPT = [{"from": "human", "value": ASK}, {"from": "gpt", "value": GOOD}]
LOIRE, MOON = [*RIVER, assistant("The Loire.")], [*RIVER, assistant("The Moon.")]
CHATS = {"chosen": LOIRE, "rejected": MOON}
RESULT = {"role": "tool", "content": "Loire"}


def ranking(*responses: str, scores: tuple[float, ...] = (1.0, 0.0)) -> schema.Ranking:
    return schema.Ranking(prompt=RIVER, responses=responses or ("The Loire.", "The Moon."), scores=scores)


def demonstration(
    prompt: list[Any] = RIVER, completion: str = "The Loire.", **more: Any
) -> schema.Demonstration:
    return schema.Demonstration(prompt=prompt, completion=completion, **more)


WEBGPT = {"dataset": "x", "full_text": ASK}
TEA = {"chosen": "Human: Tea?\n\nAssistant: Yes.", "rejected": "No."}
OVERALL = {"overall_score": 8.0, "model": "a"}, {"overall_score": 2.0, "model": "b"}
LAYOUTS: dict[str, tuple[dict[str, Any], schema.Record]] = {
    "Orca pairs": ({"system": "Be brief.", "input": ASK, **PAIR}, BRIEF),
    "messages beside the pair": ({"messages": [SYSTEM, *RIVER], **PAIR}, BRIEF),
    "ShareGPT pairs of one message": (
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": BAD}},
        PREFERENCE,
    ),
    "pairs with history": (
        {"instruction": ASK, "input": "", "history": HISTORY, **PAIR},
        schema.Preference(prompt=ASKED, **PAIR),
    ),
    "the reply with its last question": ({"prompt": ASKED, **CHATS}, schema.Preference(prompt=ASKED, **PAIR)),
    "ratings after the name": (
        {"prompt": ASK, **PAIR, "rating_chosen": 5, "rating_rejected": 1},
        schema.Preference(prompt=RIVER, **PAIR, chosen_score=5, rejected_score=1, plain=True),
    ),
    "UltraFeedback": (
        {
            "instruction": ASK,
            "completions": [{"response": GOOD, **OVERALL[0]}, {"response": BAD, **OVERALL[1]}],
        },
        ranking(scores=(8.0, 2.0)),
    ),
    "Nectar": (
        {
            "prompt": f"\n\nHuman: {ASK}\n\nAssistant: ",
            "answers": [{"answer": GOOD, "rank": 1.0}, {"answer": BAD, "rank": 2.0}],
        },
        ranking(scores=(-1.0, -2.0)),
    ),
    "SHP": (
        {"history": ASK, "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0},
        ranking(BAD, GOOD, scores=(0.0, 1.0)),
    ),
    "WebGPT": (
        {"question": WEBGPT, "answer_0": GOOD, "answer_1": BAD, "score_0": 0.5, "score_1": -0.5},
        ranking(scores=(0.5, -0.5)),
    ),
    "PKU-SafeRLHF": (
        {
            "prompt": ASK,
            "response_0": BAD,
            "response_1": GOOD,
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        ranking(BAD, GOOD, scores=(0.0, 1.0)),
    ),
    "align-anything": (
        {"question": ASK, "response_1": BAD, "response_2": GOOD, "overall_response": 2},
        ranking(BAD, GOOD, scores=(0.0, 1.0)),
    ),
    "align-anything under its templates' names": (
        {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "overall_response": 1.0},
        ranking(scores=(1.0, 0.0)),
    ),
    "HelpSteer3": (
        {"context": RIVER, "response1": GOOD, "response2": BAD, "overall_preference": -2},
        ranking(scores=(2.0, -2.0)),
    ),
    "Chatbot Arena": (
        {"conversation_a": LOIRE, "conversation_b": MOON, "winner": "tie (bothbad)"},
        ranking(scores=(0.5, 0.5)),
    ),
    "HH with a system column": (
        {
            "system": "Be brief.",
            **{side: f"\n\nHuman: {ASK}\n\nAssistant: {text}" for side, text in PAIR.items()},
        },
        BRIEF,
    ),
    "a prompt both share, with a system column": (
        {"system": "Be brief.", "chosen": f"{ASK} Now: Loire.", "rejected": f"{ASK} Now: Moon."},
        schema.Preference(prompt=[SYSTEM, user("Name a river. Now:")], chosen=" Loire.", rejected=" Moon."),
    ),
    "replies with a transcript's cue": (
        {"prompt": "Greet me.", "chosen": "Assistant: Hello.", "rejected": "Assistant: Go away."},
        schema.Preference(prompt=[user("Greet me.")], chosen="Hello.", rejected="Go away.", plain=True),
    ),
    "a reply that is a dialogue": (
        {"prompt": "Write one.", **TEA},
        schema.Preference(prompt=[user("Write one.")], **TEA, plain=True),
    ),
    "KTO of pandas": (
        {"prompt": RIVER, "completion": [assistant(GOOD)], "label": 1.0},
        schema.Feedback(prompt=RIVER, completion=GOOD, label=True),
    ),
    "Capybara": ({"conversation": [{"input": ASK, "output": GOOD}]}, demonstration()),
    "LMSYS chats": ({"conversation": LOIRE, "model": "m"}, demonstration()),
    "OpenHermes": (
        {"conversations": SHAREGPT, "system_prompt": "Be brief."},
        demonstration([SYSTEM, *RIVER]),
    ),
    "Dolly": (
        {"instruction": ASK, "context": "The Loire flows.", "response": GOOD},
        demonstration([user("Name a river.\n\nThe Loire flows.")]),
    ),
    "Alpaca with history": (
        {"instruction": ASK, "input": "", "output": GOOD, "history": HISTORY},
        demonstration(ASKED),
    ),
    "messages as JSON text": (
        {
            name: json.dumps(value)
            for name, value in {"prompt": RIVER, "completion": [assistant(GOOD)]}.items()
        },
        demonstration(),
    ),
    "messages as pandas writes them": (
        {
            "prompt": ASK,
            "chosen": "[{'role': 'user', 'content': 'Name a river.'}\n {'role': 'assistant', 'content': 'The Loire.'}]",
            "rejected": str(MOON),
        },
        PREFERENCE,
    ),
    "content in parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ASK}]}, assistant(GOOD)]},
        demonstration(),
    ),
    "absent keys as nulls": (
        {"messages": [user(ASK) | {"tool_calls": None}, assistant(GOOD, name=None)]},
        demonstration(),
    ),
    "reasoning beside the answer": (
        {"messages": [*RIVER, assistant(GOOD, reasoning_content="Rivers of France...")]},
        demonstration(completion=schema.Reply(GOOD, {"reasoning_content": "Rivers of France..."})),
    ),
    "tools as text": ({"tools": json.dumps(TOOLS), "messages": LOIRE}, demonstration(tools=TOOLS)),
    "arguments of the template": (
        {"messages": LOIRE, "chat_template_kwargs": {"enable_thinking": False, "more": None}},
        demonstration(template_kwargs={"enable_thinking": False}),
    ),
    "a call in the history, without content": (
        {
            "tools": TOOLS,
            "prompt": [*RIVER, {"role": "assistant", "tool_calls": [CALL], "content": None}, RESULT],
            "completion": [assistant(GOOD)],
        },
        demonstration([*RIVER, assistant("", tool_calls=[CALL]), RESULT], tools=TOOLS),
    ),
    "OpenAI's calls, whose arguments are text": (
        {"messages": [*RIVER, assistant("", tool_calls=[TEXT_CALL])]},
        demonstration(completion=schema.Reply("", {"tool_calls": [CALL]})),
    ),
    "ShareGPT's function calls": (
        {
            "conversations": [
                SHAREGPT[0],
                {"from": "function_call", "value": json.dumps(CALL["function"])},
                {"from": "observation", "value": "Loire"},
                SHAREGPT[1],
            ]
        },
        demonstration(completion=schema.Reply("The Loire.", {}, [assistant("", tool_calls=[CALL]), RESULT])),
    ),
    "prompts of any kind": ({"query": ASK}, schema.PromptRecord(prompt=RIVER, plain=True)),
}


@pytest.mark.parametrize(("row", "record"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_is_read_as_what_it_means(row: dict[str, Any], record: schema.Record) -> None:
    assert parse(row) == record


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "p", "response": "r", "helpfulness": 4, "correctness": 1},
            "helpfulness, correctness look like ratings",
        ),
        (
            {"message_id": "1", "parent_id": "0", "text": "t", "role": "prompter"},
            "single messages of reply trees",
        ),
        ({"message_tree_id": "1", "prompt": {"text": "t", "replies": []}}, "reply trees .OpenAssistant."),
        ({"query": "q", "answers": "[]", "tools": "[]"}, "`messages` whose last one has `tool_calls`"),
        ({"question": "q", "attempt": "a", "thinking_trajectories": ["t"]}, "`reasoning_content`"),
        ({"context": ASK, "system": "s", **PAIR}, r"no prompt: .*; context may hold it.*\nRename context"),
        ({"src": "Please name a river in France.", **PAIR}, "src may hold it"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no prompt: there is no prompt column"),
    ],
)
def test_what_cannot_be_read_says_what_to_rename(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        parse(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": RIVER, "chosen": "[{'role': 'user', 'content': ...", "rejected": "b"},
            "messages written as text that cannot be read",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, assistant("a")]},
            "0 pictures for 1 places in the prompt",
        ),
        ({"messages": [*RIVER, assistant("a", weight=0)]}, "the weight of message 2"),
        (
            {"messages": [*RIVER, assistant("a")], "tools": "look"},
            "tools: the text 'look', expected a list of JSON schemas",
        ),
        (
            {"messages": [*RIVER, assistant("a")], "chat_template_kwargs": 1},
            "chat_template_kwargs: the number 1, expected a mapping",
        ),
        (
            {"conversation_a": LOIRE, "conversation_b": [user("?"), assistant("b")], "winner": "model_a"},
            "part before",
        ),
        (
            {"history": "h", "human_ref_A": "a", "human_ref_B": "b", "labels": 2},
            "labels: the number 2, expected one of: 1, 0",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_named(row: dict[str, Any], message: str) -> None:
    assert message in str(parse(row)[0])


def test_every_column_is_accounted_for() -> None:
    row = {"prompt": "p", **PAIR, "context": "c", "rating": 3, "source": "s"}
    layout = recognise([row], "f.jsonl")
    assert layout.uses.keys() == row.keys()
    kept = [name for name, use in layout.uses.items() if use == "kept beside the record"]
    assert kept == ["context", "rating", "source"]
    assert [one.split()[2] for one in layout.warnings] == ["context", "rating"]
    known = {
        "history": "h",
        "human_ref_A": "a",
        "human_ref_B": "b",
        "labels": 1,
        "score_A": 5,
        "post_id": "x",
    }
    assert [one.split()[2] for one in recognise([known], "f.jsonl").warnings] == ["score_A"]
    task = {"prompt": "p", "answer": "4", "rating": 3, "context": "c"}
    wanted = recognise([task], "f.jsonl", "prompt")
    assert [one.split()[2] for one in wanted.warnings] == ["context"], "rewards read the others"


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{ASK} Now: {GOOD}", "rejected": f"{ASK} Now: {BAD}"},
        {
            "chosen": f"\n\nHuman: {ASK}\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {BAD}",
        },
        {"chosen": LOIRE, "rejected": MOON},
        {"messages": RIVER},
        {"messages": [{"role": "system", "content": "Be brief."}, *RIVER]},
        {"prompt": RIVER, **CHATS},
    ],
)
@pytest.mark.parametrize("system", [{}, {"system": "Be brief."}])
def test_earlier_turns_lead_every_form_of_prompt_once(row: dict[str, Any], system: dict[str, str]) -> None:
    prompt = parse({**row, **system, "history": HISTORY}).prompt
    leads = bool(system) or any(one["role"] == "system" for one in row.get("messages", []))
    assert [one["role"] for one in prompt] == [*["system"] * leads, "user", "assistant", "user"]
    assert [one["content"] for one in prompt[leads:]][:2] == list(HISTORY[0])


def test_replies_are_equal_only_with_all_they_say() -> None:
    one, other = schema.Reply("a", {"tool_calls": [1]}), schema.Reply("a", {"tool_calls": [2]})
    assert one == schema.Reply("a", {"tool_calls": [1]})
    assert one != other
    assert one != "a" != one
    assert len({one, other, "a"}) == 3
    assert schema.fields_of("a") == {}
