"""Folders and globs of shards: which files, in which order, and how their rows are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.data.readers import read_records, scan_records
from coalign.data.rows import files_of, iter_rows


def lines(*prompts: str) -> str:
    return "".join(json.dumps({"prompt": one, "completion": "a"}) + "\n" for one in prompts)


def furnish(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def prompts(source: Any, **options: Any) -> list[str]:
    return [one.prompt[0]["content"] for one in read_records(source, **options).records]


def test_rows_of_shards_carry_their_file(tmp_path: Path) -> None:
    folder = furnish(
        tmp_path, **{"part-2.jsonl": lines("c"), "part-1.jsonl": lines("a", "b") + '{"prompt": 1}\n'}
    )
    (folder / "part-0.jsonl").write_text("")
    (folder / "part-3.ndjson.gz").write_bytes(gzip.compress(lines("d").encode()))
    (folder / "README.md").write_text("x")
    (folder / ".hidden.jsonl").write_text("x")
    (folder / "dataset_infos.json").write_text("{}")
    for source in (folder, f"{folder}/part-*"):
        found = scan_records(source)
        assert [str(one.source) for one in found.records] == [
            f"{folder}/part-1.jsonl:1",
            f"{folder}/part-1.jsonl:2",
            f"{folder}/part-2.jsonl:1",
            f"{folder}/part-3.ndjson.gz:1",
        ]
        assert [one.id for one in found.records] == ["0", "1", "3", "4"], "positions in the whole"
        assert {str(one) for one in found.problems} == {
            f"{folder}/part-1.jsonl:3: prompt: the number 1, expected text",
            f"{folder}/part-1.jsonl:3: completion: missing, expected text",
        }
        assert found.bad[0]["file"] == f"{folder}/part-1.jsonl"
        assert {one.source.of for one in found.records} == {str(source)}
    assert prompts(folder, limit=1) == ["a"]


def test_parquet_shards_are_read_one_after_the_other(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list([{"prompt": str(n), "completion": "a"} for n in range(4)])
    for shard in range(2):
        part = data.shard(2, shard, contiguous=True)
        part.to_parquet(str(tmp_path / f"train-0000{shard}-of-00002.parquet"))
    data.select([0]).to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    assert prompts(tmp_path) == ["0", "1", "2", "3"]
    assert prompts(tmp_path, split="test") == ["0"]
    first = next(iter_rows(tmp_path))
    assert first.file.endswith("train-00000-of-00002.parquet")
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    assert next(iter_rows(tmp_path)).index == 0, "a later shard is not opened before its turn"
    with pytest.raises(DataError, match=r"train-00001-of-00002.parquet: not a readable Parquet file"):
        prompts(tmp_path)
    found = scan_records(tmp_path, split="test")
    assert str(found.records[0].source) == f"{tmp_path}/test-00000-of-00001.parquet[0]"


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        ({"data/train.jsonl": "a", "data/validation.jsonl": "b"}, "train", "a"),
        ({"train/1.csv": "", "dev/1.jsonl": "b"}, "validation", "b"),
        ({"a.jsonl": "a", "b.jsonl": "b"}, "test", "ab"),
        (
            {"a.jsonl": "a", "b.json": ""},
            "train",
            r"several formats: JSON Lines \(a.jsonl\) and JSON \(b.json\)",
        ),
        ({"a.jsonl": "a", "b.arrow": ""}, "train", "b.arrow has no format that can be read, a.jsonl has"),
        ({"main/a.jsonl": "a", "other/b.jsonl": "b"}, "train", "files in several folders: main, other"),
        (
            {"train.jsonl": "a", "more.jsonl": "b"},
            "train",
            r"more.jsonl says by its name no split, others do \(train\)",
        ),
        ({"train.jsonl": "a"}, "test", "no files of the split 'test', only: train"),
        ({"a.md": ""}, "train", "a folder without files that can be read"),
        ({"a.jsonl": ""}, "train", "none of its 1 files has a row"),
    ],
)
def test_which_files_a_folder_stands_for(
    files: dict[str, str], split: str, expected: str, tmp_path: Path
) -> None:
    furnish(tmp_path, **{name: lines(*content) for name, content in files.items()})
    if " " in expected:
        with pytest.raises(DataError, match=expected):
            prompts(tmp_path, split=split)
    else:
        assert "".join(prompts(tmp_path, split=split)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", "ab"),
        ("**/*.jsonl", "abc"),
        ("[ab].jsonl", "ab"),
        ("*", "d.txt has no format that can be read"),
        ("x/*", "matches files of several splits: test, train"),
        ("*/*", "several formats"),
        ("*.csv", "no file matches"),
    ],
)
def test_which_files_a_glob_stands_for(pattern: str, expected: str, tmp_path: Path) -> None:
    texts = {"a.jsonl": lines("a"), "b.jsonl": lines("b"), "sub/c.jsonl": lines("c"), "d.txt": "x"}
    more = {"x/train.csv": "x", "x/test.csv": "x"}
    furnish(tmp_path, **texts, **more)
    if " " in expected:
        with pytest.raises(DataError, match=expected):
            prompts(f"{tmp_path}/{pattern}")
    else:
        assert "".join(prompts(f"{tmp_path}/{pattern}")) == expected


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    furnish(tmp_path, **{"a[1].jsonl": lines("odd"), "a1.jsonl": lines("other")})
    path = f"{tmp_path}/a[1].jsonl"
    assert prompts(path) == ["odd"]
    assert files_of(path) == [Path(path)]
