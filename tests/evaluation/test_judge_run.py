"""`coalign judge`: files to judge, whole runs with tiny models, continuation, errors, the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import CoalignError, ConfigError, DataError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.messages import FieldError
from coalign.judging import options as judge_options
from coalign.judging import run as judge_run
from coalign.judging.items import parse_choice, read_items
from coalign.judging.protocol import Rubric
from coalign.judging.run import Config, majority
from coalign.models.reward_model import load_reward_model
from coalign.report.html import read_report
from coalign.report.model import Samples
from tests.evaluation.judge_files import pair_rows, save_reward_model, write_rows
from tests.evaluation.scripted import ScriptedGenerator, longer_is_better


def test_pairs_with_people(tmp_path: Path) -> None:
    found = read_items(write_rows(tmp_path / "p.jsonl", pair_rows()))
    assert found.kind == "pairs"
    assert [one.id for one in found.items] == [f"q{k}" for k in range(6)]
    assert found.items[1].responses == ("short", "a longer answer, number 1")
    assert found.labels[:2] == [("first", "first", "tie"), ("second", "second", "second")]
    assert "annotator1, annotator2, annotator3" in found.recognised


@pytest.mark.parametrize(
    ("row", "responses", "labels"),
    [
        ({"prompt": "?", "chosen": "good", "rejected": "bad"}, ("good", "bad"), ("first",)),
        ({"question": "?", "answer_1": "x", "answer_2": "y", "winner": "model_b"}, ("x", "y"), ("second",)),
        ({"instruction": "Do", "input": "it", "response1": "x", "response2": "", "label": "tie"}, ("x", ""), ("tie",)),
        ({"prompt": "?", "output": "x"}, ("x",), ()),
        ({"prompt": [{"role": "user", "content": "?"}], "response_a": "x", "response_b": "y"}, ("x", "y"), ()),
    ],
)  # fmt: skip
def test_columns_of_the_field(
    tmp_path: Path, row: dict[str, Any], responses: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    found = read_items(write_rows(tmp_path / "p.jsonl", [row]))
    assert found.items[0].responses == responses
    assert found.labels[0] == labels
    assert found.items[0].prompt[-1]["role"] == "user"


def test_named_columns_reference_and_rubric(tmp_path: Path) -> None:
    row = {
        "prompt": "?", "gpt": "x", "llama": "y", "said": "A", "gold": "z",
        "rubric": {"criteria": "wit", "score_descriptions": {"1": "dull"}}, "constraints": [1],
    }  # fmt: skip
    path = write_rows(tmp_path / "p.jsonl", [row])
    found = read_items(path, pair_columns=["llama", "gpt"], label_columns=["said"], reference_column="gold")
    one = found.items[0]
    assert (one.responses, one.reference, found.labels[0]) == (("y", "x"), "z", ("first",))
    assert one.rubric == Rubric(criteria="wit", levels={1: "dull"})
    assert one.extra["constraints"] == [1]
    with pytest.raises(DataError, match="no column 'claude'"):
        read_items(path, pair_columns=["llama", "claude"])


def test_bad_rows_are_named_or_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *pair_rows(2),
        {"id": "b", "prompt": "?", "response_a": True, "response_b": "y"},
        {"id": "c", "prompt": " ", "response_a": "x", "response_b": None},
        {"id": "d", "prompt": "?", "response_a": "x", "response_b": "y", "annotator1": 7},
    ]
    path = write_rows(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_items(path)
    message = str(caught.value)
    assert "3 of 5 rows cannot be judged" in message
    assert f"{path}:3: response_a: the boolean true, expected text" in message
    assert f"{path}:4: response_b: missing, expected text" in message
    assert f"{path}:5: annotator1: the number 7, expected 1, A or first" in message
    found = read_items(path, on_bad_record="skip", rejects=tmp_path / "bad.jsonl")
    assert (len(found.items), found.n_bad) == (2, 3)
    assert [json.loads(one)["line"] for one in (tmp_path / "bad.jsonl").read_text().splitlines()] == [3, 4, 5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "?"}], "nothing to judge in the columns prompt"),
        ([{"id": "a", "prompt": "?", "output": "x"}] * 2, "the id 'a' appears twice"),
        ([{"prompt": "?", "output": True}], "1 of 1 rows cannot be judged"),
    ],
)
def test_files_that_cannot_be_judged(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_items(write_rows(tmp_path / "p.jsonl", rows))


@pytest.mark.parametrize(("value", "choice"), [(1, "first"), (2.0, "second"), (" Tie ", "tie"), ("0", "tie")])
def test_choices(value: Any, choice: str) -> None:
    assert parse_choice(value) == choice


@pytest.mark.parametrize("value", [True, None, 3, "better", ""])
def test_no_choices(value: Any) -> None:
    with pytest.raises(FieldError):
        parse_choice(value)


@pytest.fixture
def pair_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "pairs.jsonl", pair_rows())


@pytest.fixture
def judge_file(
    tmp_path: Path, pair_file: str
) -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any], Run]]:
    """Judge the pairs, or other data, in a folder; gives the verdicts, the results and the run."""

    def judge(name: str, **values: Any) -> tuple[list[dict[str, Any]], dict[str, Any], Run]:
        device = {} if values.get("judge") in ("stored", "verifiers") else {"device": "cpu"}
        config = build(Config, {"data": pair_file, **device, **values})
        made = Run.start(tmp_path / name, "judge", config)
        judge_run.run(config, made)
        results = json.loads((made.artefacts / "results.json").read_text())
        return read_rows(made.artefacts / "verdicts.jsonl"), results, made

    return judge


def test_pairs_get_verdicts_figures_and_a_report(judge_by: Any, judge_file: Any) -> None:
    judge_by(ScriptedGenerator(longer_is_better))
    rows, results, made = judge_file("run")
    assert [row["outcome"] for row in rows] == ["first", "second"] * 3
    assert rows[0]["opinions"][0].keys() >= {"reply", "prompt_hash", "cost", "failure"}
    assert results["consistency"]["mean"] == 1
    assert results["first_shown"] == 0.5
    assert results["people"]["accuracy"]["mean"] == 1
    assert results["people"]["cohen_kappa"]["mean"] == 1
    assert 0 < results["people"]["fleiss_kappa_of_people"]["mean"] < 1
    samples = next(one for one in read_report(made.report).sections if isinstance(one, Samples))
    assert len(samples.rows) == 6
    assert "I compared them." in samples.rows[0].outputs[2].text
    assert "100%" in made.status()["headline"]


def test_too_many_failures_fail_the_run_and_keep_the_replies(
    judge_by: Any, judge_file: Any, tmp_path: Path
) -> None:
    judge_by(ScriptedGenerator(lambda _: "Both are nice."))
    with pytest.raises(CoalignError, match=r"12 of 12 verdicts are missing \(12 malformed\).*Both are nice"):
        judge_file("run")
    replies = read_rows(tmp_path / "run" / "artefacts" / "replies.jsonl")
    assert [row["text"] for row in replies] == ["Both are nice."] * 12
    judge_by(ScriptedGenerator(lambda _: pytest.fail("asked again")))
    assert judge_file("run", max_failures=1)[1]["failures"] == {"malformed": 12}


def test_one_order_responses_and_prices(judge_by: Any, judge_file: Any, tmp_path: Path) -> None:
    judge_by(ScriptedGenerator(longer_is_better))
    assert judge_file("given", orders="given", price_reply=1.0)[1]["consistency"] is None
    judge_by(ScriptedGenerator(lambda _: "[[7]]"))
    said = [{"prompt": "?", "response": "x"}, {"prompt": "!", "response": ""}]
    rows, results, _ = judge_file("rated", data=write_rows(tmp_path / "r.jsonl", said), criteria="brevity")
    assert results["score"]["mean"] == 7
    assert [row["score"] for row in rows] == [7, 7]


def test_a_real_model_reads_out_probabilities(judge_file: Any, tmp_path: Path, tiny_model: str) -> None:
    template = tmp_path / "short.j2"
    template.write_text("{{ question }}\nA: {{ answers[0] }}\nB: {{ answers[-1] }}\nReply with A or B.")
    common = {"model": tiny_model, "judge_readout": "logprobs", "judge_template": template, "max_failures": 1}
    rows = read_rows(judge_file("run", **common)[2].artefacts / "replies.jsonl")
    assert len(rows[0]["top"]) == 20
    assert rows[0]["prompt_tokens"] > 10
    first = judge_file("calibrated", **common, judge_calibrate=True)[0][0]["opinions"][0]
    assert first["failure"] or first["cost"]["calls"] == 2


def test_reward_models_verifiers_and_stored_verdicts(judge_file: Any, pair_file: str, tmp_path: Path) -> None:
    rows, results, _ = judge_file("rm", judge="reward", model=save_reward_model(tmp_path / "reward"))
    assert all(row["opinions"][0]["scores"] for row in rows)
    assert results["consistency"]["mean"] == 1
    constrained = [{**row, "constraints": [{"verifier": "max_words", "n": 1}]} for row in pair_rows()]
    path = write_rows(tmp_path / "c.jsonl", constrained)
    rows = judge_file("verifiers", data=path, judge="verifiers")[0]
    assert [row["outcome"] for row in rows] == ["second", "first"] * 3
    stored = judge_file("stored", judge="stored", stored_verdicts=pair_file)[1]
    assert stored["people"]["accuracy"]["mean"] == 1


def test_majority() -> None:
    assert majority(["first", "tie", "first"]) == "first"
    assert majority(["first", "second"]) is None
    assert majority([]) is None


def test_rewards_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = load_reward_model(save_reward_model(tmp_path / "rm"), device="cpu")
    prompt: Any = [{"role": "user", "content": "Why?"}]
    texts = ("a", "a much longer response", "a", "mid size")
    together = model.score([prompt] * 4, texts)
    assert together == pytest.approx([model.score([prompt], [one])[0] for one in texts], abs=1e-5)
    assert together[0] == together[2]
    assert model.score([], []) == []


def test_what_is_no_reward_model(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 3 outputs: 0"):
        load_reward_model(save_reward_model(tmp_path / "three", outputs=3))
    with pytest.raises(ModelError, match="A reward model is a sequence classifier"):
        load_reward_model(tiny_model)


def test_verdicts_of_only_0_and_1_may_mean_two_things(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response_a": "a", "response_b": f"b{place}", "label": place % 2}
        for place in range(4)
    ]
    path = str(write_rows(tmp_path / "p.jsonl", rows))
    with pytest.raises(DataError, match=r"label are all 0 and 1.*\n.*--label-zero tie or first"):
        read_items(path)
    assert read_items(path, label_zero="tie").labels[:2] == [("tie",), ("first",)]
    assert read_items(path, label_zero="first").labels[:2] == [("first",), ("second",)]
    with_both = str(write_rows(tmp_path / "q.jsonl", [*rows, {**rows[0], "label": 2}]))
    assert read_items(with_both).labels[-1] == ("second",)
    assert read_items(with_both, label_zero="first").labels[-1] == ("tie",)


def test_the_command_shows_templates_and_requests(
    monkeypatch: pytest.MonkeyPatch, coalign: Any, pair_file: str
) -> None:
    shown_template = coalign("judge", "--print-template", "pair")
    assert shown_template.code == 0
    assert "{% block user %}" in shown_template.out
    monkeypatch.setattr(judge_options, "identity_of", lambda options: {})
    asked = coalign("judge", "--data", pair_file, "--show-requests", "1")
    assert asked.code == 0
    assert "a longer answer, number 0" in asked.out
    assert "number 1" not in asked.out
    assert coalign("judge").code == 2
    refused = coalign("judge", "--data", "absent.jsonl")
    assert refused.code == 1
    assert "Traceback" not in refused.err


def test_two_files_of_responses_are_compared_prompt_by_prompt(tmp_path: Path) -> None:
    ours = [
        {"id": name, "prompt": text, "response": f"ours {name}"}
        for name, text in (("a", "1?"), ("b", "2?"), ("c", "1?"))
    ]
    theirs = [
        {"prompt": text, "response": f"theirs {number}"}
        for number, text in enumerate(("1?", "3?", "1?", "2?"))
    ]
    first, second = (
        write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in (("ours", ours), ("theirs", theirs))
    )
    config = build(Config, {"data": str(first), "against": str(second), "limit": 3})
    found = judge_run.configured_items(config)
    assert found.kind == "pairs"
    assert [one.id for one in found.items] == ["a", "b", "c"]
    assert [one.responses for one in found.items] == [
        ("ours a", "theirs 0"),
        ("ours b", "theirs 3"),
        ("ours c", "theirs 2"),
    ]


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([{"prompt": "2?", "response": "x"}], "no response to 1 of the 1 prompts"),
        ([{"prompt": "1?", "response_a": "x", "response_b": "y"}], "it holds pairs already"),
    ],
)
def test_files_that_do_not_belong_together_are_named(
    tmp_path: Path, theirs: list[dict[str, str]], said: str
) -> None:
    first = write_rows(tmp_path / "ours.jsonl", [{"prompt": "1?", "response": "x"}])
    second = write_rows(tmp_path / "theirs.jsonl", theirs)
    with pytest.raises(DataError, match=said):
        judge_run.configured_items(build(Config, {"data": str(first), "against": str(second)}))
    with pytest.raises(ConfigError, match="pair_columns has no effect with against"):
        judge_run.configured_items(
            build(Config, {"data": str(first), "against": str(first), "pair_columns": ["a", "b"]})
        )
