"""Rows become records: columns, and well-known layouts of the hub; read as what they mean or refused with what to rename."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.data import records as schema
from coalign.data.columns import recognise
from coalign.data.parse import parse_row

SOURCE = schema.Source("f.jsonl", 1)


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
Q = [user("q")]
ANSWER_A, ANSWER_B = [*Q, assistant("a")], [*Q, assistant("b")]


def parse(row, kind=None):
    return parse_row(row, recognise([row], "f.jsonl", kind), SOURCE)


def problems(row, kind=None):
    parsed = parse(row, kind)
    assert isinstance(parsed, list), parsed
    return [str(one).removeprefix("f.jsonl:1: ") for one in parsed]


QA = {"prompt": Q, "completion": "a"}
DO = {"instruction": "do", "output": "a"}
AB = {"chosen": "a", "rejected": "b"}
A_OVER_B = schema.Preference(prompt=Q, **AB)


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"prompt": "q"}, schema.PromptRecord(prompt=Q, plain=True)),
        ({"prompt": [SYSTEM, *Q]}, schema.PromptRecord(prompt=[SYSTEM, *Q])),
        ({"messages": Q}, schema.PromptRecord(prompt=Q)),
        ({"prompt": "q", "completion": " a"}, schema.Demonstration(prompt=Q, completion=" a", plain=True)),
        ({"prompt": Q, "completion": [assistant("a")]}, schema.Demonstration(**QA)),
        ({"messages": ANSWER_A}, schema.Demonstration(**QA)),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            schema.Demonstration(**QA),
        ),
        ({**DO, "input": "this"}, schema.Demonstration(prompt=[user("do\n\nthis")], completion="a")),
        ({**DO, "input": ""}, schema.Demonstration(prompt=[user("do")], completion="a")),
        ({"question": "q", "answer": "a"}, schema.Demonstration(**QA)),
        ({"text": "once"}, schema.Demonstration(prompt=[], completion="once", plain=True)),
        ({"system": "Be brief.", "question": "q", **AB}, schema.Preference(prompt=[SYSTEM, *Q], **AB)),
        ({"prompt": "q", **AB}, schema.Preference(prompt=Q, **AB, plain=True)),
        ({"prompt": Q, "chosen": [assistant("a")], "rejected": [assistant("b")]}, A_OVER_B),
        (
            {
                "prompt": "q",
                "chosen": [SYSTEM, *ANSWER_A],
                "rejected": [SYSTEM, *ANSWER_B],
                "score_chosen": 9,
                "score_rejected": 2.5,
                "messages": ANSWER_A,
            },
            schema.Preference(prompt=[SYSTEM, *Q], **AB, chosen_score=9.0, rejected_score=2.5),
        ),  # UltraFeedback binarised: the prompt as text beside whole conversations and scores
        (
            {"chosen": [*Q, assistant("same")], "rejected": [*Q, assistant("same")]},
            schema.Preference(prompt=Q, chosen="same", rejected="same"),
        ),  # implicit prompt of messages
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            schema.Preference(prompt=[user("The sky is")], chosen=" blue.", rejected=" green.", plain=True),
        ),  # implicit prompt of text
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, A_OVER_B),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", **AB}, A_OVER_B),
        (
            {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]},
            schema.Ranking(prompt=Q, responses=("a", "b"), scores=(1.0, 2.0), plain=True),
        ),
        (
            {"prompt": "q", "completions": [[assistant("a")], [assistant("b")]], "ranks": [1, 2]},
            schema.Ranking(prompt=Q, responses=("a", "b"), scores=(-1.0, -2.0), plain=True),
        ),
        ({**QA, "label": True}, schema.Feedback(**QA, label=True)),
        ({**QA, "label": 0}, schema.Feedback(**QA, label=False)),
        ({"messages": ANSWER_A, "label": "yes"}, schema.Feedback(**QA, label=True)),
        ({**QA, "judgment": "good"}, schema.Judgment(**QA, judgment="good")),
        ({**QA, "critique": "bad", "label": False}, schema.Judgment(**QA, judgment="bad", label=False)),
    ],
)
def test_rows_become_records(row, record):
    assert parse(row) == record


def test_unclaimed_columns_are_kept():
    record = parse({"prompt": "q", "chosen": "a", "rejected": "b", "id": "x7", "group": [1], "none": None})
    assert record.extra == {"id": "x7", "group": [1]}
    assert record.id == "x7"


def test_other_fields_of_scored_responses_are_kept():
    completions = [{"response": "a", "score": 1, "model": "m"}, {"response": "b", "score": 2, "model": "n"}]
    record = parse({"prompt": "q", "completions": completions})
    assert record.extra == {"response_fields": [{"model": "m"}, {"model": "n"}]}


def test_null_judgment_means_nothing_to_say():
    layout = recognise([{**QA, "judgment": None}, {**QA, "judgment": "bad"}], "f")
    assert parse_row({**QA, "judgment": None}, layout, SOURCE) == schema.Judgment(**QA, judgment="")
    assert isinstance(parse_row({**QA, "judgment": ""}, layout, SOURCE), list)


def test_prompts_can_be_had_from_any_kind():
    rows = {"chosen": ANSWER_A, "rejected": ANSWER_B}, {"messages": ANSWER_A}, {**QA, "label": True}
    for row in rows:
        assert parse(row, "prompt") == schema.PromptRecord(prompt=Q)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"prompt": "q", "chosen": True, "rejected": 3},
            ["chosen: the boolean true, expected text", "rejected: the number 3, expected text"],
        ),
        (
            {"prompt": "q", "chosen": " \n", "rejected": ""},
            ["chosen: only white space, expected text", "rejected: empty, expected text"],
        ),
        ({"prompt": 1, "chosen": "a", "rejected": "b"}, ["prompt: the number 1, expected text"]),
        (
            {"prompt": "q", "chosen": "a", "rejected": [assistant("b")]},
            ["rejected: a list while chosen is text, expected both as text or both as messages"],
        ),
        ({"prompt": ""}, ["prompt: empty, expected text"]),
        (
            {"prompt": ANSWER_A},
            [
                "prompt: the last message is from the assistant, expected a prompt that ends with the user's turn"
            ],
        ),
        ({"prompt": [user(" ")]}, ["prompt: the user's last message is empty, expected text"]),
        (
            {"prompt": [{"role": "human", "content": "q"}]},
            [
                "prompt: the role of message 1 is the text 'human', expected one of: system, developer, user, assistant, tool"
            ],
        ),
        (
            {"prompt": [{"role": "user", "content": None}]},
            ["prompt: the content of message 1 is missing, expected text"],
        ),
        ({"prompt": []}, ["prompt: an empty list, expected at least one message"]),
        (
            {"messages": ANSWER_A, "label": 2},
            ["label: the number 2, expected true or false (also 1 and 0, yes and no)"],
        ),
        ({"prompt": "q", "responses": ["a"], "scores": [1]}, ["responses: 1 response, expected at least 2"]),
        (
            {"prompt": "q", "responses": ["a", ""], "scores": [1, float("nan")]},
            ["responses[1]: empty, expected text", "scores[1]: not finite (nan), expected a finite number"],
        ),
        (
            {"prompt": "q", "responses": ["a", "b"], "scores": [1]},
            ["scores: 1 values for 2 responses, expected one a response"],
        ),
        (
            {"prompt": "q", "responses": ["a", "b"], "scores": [True, "x"]},
            ["scores[0]: the boolean true, expected a number"],
        ),
        (
            {"prompt": "q", "responses": "ab", "scores": 1},
            [
                "responses: the text 'ab', expected a list of responses",
                "scores: the number 1, expected a list of numbers, one a response",
            ],
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "inf"},
            ["score_chosen: not finite (inf), expected a finite number"],
        ),
    ],
)
def test_bad_rows_say_what_and_where(row, expected):
    assert problems(row) == expected


def transcript(*turns):
    return "".join(f"\n\n{speaker}: {text}" for speaker, text in turns)


H, A = "Human", "Assistant"


def test_transcript_turns_of_one_speaker_are_one_message():
    # As four rows of the held-out harmless split: the assistant's turn is written in two pieces.
    row = {
        "chosen": transcript((H, "q"), (A, "No.  Human: why?"), (A, "Because.")),
        "rejected": transcript((H, "q"), (A, "A king.")),
    }
    chosen = "No.  Human: why?\n\nBecause."
    assert parse(row) == schema.Preference(prompt=Q, chosen=chosen, rejected="A king.")


def test_dialogues_that_part_before_the_last_user_turn_are_refused():
    row = {
        "chosen": transcript((H, "q"), (A, "a"), (H, "more"), (A, "b")),
        "rejected": transcript((H, "q"), (A, "other"), (H, "more"), (A, "c")),
    }
    (problem,) = problems(row)
    parting = "chosen: chosen and rejected part at message 2, after which chosen has 3 messages"
    assert problem.startswith(parting)


def test_transcript_without_a_last_reply():
    row = {"chosen": transcript((H, "q"), (A, "")), "rejected": transcript((H, "q"), (A, "a"))}
    assert problems(row) == ["chosen: the last reply is empty, expected text"]
    row = {"chosen": transcript((H, "q"), (A, "a"), (H, "end")), "rejected": transcript((H, "q"), (A, "a"))}
    assert "chosen has 2 messages (assistant, user)" in problems(row)[0]


def test_prompt_must_be_that_of_the_conversations():
    row = {"prompt": "p", "chosen": ANSWER_A, "rejected": ANSWER_B}
    assert "does not hold the prompt's last message" in problems(row)[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("prompt chosen", "a preference needs both chosen and rejected, found only chosen"),
        ("prompt responses", "a ranking needs also scores, rewards or ranks"),
        (
            "completion label x",
            "no known kind of record in the columns completion, label, x: a completion needs also",
        ),
        ("foo bar", "no known kind of record in the columns foo, bar"),
    ],
)
def test_unknown_columns(columns, message):
    with pytest.raises(DataError, match=message) as caught:
        recognise([dict.fromkeys(columns.split(), "x")], "f")
    assert "Needed: prompt: prompt or messages; demonstration" in str(caught.value)


def test_wanted_kind_that_is_not_there():
    with pytest.raises(DataError, match="no preference in the columns prompt") as caught:
        recognise([{"prompt": "q"}], "f", "preference")
    assert "Needed: preference: chosen + rejected." in str(caught.value)


def test_one_odd_row_does_not_change_the_kind():
    rows = [{"prompt": "q", "completion": "a"}] * 3 + [{"chosen": "a", "rejected": "b"}]
    layout = recognise(rows, "f")
    assert layout.kind == "demonstration"
    assert parse_row(rows[3], layout, SOURCE)[0].field == "prompt"


def test_recognised_says_what_and_why():
    row = {"chosen": transcript((H, "q"), (A, "a")), "rejected": transcript((H, "q"), (A, "b")), "id": 1}
    assert recognise([row], "f").recognised == (
        "preference pairs, from the columns chosen and rejected "
        "(whole dialogues in the Anthropic HH form; the prompt is what both share); kept beside them: id"
    )


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
        demonstration([*RIVER, assistant("", tool_calls=[CALL]), RESULT]),
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
            "a part of type image, expected text",
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
