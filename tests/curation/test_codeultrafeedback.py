"""CodeUltraFeedback: preferences, answers of several models, ratings, pairs, benchmark and tests."""

from __future__ import annotations

import json
import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.curation import codeultrafeedback
from coalign.curation.code.benchmark import preference_scores, read_benchmark
from coalign.curation.code.feedback import extremes, instruction_rows, pair_of
from coalign.curation.code.preferences import assign, draw_models, read_preferences, with_principle
from coalign.curation.code.programs import SandboxOptions, functional, run_responses, sound_tasks
from coalign.curation.code.stages import held_out
from coalign.data.readers import read_records
from coalign.judging.verifiers.programs import CodeTask
from coalign.loops.pipeline import Kept, Rejected
from tests.models.endpoint_server import Server, running
from tests.preference.tiny_runs import demonstrations, run_system, write


def test_five_preferences_with_ten_principles_each() -> None:
    found = read_preferences()
    assert [*found] == ["instruction-following", "readability", "complexity", "style", "explanation"]
    for one in found.values():
        assert len({*one.principles}) == 10
        assert [*one.rubric.levels] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "no preferences can be read"),
        ("{}", "expected an object"),
        ('{"a": {}}', "a.criteria: missing"),
        ('{"a": {"criteria": "x", "levels": {"low": "y"}}}', "a.levels: expected whole numbers"),
        ('{"a": {"criteria": "x", "levels": {}, "principles": []}}', "a.principles: expected a list"),
    ],
)
def test_preferences_that_cannot_be_used(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_preferences(path)


def test_each_preference_has_an_equal_share_in_a_shuffled_order() -> None:
    drawn = assign(23, ["a", "b", "c"], seed=4)
    assert sorted(place for place, _ in drawn) == [*range(23)]
    assert sorted(Counter(name for _, name in drawn).values()) == [7, 8, 8]
    assert drawn == assign(23, ["a", "b", "c"], seed=4) != assign(23, ["a", "b", "c"], seed=5)


@given(st.integers(1, 8), st.integers(1, 9), st.integers())
def test_models_are_different_while_there_are(pool: int, n: int, seed: int) -> None:
    counts = Counter(draw_models([f"m{one}" for one in range(pool)], n, random.Random(seed)))
    assert counts.total() == n
    assert max(counts.values()) == math.ceil(n / pool)


def test_where_a_principle_stands() -> None:
    user, system = {"role": "user", "content": "ask"}, {"role": "system", "content": "be"}
    assert with_principle([user], "P", system=True) == [{"role": "system", "content": "P"}, user]
    assert with_principle([user], "P", system=False) == [{"role": "user", "content": "P\n\nask"}]
    assert with_principle([system, user], "P", system=False) == [
        {"role": "system", "content": "be\n\nP"},
        user,
    ]


RATINGS = st.lists(st.one_of(st.none(), st.integers(1, 5).map(float)), max_size=6)


@given(RATINGS)
def test_extremes_are_the_highest_and_the_lowest(ratings: list[float | None]) -> None:
    known = [one for one in ratings if one is not None]
    found = extremes(ratings)
    if len(known) < 2:
        assert found is None
        return
    assert found is not None
    best, worst = found
    assert {ratings[place] for place in best} == {max(known)}
    assert {ratings[place] for place in worst} == {min(known)}
    assert len(best) == known.count(max(known))


def _row(*ratings: float | None, **changes: Any) -> dict[str, Any]:
    n = len(ratings)
    return {
        "id": "7", "prompt": [{"role": "user", "content": "x"}], "preference": "style", "ratings": [*ratings],
        "responses": [f"r{place}" for place in range(n)], "slots": [{"model": f"m{place}"} for place in range(n)], **changes,
    }  # fmt: skip


def _pair(row: dict[str, Any], **changes: Any) -> Kept | Rejected:
    (made,) = pair_of(row, **{"min_gap": 1, "keep_ties": False, "tests": "report", "seed": 0, **changes})
    return made


def test_a_pair_and_its_facts() -> None:
    made = _pair(_row(2, 5, None, 3))
    assert isinstance(made, Kept)
    pair = {
        key: made.row[key]
        for key in ("chosen", "rejected", "rating_chosen", "rating_rejected", "model_chosen")
    }
    assert pair == {
        "chosen": "r1",
        "rejected": "r0",
        "rating_chosen": 5,
        "rating_rejected": 2,
        "model_chosen": "m1",
    }
    assert made.facts["score"] == 3


def test_equal_ratings_are_drawn_by_the_row_alone() -> None:
    rows = [_row(5, 5, 1, 1, id=str(n)) for n in range(60)]
    chosen = [_pair(one).row["chosen"] for one in rows]
    assert chosen == [_pair(one).row["chosen"] for one in rows]
    assert {*chosen} == {"r0", "r1"}


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        (_row(3, 3, 3), {}, "tied"),
        (_row(None, 3, None), {}, "fewer than two ratings"),
        (_row(2, 3), {"min_gap": 2}, "gap below 2"),
        (_row(1, 5, responses=["same", "same "]), {}, "the same response twice"),
        (_row(1, 5, responses=["some", " "]), {}, "an empty response is rated best"),
        (_row(1, 5, endings=["passed", "failed"]), {"tests": "require"}, "tied"),
        (
            _row(1, 5, endings=["failed", "timeout"]),
            {"tests": "require"},
            "no rated response passes its tests",
        ),
        (
            _row(4, 3, 5, endings=["passed", "failed", "unparsable"]),
            {"tests": "require", "min_gap": 2},
            "gap below 2",
        ),
    ],
)
def test_rows_without_a_pair(row: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    made = _pair(row, **options)
    assert isinstance(made, Rejected)
    assert made.reason == reason


def test_ties_and_tests() -> None:
    assert isinstance(_pair(_row(3, 3), keep_ties=True), Kept | Rejected)
    tied = [_pair(_row(3, 3, 3, id=str(n)), keep_ties=True) for n in range(20)]
    assert {one.reason for one in tied if isinstance(one, Rejected)} == {"the same response twice"}
    made = _pair(_row(4, 1, 5, endings=["passed", "failed", "failed"]), tests="require")
    assert made.row["chosen"] == "r0"


def test_the_held_out_share_is_of_each_preference() -> None:
    pairs = [{"id": str(n), "preference": "ab"[n % 3 == 0]} for n in range(60)]
    training, held = held_out(pairs, 0.1)
    assert Counter(one["preference"] for one in held) == {"b": 2, "a": 4}
    assert len(training) + len(held) == 60
    assert held_out(pairs, 0.0) == (pairs, [])


def test_what_is_not_scorable_is_in_no_mean() -> None:
    ratings, names = [8.0, None, 6.0, None], ["a", "a", "b", "c"]
    means, score = preference_scores(ratings, names)
    assert (means["a"], means["b"], score) == (8, 6, 7)
    assert math.isnan(means["c"])
    assert preference_scores(ratings, names, missing="zero") == (
        {"a": 4, "b": 6, "c": 0},
        pytest.approx(10 / 3),
    )
    assert math.isnan(preference_scores([], [])[1])


def _records(tmp_path: Path, rows: list[dict[str, Any]]) -> Any:
    return read_records(str(write(tmp_path / "given.jsonl", rows)), kind="prompt").records


def _rows(records: Any, **changes: Any) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"responses": 2, "limit": None, "drop_cjk": True, "seed": 0, **changes}
    return instruction_rows(records, read_preferences(), ["A", "B", "C"], **options)


def test_instructions_get_models_and_principles(tmp_path: Path) -> None:
    given_rows = [{"id": str(n), "prompt": f"Write {n}."} for n in range(10)]
    given_rows += [
        {"id": "cjk", "prompt": "写一个函数"},
        {"id": "tested", "prompt": "Add.", "test_list": ["assert True"]},
    ]
    records = _records(tmp_path, given_rows)
    rows = _rows(records)
    assert "cjk" not in {row["id"] for row in rows}
    assert "cjk" in {row["id"] for row in _rows(records, drop_cjk=False)}
    assert len(_rows(records, limit=4)) == 4
    for row in rows:
        assert len({slot["model"] for slot in row["slots"]}) == 2
        assert all(
            slot["principle"] in read_preferences()[row["preference"]].principles for slot in row["slots"]
        )
        assert ("tests" in row) == (row["id"] == "tested")


def test_instructions_with_tests_of_no_use_are_named(tmp_path: Path) -> None:
    records = _records(
        tmp_path, [{"prompt": "a", "tests": "assert ("}, {"prompt": "b"}, {"prompt": "c", "tests": 3}]
    )
    with pytest.raises(DataError, match="2 of 3 instructions") as caught:
        _rows(records)
    assert "given.jsonl:1: tests: the tests are no Python" in str(caught.value)
    assert "given.jsonl:3" in str(caught.value)


def test_a_benchmark_of_unknown_preferences_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "b.jsonl",
        [{"prompt": "x", "preference": "stile"}, {"prompt": "y", "preference": "style", "reference": "r"}],
    )
    with pytest.raises(DataError, match=r"b.jsonl:1: preference: 'stile' is none"):
        read_benchmark(str(path), read_preferences())


NO_GUARD = SandboxOptions(sandbox="none", code_seconds=1)


def test_tasks_whose_own_solution_fails_are_left_out() -> None:
    tasks = [
        CodeTask(id="good", prompt="", tests="assert one == 1", solution="one = 1"),
        CodeTask(id="wrong", prompt="", tests="assert one == 2", solution="one = 1"),
        CodeTask(id="endless", prompt="", tests="while True: pass", solution="one = 1"),
        CodeTask(id="unknown", prompt="", tests="assert one == 1"),
    ]
    kept, broken = sound_tasks(tasks, NO_GUARD)
    assert [one.id for one in kept] == ["good", "unknown"]
    assert broken["wrong"].startswith("failed")
    assert broken["endless"].startswith("timeout")
    endings = [
        one.ending
        for one in run_responses([(tasks[0], text) for text in ("one = 1", "one = 2", "one =")], NO_GUARD)
    ]
    rows = [{"endings": endings}, {"endings": ["timeout"] * 3}]
    found = functional(rows, [1, 2])
    assert [one.value for one in found.rates] == [0.5, 1.0]
    assert [one.left_out for one in found.rates] == [1, 1]
    assert found.not_scorable == 4
    json.dumps(found.to_dict(), allow_nan=False)


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    """The server is every model: it rates by the digit in an answer, grades with 7, else answers with a digit."""
    for choice in answer["choices"]:
        asked = choice["message"]["content"].rpartition("|")[0].rpartition("|")[0]
        if "#### Answer 1" in asked:
            digits = re.findall(r"<<answer \d+ \w+>>\n(?:.*?)(\d) of five", asked)
            said = "\n\n".join(
                f"#### Answer {n}\nRating: {one}\nRationale: so" for n, one in enumerate(digits, 1)
            )
            choice["message"]["content"] = "I rate none." if "Say 3" in asked else said
        elif "double brackets" in asked:
            choice["message"]["content"] = "It is fine. [[7]]"
        else:
            whole = choice["message"]["content"]  # with the seed, which is another one for each model
            drawn = zlib.crc32(whole.encode())  # answers that are equal would be shown in one order alone
            choice["message"]["content"] = f"{1 + drawn % 5} of five {drawn}"
    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        server.change = _answer
        yield server


def _start(folder: Path, server: Server, **changes: Any) -> Run:
    folder.parent.mkdir(exist_ok=True)
    data = write(folder.with_name("data.jsonl"), [{"id": f"p{n}", "prompt": f"Say {n}."} for n in range(12)])
    names = [f"{name}@{server.address}" for name in ("one", "two", "three")]
    options: dict[str, Any] = {
        "data": str(data), "generators": names, "judge": server.address, "responses": 3, "max_new_tokens": 8, "learn": False,
    }  # fmt: skip
    return run_system("codeultrafeedback", codeultrafeedback, folder, **{**options, **changes})


def test_a_server_answers_and_rates_and_pairs_are_made(tmp_path: Path, server: Server) -> None:
    run = _start(tmp_path / "run", server)
    folder = run.artefacts / "round-1"
    rated = read_rows(folder / "feedback" / "kept.jsonl")
    assert all([float(text[0]) for text in row["responses"]] == row["ratings"] for row in rated)
    assert len({tuple(row["shown"]) for row in rated}) > 1
    rejected = read_rows(folder / "feedback" / "rejects.jsonl")
    assert [(one["row"]["id"], one["reason"]) for one in rejected] == [("p3", "not scorable: malformed")]
    pairs = read_rows(folder / "build.jsonl")
    assert pairs
    assert all(row["rating_chosen"] > row["rating_rejected"] for row in pairs)
    assert len(read_records(str(run.path), kind="preference").records) == len(pairs)
    systems = [body["messages"][0] for body in server.requests if body["messages"][0]["role"] == "system"]
    principles = {text for one in read_preferences().values() for text in one.principles}
    assert sum(one["content"] in principles for one in systems) == 36
    asked = len(server.requests)
    assert asked == 36 + 12 + 1, "every answer, every list, and one list again"
    _start(tmp_path / "run", server)
    assert len(server.requests) == asked


def test_a_judge_that_cannot_be_read_stops_the_run_and_its_replies_are_kept(
    tmp_path: Path, server: Server
) -> None:
    with pytest.raises(CoalignError, match=r"1 of 12 replies of the judge cannot be read"):
        _start(tmp_path / "run", server, max_failures=0.05)
    assert len(read_rows(tmp_path / "run" / "artefacts" / "replies.jsonl")) == 13


def test_fine_tuning_then_dpo_with_a_benchmark_before_and_after(
    tmp_path: Path, server: Server, tiny_model: str
) -> None:
    rows = [{"prompt": f"Ask {n}.", "preference": "style", "reference": "Yes."} for n in range(2)]
    bench, seed = write(tmp_path / "bench.jsonl", rows), write(tmp_path / "sft.jsonl", demonstrations(4))
    run = _start(
        tmp_path / "run", server, learn=True, model=tiny_model, seed_data=str(seed), seed_epochs=1, epochs=1, adapter_rank=4,
        benchmark=str(bench), benchmark_tokens=4, eval_fraction=0.5,
    )  # fmt: skip
    results = json.loads((run.artefacts / "results.json").read_text())
    assert {side: found["score"] for side, found in results["benchmark"].items()} == {
        "before": 7,
        "sft": 7,
        "after": 7,
    }
    assert (run.artefacts / "round-1" / "sft" / "adapter_config.json").exists()
    assert (run.model / "model.safetensors").exists(), (
        "DPO starts from the fine-tuned model, into which its adapter is merged"
    )
    assert results["held out"] > 0
