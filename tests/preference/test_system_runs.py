"""`coalign run` for objectives and for the systems that prepare their own records: whole runs on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as load_tensors

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build, load_file, options_of
from coalign.data.records import Ranking
from coalign.models.files.loading import load_model
from coalign.models.types import Generation
from coalign.preference import d2o, ln_dpo
from coalign.preference.data import own_solutions, prompt_matching, solutions
from coalign.preference.data.parts import segments
from coalign.training.learning import learner
from tests.data.tokenizers import GEMMA
from tests.preference.tiny_runs import (
    assert_complete,
    demonstrations,
    feedback,
    judgments,
    notes,
    pairs,
    rankings,
    save_tiny_model,
)


def test_an_objective_runs_end_to_end(learn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = learn("dpo", pairs(), eval_fraction=0.25)
    assert "6 to train, 2 held out" in json.dumps(assert_complete(run))
    assert (run.model / "adapter_config.json").exists(), "on a CPU an adapter is trained"
    assert "preference pairs" in notes(run)
    assert "preference pairs" in capsys.readouterr().err, "the user is told how the data was read"
    assert load_file(run.path / "config.yaml")["beta"] == 0.1
    load_model(str(run.path), training=False)


def test_full_tuning_with_a_copy_as_reference(model: str, learn: Any) -> None:
    run = learn("dpo", pairs(), tuning="full", eval_fraction=0.0, batch_size=8, max_steps=2)
    assert "Nothing was held out" in json.dumps(assert_complete(run))
    start, end = (load_tensors(one / "model.safetensors") for one in (Path(model), run.model))
    assert any(not start[name].equal(end[name]) for name in start)
    losses = [event["loss"] for event in run.events("train") if "loss" in event]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "policy and reference agree at first"


def test_a_finished_run_is_not_trained_again(learn: Any) -> None:
    run = learn("simpo", pairs(), save_steps=0)
    before = (run.model / "adapter_model.safetensors").stat().st_mtime_ns
    (run.path / "report.html").unlink()
    again = learn("simpo", pairs(), save_steps=0)
    assert_complete(again)
    assert (again.model / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["kto", "rrhf", "sft", "cdpo"])
def test_pairs_become_what_the_objective_needs(name: str, learn: Any) -> None:
    run = learn(name, pairs(), max_steps=1, eval_fraction=0.25)
    assert_complete(run)
    assert ("were read as" in notes(run)) == (name != "cdpo")


@pytest.mark.parametrize("name", ln_dpo.COMPARED)
def test_each_compared_objective_takes_its_own_constants(name: str) -> None:
    config = build(ln_dpo.Config, {"data": "x", "objective": name})
    objective = ln_dpo.get_objective(name)
    for one in options_of(objective.constants):
        assert getattr(config, one.name) == one.default


def test_a_compared_objective_runs(learn: Any) -> None:
    run = learn("ln-dpo", pairs(), objective="simpo", gamma=0.3, max_steps=1)
    assert assert_complete(run)["title"].startswith("SimPO on ")
    config = load_file(run.path / "config.yaml")
    assert (config["beta"], config["gamma"], config["tau"]) == (2.0, 0.3, None)


def test_a_learner_checks_constants_and_model_options() -> None:
    config = learner("cdpo").Config
    for options in ({"label_smoothing": 0.6}, {"tuning": "full", "adapter_rank": 2}):
        with pytest.raises(ConfigError):
            build(config, {"data": "x", **options})


@pytest.fixture
def no_model(tmp_path: Path) -> str:
    """A folder that looks like a model's, and from which nothing can be loaded."""
    folder = tmp_path / "no-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_what_cannot_be_converted_is_refused_before_anything_loads(learn: Any, no_model: str) -> None:
    with pytest.raises(DataError, match="preference records are needed"):
        learn("dpo", feedback(), model=no_model)


def test_bad_records_of_both_files_are_kept_apart(learn: Any) -> None:
    broken = [*pairs(6), {"prompt": "x", "chosen": "y"}]
    run = learn("dpo", broken, eval_data=broken[2:], on_bad_record="skip", max_steps=1)
    assert_complete(run)
    assert (run.path / "rejects.jsonl").exists()
    assert (run.path / "eval_rejects.jsonl").exists()
    assert notes(run).count("1 bad records were skipped") == 2


def test_pairs_of_equal_responses_are_among_the_rejects(learn: Any) -> None:
    equal = {"prompt": "x", "chosen": "y", "rejected": "y"}
    run = learn("dpo", [equal, *pairs(6), {"prompt": "x", "chosen": "y"}], on_bad_record="skip", max_steps=1)
    rows = read_rows(run.path / "rejects.jsonl")
    assert [row["line"] for row in rows] == [8, 1]
    assert rows[1]["row"] == equal
    assert rows[1]["problems"][0]["problem"] == "the same text as the chosen response"


def test_held_out_data_of_another_kind_is_named(learn: Any) -> None:
    with pytest.raises(
        DataError, match=r"^\S+\.jsonl: feedback records were found, preference records are needed"
    ):
        learn("dpo", pairs(), eval_data=feedback())


def test_held_out_records_that_cannot_be_used_say_so(learn: Any) -> None:
    with pytest.raises(DataError, match=r"Held-out records: KTO needs responses to at least two") as caught:
        learn("kto", pairs(3), eval_fraction=0.1)
    assert "--eval-fraction" in str(caught.value)


@pytest.mark.parametrize("name", ["pro", "aft"])
def test_rankings_pairs_and_feedback(name: str, learn: Any) -> None:
    group = [
        {"prompt": row["prompt"], "completion": text, "label": score == 1}
        for row in rankings(4)
        for text, score in zip(row["responses"], row["scores"], strict=True)
    ]
    for kind, rows in {"rankings": rankings(), "pairs": pairs(), "feedback": group}.items():
        run = learn(name, rows, kind, max_steps=1)
        assert_complete(run)
        assert ("were read as" in notes(run)) == (kind != "rankings")
        assert name == "aft" or "between 0 and 1" in notes(run)
    assert "12 feedback records were read as 4 ranking records" in notes(run)


# aft


class Solver:
    """Answers every question with sums in turn right and wrong, in place of a model."""

    def __init__(self, *, always: str | None = None) -> None:
        self.always = always
        self.calls: list[int] = []

    def generate(self, prompts: Any, sampling: Any, *, done: Any = (), on_batch: Any, label: str) -> Any:
        self.calls.append(len(prompts) - len(done))
        for index, prompt in enumerate(prompts):
            if index not in done:
                number = re.findall(r"\d+", prompt[-1]["content"])[0]
                texts = [self.always or f"Is it {number if k % 2 else 99}?" for k in range(sampling.n)]
                on_batch({index: [Generation(text, finish_reason="stop") for text in texts]})


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> Solver:
    made = Solver()
    monkeypatch.setattr(own_solutions, "open_generator", lambda options: made)
    return made


def questions(n: int = 8) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i} + 0?", "completion": f"It is {i}.\n#### {i}"} for i in range(n)]


def test_aft_samples_and_marks_solutions(learn: Any, solver: Solver) -> None:
    options = {"samples": 3, "eval_fraction": 0.25, "max_steps": 2}
    run = learn("aft", questions(), **options)
    assert "Right final answers" in json.dumps(assert_complete(run))
    assert solver.calls == [6, 2, 2, 2], "training, held out, answers before and after"
    assert (
        "6 of 18 sampled solutions to 6 questions are right; 6 questions have right and wrong ones"
        in notes(run)
    )
    assert {event["stage"] for event in run.events("plan")} == {"vft", "train"}
    (run.artefacts / "round-1" / "answers-after.jsonl").unlink()
    assert_complete(learn("aft", questions(), **options))
    assert solver.calls[4:] == [2], "only what is missing is done again"


@pytest.mark.usefixtures("solver")
def test_aft_from_a_fine_tuned_model(learn: Any) -> None:
    rows = [{**row, "result": row["completion"][-1]} for row in questions()]
    run = learn("aft", rows, vft_epochs=0, answer_column="result", eval_fraction=0, max_steps=1)
    assert_complete(run)
    assert {event["stage"] for event in run.events("plan")} == {"train"}


def test_aft_without_a_contrast_says_what_was_sampled(learn: Any, solver: Solver) -> None:
    solver.always = "No idea."
    with pytest.raises(DataError, match=r"(?s)0 of 48 sampled .* give no final answer .*--samples"):
        learn("aft", questions(), vft_epochs=0, eval_fraction=0)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (rankings(), {"samples": 3}, "samples has no effect on such data: the responses are given"),
        (questions(), {"reference_column": "x"}, "reference_column has no effect"),
    ],
)
def test_aft_refuses_what_the_data_does_not_need(
    rows: list[dict[str, Any]], options: dict[str, Any], message: str, learn: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        learn("aft", rows, **options)


def test_aft_imitates_the_reference_solution(learn: Any) -> None:
    assert_complete(learn("aft", rankings(solution="The answer."), reference_column="solution", max_steps=1))
    prompt: Any = [{"role": "user", "content": "?"}]
    record = Ranking(prompt=prompt, responses=("a", "b"), scores=(1.0, 0.0), extra={"solution": "c"})
    found = solutions.with_reference([record], "solution")[0]
    assert isinstance(found, Ranking)
    assert found.responses == ("a", "b", "c")
    assert found.scores[2] != found.scores[2]
    with pytest.raises(DataError, match="1 of 1 records have no reference solution"):
        solutions.with_reference([record], "answer")


# bco and poft


def test_bco_on_feedback_and_on_pairs(learn: Any) -> None:
    run = learn("bco", feedback(), eval_fraction=0.25, batch_size=1)
    assert_complete(run)
    assert "thumbs-down to train on" in notes(run)
    assert "8 preference records were read as 16 feedback records" in notes(
        learn("bco", pairs(), "pairs", max_steps=1)
    )


def test_bco_matches_the_prompts(learn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def encode(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    monkeypatch.setattr(prompt_matching, "load_encoder", lambda name, device: Encoder())
    run = learn("bco", pairs(), match_prompts=True, eval_fraction=0.25)
    assert_complete(run)
    assert "Thumbs-down records weigh between 1.00 and 1.00" in notes(run), (
        "each prompt has both labels, so there is nothing to match"
    )


def test_poft_tells_the_scores_and_names_a_scorer_that_is_not_there(learn: Any, tmp_path: Path) -> None:
    scorer = str(save_tiny_model(tmp_path / "scorer", seed=5))
    run = learn("poft", demonstrations(), scorers=[scorer], max_steps=1, eval_fraction=0.25)
    assert "nats per token" in notes(run)
    assert len(read_rows(next((run.artefacts / "scores").glob("*.jsonl")))) == 8
    with pytest.raises(Exception, match="does not exist"):
        learn("poft", demonstrations(), "absent", scorers=["/no/such/model"])


# d2o

D2O: dict[str, Any] = {"samples": 2, "max_new_tokens": 6, "eval_fraction": 0.25}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_d2o_draws_again_and_keeps_the_start_as_reference(tuning: str, learn: Any) -> None:
    rows = [{**row, "label": False} for row in feedback()]
    run = learn("d2o", rows, **D2O, tuning=tuning, resample_every=2, epochs=2.0, warmup_ratio=0.0)
    assert "Part 2: " in json.dumps(assert_complete(run))
    samples = [read_rows(run.artefacts / f"round-{n}" / "samples.jsonl") for n in (1, 2)]
    assert samples[0] != samples[1], "another seed, another policy"
    assert [event["step"] for event in run.events("train") if "loss" in event] == [1, 2, 1, 2]
    assert len(run.events("plan")) == 2
    first = {event["stage"]: event for event in reversed(run.events("train")) if "rewards/margins" in event}
    assert first["train-1"]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert abs(first["train-2"]["rewards/margins"]) > 1e-6, "the start model is still the reference"


def test_d2o_parts() -> None:
    config = build(d2o.Config, {"data": "x", "batch_size": 2})
    assert segments(config, 20, every=3, warmup=4) == [4, 3, 3]
    assert segments(config, 20, every=None) == [None]
    assert segments(build(d2o.Config, {"data": "x", "max_steps": 5}), 20, every=5) == [5]


def test_d2o_leaves_out_prompts_without_room_before_it_samples(learn: Any) -> None:
    """A bug: a prompt beyond the context stopped sampling, and the message named no line of the file."""
    rows = [*pairs(8), {**pairs(9)[8], "prompt": "long " * 200}]
    run = learn("d2o", rows, **D2O, max_steps=1)
    assert "8 human negatives, 1 of them held out" in notes(run)
    assert "14 self-samples to 7 of 7 negatives" in notes(run)
    assert "1 negatives are left out: their prompts leave no room" in notes(run)
    assert "run-data.jsonl:9: prompt:" in notes(run)
    with pytest.raises(DataError, match="prompts of all 1 negatives leave no room") as caught:
        learn("d2o", rows[8:], "none", **{**D2O, "eval_fraction": 0})
    assert "none-data.jsonl:1: prompt:" in str(caught.value)


def test_d2o_without_negatives(learn: Any) -> None:
    with pytest.raises(DataError, match="no negative"):
        learn("d2o", [{**row, "label": True} for row in feedback()])


# cut


def test_cut_without_any_judgment_says_that_null_is_missing(learn: Any) -> None:
    with pytest.raises(DataError, match="null in every record counts as missing"):
        learn("cut", [{**row, "judgment": None} for row in judgments()])


def test_cut_keeps_some_of_the_fine_answers(learn: Any) -> None:
    run = learn("cut", judgments(), eval_fraction=0.0)
    assert_complete(run)
    assert "4 criticised answers and 1 of 4 fine ones are trained on" in notes(run)
    assert "can diverge" not in notes(run)


def test_cut_warns_without_fine_answers_and_refuses_praise(learn: Any, no_model: str) -> None:
    assert "can diverge" in notes(learn("cut", judgments(fine=0), max_steps=1))
    with pytest.raises(DataError, match="nothing to unlearn"):
        learn("cut", judgments(fine=8), "fine", model=no_model)
    with pytest.raises(DataError, match="negative verdict without words"):
        learn("cut", [{**row, "label": False} for row in judgments()], "mute", model=no_model)


# reward-augmented


def test_reward_augmented_tells_how_to_ask(learn: Any) -> None:
    rows = pairs(chosen_score=9, rejected_score=4.5)
    rows[0] |= {"rejected_score": 9}
    run = learn("reward-augmented", rows, eval_fraction=0.25)
    assert "Overall score: 10" in json.dumps(assert_complete(run))
    goal = json.loads((run.artefacts / "goal.json").read_text())
    assert (goal["placement"], goal["goal"]) == ("system", 10)
    assert "Overall score: 10" in (run.model / "README.md").read_text()
    assert "1 left out: equal scores" in notes(run)
    assert "score-conditioned pairs from 2 held-out records" in notes(run)


def test_reward_augmented_without_a_system_role_and_from_rankings(learn: Any, tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "gemma", template=GEMMA))
    rows = [{**row, "scores": [2, 8, 5]} for row in rankings()]
    run = learn("reward-augmented", rows, model=model, max_steps=1)
    assert "before the user's first message" in json.dumps(assert_complete(run))
    assert "12 score-conditioned pairs from 6 training records" in notes(run)


def test_reward_augmented_needs_scores(learn: Any) -> None:
    with pytest.raises(DataError, match="have no scores to aim at"):
        learn("reward-augmented", pairs())
