"""Rows of usual columns as records of every kind; what is wrong with a row, and files of no known kind."""

from __future__ import annotations

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
            schema.Ranking(prompt=Q, responses=("a", "b"), scores=(-1.0, -2.0), absolute=False, plain=True),
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
