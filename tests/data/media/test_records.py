"""Pictures and clips with captions and labels, from every form."""

from __future__ import annotations

import base64
import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coalign.core.errors import DataError
from coalign.data.media.pictures import picture_hash
from coalign.data.media.records import MediaSet, is_media, read_media, scan_media
from tests.data.media.making import encoded, picture, write_clip

WORDS = ("a red square", "two circles", "ein Hund")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(encoded(picture(seed=index)))
    return folder


def _rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _same(found: MediaSet) -> bool:
    """Whether these are the three pictures and their captions."""
    hashes = [picture_hash(one.picture) for one in found.records]
    return hashes == [picture_hash(picture(seed=index)) for index in range(3)] and [
        one.captions for one in found.records
    ] == [(one,) for one in WORDS]


def test_json_lines_csv_parquet_and_base64(pictures: Path) -> None:
    rows = [{"image": f"{index}.png", "caption": words} for index, words in enumerate(WORDS)]
    assert _same(read_media(_rows(pictures / "a.jsonl", rows)))
    with (pictures / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text"])
        writer.writeheader()
        writer.writerows({"image": row["image"], "text": row["caption"]} for row in rows)
    assert _same(read_media(pictures / "a.csv"))
    data = [(pictures / f"{index}.png").read_bytes() for index in range(3)]
    cells = [{"bytes": one, "path": f"{index}.png"} for index, one in enumerate(data)]
    pq.write_table(pa.table({"image": cells, "caption": list(WORDS)}), pictures / "a.parquet")
    assert _same(read_media(pictures / "a.parquet"))
    coded = [
        {"img": base64.b64encode(one).decode(), "txt": words} for one, words in zip(data, WORDS, strict=True)
    ]
    assert _same(read_media(_rows(pictures / "b.jsonl", coded)))


def test_several_captions_labels_and_other_columns(pictures: Path) -> None:
    rows = [
        {"id": "x", "image": "0.png", "captions": ["a", "b"], "label": "dog", "licence": "CC0"},
        {"id": "y", "image": ["1.png"], "captions": [], "label": 3, "licence": None},
    ]
    found = read_media(_rows(pictures / "a.jsonl", rows))
    first, second = found.records
    assert (first.id, first.captions, first.caption, first.label) == ("x", ("a", "b"), "a", "dog")
    assert (second.captions, second.caption, second.label) == ((), "", "3")
    assert first.more == {"licence": "CC0"}
    assert found.unused == ("licence",)
    assert found.counts == {"with a caption": 1, "with several captions": 1, "with a label": 2}
    named = read_media(pictures / "a.jsonl", columns={"image": "image", "captions": "licence"}, limit=1)
    assert named.records[0].captions == ("CC0",)


def test_problems_are_named_and_counted(pictures: Path) -> None:
    rows = [
        {"image": "0.png", "caption": "fine"},
        {"image": "none.png", "caption": "x"},
        {"image": "https://example.org/a.png", "caption": "x"},
        {"image": None, "caption": "x"},
        {"image": ["0.png", "1.png"], "caption": "x"},
        {"image": "1.png", "caption": 7},
        {"image": "1.png", "caption": ""},
        {"image": "2.png", "caption": ["a", " "]},
    ]
    path = _rows(pictures / "a.jsonl", rows)
    found = scan_media(path, needs=["captions"])
    assert len(found) == 1
    told = [str(one) for one in found.problems]
    assert [one.split(": ")[0].rpartition(":")[2] for one in told] == list("2345678")
    for one, text in zip(
        told,
        ("no such file", "a URL", "missing", "a list of 2", "the number 7", "missing", "empty"),
        strict=True,
    ):
        assert text in one
    with pytest.raises(DataError, match="7 of 8 records cannot be used"):
        read_media(path, needs=["captions"])
    assert len(read_media(path, needs=["captions"], on_bad_record="skip")) == 1


def test_columns_that_are_not_there(pictures: Path) -> None:
    path = _rows(pictures / "a.jsonl", [{"question": "x"}])
    with pytest.raises(DataError, match="no column with pictures or clips among: question"):
        read_media(path)
    with pytest.raises(DataError, match="no column 'photo'"):
        read_media(path, columns={"image": "photo"})
    both = _rows(pictures / "b.jsonl", [{"image": "0.png", "video": "a.mp4"}])
    with pytest.raises(DataError, match="pictures and clips"):
        read_media(both)
    assert read_media(both, kind="image").kind == "image"


def test_ids_that_repeat(pictures: Path) -> None:
    rows = [{"id": "a", "image": f"{index}.png"} for index in range(2)]
    assert "'a' twice" in str(scan_media(_rows(pictures / "a.jsonl", rows)).problems[0])


def test_folder_with_texts_beside(pictures: Path) -> None:
    for index, words in enumerate(WORDS):
        (pictures / f"{index}.txt").write_text(words + "\n", encoding="utf-8")
    found = read_media(pictures)
    assert _same(found)
    assert [one.id for one in found.records] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder_with_metadata(pictures: Path, kind: str) -> None:
    rows = [{"file_name": f"{index}.png", "text": words} for index, words in enumerate(WORDS)]
    if kind == "jsonl":
        _rows(pictures / "metadata.jsonl", rows)
    else:
        (pictures / "metadata.csv").write_text(
            "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows)
        )
    assert _same(read_media(pictures))
    (pictures / "1.png").unlink()
    (problem,) = scan_media(pictures).problems
    assert f"metadata.{kind}:" in str(problem)
    assert "no such file" in str(problem)


def test_a_folder_a_class_and_splits(pictures: Path) -> None:
    root = pictures.parent / "sorted"
    for index, (split, name) in enumerate((("train", "cat"), ("train", "dog"), ("test", "cat"))):
        (root / split / name).mkdir(parents=True)
        (pictures / f"{index}.png").rename(root / split / name / "a.png")
    train = read_media(root)
    assert [(one.label, one.id) for one in train.records] == [("cat", "cat/a.png"), ("dog", "dog/a.png")]
    assert [one.label for one in read_media(root, split="test").records] == ["cat"]
    assert picture_hash(read_media(root, split="test").records[0].picture) == picture_hash(picture(seed=2))
    with pytest.raises(DataError, match="no files of the split 'validation'"):
        read_media(root, split="validation")


def test_a_folder_of_clips(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", [0.0, 0.1])
    (tmp_path / "a.txt").write_text("grey")
    found = read_media(tmp_path)
    (one,) = found.records
    assert (found.kind, one.captions) == ("video", ("grey",))
    assert one.clip is not None
    assert one.clip.info.frames == 2
    (tmp_path / "b.png").write_bytes(encoded(picture()))
    with pytest.raises(DataError, match="pictures and clips together"):
        read_media(tmp_path)


# -- tar shards -------------------------------------------------------------------------------------------------------


def _shard(path: Path, folder: Path, names: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in names.items():
            (folder / "member").write_bytes(data)
            tar.add(folder / "member", name)
    return path


@pytest.fixture
def members() -> dict[str, bytes]:
    found = {}
    for index, words in enumerate(WORDS):
        found[f"set/{index:04d}.PNG"] = encoded(picture(seed=index))
        found[f"set/{index:04d}.txt"] = words.encode()
        found[f"set/{index:04d}.cls"] = b"3"
        found[f"set/{index:04d}.json"] = json.dumps({"licence": "CC0"}).encode()
    return found


def test_tar_shards(tmp_path: Path, members: dict[str, bytes]) -> None:
    found = read_media(_shard(tmp_path / "a-00.tar", tmp_path, members))
    assert _same(found)
    first = found.records[0]
    assert (first.id, first.label, first.more["licence"]) == ("set/0000", "3", "CC0")
    other = {name.replace("set/", "more/"): data for name, data in members.items()}
    _shard(tmp_path / "a-01.tar", tmp_path, other)
    for name in ("a-{00..01}.tar", "a-*.tar"):
        assert len(read_media(tmp_path / name)) == 6
    with pytest.raises(DataError, match=r"a-02\.tar: no such file"):
        read_media(tmp_path / "a-{00..02}.tar")


def test_folder_of_tar_shards(tmp_path: Path, members: dict[str, bytes]) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    _shard(folder / "0.tar", tmp_path, members)
    assert _same(read_media(folder))


def test_broken_shards_raise(tmp_path: Path, members: dict[str, bytes]) -> None:
    whole = _shard(tmp_path / "a.tar", tmp_path, members).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        offsets = [one.offset for one in tar]
    damaged = bytearray(whole)
    damaged[offsets[4] + 150] ^= 0xFF  # the checksum of a header: tarfile stops there without a word
    cases = {
        "in a member": whole[: offsets[5] - 600],
        "between members": whole[: offsets[4]],
        "in a header": whole[: offsets[4] + 100],
        "damaged": bytes(damaged),
        "no tar": b"not a tar" * 100,
        "empty": b"",
    }
    for name, data in cases.items():
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(DataError, match=r"cut off|damaged|not a tar"):
            print(name, len(read_media(tmp_path / "b.tar")))


def test_shards_that_are_packed_or_hold_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="compressed tar"):
        read_media(tmp_path / "a.tar.gz")
    _shard(tmp_path / "b.tar", tmp_path, {"0.txt": b"a", "1.txt": b"b"})
    with pytest.raises(DataError, match="no column with pictures"):
        read_media(tmp_path / "b.tar")


def test_a_member_without_its_picture_is_a_problem(tmp_path: Path, members: dict[str, bytes]) -> None:
    del members["set/0001.PNG"]
    found = scan_media(_shard(tmp_path / "a.tar", tmp_path, members))
    assert len(found) == 2
    assert "image: missing" in str(found.problems[0])


def test_data_sets_of_the_hub_keep_their_bytes(tmp_path: Path, pictures: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    rows = {
        "image": [str(pictures / f"{index}.png") for index in range(3)],
        "text": list(WORDS),
        "label": [1, 0, 1],
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    found = read_media(tmp_path / "saved")
    assert _same(found)
    assert [one.label for one in found.records] == ["dog", "cat", "dog"]
    made.to_parquet(str(tmp_path / "a.parquet"))
    again = read_media(tmp_path / "a.parquet")
    assert _same(again)
    assert [one.label for one in again.records] == ["dog", "cat", "dog"]


def test_what_holds_media(pictures: Path) -> None:
    assert is_media(pictures)
    assert is_media(_rows(pictures / "a.jsonl", [{"image": "0.png"}]))
    assert not is_media(_rows(pictures / "b.jsonl", [{"prompt": "x", "completion": "y"}]))
    voted = {"image": "0.png", "question": "x", "response_1": "y", "response_2": "z", "overall_response": 1}
    assert not is_media(_rows(pictures / "d.jsonl", [voted]))
    assert not is_media(_rows(pictures / "c.jsonl", [{"image": "0.png", "prompt": "x", "completion": "y"}]))
