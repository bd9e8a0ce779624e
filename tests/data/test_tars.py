"""Records of WebDataset shards are those of lines, and a shard that would lose or part some is refused by name."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from coalign.core.errors import DataError
from coalign.data.media.errors import MediaError
from coalign.data.prepared import kept, many
from coalign.data.prepared.many import OnDisk
from coalign.data.readers import read_records, scan_records
from coalign.training.material import LearningOptions, read_material
from tests.data.media.making import encoded, picture


def shard(path: Path, members: list[tuple[str, str | bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            content = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def rows(first: int, count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"}
        for n in range(first, first + count)
    ]


def of_json(first: int, count: int) -> list[tuple[str, str | bytes]]:
    return [(f"set/{n:04d}.json", json.dumps(row)) for n, row in enumerate(rows(first, count))]


def texts(found: object) -> list[tuple[str, str]]:
    return [(one.chosen, one.rejected) for one in found]  # type: ignore[attr-defined]


def test_members_of_json_and_of_text_are_columns(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", of_json(0, 3))
    apart: list[tuple[str, str | bytes]] = [
        (f"{n}.{part}.txt", text) for n, row in enumerate(rows(0, 3)) for part, text in row.items()
    ]
    shard(tmp_path / "b.tar", apart)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows(0, 3)))
    found = [read_records(tmp_path / name) for name in ("a.tar", "b.tar", "c.jsonl")]
    assert [one.kind for one in found] == ["preference"] * 3
    assert texts(found[0].records) == texts(found[1].records) == texts(found[2].records)
    assert found[0].records[1].extra["__key__"] == "set/0001"


def test_uneven_shards_are_one_source(tmp_path: Path) -> None:
    shard(tmp_path / "train-00.tar", of_json(0, 5))
    shard(tmp_path / "train-01.tar", of_json(5, 1))
    shard(tmp_path / "train-02.tar", of_json(6, 3))
    for name in (tmp_path, tmp_path / "train-*.tar", tmp_path / "train-{00..02}.tar"):
        records = read_records(name).records
        assert [one.id for one in records] == [str(n) for n in range(9)]
        assert texts(records) == [(one["chosen"], one["rejected"]) for one in rows(0, 9)]
    assert str(records[5].source) == f"{tmp_path / 'train-01.tar'}[0]"


def test_a_picture_of_a_shard_is_shown(tmp_path: Path) -> None:
    row = {"prompt": "<image> what is it?", "chosen": "a cat", "rejected": "a dog"}
    shard(tmp_path / "a.tar", [("1.json", json.dumps(row)), ("1.jpg", encoded(picture(seed=1)))])
    (record,) = read_records(tmp_path / "a.tar", text_alone=False).records
    assert record.pictures[0].open().mode == "RGB"


def test_bad_members_are_bad_records(tmp_path: Path) -> None:
    members = [
        *of_json(0, 2),
        ("x.json", "{"),
        ("y.json", "[1]"),
        ("z.json", '{"prompt": "q", "chosen": "a", "rejected": "\\ud800"}'),
        ("w.txt", b"\xff"),
    ]
    found = scan_records(shard(tmp_path / "a.tar", members))
    assert len(found.records) == 2
    assert [str(one).partition(": ")[0].rpartition("/")[2] for one in found.problems] == [
        "x.json[2]",
        "y.json[3]",
        "a.tar[4]",
        "w.txt[5]",
    ]


@pytest.mark.parametrize("order", [[0, 2, 1], [0, 2, 3, 1]])
def test_members_that_do_not_follow_each_other_are_refused(tmp_path: Path, order: list[int]) -> None:
    members: list[tuple[str, str | bytes]] = [
        ("0.prompt.txt", "q"),
        ("0.chosen.txt", "a"),
        ("1.prompt.txt", "q"),
        ("2.prompt.txt", "q"),
    ]
    path = shard(tmp_path / "a.tar", [members[place] for place in order])
    with pytest.raises(DataError, match=r"a\.tar: the members of 0 do not follow each other: 0\.chosen\.txt"):
        read_records(path)


def test_a_shard_that_ends_early_is_refused(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", of_json(0, 30)).read_bytes()
    for length in (512, 1000, 1024, 9 * 1024 + 700):
        (tmp_path / "b.tar").write_bytes(whole[:length])
        with pytest.raises((DataError, MediaError), match=r"b\.tar.*(cut off|only|no end|unexpected end)"):
            read_records(tmp_path / "b.tar")
    (tmp_path / "b.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="compressed tar"):
        read_records(tmp_path / "b.tar.gz")


def test_shards_hold_out_what_one_file_holds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows(0, 40)))
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, (first, count) in enumerate(((0, 25), (25, 2), (27, 13))):
        shard(folder / f"{number}.tar", of_json(first, count))
    here = read_material(LearningOptions(data=str(tmp_path / "one.jsonl"), eval_fraction=0.2), "preference")
    monkeypatch.setattr(many, "MANY", 10)
    monkeypatch.setattr(kept, "SMALLEST", 1)
    for _ in range(2):
        there = read_material(LearningOptions(data=str(folder), eval_fraction=0.2), "preference")
        assert isinstance(there.training, OnDisk)
        assert texts(there.training) == texts(here.training)
        assert texts(there.held_out) == texts(here.held_out)
