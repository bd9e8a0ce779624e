"""The plan says what the trainer does, and the estimate what the clock says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.encoding import EncodedRecord
from coalign.data.records import Preference
from coalign.models.adapters import add_adapter
from coalign.models.options import ModelOptions
from coalign.training.batches import Example
from coalign.training.examples import Prepared
from coalign.training.fit import fit
from coalign.training.job import Job
from coalign.training.module_trainer import training_arguments
from coalign.training.objective import NoConstants
from coalign.training.options import TrainingOptions
from coalign.training.watch.plan import Estimate, make_plan, optimizer_steps
from tests.models.tiny import make_model
from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer
from tests.training.helpers import PAIRS_FREE, arguments


def pairs(count: int) -> list[Preference]:
    return [
        Preference(
            prompt=[{"role": "user", "content": f"question {n}"}],
            chosen=f"yes {n}",
            rejected="no " * (n % 4 + 1),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "batch", "accumulation", "epochs"), [(10, 3, 2, 1.0), (10, 4, 1, 2.5), (7, 8, 4, 1.0)]
)
def test_the_plan_foresees_the_steps(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    batch: int,
    accumulation: int,
    epochs: float,
) -> None:
    sizes = {"batch_size": batch, "gradient_accumulation": accumulation, "epochs": epochs}
    options = build(TrainingOptions, {**sizes, "max_length": 60, "save_steps": 0, "learning_rate": 1e-3})
    model = add_adapter(make_model("llama", vocab_size=VOCABULARY), ModelOptions())  # type: ignore[arg-type]
    run = Run.start(tmp_path / "run", "test", ModelOptions())
    job = Job(objective=PAIRS_FREE, options=options, run=run, records=pairs(count), constants=NoConstants())
    result = fit(job, model, tiny_tokenizer())
    (plan,) = run.events("plan")
    assert plan["steps"] == result.steps
    assert plan["batch_size"] == batch * accumulation
    assert (plan["records"], plan["responses"], plan["stage"]) == (count, 2 * count, "train")
    assert plan["learning_rate_from"] == "given"
    lines = capsys.readouterr().err
    assert f"{count} to train" in lines
    assert f"{result.steps} of {batch * accumulation} records" in lines
    assert "0.001 (given)" in lines
    assert "cpu" in lines


def test_tokens_count_a_prompt_once() -> None:
    record = EncodedRecord(0, [1, 2, 3], [[4, 5], [6], [7, 8, 9]], None, [3.0, 2.0, 1.0], False)
    prepared = Prepared([Example((record,), "0", {})])
    assert (prepared.prompt_tokens, prepared.response_tokens, prepared.responses) == (3, 6, 3)


@pytest.mark.parametrize(
    ("adapter", "rate", "why"), [(True, 1e-4, "adapter"), (False, 1e-6, "full fine-tuning")]
)
def test_the_default_learning_rate_and_its_reason(
    tmp_path: Path, adapter: bool, rate: float, why: str
) -> None:
    model = make_model("llama")
    model = add_adapter(model, ModelOptions()) if adapter else model  # type: ignore[arg-type]
    options = TrainingOptions()
    plan = make_plan("dpo", Prepared([]), 0, options, training_arguments(options, tmp_path, model), model)
    assert plan.learning_rate == rate
    assert plan.adapter is adapter
    assert plan.learning_rate_from.endswith(why)


def test_max_steps_goes_before_epochs(tmp_path: Path) -> None:
    assert optimizer_steps(1000, arguments(tmp_path, max_steps=3)) == 3


def test_nothing_is_said_of_limits_that_cut_nothing(tmp_path: Path) -> None:
    examples = [Example((EncodedRecord(0, [1], [[2]], None, [1.0], True),), "0", {})]
    model, options = make_model("llama"), TrainingOptions()
    rest = (0, options, training_arguments(options, tmp_path, model), model)
    whole = make_plan("sft", Prepared(examples), *rest)
    assert "Length limits" not in dict(whole.lines())
    cut = make_plan("sft", Prepared(examples, 2, 3), *rest, checkpoint=tmp_path / "checkpoint-1")
    assert dict(cut.lines())["Length limits"] == "5 prompts or responses cut"
    assert dict(cut.lines())["Steps"].endswith("1 done before")
    assert asdict(cut)["truncated"] == 5


def test_the_plan_says_which_chat_template_was_asked_for(tmp_path: Path) -> None:
    @dataclass(kw_only=True)
    class Options(TrainingOptions, ModelOptions):
        pass

    model = make_model("llama")
    (tmp_path / "config.json").write_text("{}")
    for asked in ("tools", None):
        options = Options(model=str(tmp_path), chat_template=asked)
        plan = make_plan("sft", Prepared([]), 0, options, training_arguments(options, tmp_path, model), model)
        assert dict(plan.lines()).get("Chat template") == asked


def test_the_estimate_leaves_the_first_step_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.start(tmp_path / "run", "test", ModelOptions())
    seconds = iter([100.0, 101.0, 103.0])
    estimate = Estimate(run, "train", clock=lambda: next(seconds))
    args: TrainingArguments = SimpleNamespace(device=torch.device("cpu"))  # type: ignore[assignment]
    for step in range(1, 6):
        state = SimpleNamespace(global_step=step, max_steps=103, is_world_process_zero=True)
        estimate.on_step_end(args, state, None)  # type: ignore[arg-type]
    (event,) = run.events("estimate")
    assert event["seconds_left"] == 150.0, "100 steps of 1.5 s, the first step not counted"
    assert event["peak_bytes"] > 2**20
    assert "About 2:30 left, peak memory" in capsys.readouterr().err


def test_gradient_checkpointing_under_the_installed_names(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = training_arguments(TrainingOptions(gradient_checkpointing=True), tmp_path, make_model("llama"))
    assert made.gradient_checkpointing
    assert made.gradient_checkpointing_kwargs == {"use_reentrant": False}
