"""Systems that are pipelines: options reach the stages that have them, what is done stays, the last model is published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError
from coalign.core.inner_runs import finished
from coalign.core.options import option
from coalign.core.runs import Run
from coalign.models.options import ModelOptions
from coalign.platform.recipes import Part, RecipeOptions, recipe, run_recipe
from coalign.training.options import TrainingOptions

PAIRS = [{"prompt": f"Say {one}.", "chosen": f"It is {one}.", "rejected": f"No {one}."} for one in range(8)]


@dataclass(kw_only=True)
class Whole(RecipeOptions, ModelOptions, TrainingOptions):
    seed: int = option(0, "of everything")


@pytest.fixture
def whole(tmp_path: Path, tiny_model: str) -> Any:
    """A function that gives the configuration and the two stages."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PAIRS))
    shown = [{"prompt": one["prompt"], "completion": one["chosen"]} for one in PAIRS]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(one) + "\n" for one in shown))

    def make(**more: Any) -> tuple[Whole, list[Part]]:
        config = Whole(model=tiny_model, device="cpu", batch_size=4, max_steps=1, **more)
        parts = [
            Part("tuned", "sft", {"data": str(tmp_path / "shown.jsonl")}, publishes=True),
            Part("preferred", "dpo", {"data": str(tmp_path / "pairs.jsonl"), "model": "${tuned}", "beta": 0.3}, publishes=True),
        ]  # fmt: skip
        return config, parts

    return make


def test_options_of_the_whole_reach_the_stages_and_the_last_word_is_the_users(whole: Any) -> None:
    config, parts = whole(
        stage=["preferred.beta=0.7", "preferred.eval-fraction=0.2", "tuned.max_steps=2"], seed=5
    )
    tuned, preferred = recipe(config, parts, "whole").stages
    assert tuned.options["seed"] == preferred.options["seed"] == 5
    assert (tuned.options["max_steps"], preferred.options["max_steps"]) == (2, 1)
    assert (preferred.options["beta"], preferred.options["eval_fraction"]) == (0.7, 0.2)
    assert preferred.options["model"] == "${tuned}"
    assert "skip" not in tuned.options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preferred.bta=1", "bta"), ("preferd.beta=1", "preferd"), ("preferred.beta", "NAME.OPTION=VALUE"),
        ("beta=1", "NAME.OPTION=VALUE"), ("tuned.beta=1", "sft has no such option"), ("preferred.beta=[", "preferred.beta"),
    ],
)  # fmt: skip
def test_an_option_that_no_stage_has_is_refused(whole: Any, text: str, said: str) -> None:
    config, parts = whole(stage=[text])
    with pytest.raises(ConfigError, match=said):
        recipe(config, parts, "whole")


def test_without_a_stage_there_is_nothing_to_do(whole: Any) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        recipe(whole()[0], [], "whole")


def test_stages_run_once_and_the_last_model_is_the_runs(whole: Any, tmp_path: Path) -> None:
    config, parts = whole()
    run = Run.start(tmp_path / "run", "whole", config)
    steps = run_recipe(config, run, parts, name="whole")
    assert [one.state for one in steps] == ["done", "done"]
    model = {one.name: one.read_bytes() for one in (run.path / "stages/preferred/model").iterdir()}
    assert model == {one.name: one.read_bytes() for one in run.model.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in (run.path / "stages").rglob("events.jsonl")}
    run_recipe(config, run, parts, name="whole")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_failure_keeps_what_was_made(whole: Any, tmp_path: Path) -> None:
    config, parts = whole()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "no answers"}\n')
    broken = [parts[0], Part("preferred", "dpo", {**parts[1].options, "data": str(bad)}, publishes=True)]
    run = Run.start(tmp_path / "run", "whole", config)
    with pytest.raises(Exception, match=r"bad\.jsonl"):
        run_recipe(config, run, broken, name="whole")
    assert Run(run.path / "stages/tuned").state == "done"
    assert Run(run.path / "stages/preferred").state == "failed"
    assert not run.model.exists()
    bad.write_text("".join(json.dumps(one) + "\n" for one in PAIRS))
    run_recipe(config, run, broken, name="whole")
    assert run.model.is_dir()


class Counted:
    """A method that fails the first time."""

    Config = Whole

    def __init__(self) -> None:
        self.calls = 0

    def run(self, config: Any, run: Run) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ValueError("not yet")


def test_an_inner_run_says_how_it_ended_and_is_not_run_again(tmp_path: Path) -> None:
    method, config = Counted(), Whole()
    with pytest.raises(ValueError, match="not yet"):
        finished(tmp_path / "inner", "counted", method, config)
    assert Run(tmp_path / "inner").status()["error"] == "ValueError: not yet"
    for _ in range(2):
        assert finished(tmp_path / "inner", "counted", method, config).state == "done"
    assert method.calls == 2
