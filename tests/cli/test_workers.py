"""`--engine ray` of commands: the rows of one process, continued, with the rows that fail among them.

The pool is this process; the tests at the end have Ray Data's, where the extra `ray` is installed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coalign.core.engines import ray_data
from coalign.core.files import read_rows
from coalign.data.rows import iter_rows
from coalign.evaluation import modalities
from tests.core.engines.pool import over_this_process
from tests.preference.tiny_runs import write

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'coalign[ray]'"
)
ANSWERS = [
    {"id": f"a{n}", "instruction": {"T": n % 11, "V": 7}, "synergy": {"TV": 0.6}, "votes": {"TV": 0.4}}
    for n in range(20)
]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "over_ray", over_this_process)


@pytest.mark.usefixtures("here")
def test_scores_of_workers_are_those_of_one_process(tmp_path: Path, coalign: Callable) -> None:
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    assert coalign("score", "amg", data, "--out", str(one)).code == 0
    spread = ("score", "amg", data, "--engine", "ray", "--worker-rows", "3")
    assert coalign(*spread, "--out", str(many)).code == 0
    assert many.read_bytes() == one.read_bytes()
    assert coalign(*spread).out == one.read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.usefixtures("here")
def test_rows_that_fail_stand_among_the_others_and_are_tried_again(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = str(write(tmp_path / "answers.jsonl", ANSWERS)), tmp_path / "many.jsonl"
    args = ("score", "amg", data, "--engine", "ray", "--worker-rows", "8", "--out", str(out))
    asked: list[str] = []

    def scorer(options: modalities.ScoringOptions) -> Callable:
        def work(rows: list[dict]) -> list[dict]:
            asked.extend(one["id"] for one in rows)
            if fails & {one["id"] for one in rows}:
                raise MemoryError("no room")
            return whole(options)(rows)

        return work

    whole, fails = modalities.scorer, {"a3"}
    monkeypatch.setattr(modalities, "scorer", scorer)
    failed = coalign(*args)
    assert failed.code == 1
    assert "1 of 20 rows failed" in failed.err
    assert "The first, a3: MemoryError: no room" in failed.err
    rows = read_rows(out)
    assert [one["id"] for one in rows] == [one["id"] for one in ANSWERS]
    assert rows[3] == {"id": "a3", "error": "MemoryError: no room"}
    fails.clear()
    asked.clear()
    again = coalign(*args, "--overwrite")
    assert again.code == 0
    assert "Continuing: 19 of 20 rows are done" in again.err
    assert asked == [f"a{n}" for n in range(8)]  # the batch of the row that failed
    assert read_rows(out)[3]["score"] > 0


@pytest.mark.usefixtures("here")
def test_rows_of_other_options_are_not_continued(tmp_path: Path, coalign: Callable) -> None:
    data, out = str(write(tmp_path / "answers.jsonl", ANSWERS)), tmp_path / "many.jsonl"
    write(tmp_path / "many.jsonl.partial", [{"settings": {"metric": "grits"}}])
    found = coalign("score", "amg", data, "--engine", "ray", "--out", str(out))
    assert found.code == 2
    assert "metric: 'grits' there, 'amg' now" in found.err


def test_workers_without_the_engine_and_the_engine_without_ray(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(write(tmp_path / "answers.jsonl", ANSWERS))
    without = coalign("score", "amg", data, "--workers", "2")
    assert without.code == 2
    assert "workers has no effect with engine: local" in without.err
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = coalign("score", "amg", data, "--engine", "ray")
    assert missing.code == 1
    assert "pip install 'coalign[ray]'" in missing.err


PROMPTS = [
    {"id": f"q{n}", "prompt": f"say {word}"} for n, word in enumerate(("sea", "sky", "a", "green") * 3)
]
SAMPLED = ("--samples", "2", "--max-new-tokens", "6", "--seed", "3", "--dtype", "float32")
SPREAD = ("--engine", "ray", "--worker-rows", "5")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "method", [(), ("--method", "best-of-n", "--option", "best_of=3", "--reward", "max_words:3")]
)
def test_answers_of_workers_are_those_of_one_process(
    tmp_path: Path, coalign: Callable, tiny_model: str, method: tuple[str, ...]
) -> None:
    data = str(write(tmp_path / "prompts.jsonl", PROMPTS))
    args = ("generate", "--model", tiny_model, "--prompts", data, *SAMPLED, *method)
    assert coalign(*args, "--out", str(tmp_path / "one.jsonl")).code == 0
    found = coalign(*args, *SPREAD, "--out", str(tmp_path / "many.jsonl"))
    assert found.code == 0
    assert "24 samples" in found.err
    assert read_rows(tmp_path / "many.jsonl") == read_rows(tmp_path / "one.jsonl")
    assert len({tuple(one["responses"]) for one in read_rows(tmp_path / "many.jsonl")}) > 6


@pytest.mark.usefixtures("here")
def test_shards_go_in_and_out(tmp_path: Path, coalign: Callable, tiny_model: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        write(tmp_path / f"in/part-{number}.jsonl", PROMPTS[4 * number : 4 * number + 4])
    args = ("generate", "--model", tiny_model, "--prompts", str(tmp_path / "in"), *SAMPLED)
    assert coalign(*args, "--out", str(tmp_path / "one.jsonl")).code == 0
    args = (*args, *SPREAD, "--out", str(tmp_path / "out/rows.parquet"), "--shard-rows", "5")
    found = coalign(*args)
    assert found.out.strip() == str(tmp_path / "out/rows-*-of-00003.parquet")
    assert [dict(row.value or {}) for row in iter_rows(found.out.strip())] == read_rows(
        tmp_path / "one.jsonl"
    )
    again = coalign(*args)
    assert again.code == 2
    assert "rows-00000-of-00003.parquet exists" in again.err


@pytest.mark.usefixtures("here")
def test_a_prompt_without_room_fails_alone(tmp_path: Path, coalign: Callable, tiny_model: str) -> None:
    long = {"id": "long", "prompt": "sea " * 5000}
    data = str(write(tmp_path / "prompts.jsonl", [*PROMPTS[:7], long, *PROMPTS[7:]]))
    out = tmp_path / "many.jsonl"
    args = ("generate", "--model", tiny_model, "--prompts", data, *SAMPLED, *SPREAD, "--out", str(out))
    failed = coalign(*args)
    assert failed.code == 1
    assert "1 of 13 rows failed" in failed.err
    rows = read_rows(out)
    assert rows[7]["id"] == "long"
    assert rows[7]["responses"] == []
    assert "prompt 7: prompt: " in rows[7]["error"]
    assert [len(one["responses"]) for one in rows] == [2] * 7 + [0] + [2] * 5
    again = coalign(*args, "--overwrite")
    assert again.code == 1
    assert "Continuing: 12 of 13 prompts are done" in again.err


@pytest.mark.usefixtures("here")
def test_answers_go_on_with_and_without_workers(
    tmp_path: Path, coalign: Callable, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(write(tmp_path / "prompts.jsonl", PROMPTS))
    args = ("generate", "--model", tiny_model, "--prompts", data, *SAMPLED)
    coalign(*args, "--out", str(tmp_path / "one.jsonl"))

    def stops(*given: object) -> Iterator[list]:
        made = over_this_process(*given)
        yield next(made)
        raise KeyboardInterrupt

    out = ("--out", str(tmp_path / "many.jsonl"))
    with monkeypatch.context() as patched:
        patched.setattr(ray_data, "over_ray", stops)
        assert coalign(*args, *SPREAD, *out).code == 130
    assert "Continuing: 5 of 12 prompts are done" in coalign(*args, *out).err  # in one process
    assert read_rows(tmp_path / "many.jsonl") == read_rows(tmp_path / "one.jsonl")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--endpoint", "http://127.0.0.1:9/v1"), "--engine ray goes with a model on this machine"),
        (("--backend", "vllm"), "the back end is vllm"),
        (("--tools", "python"), "--engine ray does not go with --tools"),
    ],
)
def test_what_workers_do_not_do_is_refused(
    tmp_path: Path, coalign: Callable, args: tuple[str, ...], said: str
) -> None:
    data = str(write(tmp_path / "prompts.jsonl", PROMPTS))
    found = coalign(
        "generate", "--prompts", data, *args, "--engine", "ray", "--out", str(tmp_path / "o.jsonl")
    )
    assert found.code == 2
    assert said in found.err


PAIRS = [
    {"id": f"p{n}", "prompt": f"say {word}", "chosen": "green", "rejected": f"a {word}"}
    for n, word in enumerate(("sea", "sky", "a", "green") * 2)
]
LETTERS = ("--judge-readout", "logprobs", "--judge-form", "choice", "--max-failures", "1")


@pytest.mark.usefixtures("here")
def test_verdicts_of_workers_are_those_of_one_process(
    tmp_path: Path, coalign: Callable, tiny_model: str
) -> None:
    data = str(write(tmp_path / "pairs.jsonl", PAIRS))
    template = tmp_path / "short.j2"
    template.write_text(
        "{{ question }}\nA: {{ answers[0] }}\nB: {{ answers[1] }}\nReply with A or B.", encoding="utf-8"
    )
    args = (
        "judge",
        "--data",
        data,
        "--model",
        tiny_model,
        "--dtype",
        "float32",
        *LETTERS,
        "--judge-template",
        str(template),
    )
    one, many = tmp_path / "one", tmp_path / "many"
    assert coalign(*args, "--out", str(one)).code == 0
    assert coalign(*args, *SPREAD, "--out", str(many)).code == 0
    assert read_rows(many / VERDICTS) == read_rows(one / VERDICTS)
    assert (many / "artefacts/results.json").read_bytes() == (one / "artefacts/results.json").read_bytes()


VERDICTS = "artefacts/verdicts.jsonl"
FUNCTION = """
import os

def length(prompts, completions, **columns):
    texts = [one[0]["content"] for one in completions]
    if "a sky" in texts and "WITHOUT_SKY" in os.environ:
        raise ValueError("no sky")
    return [float(len(one)) for one in texts]
"""


@pytest.mark.usefixtures("here")
def test_a_function_judges_in_workers_and_may_raise(
    tmp_path: Path, coalign: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(FUNCTION, encoding="utf-8")
    data = str(write(tmp_path / "pairs.jsonl", PAIRS))
    args = (
        "judge",
        "--data",
        data,
        "--judge",
        "function",
        "--judge-function",
        f"{tmp_path / 'own.py'}:length",
    )
    monkeypatch.setenv("WITHOUT_SKY", "1")
    found = coalign(*args, *SPREAD, "--out", str(tmp_path / "many"))
    assert found.code == 1
    assert "2 of 14 verdicts are missing (2 error)" in found.err
    rows = read_rows(tmp_path / "many" / VERDICTS)
    assert "the score of item p1 is nan" in rows[1]["opinions"][0]["reply"]
    assert [one["id"] for one in rows if one["outcome"] == "failed"] == ["p1", "p5"]
    monkeypatch.delenv("WITHOUT_SKY")
    assert coalign(*args, *SPREAD, "--out", str(tmp_path / "many")).code == 0
    assert coalign(*args, "--out", str(tmp_path / "one")).code == 0
    assert read_rows(tmp_path / "many" / VERDICTS) == read_rows(tmp_path / "one" / VERDICTS)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "steps",
    [
        "exact, rewrite prompt='go on: {text}' column=more max_new_tokens=4 temperature=1, length max=40, rewrite name=again prompt={more} column=last max_new_tokens=3",
        "judge, above by=score than=3, exact",
        "judge name=odds, top by=score share=0.5",
    ],
)
def test_steps_by_workers_make_the_records_of_one_process(
    tmp_path: Path, coalign: Callable, tiny_model: str, steps: str
) -> None:
    rows = [{"id": f"r{n}", "prompt": f"say {n % 7}", "completion": "a sea " * (n % 9)} for n in range(150)]
    data = str(write(tmp_path / "corpus.jsonl", rows))
    args = ["run", "curate", "--data", data, "--steps", steps, "--model", tiny_model, "--max-failures", "1"]
    if "odds" in steps:
        (tmp_path / "short.j2").write_text("{{ question }} {{ answers[0] }} 0 to 9?", encoding="utf-8")
        args += [
            "--judge-readout",
            "logprobs",
            "--judge-form",
            "choice",
            "--scale-low",
            "0",
            "--scale-high",
            "9",
        ]
        args += ["--judge-template", str(tmp_path / "short.j2"), "--dtype", "float32"]
    elif steps.startswith("judge"):
        (tmp_path / "own.py").write_text(FUNCTION, encoding="utf-8")
        args = [*args[:6], "--judge", "function", "--judge-function", f"{tmp_path / 'own.py'}:length"]
    assert coalign(*args, "--out", str(tmp_path / "one")).code == 0
    found = coalign(*args, "--engine", "ray", "--out", str(tmp_path / "many"))
    assert found.code == 0, found.err
    assert "By workers: " in found.err
    assert "; in this process: " in found.err
    for name in ("kept.jsonl", "rejects.jsonl", "manifest.jsonl"):
        one, many = (tmp_path / folder / "artefacts/curation" / name for folder in ("one", "many"))
        assert many.read_bytes() == one.read_bytes()
        assert one.stat().st_size or steps.startswith(
            "exact, rewrite"
        )  # all answers of a tiny model are cut off


@pytest.mark.usefixtures("here")
def test_a_record_that_fails_in_a_step_is_rejected(
    tmp_path: Path, coalign: Callable, tiny_model: str
) -> None:
    rows = [{"id": f"r{n}", "text": "sea " * (5000 if n == 3 else n + 1)} for n in range(6)]
    data = str(write(tmp_path / "corpus.jsonl", rows))
    args = ("run", "curate", "--data", data, "--model", tiny_model, "--engine", "ray", "--max-failures", "1")
    step = "rewrite prompt={text} column=more max_new_tokens=4"
    found = coalign(*args, "--steps", step, "--out", str(tmp_path / "run"))
    assert found.code == 0, found.err
    fell = [one for one in read_rows(tmp_path / "run/artefacts/curation/rejects.jsonl") if one["id"] == "r3"]
    assert fell[0]["reason"] == "not scorable: error"
    assert "tokens" in fell[0]["steps"][0]["error"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--steps", "exact"), "engine has no effect without a step judge"),
        (("--steps", "judge", "--worker-rows", "3"), "worker_rows has no effect here"),
        (("--steps", "judge", "--endpoint", "http://127.0.0.1:9/v1"), "goes with a model on this machine"),
    ],
)
def test_curation_refuses_what_workers_do_not_do(
    tmp_path: Path, coalign: Callable, args: tuple[str, ...], said: str
) -> None:
    data = str(write(tmp_path / "corpus.jsonl", [{"prompt": "a", "completion": "b"}]))
    found = coalign("run", "curate", "--data", data, "--engine", "ray", *args, "--out", str(tmp_path / "run"))
    assert found.code == 2
    assert said in found.err


# -- Ray Data ---------------------------------------------------------------------------------------------------


@needs_ray
def test_a_score_that_is_killed_goes_on(tmp_path: Path) -> None:
    from coalign.evaluation.factuality.model import save_pair_classifier
    from tests.evaluation.encoders import pair_classifier, pair_tokenizer

    pairs = [{"id": f"p{n}", "context": f"The cat {n} sat.", "claim": "A cat sat."} for n in range(400)]
    data = write(tmp_path / "pairs.jsonl", pairs)
    model = save_pair_classifier(pair_classifier(), pair_tokenizer(), tmp_path / "model", max_length=64)
    command = [sys.executable, "-m", "coalign", "score", "alignscore", str(data), "--model", str(model)]
    subprocess.run([*command, "--out", str(tmp_path / "one.jsonl")], check=True, capture_output=True)
    out = tmp_path / "many.jsonl"
    spread = [*command, "--engine", "ray", "--worker-rows", "10", "--out", str(out)]
    first = subprocess.Popen(spread, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    partial, limit = tmp_path / "many.jsonl.partial", time.monotonic() + 120
    while not partial.exists() or len(read_rows(partial)) < 11:
        assert first.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(spread, check=True, capture_output=True, text=True)
    assert "Continuing: " in second.stderr
    assert out.read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@needs_ray
def test_answers_and_verdicts_by_ray_are_those_of_one_process(
    tmp_path: Path, coalign: Callable, tiny_model: str
) -> None:
    data = str(write(tmp_path / "prompts.jsonl", PROMPTS))
    args = ("generate", "--model", tiny_model, "--prompts", data, *SAMPLED)
    assert coalign(*args, "--out", str(tmp_path / "one.jsonl")).code == 0
    assert coalign(*args, *SPREAD, "--out", str(tmp_path / "many.jsonl")).code == 0
    assert read_rows(tmp_path / "many.jsonl") == read_rows(tmp_path / "one.jsonl")
    judged = ("judge", "--data", str(tmp_path / "one.jsonl"), "--judge", "function")
    judged = (*judged, "--judge-function", f"{tmp_path / 'own.py'}:length", "--on-bad-record", "skip")
    (tmp_path / "own.py").write_text(FUNCTION, encoding="utf-8")
    write(
        tmp_path / "one.jsonl",
        [{**one, "responses": one["responses"][:1]} for one in read_rows(tmp_path / "one.jsonl")],
    )
    assert coalign(*judged, "--out", str(tmp_path / "one")).code == 0
    assert coalign(*judged, *SPREAD, "--out", str(tmp_path / "many")).code == 0
    assert read_rows(tmp_path / "many" / VERDICTS) == read_rows(tmp_path / "one" / VERDICTS)


@needs_ray
def test_steps_by_ray_make_the_records_of_one_process(tmp_path: Path, coalign: Callable) -> None:
    rows = [{"id": f"r{n}", "prompt": f"say {n % 7}", "completion": "a sea " * (n % 9)} for n in range(150)]
    data, own = write(tmp_path / "corpus.jsonl", rows), tmp_path / "own.py"
    own.write_text(FUNCTION, encoding="utf-8")
    args = ("run", "curate", "--data", str(data), "--judge", "function", "--judge-function", f"{own}:length")
    args = (*args, "--steps", "judge, above by=score than=3, exact")
    assert coalign(*args, "--out", str(tmp_path / "one")).code == 0
    assert coalign(*args, "--engine", "ray", "--out", str(tmp_path / "many")).code == 0
    for name in ("kept.jsonl", "rejects.jsonl", "manifest.jsonl"):
        one, many = (tmp_path / folder / "artefacts/curation" / name for folder in ("one", "many"))
        assert many.read_bytes() == one.read_bytes()
