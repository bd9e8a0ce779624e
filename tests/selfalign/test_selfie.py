"""SPA on a tiny model: who labels against what, what makes a pair, what is told, and the state of doubt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.loops.readings import told
from coalign.loops.rounds import Round
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.implicit_reward import sequence_logps
from coalign.models.types import ResponseLogps
from coalign.selfalign import selfie
from coalign.training.losses.self_refinement import (
    Constants,
    RecentMargins,
    doubt_threshold,
    self_refinement,
)
from tests.preference.batches import scored_batch
from tests.preference.tiny_runs import pairs, run_system, write

OPTIONS: dict[str, Any] = {
    "rounds": 2, "max_new_tokens": 6, "temperature": 1.0, "learning_rate": 1e-2, "batch_size": 2, "seed_epochs": 2,
    "seed_held_out": 0.5, "eval_fraction": 0.0, "max_length": 200,
}  # fmt: skip


def start(model: str, folder: Path, seed: list[dict[str, Any]] | None = None, **changes: Any) -> Run:
    folder.parent.mkdir(exist_ok=True)
    data = write(folder.with_name("pairs.jsonl"), pairs(48) if seed is None else seed)
    prompts = [{"id": f"p{n}", "prompt": f"Say {n}."} for n in range(8)]
    files = {"seed_data": str(data), "prompts": str(write(folder.with_name("prompts.jsonl"), prompts))}
    return run_system("selfie", selfie, folder, **{**OPTIONS, "model": model, **files, **changes})


@pytest.fixture(scope="module")
def whole(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tiny_model, tmp_path_factory.mktemp("selfie") / "run")


def rewards_under(model: str, first: str, row: dict[str, Any]) -> list[float]:
    """0.1 times the growth of the log-probabilities."""
    sides = [
        sequence_logps(
            load_model(one, training=False), load_tokenizer(one), [row["prompt"]], [row["responses"]]
        )
        for one in (model, first)
    ]
    return sides[0].rewards(sides[1], beta=0.1)[0]


def test_the_judge_compares_with_the_very_first_model_in_every_round(whole: Run, tiny_model: str) -> None:
    for number in (1, 2):
        row = Round(whole, number).read("measure")[0]
        labelling = str(whole.artefacts / f"round-{number - 1}" / "model")
        assert row["rewards"] == pytest.approx(rewards_under(labelling, tiny_model, row), abs=1e-3)
        assert any(abs(one) > 1e-3 for one in row["rewards"]), "against itself all would be 0"
    kept = Round(whole, 2).read("filter")
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in kept)


def test_training_compares_with_the_model_that_labelled(whole: Run) -> None:
    for number in (1, 2):
        first = Round(whole, number).read("history")[0]
        assert first["kl/policy_reference"] == pytest.approx(0, abs=1e-5)
        assert first["rewards/judged_margins"] == pytest.approx(0, abs=1e-5)


def test_what_a_round_tells(whole: Run) -> None:
    facts = told(Round(whole, 1))
    assert facts["accuracy on held-out seed pairs"] > 0.5
    assert facts.keys() >= {"reward margin", "longer chosen", "without a pair", "length"}
    assert "doubtful" in Round(whole, 1).read("history")[0]
    report = json.loads((whole.path / "status.json").read_text())["figures"]
    assert "accuracy_on_held-out_seed_pairs" in report


def test_labels_that_are_wrong_more_often_than_right_are_warned_about(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of: list[list[float]] = []
    tell_accuracy = selfie.tell_accuracy

    def turned(round: Round, rewards: list[list[float]]) -> None:
        told_of.append(rewards[0])
        tell_accuracy(round, [one[::-1] for one in rewards])

    monkeypatch.setattr(selfie, "tell_accuracy", turned)
    run = start(tiny_model, tmp_path / "runs" / "run", rounds=1)
    (warning,) = [one for one in run.events("warning") if "accuracy" in str(one.get("key"))]
    assert "wrong more often than right" in warning["text"]
    assert run.state == "done"


def test_the_schedule_of_the_extrapolation(tiny_model: str, whole: Run) -> None:
    config: Any = build(selfie.Config, whole.config())
    loop = selfie.make_loop(config)
    strengths = [loop.constants(Round(whole, number)).extrapolation for number in (1, 2, 3, 4)]
    assert strengths == [0.5, 0.25, 0.125, 0.125]
    assert loop.constants(Round(whole, 1)).beta == 0.1


def test_all_weights_are_trained_against_a_copy(tiny_model: str, tmp_path: Path) -> None:
    run = start(tiny_model, tmp_path / "runs" / "run", rounds=1, tuning="full", learning_rate=1e-3)
    history = Round(run, 1).read("history")
    assert history[0]["kl/policy_reference"] == pytest.approx(0, abs=1e-5)
    last = next(row for row in reversed(history) if "kl/policy_reference" in row)
    assert last["kl/policy_reference"] != 0


@pytest.mark.parametrize(
    ("n", "share", "held_out"), [(24, None, 0), (200, None, 20), (24, 0.5, 12), (1, None, 0)]
)
def test_a_small_seed_keeps_all_its_labels(
    n: int, share: float | None, held_out: int, tmp_path: Path
) -> None:
    data = str(write(tmp_path / "pairs.jsonl", pairs(n)))
    config: Any = build(selfie.Config, {"seed_data": data, "prompts": "y", "seed_held_out": share})
    parts = selfie.read_seed_pairs(config)
    assert [*map(len, parts)] == [n - held_out, held_out]


def row_of(rewards: list[Any], texts: list[str]) -> dict[str, Any]:
    return {
        "id": "a",
        "prompt": [],
        "responses": texts,
        "rewards": rewards,
        "tokens": [len(one) for one in texts],
    }


@pytest.mark.parametrize(
    ("rewards", "texts", "expected"),
    [
        ([0.1, 0.3], ["a", "b"], ("b", "a")),
        ([0.1, 0.3, -0.2, 0.3], ["a", "b", "c", "d"], ("b", "c")),
        ([None, 0.3, 0.1], ["a", "b", "c"], ("b", "c")),
        ([0.3, 0.1, 0.0], ["a", "b", "  "], ("a", "b")),
        ([0.1, 0.3], ["a", "a "], None),
        ([0.2, 0.2], ["a", "b"], None),
        ([None, None], ["a", "b"], None),
        ([0.2, None], ["a", "b"], None),
        ([0.2, 0.1], ["", ""], None),
    ],
)
def test_what_makes_a_pair(
    rewards: list[Any], texts: list[str], expected: tuple[str, str] | None, tmp_path: Path
) -> None:
    round = Round(Run(tmp_path), 1)
    round.folder.mkdir(parents=True)
    found = selfie.self_labelled_pairs(round, [row_of(rewards, texts)])
    assert [(row["chosen"], row["rejected"]) for row in found] == ([expected] if expected else [])
    assert told(round)["without a pair"] == 1 - len(found)


def test_equal_responses_alone_are_explained(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfie, "_pair", lambda row: None)
    with pytest.raises(CoalignError, match=r"No prompt has two responses that differ in text"):
        start(tiny_model, tmp_path / "runs" / "run", rounds=1)


def test_seed_data_of_one_class_are_refused(tiny_model: str, tmp_path: Path) -> None:
    praise = [{"prompt": f"Say {n}.", "completion": "Yes.", "label": True} for n in range(8)]
    with pytest.raises(CoalignError, match=r"pairs\.jsonl"):
        start(tiny_model, tmp_path / "runs" / "run", praise)
    assert not (tmp_path / "runs" / "run" / "artefacts" / "round-0").exists(), "before anything is generated"


def test_a_batch_is_judged_by_the_margins_before_it_and_the_queue_survives() -> None:
    constants = Constants(margin_window=4, doubtful_share=0.25)
    state = RecentMargins()
    batches = [scored_batch([[1.0, 0.0]] * 3, seed=seed) for seed in range(3)]
    for one in batches[:2]:
        state.update(one, constants)
    assert state.threshold == 0.0, "before the second batch there were three margins"
    before = list(state.margins)
    assert len(before) == 4
    state.update(batches[2], constants)
    assert state.threshold == doubt_threshold(before, 0.25)
    again = RecentMargins()
    again.load_state_dict(json.loads(json.dumps(state.state_dict())))
    for one in (state, again):
        one.update(batches[0], constants)
    assert (again.margins, again.threshold) == (state.margins, state.threshold)


def test_means_of_batches_as_in_the_official_code() -> None:
    batch = scored_batch([[1.0, 0.0]] * 3, seed=1)
    pairs, means = RecentMargins(), RecentMargins()
    pairs.update(batch, Constants())
    means.update(batch, Constants(margins_of="batches"))
    assert means.margins == pytest.approx([sum(pairs.margins) / 3])


def test_doubt_is_judged_by_the_extrapolated_model_and_smoothed_after_the_warm_up() -> None:
    batch = scored_batch([[1.0, 0.0]] * 2, seed=2)
    lengths = torch.ones(4, dtype=torch.long)
    assert batch.reference is not None
    sums = batch.reference.sums() + torch.tensor([5.0, 0.0, 0.0, 5.0])
    judged = dataclasses.replace(batch, extrapolated=ResponseLogps(sums, lengths, batch.record_index))
    found = self_refinement(judged, Constants())
    assert found.metrics["doubtful"].tolist() == [0.0, 1.0]
    early = self_refinement(dataclasses.replace(judged, progress=0.19), Constants())
    plain = self_refinement(judged, Constants(label_smoothing=0.0))
    torch.testing.assert_close(early.losses, plain.losses)
    assert found.losses[0] == plain.losses[0]
    assert found.losses[1] != plain.losses[1]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.floats(0, 1))
def test_the_threshold_lies_among_the_margins(margins: list[float], share: float) -> None:
    threshold = doubt_threshold(margins, share)
    assert min(margins) <= threshold <= max(margins)
    assert doubt_threshold(margins[::-1], share) == threshold
    below = sum(one < threshold for one in margins)
    assert below <= int(len(margins) * share) + 1
