"""`score` and `judge` over a corpus: shards in, shards out, continued after a kill, in memory that does not grow with it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import zstandard

from coalign.core.files import read_rows
from coalign.core.progress import PlainProgress
from coalign.data.files.written import write_shards
from coalign.data.rows import iter_rows
from coalign.evaluation import modalities
from tests.preference.tiny_runs import write

resource = pytest.importorskip("resource")


def answer(number: int) -> dict:
    return {
        "id": f"a{number}",
        "instruction": {"T": number % 11, "V": 7},
        "synergy": {"TV": 0.6},
        "votes": {"TV": 0.4},
        "model": f"m{number % 3}",
    }


ANSWERS = [answer(number) for number in range(150)]


def values(source: Path | str) -> list[dict]:
    return [
        {name: one for name, one in (row.value or {}).items() if name != "__key__"}
        for row in iter_rows(str(source))
    ]


@pytest.fixture
def scored(tmp_path: Path, coalign: Callable) -> bytes:
    """What one file as JSON Lines gives."""
    data, out = write(tmp_path / "plain.jsonl", ANSWERS), tmp_path / "plain-scores.jsonl"
    assert coalign("score", "amg", str(data), "--out", str(out)).code == 0
    return out.read_bytes()


def folder_of(kind: str, folder: Path) -> str:
    """The answers in three files of a kind, and the source that names them."""
    folder.mkdir()
    if kind in (".parquet", ".tar"):
        write_shards(folder / f"part{kind}", ANSWERS, len(ANSWERS), 60)
        return str(folder)
    for number, start in enumerate(range(0, len(ANSWERS), 60)):
        text = "".join(json.dumps(one) + "\n" for one in ANSWERS[start : start + 60]).encode()
        packed = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[kind](text)
        (folder / f"part-{number}{kind}").write_bytes(packed)
    return str(folder / f"*{kind}")


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".tar"])
def test_shards_of_every_format_have_the_scores_of_one_file(
    tmp_path: Path, coalign: Callable, scored: bytes, kind: str
) -> None:
    out = tmp_path / "scores.jsonl"
    found = coalign("score", "amg", folder_of(kind, tmp_path / "in"), "--out", str(out))
    assert found.code == 0, found.err
    assert out.read_bytes() == scored


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tar"])
@pytest.mark.parametrize("per_file", [None, 40])
def test_scores_go_to_every_format(
    tmp_path: Path, coalign: Callable, scored: bytes, suffix: str, per_file: int | None
) -> None:
    out = tmp_path / "out" / f"scores{suffix}"
    shards = () if per_file is None else ("--shard-rows", str(per_file))
    found = coalign("score", "amg", str(tmp_path / "plain.jsonl"), "--out", str(out), *shards)
    assert found.code == 0, found.err
    assert len(list(out.parent.glob(f"*{suffix}"))) == (1 if per_file is None else 4)
    assert values(found.out.strip()) == [json.loads(line) for line in scored.splitlines()]


def test_the_page_of_a_corpus_has_the_means_of_its_rows(tmp_path: Path, coalign: Callable) -> None:
    data, page = write(tmp_path / "answers.jsonl", ANSWERS), tmp_path / "page.html"
    out = tmp_path / "out.jsonl"
    assert coalign("score", "amg", str(data), "--out", str(out), "--html", str(page)).code == 0
    mean = sum(one["score"] for one in read_rows(out)) / len(ANSWERS)
    assert f"150 answers, {mean:.3g} of 10 in the mean." in page.read_text(encoding="utf-8")


def test_urls_are_read_as_files(tmp_path: Path, coalign: Callable, scored: bytes) -> None:
    memory = fsspec.filesystem("memory")
    try:
        for number, start in enumerate(range(0, len(ANSWERS), 60)):
            write_shards(tmp_path / "part.parquet", ANSWERS[start : start + 60], 60)
            memory.pipe_file(f"/data/{number}.parquet", (tmp_path / "part.parquet").read_bytes())
        out = tmp_path / "scores.jsonl"
        found = coalign("score", "amg", "memory://data/*.parquet", "--out", str(out))
        assert found.code == 0, found.err
        assert out.read_bytes() == scored
        memory.pipe_file("/prompts/a.jsonl", b'{"prompt": "say it", "completion": "it"}\n')
        checked = coalign("data", "check", "memory://prompts/a.jsonl")
        assert checked.code == 0, checked.err
        missing = coalign("data", "check", "memory://prompts/*.csv")
        assert missing.code == 1
        assert "memory://prompts/*.csv: no file matches" in missing.err
    finally:
        memory.store.clear()


def test_reading_and_writing_show_their_progress(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PlainProgress.__init__.__kwdefaults__, "interval", 0.0)
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    said = coalign("score", "amg", data, "--out", str(tmp_path / "out.tar")).err
    for line in ("Reading answers.jsonl: 150 rows", "Scoring: 150/150 rows", "Writing: 150/150 rows"):
        assert line in said
    prompts = str(write(tmp_path / "prompts.jsonl", [{"prompt": "a", "completion": "b"}] * 300))
    assert "Reading prompts.jsonl: 300 rows" in coalign("data", "check", prompts).err


def test_rows_of_a_file_without_room_for_it_are_refused(tmp_path: Path, coalign: Callable) -> None:
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    without = coalign("score", "amg", data, "--shard-rows", "5")
    assert without.code == 2
    assert "--shard-rows has no effect without --out" in without.err


def test_rows_that_a_format_cannot_hold_go_on_in_another(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def scorer(_: object) -> Callable:
        def work(rows: list[dict]) -> list[dict]:
            asked.extend(one["id"] for one in rows)
            return [{"id": one["id"], "value": 1 if len(asked) < 100 else "one"} for one in rows]

        return work

    monkeypatch.setattr(modalities, "scorer", scorer)
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    found = coalign("score", "amg", data, "--out", str(tmp_path / "out.parquet"))
    assert found.code == 1
    assert "out.parquet: a column holds values of different types" in found.err
    assert "rename it to out.jsonl.partial and give --out" in found.err
    assert not (tmp_path / "out.parquet").exists()
    asked.clear()
    (tmp_path / "out.parquet.partial").rename(tmp_path / "out.jsonl.partial")
    assert coalign("score", "amg", data, "--out", str(tmp_path / "out.jsonl")).code == 0
    assert asked == []
    assert len(read_rows(tmp_path / "out.jsonl")) == len(ANSWERS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 kilobytes, which `mount -o remount,size=` enlarges."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_in_a_shard_loses_nothing(
    tmp_path: Path, coalign: Callable, scored: bytes, small_disk: Path
) -> None:
    args = (
        "score",
        "amg",
        str(tmp_path / "plain.jsonl"),
        "--out",
        str(small_disk / "out.tar"),
        "--shard-rows",
        "40",
    )
    found = coalign(*args)
    assert found.code == 1
    assert "No space left on the disk while writing" in found.err
    assert "-of-00004.tar" in found.err
    whole = list(small_disk.glob("*.tar"))
    assert len(whole) == 1
    assert len(values(whole[0])) == 40
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    again = coalign(*args)
    assert again.code == 0, again.err
    assert "Continuing: 150 of 150 rows are done" in again.err
    assert values(again.out.strip()) == [json.loads(line) for line in scored.splitlines()]
    assert coalign(*args).code == 2  # now it is there


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("mix", "files of several formats: JSON Lines (p.jsonl) and WebDataset (p.tar)"),
        ("mix/*", "files of several formats: JSON Lines (p.jsonl) and WebDataset (p.tar)"),
        ("cut", "p-00001-of-00003.tar: cut off within 000000079.json"),
        ("cut/p-*", "p-00001-of-00003.tar: cut off within 000000079.json"),
    ],
)
def test_what_is_no_corpus_is_said_before_anything_is_made(
    tmp_path: Path, coalign: Callable, source: str, said: str
) -> None:
    for suffix in (".jsonl", ".tar"):
        write_shards(tmp_path / f"mix/p{suffix}", ANSWERS, len(ANSWERS))
    shard = write_shards(tmp_path / "cut/p.tar", ANSWERS, len(ANSWERS), 60)[1]
    shard.write_bytes(shard.read_bytes()[:20_000])
    found = coalign("score", "amg", str(tmp_path / source), "--out", str(tmp_path / "out.jsonl"))
    assert found.code == 1
    assert said in found.err
    assert not (tmp_path / "out.jsonl").exists()


# -- memory -----------------------------------------------------------------------------------------------------

WEIGHED = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "coalign", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
KILOBYTES = 1024 if sys.platform == "darwin" else 1


def peak(*args: str) -> float:
    """Megabytes that a command takes at most."""
    found = subprocess.run([sys.executable, "-c", WEIGHED, *args], check=True, capture_output=True, text=True)
    return int(found.stdout) / KILOBYTES / 1024


def weighed_scores(tmp_path: Path, suffix: str, counts: tuple[int, int]) -> list[float]:
    found = []
    for count in counts:
        folder = tmp_path / str(count)
        rows = ({**answer(number), "note": "x" * 2000} for number in range(count))
        write_shards(folder / "part.tar" if suffix == ".tar" else folder / "part.jsonl", rows, count, 5000)
        out = folder / "out" / f"scores{suffix}"
        found.append(
            peak("score", "amg", str(folder), "--out", str(out), "--html", str(folder / "page.html"))
        )
    return found


@pytest.mark.parametrize("suffix", [".jsonl", ".tar"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    few, many = weighed_scores(tmp_path, suffix, (500, 6_000))
    assert many < few + 5  # the rows are 12 megabytes of text


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tar"])
def test_memory_does_not_grow_with_a_corpus(tmp_path: Path, suffix: str) -> None:
    few, many = weighed_scores(tmp_path, suffix, (10_000, 100_000))
    assert many < few + 12  # the rows are 200 megabytes of text
    assert sum(1 for _ in iter_rows(str(tmp_path / "100000/out" / f"scores{suffix}"))) == 100_000


# -- a kill -----------------------------------------------------------------------------------------------------


def killed_and_continued(command: list[str], partial: Path, lines: int) -> str:
    """Kill a command once so many lines wait, and run it again to its end.

    Returns:
        What the second run says on standard error.
    """
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < lines:
        assert first.poll() is None, "it ended before it was killed"
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def test_a_score_that_is_killed_goes_on(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "in/part.jsonl", map(answer, range(4_000)), 4_000, 1_500)[0].parent
    command = [sys.executable, "-m", "coalign", "score", "amg", str(data)]
    subprocess.run([*command, "--out", str(tmp_path / "one.tar")], check=True, capture_output=True)
    out = tmp_path / "many.tar"
    said = killed_and_continued([*command, "--out", str(out)], tmp_path / "many.tar.partial", 8)
    assert "Continuing: " in said
    assert out.read_bytes() == (tmp_path / "one.tar").read_bytes()
    assert not list(tmp_path.glob("*.partial"))
