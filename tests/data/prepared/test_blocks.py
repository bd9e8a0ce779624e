"""Blocks are made once, by whichever process comes first, and a process that is killed takes nothing with it."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from coalign.core.errors import DataError
from coalign.data.prepared import blocks as module
from coalign.data.prepared.blocks import Blocks, spans_of
from coalign.data.prepared.kept import in_turn

forks = pytest.mark.skipif(sys.platform != "linux", reason="helpers are forks, on Linux alone")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)


def _blocks(folder, total=21, during=lambda span: None):
    """Blocks that hold their range and the process that made them; every making is noted in a file."""

    def make(span, path):
        with (folder / "log").open("a") as log:
            log.write(f"{span.start}\n")
        during(span)
        path.mkdir()
        (path / "span").write_text(f"{span.start} {span.stop} {os.getpid()}")

    return Blocks(folder / "blocks", folder / "made", spans_of(total), make)


def _spans(blocks):
    return [tuple(map(int, (path / "span").read_text().split()[:2])) for path in blocks.paths]


WANTED = [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 21)]


@forks
def test_helpers_make_a_share_each_block_once(small, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    blocks = _blocks(tmp_path, during=lambda span: time.sleep(0.05))
    blocks.finish(2, "Making")
    assert _spans(blocks) == WANTED
    assert len({(path / "span").read_text().split()[2] for path in blocks.paths}) > 1
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [span[0] for span in WANTED]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert multiprocessing.active_children() == []


def test_what_is_there_is_not_made_again(small, tmp_path):
    first = _blocks(tmp_path)
    assert not first.work()  # before one of the processes began
    first.folder.mkdir()
    assert first.work()
    again = _blocks(tmp_path)
    again.finish(0, "Making")
    assert _spans(again) == WANTED
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [span[0] for span in WANTED]
    (tmp_path / "made").touch()
    (again.paths[0] / "span").unlink()
    again.paths[0].rmdir()
    assert not again.work()


@forks
def test_a_process_that_waits_for_the_whole_makes_a_share(small, tmp_path):
    blocks = _blocks(tmp_path, during=lambda span: time.sleep(0.1))

    def wait():
        with in_turn(blocks.made, blocks.work) as first:
            os._exit(first)

    with in_turn(blocks.made, blocks.work) as first:
        assert first
        other = multiprocessing.get_context("fork").Process(target=wait)
        other.start()
        blocks.finish(0, "Making")
        blocks.made.touch()
    other.join()
    assert other.exitcode == 0
    assert _spans(blocks) == WANTED
    assert len({(path / "span").read_text().split()[2] for path in blocks.paths}) == 2
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [span[0] for span in WANTED]


@forks
def test_the_block_of_a_killed_helper_is_made_by_another(small, tmp_path):
    parent = os.getpid()

    def during(span):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)

    blocks = _blocks(tmp_path, during=during)
    blocks.finish(2, "Making")
    assert _spans(blocks) == WANTED


@forks
def test_helpers_that_hang_are_ended(small, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STUCK", 0.3)
    parent = os.getpid()
    blocks = _blocks(tmp_path, during=lambda span: time.sleep(0.02 if os.getpid() == parent else 60))
    blocks.finish(1, "Making")
    assert _spans(blocks) == WANTED


@forks
def test_what_is_wrong_is_told_by_the_process_that_is_helped(small, tmp_path):
    def during(span):
        if span.start == 8:
            raise DataError("a full disk")
        time.sleep(0.05)

    with pytest.raises(DataError, match="a full disk"):
        _blocks(tmp_path, during=during).finish(2, "Making")
    assert multiprocessing.active_children() == []
