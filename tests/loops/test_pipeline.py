"""Pipelines: kinds of steps, losses with reasons, provenance, going on after a kill, bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import read_rows
from coalign.data.readers import read_records
from coalign.judging.protocol import JudgeItem, Rating
from coalign.loops.pipeline import Curated, Kept, Rejected, read_source, run_pipeline
from coalign.loops.pipeline_report import pipeline_sections
from coalign.loops.steps.choices import Exact, Mix, Near, Pair, Top
from coalign.loops.steps.models import Ask, Rate
from coalign.loops.steps.usual import Above, Distinct, Filter, Novel, Rewrite, Score, Take
from coalign.models.types import Generation, Sampling
from tests.contract.artefacts import artefacts
from tests.contract.killing import Killed, watched
from tests.preference.tiny_runs import write


def words(n: int) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "text": f"{'ab'[i % 2] * (i % 7)} {i}", "n": i * 37 % 101} for i in range(n)]


class Length:
    """A judge that rates by length and cannot rate every tenth."""

    name = "length"

    def rate(self, items: Sequence[JudgeItem], **_: Any) -> list[Rating]:
        return [
            Rating(id=one.id, score=None, failure="malformed")
            if one.id.endswith("0")
            else Rating(id=one.id, score=float(len(one.responses[0])), prompt_hash=f"h{one.id}")
            for one in items
        ]

    def compare(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def item(row: dict[str, Any]) -> JudgeItem:
    return JudgeItem(id=row["id"], prompt=[{"role": "user", "content": "?"}], responses=(row["text"],))


class Echo:
    """A generator whose text depends on the seed and on the place in its call, as that of a model does."""

    calls = 0

    def generate(self, prompts: Any, sampling: Sampling, **_: Any) -> list[list[Generation]]:
        Echo.calls += 1
        return [[Generation(f"{prompt}/{place}/{sampling.seed}")] for place, prompt in enumerate(prompts)]


def split(row: dict[str, Any]) -> list[Kept | Rejected]:
    """Several records of one, one of them not fit."""
    parts = row["text"].split(" ")
    return [Kept({"text": one, "n": row["n"]}) if one else Rejected({"text": one}, "empty") for one in parts]


def every_kind() -> list[Any]:
    return [
        Filter("odd", lambda row: "is odd" if row["n"] % 5 == 0 else None, needs=("n",)),
        Rewrite("parts", split),
        Distinct("duplicates", lambda row: row["text"]),
        Score("size", "size", lambda rows: [float(len(one["text"])) or None for one in rows]),
        Top("largest", "size", share=0.6),
        Exact("same", lambda row: row["text"]),
        Near("near", lambda row: row["text"], n=1),
        Ask("asked", Echo, lambda row: row["text"], lambda row, said: [Kept({**row, "said": said[0].text})],
            Sampling(seed=3), batch=4, model="echo"),
        Rate("judged", "score", Length(), item, batch=3),
        Above("good", "score", 1.0),
        Take("ten", 10),
    ]  # fmt: skip


def run(folder: Path, rows: list[dict[str, Any]], steps: list[Any], batch: int = 6) -> Curated:
    return run_pipeline(folder, rows, steps, batch=batch)


def test_every_record_is_kept_or_has_a_reason(tmp_path: Path) -> None:
    done = run(tmp_path, words(40), every_kind())
    kept, rejects = list(done.rows()), read_rows(done.rejects)
    assert 0 < len(kept) <= 10
    assert all(one["reason"] and one["step"] and one["row"]["id"] == one["id"] for one in rejects)
    steps = done.manifest["steps"]
    assert [one["name"] for one in steps] == [one.name for one in every_kind()]
    for one, later in itertools.pairwise(steps):
        assert one["out"] >= later["in"]  # a full `Take` leaves the rest
        if one["name"] != "parts":
            assert one["in"] - one["out"] == sum(one["rejected"].values())
    assert done.manifest["kept"] == len(kept)
    assert done.manifest["rejected"] == len(rejects) == sum(done.reasons().values())
    assert "judged: not scorable: malformed" in done.reasons()
    ids = [row["id"] for row in kept]
    assert len({*ids}) == len(ids)


def test_provenance_names_score_judge_and_prompt(tmp_path: Path) -> None:
    done = run(tmp_path, words(40), every_kind())
    for row, found in zip(done.rows(), done.provenance, strict=True):
        notes = {one["step"]: one for one in found["steps"]}
        assert found["id"] == row["id"]
        assert notes["size"]["score"] == row["size"]
        assert notes["judged"] == {
            "step": "judged", "score": row["score"], "judge": "length", "prompt_hash": f"h{row['id']}",
        }  # fmt: skip
        assert notes["asked"]["model"] == "echo"
        assert len(notes["asked"]["prompt_hash"]) == 24


@pytest.mark.parametrize("batch", [1, 4, 6, 1000])
def test_killed_before_every_write_it_ends_like_the_undisturbed_run(tmp_path: Path, batch: int) -> None:
    whole = run(tmp_path / "whole", words(30), every_kind(), batch)
    killed: set[tuple[str, int]] = set()

    def kill(path: Path, data: bytes) -> None:
        writes[path] += 1
        moment = (path.name, writes[path])
        if moment not in killed:
            killed.add(moment)
            raise Killed

    for _ in range(500):
        writes: Counter[Path] = Counter()
        with contextlib.suppress(Killed), watched(kill):
            run(tmp_path / "cut", words(30), every_kind(), batch)
            break
    assert len(killed) > 15
    assert artefacts_of(tmp_path / "cut") == artefacts_of(tmp_path / "whole")
    assert list(whole.rows())


def stopped(folder: Path, at: str, rows: list[dict[str, Any]], steps: list[Any]) -> Path:
    """The logs of a pipeline that was killed when it began to write a file of that name."""

    def kill(path: Path, _: bytes) -> None:
        if path.name == at:
            raise Killed

    with contextlib.suppress(Killed), watched(kill):
        run(folder, rows, steps)
    return folder / "work"


def test_logs_torn_anywhere_are_made_again(tmp_path: Path) -> None:
    run(tmp_path / "whole", words(30), every_kind())
    logs = stopped(tmp_path / "stopped", "manifest.json", words(30), every_kind())
    grown = [one for one in sorted(logs.iterdir()) if one.suffix in (".log", ".sketches")]
    assert len(grown) > 6
    for cut, torn in itertools.product((0.1, 0.45, 0.99), grown):
        folder = tmp_path / f"{cut}-{torn.name}"
        shutil.copytree(logs.parent, folder)
        for one in (folder / "work").iterdir():
            later = one.name[:2] > torn.name[:2]
            if later or (
                one.name[:2] == torn.name[:2] and (one.name.endswith("done.json") or "chosen" in one.name)
            ):
                one.unlink()
        os.truncate(folder / "work" / torn.name, int(cut * torn.stat().st_size))
        run(folder, words(30), every_kind())
        assert artefacts_of(folder) == artefacts_of(tmp_path / "whole"), (cut, torn.name)
        assert not (folder / "work").exists()


def artefacts_of(folder: Path) -> dict[str, Any]:
    (folder.parent / f"view-{folder.name}").mkdir(exist_ok=True)
    view = folder.parent / f"view-{folder.name}/artefacts"
    if not view.exists():
        view.symlink_to(folder)
    return artefacts(folder.parent / f"view-{folder.name}")


def test_nothing_is_asked_again_when_the_last_batch_was_written(tmp_path: Path) -> None:
    def step():
        return Ask("asked", Echo, lambda row: row["text"], lambda row, said: [Kept(row)], Sampling(), batch=4)

    stopped(tmp_path, "01-asked.done.json", words(10), [step()])
    before = Echo.calls
    assert len(list(run(tmp_path, words(10), [step()]).rows())) == 10
    assert Echo.calls == before


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("ab ", max_size=6), max_size=30),
    batch=st.integers(1, 9),
    share=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_batches_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], batch: int, share: float
) -> None:
    rows = [{"id": str(i), "text": one} for i, one in enumerate(texts)]
    steps = lambda: [  # noqa: E731
        Rewrite("parts", lambda row: [Kept({"text": one}) for one in row["text"].split(" ")]),
        Distinct("duplicates", lambda row: row["text"]),
        Score("size", "size", lambda rows: [len(one["text"]) for one in rows]),
        Top("largest", "size", share=share),
    ]
    folder = tmp_path_factory.mktemp("p")
    found = list(run(folder / "a", rows, steps(), batch).rows())
    assert found == list(run(folder / "b", rows, steps(), 1000).rows())
    parts = list(dict.fromkeys(one for text in texts for one in text.split(" ")))
    wanted = sorted(parts, key=len, reverse=True)[: -(-int(share * 10) * len(parts) // 10)]
    assert [one["text"] for one in found] == [one for one in parts if one in wanted]


@given(percent=st.integers(1, 100), n=st.integers(1, 2000))
def test_a_share_of_whole_records_is_that_share(percent: int, n: int) -> None:
    """0.07 of 100 is 7.000000000000001 in floating point, and 0.29 of 100 is 28.999999999999996."""
    numbers = np.arange(float(n))
    kept = [
        len(Top("top", "n", share=percent / 100, rounding=rounding).choose(numbers).groups)
        for rounding in ("up", "down")
    ]
    assert kept == [-(-percent * n // 100), max(1, percent * n // 100)]


def test_the_first_of_duplicates_and_the_novel_are_kept(tmp_path: Path) -> None:
    texts = [
        "Sort the list of names.",
        "Sort the list of the names!",
        "Write a poem.",
        "sort the list of names",
        "",
    ]
    rows = [{"id": str(i), "text": one} for i, one in enumerate(texts)]
    novel = Novel("novel", lambda row: row["text"], 0.7, known=["Write a short poem."])
    done = run(tmp_path, rows, [novel], 2)
    assert [row["id"] for row in done.rows()] == ["0", "4"]
    rejected = {one["id"]: one["steps"][0]["score"] for one in read_rows(done.rejects)}
    assert rejected == {"1": pytest.approx(10 / 11), "2": pytest.approx(6 / 7), "3": 1.0}


def near(**arguments: Any) -> Near:
    return Near("near", lambda row: row["text"], **arguments)


STORY = "The old lighthouse keeper walked down to the shore every morning and counted the boats that had come home."


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), batch=st.sampled_from([1, 5, 1000]))
def test_duplicates_keep_the_smallest_id_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], batch: int
) -> None:
    texts = [
        STORY,
        STORY.upper(),
        STORY + " Then he slept.",
        "Boil the rice for twelve minutes and drain it well.",
    ]
    rows = [{"id": str(i + 3), "text": texts[i % 4]} for i in order]
    folder = tmp_path_factory.mktemp("p")
    steps = [Exact("exact", lambda row: row["text"]), near(threshold=0.75)]
    done = run(folder, rows, steps, batch)
    assert {row["id"] for row in done.rows()} == {"3", "6"}  # 9 before 10: the id counts, not its spelling
    fell = {one["id"]: (one["step"], one["steps"][0]["of"]) for one in read_rows(done.rejects)}
    assert fell == {
        "4": ("near", "3"), "5": ("near", "3"), "7": ("exact", "3"), "8": ("exact", "4"), "9": ("exact", "5"),
        "10": ("exact", "6"), "11": ("exact", "3"), "12": ("exact", "4"), "13": ("exact", "5"), "14": ("exact", "6"),
    }  # fmt: skip


def test_long_ids_are_ordered_and_told_apart(tmp_path: Path) -> None:
    rows = [{"id": "x" * 80 + end, "text": "same"} for end in "cab"] + [{"id": "y", "text": "same"}]
    done = run(tmp_path, rows, [Exact("exact", lambda row: row["text"])])
    assert [row["id"] for row in done.rows()] == ["y"]
    assert done.reasons() == {"exact: the same as another": 3}


def test_scores_that_are_none_are_named(tmp_path: Path) -> None:
    for number, value in enumerate(("high", None, True, float("nan"))):
        rows = [{"id": "r0", "score": 1.0}, {"id": "r1", "score": value}]
        with pytest.raises(CoalignError, match=r"Record r1: score: .*expected a number"):
            run(tmp_path / str(number), rows, [Top("top", "score", k=1)])


def test_what_a_step_changes_in_place_is_kept(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        row["text"] = row["text"].upper()
        return row

    rows = [{"id": "1", "text": "a\tb\u2028\ud800"}]
    done = run(tmp_path, rows, [Exact("exact", lambda row: row["text"]), Rewrite("upper", change)])
    assert [row["text"] for row in done.rows()] == ["A\tB\u2028\ud800"]


def test_a_source_without_end_is_left_when_enough_is_kept(tmp_path: Path) -> None:
    class Endless:
        asked = 0

        def __iter__(self) -> Iterator[dict[str, Any]]:
            for number in range(10**9):
                Endless.asked += 1
                yield {"id": str(number), "text": str(number % 10)}

    steps = [Distinct("duplicates", lambda row: row["text"]), Take("enough", 7)]
    done = run_pipeline(tmp_path, Endless(), steps, batch=3)
    assert [row["text"] for row in done.rows()] == list("0123456")
    assert Endless.asked == 9


def test_pairs_have_the_ids_of_both_and_a_gap(tmp_path: Path) -> None:
    scores = {"p": [3, 9, 1], "q": [4, 4], "r": [2]}
    rows = [
        {"id": f"{key}{n}", "prompt": key, "response": f"{key}{n}", "score": one}
        for n in range(3) for key, several in scores.items() for one in several[n : n + 1]
    ]  # fmt: skip

    def make(best: dict[str, Any], worst: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": best["prompt"], "chosen": best["response"], "rejected": worst["response"]}

    done = run(tmp_path, rows, [Pair("pairs", lambda row: row["prompt"], "score", make)], 2)
    assert list(done.rows()) == [{"prompt": "p", "chosen": "p1", "rejected": "p2", "id": "p1"}]
    (found,) = done.provenance
    assert found["steps"] == [{"step": "pairs", "from": ["p1", "p2"]}, {"step": "pairs", "score": 8}]
    assert done.reasons() == {"pairs: no two scores apart": 3, "pairs: neither best nor worst": 1}
    assert done.manifest["steps"][0]["in"] == 6


def test_a_mixture_has_the_shares_of_its_scarcest_source(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": "abc"[i % 3 if i < 30 else 0]} for i in range(60)]
    mix = lambda weights, **more: Mix("mix", lambda row: row["text"], weights, **more)  # noqa: E731
    done = run(tmp_path / "a", rows, [mix({"a": 3, "b": 1})], 7)
    found = [row["text"] for row in done.rows()]
    assert (found.count("a"), found.count("b"), found.count("c")) == (30, 10, 0)
    assert found != sorted(found)
    assert done.reasons() == {"mix: more than its source's share": 10, "mix: of no named source": 10}
    assert len(list(run(tmp_path / "b", rows, [mix({"a": 1, "b": 1}, size=8)]).rows())) == 8
    with pytest.raises(CoalignError, match="no record is of the source 'z'"):
        run(tmp_path / "c", rows, [mix({"a": 1, "z": 1})])


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match="Record r0: the step 'good' needs the column 'scroe'"):
        run(tmp_path / "a", [{"id": "r0", "score": 1}], [Above("good", "scroe", 0)])
    with pytest.raises(CoalignError, match="names of their own"):
        run(tmp_path / "b", [], [Take("x", 1), Take("x", 2)])
    run(tmp_path / "c", words(3), [Take("x", 1)])
    with pytest.raises(CoalignError, match="another pipeline"):
        run(tmp_path / "c", words(3), [Take("y", 1)])
    twice = write(tmp_path / "twice.jsonl", [{"id": "a"}, {"id": "b"}, {"id": "a"}])
    with pytest.raises(DataError, match="'a' appears twice"):
        run_pipeline(tmp_path / "d", read_source(twice), [Take("x", 9)])
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"torn\.jsonl:2"):
        run_pipeline(tmp_path / "e", read_source(torn), [Take("x", 9)])


def test_nothing_in_is_nothing_out(tmp_path: Path) -> None:
    done = run(tmp_path, [], every_kind())
    assert list(done.rows()) == []
    assert done.manifest["rejected"] == 0


def test_the_report_shows_counts_scores_and_examples(tmp_path: Path) -> None:
    done = run(tmp_path, words(40), every_kind())
    sections = pipeline_sections(done, lambda row: row["text"], title="Words")
    table, *charts, samples = sections
    assert [row[0] for row in table.rows] == [one.name for one in every_kind()]  # type: ignore[union-attr]
    assert [one.title for one in charts] == ["Words: size", "Words: judged"]
    assert samples.columns == ["Kept", "Rejected"]  # type: ignore[union-attr]
    assert {one.prompt for one in samples.rows} == {*done.reasons()}  # type: ignore[union-attr]


def test_the_result_is_records_to_learn_from(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"Say {i}.", "completion": str(i)} for i in range(5)]
    done = run(tmp_path, rows, [Filter("two", lambda row: "is two" if row["completion"] == "2" else None)])
    found = read_records(done.kept, kind="demonstration")
    assert [one.id for one in found.records] == ["0", "1", "3", "4"]


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        source = ({"id": str(i), "text": f"{i} " * 60, "n": i} for i in range(n))
        tracemalloc.start()
        run_pipeline(
            tmp_path / str(n),
            source,
            [Filter("some", lambda row: None), Top("best", "n", share=0.1)],
            batch=50,
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(500), peak(5000)
    assert large - small < 4500 * 100, "far below the 300 bytes of a record's text"
    assert json.loads((tmp_path / "5000/manifest.json").read_text())["kept"] == 500
