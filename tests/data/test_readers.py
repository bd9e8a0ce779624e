"""Files of records: formats, compression, bad rows, the hub; writing and splitting; multiple-choice questions."""

from __future__ import annotations

import gzip
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import OptionGroup
from coalign.core.runs import Run
from coalign.data.convert import convert
from coalign.data.multiple_choice import as_text, choice_accuracy, read_questions
from coalign.data.readers import read_records, scan_records
from coalign.data.records import Demonstration, Feedback, Judgment, Preference, PromptRecord, Ranking
from coalign.data.splits import split_records
from coalign.data.writers import write_records
from tests.preference.tiny_runs import write

ROWS = [
    {"prompt": "one", "chosen": "good", "rejected": "bad"},
    {"prompt": "two", "chosen": "göod", "rejected": "b\u2028ad"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
ZIPPED = gzip.compress(LINES, mtime=0)


def pairs(found):
    return [(one.prompt[0]["content"], one.chosen, one.rejected) for one in found.records]


@dataclass(kw_only=True)
class Options(OptionGroup):
    """None."""


EXPECTED = [("one", "good", "bad"), ("two", "göod", "b\u2028ad")]


def test_json_lines_plain_and_compressed(tmp_path):
    contents = {
        "a.jsonl": LINES,
        "a.jsonl.gz": ZIPPED,
        "a.jsonl.zst": zstandard.compress(LINES[:20]) + zstandard.compress(LINES[20:]),
        "bom.jsonl": b"\xef\xbb\xbf" + LINES,
        "blank.ndjson": b"\n" + LINES.replace(b"\n", b"\r\n\n"),
        "lines.json": LINES,
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert pairs(read_records(path)) == EXPECTED, name


def test_json_list_and_data_know_their_lines(tmp_path):
    path = tmp_path / "a.json"
    lines = []
    for whole in (ROWS, {"version": {"data": []}, "data": ROWS, "end": 1}):
        for indent in (None, 2):
            path.write_text(json.dumps(whole, indent=indent))
            found = read_records(path)
            assert pairs(found) == EXPECTED
            lines.append([one.source.line for one in found.records])
    assert lines == [[1, 1], [2, 7], [1, 1], [6, 11]]


def test_csv_lines_count_line_breaks_in_cells(tmp_path):
    path = tmp_path / "a.csv"
    rows = ('"one\nline",yes,true\n', "two,no,0", "three,no", "four,maybe,perhaps\n")
    path.write_text("\n".join(("prompt,completion,label", *rows)))
    found = scan_records(path)
    assert all(isinstance(one, Feedback) for one in found.records)
    assert [(one.source.line, one.label) for one in found.records] == [(2, True), (5, False)]
    assert [str(one) for one in found.problems] == [
        f"{path}:6: row: 2 cells, expected 3 as in the header",
        f"{path}:7: label: the text 'perhaps', expected true or false (also 1 and 0, yes and no)",
    ]


def test_csv_cells_hold_lists_as_json(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,responses,scores\n[1],"[""a"", ""b""]","[1, 0.5]"\n')
    (one,) = read_records(path).records
    assert (one.prompt[0]["content"], one.responses, one.scores) == ("[1]", ("a", "b"), (1.0, 0.5))


def test_parquet_and_saved_dataset(tmp_path):
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    splits = datasets.DatasetDict({"train": dataset, "test": dataset.select([0])})
    splits.save_to_disk(str(tmp_path / "splits"))
    assert pairs(read_records(tmp_path / "a.parquet")) == EXPECTED
    assert pairs(read_records(tmp_path / "saved")) == EXPECTED
    assert pairs(read_records(tmp_path / "splits", split="test")) == EXPECTED[:1]
    with pytest.raises(DataError, match="no split 'eval', only: train, test"):
        read_records(tmp_path / "splits", split="eval")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not one that datasets saved"):
        read_records(tmp_path / "empty")


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES + b"{}\n")))
    found = scan_records("-")
    assert pairs(found) == EXPECTED
    assert str(found.problems[0]).startswith("<stdin>:3: ")


def test_hub_failure_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("coalign.data.files.columnar.hub_problem", lambda: None)
    import datasets

    def unreachable(*_):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"owner/name: no such file, and no data set .*Couldn't reach"):
        read_records("owner/name")


def test_hub_configuration_and_split(monkeypatch):
    import datasets

    asked = []

    def load(*names):
        asked.append(names)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert pairs(read_records("owner/name:main")) == EXPECTED
    assert asked == [("owner/name", "main")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b" \n\n", "the file is empty"),
        ("a.json", b"[]", "the list is empty"),
        ("a.json", b'"text"', "expected a list of records"),
        ("a.json", b'[{"prompt": "a"},\n {"prompt": }]', r"a\.json:2: column 13: not JSON"),
        ("a.json", b'[{"prompt": "\xff"}]', r"a\.json:1: column 14: byte 0xff, expected UTF-8"),
        ("a.csv", b"prompt,chosen\n", "only a header"),
        ("a.csv", b"prompt,prompt\na,b\n", "appears twice"),
        ("a.csv", b'prompt\n"open\n', "not valid CSV"),
        ("a.md", b"hello", "unknown format"),
        ("a.jsonl", b"\x00\x01\x02garbage\xff" * 10, "binary data"),
        ("a.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"hello\nworld\n", r"none of the first 2 rows can be read"),
        ("a.parquet", b"PAR1 not really", "not a readable Parquet"),
        ("a.jsonl.gz", ZIPPED[:-12], "cut off or damaged"),
        ("a.jsonl.gz", ZIPPED[:20] + b"xxxx" + ZIPPED[24:], "cut off or damaged"),
        ("a.jsonl.zst", zstandard.compress(LINES * 50)[:-5], "cut off or damaged"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_records(path)


def test_absent_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="no such file: the name is too long"):
        read_records("a" * 300)


BAD = (
    b'{"prompt": "x", "chosen": \n{"prompt": "\xff"}\n[1]\n{"prompt": "y", "chosen": true, "rejected": ""}\n'
)
BAD = LINES + BAD


def test_fail_names_every_bad_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(BAD)
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert [str(one) for one in caught.value.problems] == [
        f"{path}:3: column 27: not JSON (Expecting value), expected one JSON object a line",
        f"{path}:4: column 13: byte 0xff, expected UTF-8 text",
        f"{path}:5: row: a list, expected a JSON object",
        f"{path}:6: chosen: the boolean true, expected text",
        f"{path}:6: rejected: empty, expected text",
    ]
    assert "4 of 6 records" in str(caught.value)


def test_skip_counts_and_writes_rejects(tmp_path):
    path, rejects = tmp_path / "a.jsonl", tmp_path / "rejects.jsonl"
    path.write_bytes(BAD)
    found = read_records(path, on_bad_record="skip", rejects=rejects)
    assert pairs(found) == EXPECTED
    assert found.n_bad == 4
    rows = [json.loads(line) for line in rejects.read_text().split("\n") if line]
    assert [row["line"] for row in rows] == [3, 4, 5, 6]
    assert rows[0]["row"] == '{"prompt": "x", "chosen": '
    assert rows[3]["row"] == {"prompt": "y", "chosen": True, "rejected": ""}
    assert [one["field"] for one in rows[3]["problems"]] == ["chosen", "rejected"]


def test_skip_writes_no_file_when_nothing_is_bad(tmp_path):
    path, rejects = tmp_path / "a.jsonl", tmp_path / "rejects.jsonl"
    path.write_bytes(LINES)
    assert read_records(path, on_bad_record="skip", rejects=rejects).rejects is None
    assert not rejects.exists()


def test_skip_with_nothing_left_fails(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "x", "chosen": 1, "rejected": 2}\n')
    with pytest.raises(DataError, match="no record can be used"):
        read_records(path, on_bad_record="skip")


def test_limit_and_positions(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    found = read_records(path, limit=1)
    assert len(found) == 1
    assert isinstance(found.records[0], Preference)
    assert (found.records[0].source.line, found.records[0].source.index) == (1, 0)


PLAIN = [{"role": "user", "content": "q\u2028é"}]
CHAT = [{"role": "system", "content": "s"}, *PLAIN, {"role": "assistant", "content": "a"}, *PLAIN]
KINDS = [
    lambda **common: PromptRecord(**common),
    lambda **common: Demonstration(completion="a", **common),
    lambda **common: Preference(chosen="a b", rejected="a c", **common),
    lambda **common: Preference(chosen="a b", rejected="a c", chosen_score=2.0, rejected_score=1.0, **common),
    lambda **common: Ranking(responses=("a", "b", "c"), scores=(1.0, 3.0, 3.0), **common),
    lambda **common: Feedback(completion="a", label=False, **common),
    lambda **common: Judgment(completion="a", judgment="j", **common),
    lambda **common: Judgment(completion="a", judgment="j", label=True, **common),
]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", ["standard", "conversational"])
def test_round_trip(tmp_path, make, suffix, form):
    common = {"prompt": PLAIN, "plain": True} if form == "standard" else {"prompt": CHAT}
    records = [make(extra={"id": 7, "tags": ["x"]}, **common), make(**common)]
    path = tmp_path / f"a{suffix}"
    write_records(path, records, form=form)
    found = read_records(path)
    assert found.records == records
    assert [one.extra for one in found.records] == [one.extra for one in records]


@pytest.mark.parametrize("make", KINDS[1:])
@pytest.mark.parametrize("form", ["standard", "conversational"])
def test_round_trip_without_a_prompt(tmp_path, make, form):
    path = tmp_path / "a.jsonl"
    record = make(prompt=[], plain=True)
    write_records(path, [record], form=form)
    assert read_records(path).records == [record]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="its prompt has 4 messages"):
        write_records(tmp_path / "a.jsonl", [PromptRecord(prompt=CHAT)])
    two = [PromptRecord(prompt=PLAIN), Demonstration(prompt=PLAIN, completion="a")]
    with pytest.raises(DataError, match="several kinds"):
        write_records(tmp_path / "a.jsonl", two)
    with pytest.raises(DataError, match=r"\.jsonl or \.parquet"):
        write_records(tmp_path / "a.csv", [PromptRecord(prompt=PLAIN)])
    assert list(tmp_path.iterdir()) == []


def prompts(numbers):
    return [PromptRecord(prompt=[{"role": "user", "content": str(number)}]) for number in numbers]


@given(
    numbers=st.lists(st.integers(0, 30), min_size=2, max_size=80).filter(lambda one: len(set(one)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_split_never_shares_a_prompt(numbers, fraction, seed):
    records = prompts(numbers)
    train, evaluation = split_records(records, fraction, seed)
    contents = [{one.prompt[0]["content"] for one in part} for part in (train, evaluation)]
    assert not contents[0] & contents[1]
    assert len(train) + len(evaluation) == len(records)
    assert train
    assert evaluation
    again = split_records(records[::-1], fraction, seed)
    assert again[1] == evaluation[::-1]


@pytest.mark.parametrize("name", ["prompts.txt", "PROMPTS.TXT", "prompts.txt.gz"])
def test_text_files_hold_a_prompt_a_line(tmp_path, name):
    data = "Why is the sky blue?\r\n\n  Wie spät ist es?\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = read_records(tmp_path / name)
    assert [one.prompt for one in found.records] == [
        [{"role": "user", "content": text}] for text in ("Why is the sky blue?", "Wie spät ist es?")
    ]
    assert [one.source.line for one in found.records] == [1, 3]


def test_text_files_that_cannot_be_read_say_where(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"fine\nbad \xff byte\n")
    with pytest.raises(DataError, match=r"prompts.txt:2: column 5: byte 0xff"):
        read_records(path)
    path.write_bytes(b"\n \n")
    with pytest.raises(DataError, match="is empty"):
        read_records(path)


@pytest.mark.parametrize(("n", "held_out"), [(2, 1), (3, 1), (4, 2), (16, 2), (40, 2), (100, 5)])
def test_one_prompt_alone_is_held_out_only_of_fewer_than_four(n, held_out):
    assert len(split_records(prompts(range(n)), 0.05)[1]) == held_out


def test_split_size_and_seed():
    records = prompts(range(200))
    train, evaluation = split_records(records, 0.1, seed=1)
    assert (len(train), len(evaluation)) == (180, 20)
    assert split_records(records, 0.1, seed=2)[1] != evaluation
    assert split_records(records, 0.0) == (records, [])


def test_split_that_cannot_be():
    with pytest.raises(ConfigError, match="different prompt"):
        split_records(prompts([1, 1]), 0.5)
    with pytest.raises(ConfigError, match="below 1"):
        split_records(prompts([1, 2]), 1.0)


def test_feedback_on_one_prompt_becomes_a_ranking() -> None:
    said = [("p", "wrong", False), ("q", "alone", True), ("p", "right", True), ("p", "right", True)]
    said += [("r", "a", True), ("r", "a", False), ("r", "b", True)]
    rows = [
        Feedback(prompt=[{"role": "user", "content": p}], completion=c, label=good) for p, c, good in said
    ]
    first, second = convert(rows, "feedback", "ranking")
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert (first.responses, first.scores) == (("right", "wrong"), (1.0, 0.0))
    assert (second.responses, second.scores) == (("b", "a"), (1.0, 0.0)), "one thumb down is enough"


TWO = {"question": "?", "choices": ["a", "b"]}


def question_file(folder: Path, *rows: Any) -> Path:
    return write(folder / "questions.jsonl", rows)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1},
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": "B"},
        {"prompt": "2 + 2?", "choices": ["3", "4"], "answer": "4"},
        {"ctx": "2 + 2?", "endings": ["3", "4"], "label": "1"},
        {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
    ],
)
def test_forms_of_a_question(row: dict[str, Any], tmp_path: Path) -> None:
    (question,) = read_questions(question_file(tmp_path, row))
    assert question.prompt[0]["content"] == "2 + 2?"
    assert question.responses == ("3", "4")
    assert question.scores == (0.0, 1.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "question: is missing"),
        ({"question": "?", "answer": 0}, "choices: holds None"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "two or more texts"),
        ({"question": "?", "choices": ["a", "a"], "answer": 0}, "same text twice"),
        ({**TWO, "answer": 2}, "answer: holds 2, expected a position from 0 to 1"),
        ({**TWO, "answer": True}, "holds True"),
        (TWO, "answer: holds None"),
    ],
)
def test_rows_that_are_no_questions_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(question_file(tmp_path, {**TWO, "answer": 0}, row))
    assert message in str(caught.value)
    assert "questions.jsonl:2" in str(caught.value)
    assert len(read_questions(tmp_path / "questions.jsonl", limit=1)) == 1


def test_accuracy_by_hand() -> None:
    sums = torch.tensor([-2.0, -3.0, -1.0, -1.0, -4.0])
    lengths = torch.tensor([1, 3, 1, 1, 8])
    values = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    found = choice_accuracy(sums, lengths, values, torch.tensor([0, 0, 1, 1, 1]))
    assert (found.by_sum, found.by_mean) == (0.5, 0.0), "a tie is no hit"
    with pytest.raises(ValueError, match="exactly one"):
        choice_accuracy(sums[:2], lengths[:2], torch.ones(2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="no question"):
        choice_accuracy(sums[:0], lengths[:0], values[:0], torch.zeros(0, dtype=torch.long))


def test_a_question_for_a_model_without_a_template(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "choices": ["3", " 4"], "answer": 1}
    question = as_text(read_questions(question_file(tmp_path, row))[0])
    assert question.prompt[0]["content"] == "2 + 2?\nAnswer:"
    assert question.responses == (" 3", " 4")


def test_a_run_folder_stands_for_the_records_that_its_run_made(tmp_path):
    run = Run.start(tmp_path / "run", "a-system", Options())
    with pytest.raises(DataError, match="a run that made no records"):
        read_records(run.path)
    made = run.artefacts / "round-1" / "kept.jsonl"
    made.parent.mkdir()
    made.write_bytes(LINES)
    run.publish_records(made)
    assert pairs(read_records(str(run.path))) == EXPECTED
    made.write_bytes(LINES + b'{"odd": 1}\n')
    with pytest.raises(DataError, match=r"1 of 3 records"):
        read_records(run.path)
    made.unlink()
    with pytest.raises(DataError, match="made no records"):
        read_records(run.path)
