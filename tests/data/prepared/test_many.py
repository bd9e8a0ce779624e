"""Records on disk are the records of memory: read, converted, split, drawn, weighed, and kept for the next start."""

import copy
import gc
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.data.convert import convert
from coalign.data.prepared import kept, many, parts
from coalign.data.prepared.kept import in_turn
from coalign.data.prepared.many import OnDisk, RecordStore, Selection, digest_of, gathered, joined, taken
from coalign.data.prepared.packing import pack, unpack
from coalign.data.records import Demonstration, Feedback, Preference, PromptRecord, Ranking, Reply, Source
from coalign.data.splits import drawn, split_parts, weighted
from coalign.training.material import LearningOptions, read_material

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
REPLIES = st.text(max_size=8) | st.builds(
    Reply,
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=3), VALUES, max_size=2),
    st.just([{"role": "tool", "content": "7"}]) | st.just([]),
)


@st.composite
def _records(draw):
    shared = {
        "prompt": [{"role": "user", "content": draw(st.text(max_size=8)), "name": draw(VALUES)}],
        "source": Source(
            "a.jsonl", draw(st.none() | st.integers(1, 9)), draw(st.integers(0, 9)), 2, "tag", "*.jsonl"
        ),
        "extra": draw(st.dictionaries(st.text(max_size=3), VALUES, max_size=3)),
        "plain": draw(st.booleans()),
        "tools": draw(st.none() | st.just([{"function": {"name": "add"}}])),
        "template_kwargs": draw(st.just({}) | st.just({"enable_thinking": True})),
    }
    kind = draw(st.sampled_from([PromptRecord, Demonstration, Preference, Ranking, Feedback]))
    own = {
        PromptRecord: {},
        Demonstration: {"completion": draw(REPLIES)},
        Preference: {"chosen": draw(REPLIES), "rejected": draw(REPLIES), "chosen_score": 1.5},
        Ranking: {"responses": (draw(REPLIES), draw(REPLIES)), "scores": (math.inf, 2.0)},
        Feedback: {"completion": draw(REPLIES), "label": draw(st.booleans())},
    }[kind]
    return kind(**shared, **own)


@given(_records())
def test_a_record_comes_back_whole(record):
    found = unpack(pack(record))
    assert found == record
    assert (found.source, found.extra, found.id) == (record.source, record.extra, record.id)
    assert pack(copy.deepcopy(record)) == pack(record)


@pytest.mark.parametrize("value", [np.float64(1.0), np.arange(2), {1, 2}, object(), bytearray(b"a")])
def test_what_is_not_plain_is_not_packed(value):
    with pytest.raises(ValueError, match="a value of the type"):
        pack(PromptRecord(prompt=[{"role": "user", "content": "a"}], extra={"x": [value]}))


def _preferences(count, text="reply"):
    return [
        Preference(
            prompt=[{"role": "user", "content": f"question {n // 2}"}],
            chosen=f"good {text} {n}",
            rejected=f"bad {text} {n}",
            source=Source("a.jsonl", n + 1, n),
        )
        for n in range(count)
    ]


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Ten records are many, and one byte is worth keeping, in a cache of their own."""
    monkeypatch.setattr(many, "MANY", 10)
    monkeypatch.setattr(kept, "SMALLEST", 1)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))


def test_a_store_is_its_list_and_goes_with_it(few):
    records = _preferences(25)
    store = gathered(iter(records))
    assert isinstance(store, RecordStore)
    assert [*store] == records == store[:]
    assert (store[-1], store[3:20:5], len(store)) == (records[-1], records[3:20:5], 25)
    assert store.digest == digest_of(records) != digest_of(records[::-1])
    with pytest.raises(IndexError, match="25 of 25"):
        store[25]
    folder = store.folder
    del store
    gc.collect()
    assert not folder.exists()
    assert gathered(iter(records[:9])) == records[:9]


def test_records_that_no_file_holds_stay_in_memory_whole(few):
    records = _preferences(30)
    records[17] = PromptRecord(prompt=[{"role": "user", "content": "a"}], extra={"x": {1}})  # type: ignore[assignment]
    assert gathered(iter(records)) == records
    assert not any(many.cache_root().rglob("*.bin"))


def test_selections_are_the_lists_that_they_stand_for(few):
    records, other = _preferences(25), _preferences(12, "other")
    whole = joined([gathered(iter(records)), other, []])
    assert isinstance(whole, Selection)
    assert [*whole] == [*records, *other]
    places = np.array([30, 0, 30, 24])
    some = taken(taken(whole, np.arange(36, -1, -1)), 36 - places)
    assert [*some] == [[*records, *other][place] for place in places]
    assert some[1:3] == [records[0], other[5]]


@pytest.mark.parametrize("wanted", ["ranking", "feedback", "demonstration", "prompt"])
def test_conversions_splits_caps_and_weights_are_those_of_memory(few, wanted):
    records, other = _preferences(40), _preferences(14, "other")
    there, here = (
        convert(gathered(iter(records)), "preference", wanted),
        convert(records, "preference", wanted),
    )
    assert isinstance(there, OnDisk)
    assert [*there] == here
    for fraction in (0, 0.2):
        sides = [split_parts(one, fraction, 3) for one in ([there, gathered(iter(other))], [here, other])]
        assert [[[*one] for one in pair] for pair in sides[0]] == [
            [[*one] for one in pair] for pair in sides[1]
        ]
    assert [*drawn(there, 7, "key")] == drawn(here, 7, "key")
    assert [*weighted(there, 2.3, "key")] == weighted(here, 2.3, "key")


def _write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def _rows(count):
    return [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}", "source": n} for n in range(count)]


def test_material_of_a_large_file_is_that_of_memory_and_is_read_once(few, tmp_path, monkeypatch):
    path = _write(
        tmp_path / "a.jsonl", [*_rows(40), {"prompt": "q", "chosen": "same", "rejected": "same"}, {"no": 1}]
    )
    config = LearningOptions(
        data=[{"path": path, "max": 30, "weight": 1.5}], on_bad_record="skip", eval_fraction=0.2
    )
    first = read_material(config, "preference")
    monkeypatch.setattr(parts, "read_records", lambda *_, **__: pytest.fail("read again"))
    second = read_material(config, "preference")
    monkeypatch.undo()
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    memory = read_material(config, "preference")
    assert isinstance(first.training, OnDisk)
    assert isinstance(memory.training, list)
    for one in (first, second):
        assert ([*one.training], [*one.held_out], one.notes) == (
            memory.training,
            memory.held_out,
            memory.notes,
        )
    assert any("set a response against itself" in one for one in second.notes)


def test_another_content_or_another_way_of_reading_is_read_again(few, tmp_path):
    path = _write(tmp_path / "a.jsonl", _rows(20))
    config = LearningOptions(data=path, eval_fraction=0.2)
    before = read_material(config, "preference")
    assert len(read_material(LearningOptions(data=path, limit=12), "preference").training) < 12
    assert read_material(config, "ranking").training[0] != before.training[0]
    _write(tmp_path / "a.jsonl", [{**one, "chosen": "new"} for one in _rows(20)])
    assert {one.chosen for one in read_material(config, "preference").training} == {"new"}


def test_bad_records_of_a_large_file_stop_at_every_start(few, tmp_path):
    path = _write(tmp_path / "a.jsonl", [*_rows(40), {"prompt": "q", "chosen": "a", "rejected": 7}])
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            read_material(LearningOptions(data=path), "preference")
        assert str(caught.value.problems[0]).startswith(f"{path}:41: rejected: ")


def test_a_damaged_note_in_the_cache_is_read_past(few, tmp_path):
    path = _write(tmp_path / "a.jsonl", _rows(20))
    config = LearningOptions(data=path)
    before = [*read_material(config, "preference").training]
    (note,) = (tmp_path / "cache").rglob(parts.TOLD)
    whole = note.read_bytes()
    note.write_bytes(whole[:-5])
    assert [*read_material(config, "preference").training] == before
    assert note.read_bytes() == whole


def test_stores_of_one_content_made_twice_are_one(few, tmp_path):
    folder = tmp_path / "kept"
    first, second = gathered(iter(_preferences(20))), gathered(iter(_preferences(20)))
    assert first.keep(folder).digest == second.keep(folder).digest
    assert [one.name for one in many.cache_root().glob("records/.making-*")] == []


def test_another_process_waits_for_what_one_makes_and_takes_over_what_it_left(few, tmp_path):
    made = tmp_path / "kept" / "told"
    script = (
        "import pathlib, sys, time\n"
        "from coalign.data.prepared.kept import in_turn\n"
        "made = pathlib.Path(sys.argv[1])\n"
        "with in_turn(made) as first:\n"
        "    print(first, flush=True)\n"
        "    time.sleep(60) if sys.argv[2] == 'hang' else None\n"
    )
    run = [sys.executable, "-c", script, str(made)]
    with subprocess.Popen([*run, "hang"], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout.readline() == "True\n"
        with subprocess.Popen(
            [*run, "go"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as waiting:
            told = waiting.stderr.readline()
            maker.kill()
            assert waiting.stdout.readline() == "True\n"
    assert told.startswith("Data: another process reads or tokenises these records; this one waits")
    made.parent.mkdir()
    made.touch()
    with in_turn(made) as first:
        assert not first


def test_one_that_fails_lets_the_next_one_try(few, tmp_path):
    made = tmp_path / "kept" / "told"

    def fail():
        with in_turn(made) as first:
            assert first
            raise DataError("no")

    for _ in range(2):
        with pytest.raises(DataError, match="no"):
            fail()
    assert [*tmp_path.glob("*.lock")] == []
