"""What a pipeline's file may hold, in which order its stages run, and what is said of one that cannot run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from coalign.cli.main import coalign
from coalign.core.errors import ConfigError
from coalign.core.processes import locks
from coalign.core.runs import Run
from coalign.platform.pipeline.chain import forget, plan
from coalign.platform.pipeline.description import pipeline_of, read_pipeline


def stage(method: str = "sft", /, after: Any = None, **options: Any) -> dict[str, Any]:
    return {"run": method, "options": options, **({} if after is None else {"after": after})}


def order(stages: dict[str, Any]) -> list[str]:
    return [one.name for one in pipeline_of({"stages": stages}, "p.yaml").stages]


def test_stages_run_after_those_they_name_else_as_written():
    stages = {
        "last": stage(model="${second}", data="a.jsonl"),
        "first": stage(data="a.jsonl"),
        "apart": stage(data="a.jsonl"),
        "second": stage(model="${first}/model", data="a.jsonl"),
        "told": stage(data="a.jsonl", after="last"),
    }
    assert order(stages) == ["first", "apart", "second", "last", "told"]


@given(st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=8), st.randoms())
def test_any_stages_without_a_circle_are_put_in_order(needs, draw):
    needs = [{one for one in some if one < index} for index, some in enumerate(needs)]
    written = [*range(len(needs))]
    draw.shuffle(written)
    stages = {f"s{index}": stage(after=[f"s{one}" for one in needs[index]]) for index in written}
    found = order(stages)
    assert sorted(found) == sorted(stages)
    assert all(
        found.index(f"s{one}") < found.index(f"s{index}") for index, some in enumerate(needs) for one in some
    )


def test_settings_keep_their_type_and_are_replaced(tmp_path):
    given = {
        "settings": {"model": "default", "steps": 5, "models": ["a", "b"]},
        "stages": {
            "one": stage(model="${model}", max_steps="${steps}", data="x-${steps}.jsonl"),
            "two": stage("merge", models="${models}", base="${one:-default}"),
        },
    }
    found = pipeline_of(given, "p.yaml", {"steps": 7})
    one, two = found.stages
    assert found.options_of(one, tmp_path, ()) == {"model": "default", "max_steps": 7, "data": "x-7.jsonl"}
    assert found.options_of(two, tmp_path, ()) == {
        "models": ["a", "b"],
        "base": str(tmp_path / "stages" / "one"),
    }
    assert found.options_of(two, tmp_path, {"one"})["base"] == "default"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "p.yaml: holds list, expected a mapping with stages"),
        ({}, "stages: there are none"),
        ({"stages": {}, "steps": 1}, "p.yaml: steps: is not known. Did you mean stages"),
        ({"stages": {"a b": stage()}}, "stages.a b: is no name"),
        ({"stages": {"a": "sft"}}, "stages.a: holds str, expected a mapping with run and options"),
        (
            {"stages": {"a": {"option": {}, "run": "sft"}}},
            "stages.a: option: is not known. Did you mean options",
        ),
        ({"stages": {"a": {"options": {}}}}, "stages.a.run: None is not usable"),
        ({"stages": {"a": {"run": "sft", "options": [1]}}}, "stages.a.options: holds list"),
        ({"stages": {"a": {"run": "sft", "launch": ["x"]}}}, "stages.a.launch"),
        ({"stages": {"a": {"run": "sft", "after": [3]}}}, "stages.a.after"),
        ({"stages": {"a": stage(model="${b}")}}, "stages.a.options: ${b} is neither a setting nor a stage"),
        ({"stages": {"a": stage(after="b")}}, "stages.a.after: ${b} is neither"),
        ({"settings": {"a": 1}, "stages": {"a": stage()}}, "settings.a: a stage is called the same"),
        (
            {"stages": {"a": stage(model="${c}"), "b": stage(model="${a}"), "c": stage(model="${b}")}},
            "circle: a needs c needs b needs a",
        ),
        ({"stages": {"a": stage(model="${a}")}}, "circle: a needs a"),
    ],
)
def test_a_file_that_is_no_pipeline_is_named_with_the_place(given, words):
    with pytest.raises(ConfigError) as raised:
        pipeline_of(given, "p.yaml")
    assert words in str(raised.value)


def test_an_unknown_setting_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"settings": {"model": 1}, "stages": {"a": stage()}}))
    with pytest.raises(ConfigError, match=r"p.yaml: has no setting 'modle'. Did you mean model"):
        read_pipeline(tmp_path / "p.yaml", {"modle": 2})


@pytest.mark.parametrize(
    ("stages", "arguments", "words"),
    [
        (
            {"a": stage("sfft", data="here.jsonl")},
            {},
            "stages.a.run: 'sfft' is neither a method nor an objective",
        ),
        ({"a": stage(data="here.jsonl", bta=1)}, {}, "stages.a.options: bta: is not an option"),
        ({"a": stage("dpo", data="here.jsonl", beta=-1)}, {}, "stages.a.options: beta: -1 is not usable"),
        ({"a": stage()}, {}, "stages.a.options: data: is required"),
        ({"a": stage(data="gone.jsonl")}, {}, "stages.a.options.data: gone.jsonl: no such file"),
        ({"a": stage(data="here.jsonl")}, {"skip": ["b"]}, "there is no stage 'b'"),
        ({"a": stage(data="here.jsonl")}, {"until": "b"}, "there is no stage 'b'"),
        (
            {"a": stage(data="here.jsonl"), "b": stage(model="${a}", data="here.jsonl")},
            {"skip": ["a"]},
            "stages.b: needs the result of a, which is left out",
        ),
    ],
)
def test_what_would_fail_is_said_before_anything_starts(tmp_path, monkeypatch, stages, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("here.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError) as raised:
        plan(pipeline_of({"stages": stages}, "p.yaml"), tmp_path / "run", **arguments)
    assert words in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_done_stage_under_other_options_is_not_taken_for_done_and_can_be_run_again(tmp_path):
    (tmp_path / "here.jsonl").write_text("{}\n")
    data = str(tmp_path / "here.jsonl")

    def chain(steps: int):
        stages = {
            "a": stage(data=data, max_steps=steps),
            "b": stage(model="${a}", data=data),
            "c": stage(data=data),
        }
        return pipeline_of({"stages": stages}, "p.yaml")

    for step in plan(chain(3), tmp_path):
        run = Run.start(step.folder, step.stage.method, step.config)
        run.set_status(state="done", headline=step.name)
        step.folder.joinpath("artefacts", "work").write_text("made")
        os.close(locks._HELD.pop((step.folder / ".lock").resolve()))  # as if its process had ended
    assert {step.state for step in plan(chain(3), tmp_path)} == {"done"}
    assert [step.state for step in plan(chain(3), tmp_path, skip=["a"])] == ["done"] * 3
    with pytest.raises(ConfigError) as raised:
        plan(chain(4), tmp_path)
    assert "max_steps: 3 there, 4 now" in str(raised.value)
    assert "--again a" in str(raised.value.hint)
    assert forget(chain(4), tmp_path, ["a"]) == ["a", "b"]
    assert [step.state for step in plan(chain(4), tmp_path)] == ["waits", "waits", "done"]


def test_the_plan_of_the_command_line_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here.jsonl").write_text("{}\n")
    stages = {"a": stage(data="here.jsonl", **{"max-steps": 3}), "b": stage(model="${a}", data="here.jsonl")}
    Path("p.yaml").write_text(yaml.safe_dump({"settings": {"n": 1}, "stages": stages}))
    result = CliRunner().invoke(coalign, ["pipeline", "plan", "p.yaml", "--set", "n=2", "--skip", "b"])
    assert result.exit_code == 0, result.output
    assert "max_steps: 3" in result.output
    assert "b: coalign run sft (left out)" in result.output
    assert not Path("runs").exists()
