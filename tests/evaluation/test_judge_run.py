"""`coalign judge`: whole runs with tiny models, continuation, errors, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import CoalignError, ConfigError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.judging import options as judge_options
from coalign.judging import run as judge_run
from coalign.judging.run import Config, majority
from coalign.models.reward_model import load_reward_model
from coalign.report.html import read_report
from coalign.report.model import Samples
from tests.evaluation.judge_files import pair_rows, save_reward_model, write_rows
from tests.evaluation.scripted import ScriptedGenerator, shown
from tests.selfalign.tiny import make_model_folder


@pytest.fixture
def pair_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "pairs.jsonl", pair_rows())


def judge_file(folder: Path, **values: Any) -> Run:
    config = build(
        Config, {"device": "cpu", **values} if values.get("judge", "model") != "stored" else values
    )
    made = Run.start(folder, "judge", config)
    judge_run.run(config, made)
    return made


def use(monkeypatch: pytest.MonkeyPatch, generator: ScriptedGenerator) -> None:
    monkeypatch.setattr(judge_options, "_open_generator", lambda options: generator)
    monkeypatch.setattr(
        judge_options, "identity_of", lambda options: {}
    )  # else the default model is unpacked


def longer_is_better(prompt: str) -> str:
    first, second = shown(prompt)
    return "I compared them.\n[[A]]" if len(first) > len(second) else "[[B]]"


def test_pairs_get_verdicts_figures_and_a_report(
    monkeypatch: pytest.MonkeyPatch, pair_file: str, tmp_path: Path
) -> None:
    use(monkeypatch, ScriptedGenerator(longer_is_better))
    made = judge_file(tmp_path / "run", data=pair_file)
    rows = read_rows(made.artefacts / "verdicts.jsonl")
    assert [row["outcome"] for row in rows] == ["first", "second"] * 3
    assert rows[0]["opinions"][0].keys() >= {"reply", "prompt_hash", "cost", "failure"}
    results = json.loads((made.artefacts / "results.json").read_text())
    assert results["consistency"]["mean"] == 1
    assert results["first_shown"] == 0.5
    assert results["people"]["accuracy"]["mean"] == 1
    assert results["people"]["cohen_kappa"]["mean"] == 1
    assert 0 < results["people"]["fleiss_kappa_of_people"]["mean"] < 1
    report = read_report(made.report)
    samples = next(one for one in report.sections if isinstance(one, Samples))
    assert len(samples.rows) == 6
    assert "I compared them." in samples.rows[0].outputs[2].text
    assert "100%" in made.status()["headline"]


def test_too_many_failures_fail_the_run_and_keep_the_replies(
    monkeypatch: pytest.MonkeyPatch, pair_file: str, tmp_path: Path
) -> None:
    use(monkeypatch, ScriptedGenerator(lambda _: "Both are nice."))
    with pytest.raises(CoalignError, match=r"12 of 12 verdicts are missing \(12 malformed\).*Both are nice"):
        judge_file(tmp_path / "run", data=pair_file)
    assert len(read_rows(tmp_path / "run" / "artefacts" / "replies.jsonl")) == 12
    use(monkeypatch, ScriptedGenerator(lambda _: pytest.fail("asked again")))
    made = judge_file(tmp_path / "run", data=pair_file, max_failures=1)
    assert json.loads((made.artefacts / "results.json").read_text())["failures"] == {"malformed": 12}


def test_one_order_responses_and_prices(
    monkeypatch: pytest.MonkeyPatch, pair_file: str, tmp_path: Path
) -> None:
    use(monkeypatch, ScriptedGenerator(longer_is_better))
    made = judge_file(tmp_path / "given", data=pair_file, orders="given", price_reply=1.0)
    assert json.loads((made.artefacts / "results.json").read_text())["consistency"] is None
    use(monkeypatch, ScriptedGenerator(lambda _: "[[7]]"))
    rated = write_rows(
        tmp_path / "r.jsonl", [{"prompt": "?", "response": "x"}, {"prompt": "!", "response": ""}]
    )
    made = judge_file(tmp_path / "rated", data=rated, criteria="brevity")
    assert json.loads((made.artefacts / "results.json").read_text())["score"]["mean"] == 7
    assert [row["score"] for row in read_rows(made.artefacts / "verdicts.jsonl")] == [7, 7]


def test_a_real_model_reads_out_probabilities(pair_file: str, tmp_path: Path) -> None:
    model = str(make_model_folder(tmp_path / "model"))
    template = tmp_path / "short.j2"
    template.write_text("{{ question }}\nA: {{ answers[0] }}\nB: {{ answers[-1] }}\nReply with A or B.")
    common = {"data": pair_file, "model": model, "judge_readout": "logprobs", "judge_template": template}
    made = judge_file(tmp_path / "run", **common, max_failures=1)
    rows = read_rows(made.artefacts / "replies.jsonl")
    assert len(rows[0]["top"]) == 20
    assert rows[0]["prompt_tokens"] > 10
    made = judge_file(tmp_path / "calibrated", **common, judge_calibrate=True, max_failures=1)
    first = read_rows(made.artefacts / "verdicts.jsonl")[0]["opinions"][0]
    assert first["failure"] or first["cost"]["calls"] == 2


def test_reward_models_verifiers_and_stored_verdicts(pair_file: str, tmp_path: Path) -> None:
    reward = save_reward_model(tmp_path / "reward")
    made = judge_file(tmp_path / "rm", data=pair_file, judge="reward", model=reward)
    rows = read_rows(made.artefacts / "verdicts.jsonl")
    assert all(row["opinions"][0]["scores"] for row in rows)
    assert json.loads((made.artefacts / "results.json").read_text())["consistency"]["mean"] == 1
    constrained = [{**row, "constraints": [{"verifier": "max_words", "n": 1}]} for row in pair_rows()]
    path = write_rows(tmp_path / "c.jsonl", constrained)
    config = build(Config, {"data": path, "judge": "verifiers"})
    made = Run.start(tmp_path / "verifiers", "judge", config)
    judge_run.run(config, made)
    assert [row["outcome"] for row in read_rows(made.artefacts / "verdicts.jsonl")] == ["second", "first"] * 3
    made = judge_file(tmp_path / "stored", data=pair_file, judge="stored", stored_verdicts=pair_file)
    assert json.loads((made.artefacts / "results.json").read_text())["people"]["accuracy"]["mean"] == 1


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


def test_what_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 3 outputs: 0"):
        load_reward_model(save_reward_model(tmp_path / "three", outputs=3))
    with pytest.raises(ModelError, match="A reward model is a sequence classifier"):
        load_reward_model(str(make_model_folder(tmp_path / "lm")))


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
