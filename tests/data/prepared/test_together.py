"""What several processes read of a source is what one reads: records, ids, content, problems and their places; each row once."""

import gzip
import json
import multiprocessing
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coalign.core.errors import DataError
from coalign.data import readers
from coalign.data.prepared import kept, many, stretches, together
from coalign.data.prepared.many import OnDisk, digest_of
from coalign.data.prepared.stretches import Stretch, rows_of, stretches_of
from coalign.data.readers import rejected
from coalign.data.rows import iter_rows
from coalign.training.material import LearningOptions, read_material

forks = pytest.mark.skipif(sys.platform != "linux", reason="helpers are forks, on Linux alone")
CONTROL = "<|im_start|>user"


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Stretches of a few rows, which are many, in a cache of their own; one helper."""
    monkeypatch.setattr(stretches, "STRETCH", 300)
    monkeypatch.setattr(many, "MANY", 10)
    monkeypatch.setattr(kept, "SMALLEST", 1)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def _lines(count, start=0):
    """Rows with empty lines, bad rows, equal responses, and marks of a template among them."""
    found = []
    for n in range(start, start + count):
        row = {
            "prompt": f"question {n // 2}",
            "chosen": f"good é {n} \N{OK HAND SIGN}",
            "rejected": f"bad {n}",
        }
        row |= {"chosen": CONTROL} if n % 11 == 5 else {}
        row |= {"rejected": row["chosen"]} if n % 13 == 7 else {}
        found.append(json.dumps(row, ensure_ascii=n % 2 == 0))
        found += [" \t", "", "not JSON", '{"prompt": "no"}', "\r"] if n % 9 == 4 else []
    return found


def _jsonl(path):
    path.write_bytes("\n".join(_lines(90)).encode())  # the last line has no end
    return str(path)


def _marked(path):
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["", "", *_lines(60), "", ""]).encode())
    return str(path)


def _folder(path):
    path.mkdir()
    for place, (start, count) in enumerate(((0, 50), (50, 1), (51, 40))):
        text = "\n".join([*_lines(count, start), ""]).encode()
        (path / f"{place}.jsonl").write_bytes(gzip.compress(text) if place == 2 else text)
    (path / "1b.jsonl").write_bytes(b"\n \n")
    (path / "3.jsonl").write_bytes(b"")
    return str(path)


def _packed(path):
    path.mkdir()
    for place in range(4):
        (path / f"{place}.jsonl.gz").write_bytes(gzip.compress("\n".join(_lines(20, 20 * place)).encode()))
    return f"{path}/*.gz"


def _parquet(path):
    rows = [json.loads(one) for one in _lines(80) if one.startswith("{") and "chosen" in one]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return str(path)


SOURCES = [("a.jsonl", _jsonl), ("b.jsonl", _marked), ("c", _folder), ("d", _packed), ("e.parquet", _parquet)]


def _told(material):
    return [*material.training], [*material.held_out], material.notes


@forks
@pytest.mark.parametrize(("name", "write"), SOURCES)
def test_what_is_read_together_is_what_one_process_reads(short, tmp_path, monkeypatch, name, write):
    source = write(tmp_path / name)
    bad = []
    monkeypatch.setattr(readers, "rejected", lambda *given: bad.append(rejected(*given)) or bad[-1])
    config = LearningOptions(data=source, on_bad_record="skip", eval_fraction=0.2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = read_material(config, "preference")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "other"))
    joined = []
    put_together = together.put_together
    monkeypatch.setattr(
        together, "put_together", lambda parts: joined.append(len(parts)) or put_together(parts)
    )
    shared = read_material(config, "preference")
    assert isinstance(shared.training, OnDisk)
    # a mark before an empty line: counted as a row, so it is read as a whole
    assert joined or name == "b.jsonl"
    assert _told(shared) == _told(alone)
    assert digest_of(shared.training) == digest_of(alone.training)
    assert [one.id for one in shared.training] == [one.id for one in alone.training]
    assert [one.source for one in shared.training] == [one.source for one in alone.training]
    assert not [*(tmp_path / "other").rglob("*.tmp")]
    errors = []
    for place, threads in (("third", "1"), ("fourth", "2")):
        monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / place))
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        with pytest.raises(DataError) as caught:
            read_material(LearningOptions(data=source), "preference")
        errors.append((str(caught.value), [str(one) for one in caught.value.problems]))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(("name", "write"), [one for one in SOURCES if one[0] != "b.jsonl"])
def test_stretches_have_every_row_once_with_its_place(short, tmp_path, name, write):
    source = write(tmp_path / name)
    spans = stretches_of(source, "train")
    assert len(spans) > 2
    assert [row for one in spans for row in rows_of(one)] == [*iter_rows(source)]


def _log(path):
    """Have every stretch that is read noted with the process that reads it."""
    read = together.rows_of

    def noted(span: Stretch):
        with path.open("a") as file:
            file.write(f"{span.index} {multiprocessing.current_process().name}\n")
        return read(span)

    return noted


@forks
def test_two_processes_read_the_records_of_one_each_row_once(short, tmp_path, monkeypatch):
    """As the processes of a launcher: each is told to work alone, and a source is read by both."""
    source = _jsonl(tmp_path / "a.jsonl")
    config = LearningOptions(data=source, on_bad_record="skip", eval_fraction=0.2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = read_material(config, "preference")
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    log = _log(tmp_path / "log")

    def slowly(span):
        time.sleep(0.05)
        return log(span)

    monkeypatch.setattr(together, "rows_of", slowly)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def rank():
        found = read_material(config, "preference")
        queue.put((digest_of(found.training), len(found.held_out), found.notes))

    ranks = [context.Process(target=rank, name=f"rank{n}") for n in range(2)]
    for one in ranks:
        one.start()
    told = [queue.get(timeout=60) for _ in ranks]
    for one in ranks:
        one.join()
    assert told == [(digest_of(alone.training), len(alone.held_out), alone.notes)] * 2
    noted = [one.split() for one in (tmp_path / "log").read_text().splitlines()]
    assert sorted(int(one[0]) for one in noted) == [one.index for one in stretches_of(source, "train")]
    assert {one[1] for one in noted} == {"rank0", "rank1"}


@forks
@pytest.mark.parametrize("what", ["UTF-16", "cut off", "changed"])
def test_what_is_wrong_is_told_as_by_one_process(short, tmp_path, monkeypatch, what):
    source = Path(_folder(tmp_path / "c"))
    told = {"UTF-16": "1.jsonl: UTF-16 text", "cut off": "2.jsonl: the compressed data is cut off"}.get(what)
    if what == "UTF-16":
        (source / "1.jsonl").write_bytes("\n".join(_lines(9)).encode("utf-16"))
    elif what == "cut off":
        (source / "2.jsonl").write_bytes((source / "2.jsonl").read_bytes()[:-40])
    else:
        count = together.stretches_of

        def then_written(*given):
            found = count(*given)
            with (source / "0.jsonl").open("a") as file:
                file.write("\n".join(["", *_lines(8, 200)]))
            return found

        monkeypatch.setattr(together, "stretches_of", then_written)
        told = "c: changed while it was read"
    with pytest.raises(DataError, match=told):
        read_material(LearningOptions(data=str(source), on_bad_record="skip"), "preference")
    assert not [*(tmp_path / "cache").rglob("told.bin")]


@forks
def test_a_broken_row_group_stops_the_reading_and_keeps_nothing(short, tmp_path):
    source = Path(_parquet(tmp_path / "e.parquet"))
    place = pq.read_metadata(source).row_group(5).column(1)
    data = bytearray(source.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + place.total_compressed_size] = bytes(place.total_compressed_size)
    source.write_bytes(data)
    with pytest.raises(DataError, match=r"e\.parquet: not a readable Parquet file"):
        read_material(LearningOptions(data=str(source)), "preference")
    assert not [*(tmp_path / "cache").rglob("told.bin")]


def test_a_stretch_of_a_file_that_lost_rows_is_refused(short, tmp_path):
    source = _jsonl(tmp_path / "a.jsonl")
    spans = stretches_of(source, "train")
    Path(source).write_text("\n" * 4000)
    with pytest.raises(DataError, match=f"0 rows where {len(spans[1])} were counted"):
        [*rows_of(spans[1])]
