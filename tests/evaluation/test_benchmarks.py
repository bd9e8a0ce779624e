"""`coalign eval`: tasks over local data on several models, in one table; resuming, pairing, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from coalign.core.errors import CoalignError, ConfigError, MissingExtraError, RunError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.evaluation.benchmarks import harness, inspect_tasks
from coalign.evaluation.benchmarks import run as benchmarks
from coalign.evaluation.benchmarks.measures import difference, measured
from coalign.evaluation.benchmarks.options import Config
from coalign.evaluation.benchmarks.report import write_report
from coalign.report.html import read_report
from tests.preference.tiny_runs import save_tiny_model, write

WORDS = ("red", "blue", "green")
YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {folder}/items.jsonl
    test: {folder}/items.jsonl
training_split: train
test_split: test
doc_to_text: "Q: {{{{question}}}}\\nA:"
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
CHOICE = "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: label\n"
SAY = 'output_type: generate_until\ndoc_to_target: answer\ngeneration_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 4\n'
INSPECT = """\
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def letters():
    samples = [Sample(id=f"s{i}", input=f"What is the {i} like?", target="e") for i in range(24)]
    return Task(dataset=samples, solver=generate(), scorer=includes(), config=GenerateConfig(max_tokens=12))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Task files over local data."""
    made = tmp_path / "tasks"
    made.mkdir()
    rows = [
        {"question": f"What colour is thing {i}?", "choices": WORDS, "label": i % 3, "answer": WORDS[i % 3]}
        for i in range(24)
    ]
    write(made / "items.jsonl", rows)
    for name, metric, kind in (("colours", "acc", CHOICE), ("say", "exact_match", SAY)):
        (made / f"{name}.yaml").write_text(YAML.format(name=name, folder=made, metric=metric) + kind)
    (made / "mine.py").write_text(INSPECT)
    return made


@pytest.fixture
def other(tmp_path: Path) -> str:
    return str(save_tiny_model(tmp_path / "other", seed=3, scale=4.0))


def evaluate(out: Path, **options):
    config = build(Config, {"device": "cpu", **options})
    run = Run.start(out, "eval", config)
    benchmarks.run(config, run)
    run.set_status(state="done")
    return run


def results(run):
    found = json.loads((run.artefacts / "results.json").read_text())["measures"]
    return {(one["task"], one["metric"]): one for one in found}


def test_two_models_on_local_tasks_are_one_table_with_paired_differences(tiny_model, other, folder, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval; seen with 0.4.13")
    run = evaluate(
        tmp_path / "run",
        models=[tiny_model, other],
        tasks=["colours", "say"],
        include_path=str(folder),
        num_fewshot=1,
    )
    found = results(run)[("colours", "acc")]
    first, second = found["models"].values()
    assert found["n"] == 24
    assert second["paired"]
    assert second["difference"]["mean"] == pytest.approx(second["value"] - first["value"])
    assert second["difference"]["low"] <= second["difference"]["mean"] <= second["difference"]["high"]
    assert first["stderr"] == pytest.approx(math.sqrt(first["value"] * (1 - first["value"]) / 23), abs=1e-6)
    rows = [json.loads(line) for line in (run.artefacts / "model-1" / "colours.items.jsonl").open()]
    assert sum(row["values"]["acc"] for row in rows) / 24 == pytest.approx(second["value"])
    assert rows[0]["prompt"].count("Q:") == 2
    report = read_report(run.report)
    (table,) = [one for one in report.sections if one.title == "Tasks"]
    assert [row[3] for row in table.rows] == ["tiny", "other"] * 2
    assert run.status()["figures"]["tiny/colours/acc"] == first["value"]


def test_an_evaluation_that_was_stopped_asks_nothing_twice(tiny_model, other, folder, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra lm-eval; seen with 0.4.13")
    options = {"models": [tiny_model, other], "tasks": ["colours", "say"], "include_path": str(folder)}
    whole = results(evaluate(tmp_path / "whole", **options))
    evaluated = harness.Harness.evaluate
    calls = []

    def stopping(self, model, name, **settings):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluated(self, model, name, **settings)

    monkeypatch.setattr(harness.Harness, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "run", **options)
    assert results(evaluate(tmp_path / "run", **options)) == whole
    assert calls == ["colours", "say", "say", "colours", "say"]
    monkeypatch.setattr("coalign.models.files.loading.load_model", None)
    assert results(evaluate(tmp_path / "run", **options)) == whole  # nothing is loaded for what is done


def test_another_model_under_the_same_name_is_refused(other, folder, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval; seen with 0.4.13")
    options = {"models": [other], "tasks": ["colours"], "include_path": str(folder)}
    evaluate(tmp_path / "run", **options)
    save_tiny_model(Path(other), seed=4)
    with pytest.raises(RunError, match="is not the model that the run was started with"):
        evaluate(tmp_path / "run", **options)


def test_tasks_are_checked_before_a_model_is_loaded(tiny_model, folder, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra lm-eval; seen with 0.4.13")
    monkeypatch.setattr("coalign.models.files.loading.load_model", None)
    monkeypatch.setattr(harness, "hub_problem", lambda: "no network")
    with pytest.raises(ConfigError, match="has no 'colour'") as error:
        evaluate(tmp_path / "a", models=[tiny_model], tasks=["colour"], include_path=str(folder))
    assert "colours" in str(error.value.hint)
    with pytest.raises(CoalignError, match="arc_easy: its data are on the hub, which cannot be reached"):
        evaluate(tmp_path / "b", models=[tiny_model], tasks=["arc_easy"])
    with pytest.raises(ConfigError, match="no folder"):
        evaluate(tmp_path / "c", models=[tiny_model], tasks=["colours"], include_path=str(tmp_path / "none"))


def test_tasks_of_inspect_ai_ask_the_same_model_in_batches(tiny_model, other, folder, tmp_path):
    pytest.importorskip("inspect_ai", reason="the extra inspect; seen with 0.3.285")
    task = f"{folder / 'mine.py'}@letters"
    run = evaluate(tmp_path / "run", models=[tiny_model, other], tasks=[task], limit=22)
    found = results(run)[("letters", "includes/accuracy")]
    first, second = found["models"].values()
    assert found["n"] == 22
    assert second["paired"]
    (file,) = (run.artefacts / "model-0").glob("*letters*.items.jsonl")
    rows = [json.loads(line) for line in file.open()]
    assert first["value"] == pytest.approx(sum("e" in row["answers"][0].lower() for row in rows) / 22)
    assert first["stderr"] is not None
    with pytest.raises(ConfigError, match=r"none\.py: no such file"):
        evaluate(tmp_path / "no", models=[tiny_model], tasks=[f"{folder}/none.py"])
    with pytest.raises(ConfigError, match="--num-fewshot has no effect"):
        evaluate(tmp_path / "no2", models=[tiny_model], tasks=[task], num_fewshot=2)


@pytest.mark.parametrize(("module", "tasks"), [("lm_eval", ["arc_easy"]), ("inspect_ai", ["inspect:x"])])
def test_a_library_that_is_not_installed_is_one_line(tiny_model, tmp_path, monkeypatch, module, tasks):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=f"{module} is not installed"):
        evaluate(tmp_path / "run", models=[tiny_model], tasks=tasks)


def test_names_of_inspect_tasks():
    assert [*map(inspect_tasks.is_inspect, ("inspect:a/b", "x.py@y", "x.py", "arc_easy", "a.pyx"))] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_models_that_are_called_alike_keep_their_whole_names():
    assert benchmarks.labels(["a/x", "b/y"]) == ["x", "y"]
    assert benchmarks.labels(["a/x", "b/x"]) == ["a/x", "b/x"]
    with pytest.raises(ConfigError, match="given twice"):
        build(Config, {"models": ["a", "a"], "tasks": ["x"]})


def measure(items, value=None, stderr=0.05, better="higher"):
    value = sum(items) / len(items) if value is None else value
    return measured("t", "m", value, stderr, n=len(items), better=better, items=dict(enumerate(items)))


def test_a_difference_is_paired_only_where_the_mean_of_the_items_is_the_figure():
    before, after = [0.0, 1.0] * 20, [1.0, 1.0] * 20
    change, paired = difference(measure(before), measure(after))
    assert paired
    assert change.mean == pytest.approx(0.5)
    assert change.low > 0.3
    change, paired = difference(measure(before, 7.0, 0.3), measure(after, 8.0, 0.4))
    assert not paired
    assert (change.low, change.high) == pytest.approx((1 - 1.96 * 0.5, 1 + 1.96 * 0.5), abs=1e-3)
    assert difference(measure(before, 7.0, "N/A"), measure(after, 8.0)) is None


@pytest.mark.parametrize(
    ("after", "better", "outcome"),
    [
        ([1.0] * 40, "higher", "improved"),
        ([1.0] * 40, "lower", "worse"),
        ([1.0] * 40, "neither", "neutral"),
        ([0.0] * 40, "higher", "neutral"),
        ([1.0] * 8, "higher", "neutral"),
    ],
)
def test_the_verdict_follows_the_rule_of_every_report(tmp_path, after, better, outcome):
    config = build(Config, {"models": ["a", "b"], "tasks": ["t"], "limit": 8})
    run = Run.start(tmp_path / "run", "eval", config)
    pair = [[measure([0.0] * len(after), better=better)], [measure(after, better=better)]]
    write_report(run, config, ["a", "b"], pair, ["x 1"])
    report = read_report(run.report)
    assert report.verdict.outcome == outcome
    assert ("Too few to tell" in report.verdict.text) == (len(after) < 20)


def test_three_models_are_each_compared_with_the_first(tmp_path, capsys):
    from coalign.report.terminal import print_report

    config = build(Config, {"models": ["a", "b", "c"], "tasks": ["t"]})
    run = Run.start(tmp_path / "run", "eval", config)
    levels = ([0.0] * 30, [1.0] * 30, [0.0, 1.0] * 15)
    write_report(run, config, ["a", "b", "c"], [[measure(one)] for one in levels], [])
    (table,) = [one for one in read_report(run.report).sections if one.title == "Tasks"]
    assert [row[3] for row in table.rows] == ["a", "b", "c"]
    assert [row[5] for row in table.rows] == ["", "+100.0 pp", "+50.0 pp"]
    print_report(read_report(run.report))
    assert "+50.0 pp" in capsys.readouterr().out
