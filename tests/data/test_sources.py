"""Sources as options name them, mapped columns, caps, weights and the split over several sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build
from coalign.data.readers import read_records, scan_records
from coalign.data.records import Demonstration, Preference, Ranking
from coalign.data.sources import canonical_columns, canonical_sources, named, sources_of
from coalign.data.splits import drawn, prompt_key, split_parts, split_records, weighted
from coalign.training.material import DataOptions
from tests.preference.tiny_runs import write


def test_text_and_mapping_name_the_same_source() -> None:
    text = "a.jsonl,weight=2,max=1_000,tag=helpful,split=test,kind=preference,column.prompt=question"
    mapping = {
        **{"path": "a.jsonl", "weight": 2, "max": 1000, "tag": "helpful", "split": "test"},
        **{"kind": "preference", "columns": {"prompt": "question"}},
    }
    (source,) = sources_of(text)
    assert sources_of([mapping]) == (source,) == sources_of(mapping)
    assert canonical_sources(text, "data") == [source.plain()]
    assert canonical_sources([text, "b.jsonl"], "data") == [source.plain(), "b.jsonl"]
    assert (source.weight, source.max, source.columns) == (2.0, 1000, {"prompt": "question"})


@pytest.mark.parametrize(
    "value", ["a.jsonl", ["a.jsonl"], [{"path": "a.jsonl"}], {"path": "a.jsonl", "weight": 1}]
)
def test_one_plain_source_stays_a_path(value: Any) -> None:
    assert canonical_sources(value, "data") == "a.jsonl"
    assert build(DataOptions, {"data": value}).data == "a.jsonl"


def test_a_path_that_looks_like_a_source_is_a_path(tmp_path: Path) -> None:
    odd = tmp_path / "a.jsonl,weight=2"
    odd.write_text("{}")
    assert sources_of(str(odd))[0].path == str(odd)
    assert canonical_sources(str(odd), "data") == [{"path": str(odd)}], (
        "the file need not be there to be read again"
    )
    odd.unlink()
    assert sources_of([{"path": str(odd)}])[0].path == str(odd)
    assert sources_of(str(odd))[0].weight == 2
    odd.write_text("{}")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="name the one that is meant by `path`"):
        sources_of(str(odd))
    month = "data/year=2020,month=1/*.parquet"
    assert sources_of(month)[0].path == month


def test_tags_are_names_of_files_and_differ() -> None:
    def tags(*paths: str) -> list[str]:
        return [one.tag for one in sources_of(paths)]

    assert tags("x/a.jsonl.gz", "owner/name", "y/shards/*.parquet") == ["a", "owner/name", "shards"]
    assert tags("x/a.jsonl", "y/a.csv", "b,tag=bee") == ["x/a.jsonl", "y/a.csv", "bee"]
    assert tags("owner/name", "owner/name,split=test") == ["owner/name", "owner/name:test"]
    assert sources_of("a.jsonl")[0].tag == "", "of one source nothing changes"
    assert named(["a.jsonl,max=1", "b"]) == "a.jsonl, b"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "no source"),
        ("", "a path is empty"),
        (["a", "a"], "a is named twice"),
        (["a,tag=x", "b,tag=x"], "the tag 'x' belongs to several"),
        (["a,tag=b.jsonl", "b.jsonl/b.jsonl", "c/b.jsonl"], None),
        ("a,weight=0", "weight: '0' is not usable, expected a number above 0"),
        ("a,weight=nan", "weight"),
        ("a,weight=2,weight=3", "weight is given twice"),
        ({"path": "a", "weight": True}, "weight"),
        ({"path": "a", "max": 0}, "max: 0"),
        ("a,max=1.5", "max: '1.5'"),
        ("a,kind=pair", "kind: 'pair' is not usable, expected one of: prompt"),
        ({"path": "a", "wieght": 2}, "Did you mean weight"),
        ({"weight": 2}, "`path` names a file"),
        ({"path": "a", "columns": "prompt"}, "columns: 'prompt'"),
        ("a,column.promt=x", "promt is no column that records have. Did you mean prompt"),
        ("a,column.prompt=x,column.prompt=y", "prompt is mapped to x, and it to y"),
    ],
)
def test_what_is_no_source_is_refused(value: Any, message: str | None) -> None:
    if message is None:
        sources_of(value)
        return
    with pytest.raises(ValueError, match=message):
        sources_of(value)


def test_a_misspelt_key_is_no_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{}])
    with pytest.raises(ConfigError, match=r"wieght cannot be said of a source\. Did you mean weight"):
        build(DataOptions, {"data": f"{path},wieght=2"})


def test_a_weight_has_no_effect_on_held_out_records() -> None:
    with pytest.raises(ConfigError, match="eval_data: a weight has no effect"):
        build(DataOptions, {"data": "a", "eval_data": "b,weight=2"})


# columns


def test_columns_are_mapped_once() -> None:
    assert canonical_columns(["prompt=question", "chosen=best"]) == {"prompt": "question", "chosen": "best"}
    assert (
        canonical_columns({"prompt": "question"})
        == {"prompt": "question"}
        == canonical_columns("prompt=question")
    )
    assert canonical_columns(None) is None
    for value, message in (
        (["prompt"], "expected NAME=COLUMN"),
        (["prompt=q", "query=r"], "prompt is mapped to q, and query, which means the same, to r"),
        (["chosen=q", "rejected=q"], "the column q is mapped twice, as chosen and as rejected"),
    ):
        with pytest.raises(ValueError, match=message):
            canonical_columns(value)


def test_a_mapped_column_is_read_as_if_it_had_the_name(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"old {n}", "asked": f"q {n}", "a": "yes", "b": "no", "uid": f"u{n}"} for n in range(2)
    ]
    mapping = {"prompt": "asked", "chosen": "a", "rejected": "b", "id": "uid"}
    found = read_records(write(tmp_path / "a.jsonl", rows), columns=mapping)
    (record, other) = found.records
    assert isinstance(record, Preference)
    assert (record.prompt[0]["content"], record.chosen, record.rejected, other.id) == (
        "q 0",
        "yes",
        "no",
        "u1",
    )
    assert record.extra == {"id": "u0", "prompt": "old 0"}, "the column that had the name is kept"
    assert found.uses["asked"] == "the prompt"
    assert found.uses["prompt"] == "kept beside the record"
    assert "from the columns a (as chosen), b (as rejected) and asked (as prompt)" in found.recognised
    bad = scan_records(write(tmp_path / "bad.jsonl", [*rows, {**rows[0], "asked": 5}]), columns=mapping)
    assert [str(one) for one in bad.problems] == [
        f"{tmp_path}/bad.jsonl:3: asked: the number 5, expected text"
    ]


def test_mapped_columns_of_other_forms(tmp_path: Path) -> None:
    """Lists in cells of CSV files, known data sets, and text that becomes a turn as the name says."""
    csv = tmp_path / "a.csv"
    csv.write_text('prompt,texts,points\nq,"[""a"", ""b""]","[1, 2]"\n')
    (ranking,) = read_records(csv, columns={"responses": "texts", "scores": "points"}).records
    assert isinstance(ranking, Ranking)
    assert (ranking.responses, ranking.scores) == (("a", "b"), (1.0, 2.0))
    row = {"asked": "q", "response_0": "a", "response_1": "b", "better_response_id": 1}
    (known,) = read_records(write(tmp_path / "k.jsonl", [row]), columns={"prompt": "asked"}).records
    assert isinstance(known, Ranking)
    assert (known.scores, known.extra) == ((0.0, 1.0), {})
    path = write(tmp_path / "d.jsonl", [{"x": "q", "y": "a"}])
    for name, plain in (("prompt", True), ("instruction", False)):
        (record,) = read_records(path, columns={name: "x", "completion": "y"}).records
        assert record.plain == plain


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"prompt": "asked"}, r"no column asked to take as prompt.*\nIts columns are: q, prompt, completion"),
        ({"label": "q"}, ":1: q: the text 'x', expected true or false"),
        ({"chosen": "q"}, "a preference needs both chosen and rejected, found only chosen"),
        ({"ranks": "q"}, "--column ranks=q has no effect: demonstrations do not use ranks"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    mapping: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "x", "prompt": "p", "completion": "c"}])
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_records(path, columns=mapping)


# caps, weights, splits


def records(prompts: list[str]) -> list[Demonstration]:
    return [Demonstration(prompt=[{"role": "user", "content": one}], completion="a") for one in prompts]


def test_weights_and_caps() -> None:
    some = records([str(n) for n in range(10)])
    assert weighted(some, 1, "x") == some == drawn(some, 10, "x") == drawn(some, None, "x")
    assert weighted(some, 3, "x") == [*some] * 3
    assert [len(weighted(some, one, "x")) for one in (0.5, 0.04, 2.5)] == [5, 0, 25]
    half = weighted(some, 0.5, "x")
    assert half == weighted(some, 0.5, "x") == [one for one in some if one in half], (
        "in their order, each once"
    )
    assert half != weighted(some, 0.5, "y")
    assert weighted(some, 2.5, "x") == [*some, *some, *half]


@given(
    parts=st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=12), min_size=1, max_size=4),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_no_prompt_is_on_both_sides_and_nothing_is_lost(parts: list[list[str]], fraction: float) -> None:
    sources = [records(one) for one in parts]
    if fraction and len({one for part in parts for one in part}) < 2:
        with pytest.raises(ConfigError):
            split_parts(sources, fraction)
        return
    sides = split_parts(sources, fraction)
    training, held_out = ({prompt_key(one) for side in sides for one in side[which]} for which in (0, 1))
    assert not training & held_out
    for source, (train, held) in zip(sources, sides, strict=True):
        assert len(train) + len(held) == len(source)
        different = len({prompt_key(one) for one in source})
        assert not fraction or different < 2 or held, "of every source something is held out"
    if len(sources) == 1:
        assert sides[0] == split_records(sources[0], fraction)
