"""Files of other libraries, written by them, and ours, read by them."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq
import pytest

from coalign.core.errors import DataError
from coalign.core.files import append_rows, read_rows
from coalign.data.readers import read_records, scan_records
from coalign.data.records import Demonstration, Preference, Ranking, Record
from coalign.data.writers import write_records

ASK = [{"role": "user", "content": "Say “hi”,\nplease\u2028now"}]
PAIRS = [
    {"prompt": "one, \"two\"\nthree", "chosen": "ja", "rejected": "né 🦜", "score_chosen": 2.5, "score_rejected": 1.0},
    {"prompt": "four", "chosen": "a\tb", "rejected": "c\u2028d", "score_chosen": 9.0, "score_rejected": -1.0},
]  # fmt: skip
TALKS = [
    {"messages": [*ASK, {"role": "assistant", "content": "hi"}], "id": "x"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": "y"},
]


def columns_of(record: Record) -> dict[str, Any]:
    assert isinstance(record, Preference)
    return {
        **{"prompt": record.prompt[0]["content"], "chosen": record.chosen, "rejected": record.rejected},
        **{"score_chosen": record.chosen_score, "score_rejected": record.rejected_score},
    }


WRITERS: dict[str, Callable[[list[dict[str, Any]], str], Any]] = {
    "datasets.jsonl": lambda rows, path: datasets.Dataset.from_list(rows).to_json(path),
    "datasets.csv": lambda rows, path: datasets.Dataset.from_list(rows).to_csv(path),
    "datasets.parquet": lambda rows, path: datasets.Dataset.from_list(rows).to_parquet(path),
    "pandas.jsonl": lambda rows, path: pd.DataFrame(rows).to_json(path, orient="records", lines=True),
    "pandas.json": lambda rows, path: pd.DataFrame(rows).to_json(path, orient="records", indent=1),
    "pandas.jsonl.gz": lambda rows, path: pd.DataFrame(rows).to_json(path, orient="records", lines=True),
    "pandas.csv": lambda rows, path: pd.DataFrame(rows).to_csv(path, index=False),
    "pandas.csv.gz": lambda rows, path: pd.DataFrame(rows).to_csv(path, index=False),
    "pandas.parquet": lambda rows, path: pd.DataFrame(rows).to_parquet(path),
    "arrow.parquet": lambda rows, path: pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_other_libraries_are_read(name: str, tmp_path: Path) -> None:
    for place, rows in enumerate((PAIRS, TALKS)):
        path = tmp_path / f"{place}-{name}"
        WRITERS[name](rows, str(path))
        found = read_records(path).records
        if rows is PAIRS:
            assert [columns_of(one) for one in found] == PAIRS
        else:
            assert [(one.prompt, one.id) for one in found] == [(ASK, "x"), (TALKS[1]["messages"][:1], "y")]


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a table adds: columns that a row has not are null there, and NaN in pandas."""
    return json.loads(
        json.dumps([{k: v for k, v in row.items() if v is not None and v == v} for row in rows])
    )


READERS: dict[str, dict[str, Callable[[str], Any]]] = {
    ".jsonl": {
        "pandas": lambda path: pd.read_json(path, lines=True).to_dict("records"),
        "pyarrow": lambda path: pa_json.read_json(path).to_pylist(),
        "datasets": lambda path: list(datasets.Dataset.from_json(path, keep_in_memory=True)),
    },
    ".parquet": {
        "pandas": lambda path: json.loads(str(pd.read_parquet(path).to_json(orient="records"))),
        "pyarrow": lambda path: pq.read_table(path).to_pylist(),
        "datasets": lambda path: list(datasets.Dataset.from_parquet(path, keep_in_memory=True)),
    },
}


@pytest.mark.parametrize(
    ("suffix", "reader"), [(suffix, reader) for suffix, readers in READERS.items() for reader in readers]
)
@pytest.mark.parametrize("form", ["standard", "conversational"])
def test_our_files_are_read_by_others(suffix: str, reader: str, form: Any, tmp_path: Path) -> None:
    records = [
        Preference(prompt=[{"role": "user", "content": "q\u2028, \"é\"\n"}], chosen="a", rejected="b", plain=True),
        Preference(prompt=[{"role": "user", "content": "🦜"}], chosen="c", rejected="d", chosen_score=2.0, plain=True),
    ]  # fmt: skip
    path = tmp_path / f"a{suffix}"
    write_records(path, records, form=form)
    rows = READERS[suffix][reader](str(path))
    if form == "standard":
        assert plain(rows) == [
            {"prompt": "q\u2028, \"é\"\n", "chosen": "a", "rejected": "b"},
            {"prompt": "🦜", "chosen": "c", "rejected": "d", "score_chosen": 2.0},
        ]  # fmt: skip
    else:
        assert rows[0]["prompt"][0]["content"] == "q\u2028, \"é\"\n"  # fmt: skip
        assert rows[1]["rejected"][0] == {"role": "assistant", "content": "d"}


def test_rejects_are_read_by_others_whatever_the_columns_hold(tmp_path: Path) -> None:
    """A bug: a decimal or a time in a rejected row of a Parquet file was a TypeError."""
    row = {"prompt": "q", "completion": None, "at": datetime.datetime(2026, 1, 2, 3), "raw": b"\x00\xff"}
    table = pa.Table.from_pylist([row, {**row, "completion": "a"}]).append_column(
        "price", [[Decimal("1.50"), None]]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rejects = tmp_path / "rejects.jsonl"
    read_records(tmp_path / "a.parquet", on_bad_record="skip", rejects=rejects)
    (kept,) = (one["row"] for one in read_rows(rejects))
    assert kept == {
        "prompt": "q",
        "completion": None,
        "at": "2026-01-02T03:00:00",
        "raw": "AP8=",
        "price": 1.5,
    }
    for reader in ("pyarrow", "datasets"):
        (row,) = READERS[".jsonl"][reader](str(rejects))
        assert row["file"] == f"{tmp_path}/a.parquet"
        assert row["problems"][0]["expected"] == "text"


# Arrow's JSON and decimals


def test_columns_of_json_type_are_decoded(tmp_path: Path) -> None:
    """A bug: prompts that are text in some rows and messages in others were shown with quotes and escapes."""
    rows = [
        {"prompt": 'Say "hi"\nnow', "completion": "hi"},
        {"prompt": ASK, "completion": [{"role": "assistant", "content": "a", "weight": 1}]},
    ]
    path = tmp_path / "a.parquet"
    features = datasets.Features({"prompt": datasets.Json(), "completion": datasets.Json()})
    data = datasets.Dataset.from_list(rows, features=features)
    data.to_parquet(str(path))
    assert "arrow.json" in str(pq.read_schema(path)), "written as the library does"
    data.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [
        read_records(tmp_path / one, text_alone=False).records for one in ("a.parquet", "saved", "a.jsonl")
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][0].prompt[0]["content"] == 'Say "hi"\nnow'


def of_json(values: Any, kind: Callable[[Any], Any]) -> Any:
    """Values of which the JSON is of Arrow's type, inside what `kind` makes."""
    return pa.array(values, type=kind(pa.string())).cast(kind(pa.json_(pa.string())))


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (lambda one: one, '{"a": [1]}', {"a": [1]}),
        (lambda one: one, None, None),
        (lambda one: pa.list_(one), ['"x"', None, "[1]"], ["x", None, [1]]),
        (lambda one: pa.large_list(one), ["1"], [1]),
        (lambda one: pa.list_(pa.list_(one)), [["1"], None], [[1], None]),
        (lambda one: pa.struct([("p", one), ("q", pa.string())]), {"p": "true", "q": "1"}, {"p": True, "q": "1"}),
        (lambda one: pa.map_(pa.string(), one), [("k", '"v"')], [("k", "v")]),
        (lambda one: pa.list_(pa.struct([("p", one)])), [{"p": "{}"}], [{"p": {}}]),
    ],
)  # fmt: skip
def test_json_inside_lists_structs_and_maps(kind: Any, value: Any, read: Any, tmp_path: Path) -> None:
    column = of_json([value, None], kind)
    texts = pa.array(["q", "q"])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": texts, "completion": texts, "more": column}), path)
    found = read_records(path).records
    assert [one.extra.get("more") for one in found] == [read, None]


def test_a_column_of_json_type_that_is_no_json_is_a_bad_record(tmp_path: Path) -> None:
    column = of_json(['"a"', "{"], lambda one: one)
    pq.write_table(pa.table({"prompt": pa.array(["q", "r"]), "completion": column}), tmp_path / "a.parquet")
    found = scan_records(tmp_path / "a.parquet")
    assert [one.completion for one in found.records if isinstance(one, Demonstration)] == ["a"]
    assert str(found.problems[0]).startswith(
        f"{tmp_path}/a.parquet[1]: completion: declared as JSON and not JSON"
    )


def test_decimals_are_numbers_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "q",
            "responses": ["a", "b"],
            "scores": [Decimal("4.50"), Decimal("3.00")],
            "id": Decimal(7),
        },
        {
            "prompt": "r",
            "responses": ["a", "b"],
            "scores": [Decimal("0.10"), Decimal("1.00")],
            "id": Decimal(8),
        },
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "saved"):
        found = read_records(tmp_path / name).records
        assert [one.scores for one in found if isinstance(one, Ranking)] == [(4.5, 3.0), (0.1, 1.0)]
        assert [one.id for one in found] == ["7", "8"]
        assert type(found[0].extra["id"]) is int
    label = pa.table(
        {"prompt": ["q", "r"], "completion": ["a", "b"], "label": [Decimal("1.0"), Decimal("0.0")]}
    )
    pq.write_table(label, tmp_path / "label.parquet")
    assert read_records(tmp_path / "label.parquet").kind == "feedback"


def test_cells_of_csv_are_what_the_csv_module_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, PAIRS[0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(PAIRS)
    assert [columns_of(one) for one in read_records(path).records] == PAIRS


def test_rows_are_json_that_others_read(tmp_path: Path) -> None:
    """A bug: NaN and infinities were written as words that JSON does not have."""
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"loss": math.nan, "more": {"a": [1.5, -math.inf]}, "text": "NaN Infinity"}])
    append_rows(path, [{"loss": 1.0, "more": {"a": [2.0]}, "text": "x"}])
    expected = [
        {"loss": None, "more": {"a": [1.5, None]}, "text": "NaN Infinity"},
        {"loss": 1.0, "more": {"a": [2.0]}, "text": "x"},
    ]
    assert read_rows(path) == expected
    for reader in ("pyarrow", "datasets"):
        assert READERS[".jsonl"][reader](str(path)) == expected


def test_lists_in_numpy_notation_are_refused(tmp_path: Path) -> None:
    """They cannot be read for sure: two texts without a comma are one in Python, and long lists lose their middle."""
    path = tmp_path / "a.csv"
    row = {"prompt": "q", "responses": ["a", "b"], "scores": [1.0, 2.5]}
    datasets.Dataset.from_list([row]).to_csv(str(path))
    assert [(one.field, one.expected) for one in scan_records(path).problems] == [
        ("responses", "a list of responses"),
        ("scores", "a list of numbers, one a response"),
    ]


def test_a_time_that_python_does_not_have_is_a_bad_record(tmp_path: Path) -> None:
    times = pa.array([1, 2**63 - 1, 3], pa.timestamp("us"))
    table = pa.table({"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"], "at": times})
    pq.write_table(table, tmp_path / "a.parquet")
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    for name, field in (("a.parquet", "at"), ("saved", "row")):
        found = scan_records(tmp_path / name)
        assert [len(found), found.n_bad, found.problems[0].index] == [2, 1, 1]
        assert f"{name}[1]: {field}: " in str(found.problems[0])


def test_texts_that_look_like_dates_stay_texts(tmp_path: Path) -> None:
    """Where every text of a column is a date, datasets 5.2.0 makes times of them (findings/)."""
    row = {"prompt": "1999-12-31", "completion": "2024-05-06"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (record,) = read_records(tmp_path / "a.jsonl").records
    assert isinstance(record, Demonstration)
    assert (record.prompt[0]["content"], record.completion) == ("1999-12-31", "2024-05-06")
    loaded: Any = datasets.load_dataset(
        "json", data_files=str(tmp_path / "a.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded[0]["completion"] == datetime.datetime(2024, 5, 6)
    loaded.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="a datetime, expected text"):
        read_records(tmp_path / "saved")
