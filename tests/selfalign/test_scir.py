"""SCIR: its objective against numbers and invariances, the questions of the judge, and runs on a tiny model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, DataError
from coalign.core.runs import Run
from coalign.data.encoding import EncodedRecord
from coalign.data.records import Preference
from coalign.loops.readings import told
from coalign.loops.rounds import Round
from coalign.models.types import ResponseLogps
from coalign.selfalign import scir
from coalign.selfalign.own_judge.opinions import (
    disagreement,
    generative_probability,
    judged_probabilities,
    mean_entropy,
    select,
)
from coalign.selfalign.own_judge.pairs import ordered_by_judge, sampled_pairs, tell_verdicts
from coalign.selfalign.own_judge.prompts import LetterJudge, first_letters
from coalign.training.losses.batch_count import BatchCount
from coalign.training.objective import ScoredBatch
from tests.preference.tiny_runs import demonstrations, pairs, run_system, write

TEMPLATE = "{{ question }}\nA: {{ answers[0] }}\nB: {{ answers[1] }}\nA or B?"
OPTIONS: dict[str, Any] = {
    "samples": 2, "max_new_tokens": 6, "rounds": 1, "eval_fraction": 0.0, "warmup_batches": 1, "batch_size": 2,
}  # fmt: skip


def start(model: str, folder: Path, **changes: Any) -> Run:
    prompts = write(folder.with_suffix(".jsonl"), [{"id": f"p{n}", "prompt": f"Say {n}."} for n in range(6)])
    judged = write(folder.with_name("judged.jsonl"), pairs(4))
    template = folder.with_name("letter.j2")
    template.write_text(TEMPLATE)
    options = {
        "prompts": str(prompts),
        "judge_data": str(judged),
        "judge_templates": [str(template)],
        "model": model,
    }
    return run_system("scir", scir, folder, **{**options, **OPTIONS, **changes})


def batch_of(n: int, judges: int = 1, *, seed: int = 0, state: BatchCount | None = None) -> ScoredBatch:
    """`n` pairs with random numbers under `judges` templates."""
    draw = torch.Generator().manual_seed(seed)
    width = 2 + 4 * judges
    lengths = torch.ones(n, width, dtype=torch.long)
    lengths[:, :2] = torch.randint(1, 5, (n, 2), generator=draw)
    index = torch.arange(n).repeat_interleave(width)

    def logps() -> torch.Tensor:
        return -3 * torch.rand(int(lengths.sum()), generator=draw, dtype=torch.float64)

    flat, values = lengths.flatten(), torch.full((n * width,), math.nan, dtype=torch.float64)
    policy = ResponseLogps(logps().requires_grad_(), flat, index)
    return ScoredBatch(policy, ResponseLogps(logps(), flat, index), index, values, state=state)


def test_equal_opinions_do_not_differ_and_the_target_has_no_gradient() -> None:
    p = torch.tensor([[0.3, 0.9], [0.3, 0.9], [0.3, 0.9]], dtype=torch.float64, requires_grad=True)
    assert disagreement(p).tolist() == pytest.approx([0, 0], abs=1e-12)
    (gradient,) = torch.autograd.grad(disagreement(p).sum(), p)
    assert gradient.abs().max() < 1e-9, "at agreement nothing pulls"
    assert mean_entropy(p).tolist() == pytest.approx([0.6108643020548935, 0.3250829733914482])
    sure = torch.tensor([[0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad((disagreement(sure) + mean_entropy(sure)).sum(), sure)
    assert torch.isfinite(gradient).all()


def test_position_bias_cancels() -> None:
    """A judge that always says A gives one half."""
    always = torch.tensor([[5.0, -5.0]])
    assert float(generative_probability(always, always)) == pytest.approx(0.5)
    assert float(generative_probability(always, always.flip(-1))) > 0.99


@pytest.mark.parametrize(
    ("p", "confidence", "kept", "first"),
    [([0.6, 0.9], 0.5, True, True), ([0.6, 0.9], 0.7, False, True), ([0.6, 0.4], 0.5, False, False),
     ([0.5, 0.5], 0.5, True, False), ([0.5, 0.5], 0.51, False, False), ([0.2, 0.3, 0.1], 0.7, True, False),
     ([0.2, 0.3, 0.6], 0.5, False, True)],
)  # fmt: skip
def test_selection(p: list[float], confidence: float, kept: bool, first: bool) -> None:
    found = select(torch.tensor(p)[:, None], confidence=confidence)
    assert [bool(one) for one in found] == [kept, first]


@given(n=st.integers(1, 6), judges=st.integers(1, 3), seed=st.integers(0, 999))
@settings(max_examples=25)
def test_swapping_the_responses_changes_nothing_but_the_side(n: int, judges: int, seed: int) -> None:
    batch, constants = batch_of(n, judges, seed=seed), scir.Constants(reduction="all", length_penalty=0.02)
    width = 2 + 4 * judges
    order = [1, 0, *(2 + 4 * j + place for j in range(judges) for place in (2, 3, 0, 1))]
    rows = [width * record + place for record in range(n) for place in order]

    def swapped(one: ResponseLogps) -> ResponseLogps:
        parts = one.split()
        return ResponseLogps(torch.cat([parts[row] for row in rows]), one.lengths[rows], one.prompt_index)

    assert batch.reference is not None
    other = dataclasses.replace(batch, policy=swapped(batch.policy), reference=swapped(batch.reference))
    torch.testing.assert_close(
        scir.internal_consistency(other, constants).losses, scir.internal_consistency(batch, constants).losses
    )
    p, q = (judged_probabilities(one, constants)[0] for one in (batch, other))
    torch.testing.assert_close(p, 1 - q)


@given(n=st.integers(2, 6), seed=st.integers(0, 999))
@settings(max_examples=15)
def test_the_mean_over_all_pairs_does_not_depend_on_how_a_step_is_divided(n: int, seed: int) -> None:
    batch, constants = batch_of(n, seed=seed), scir.Constants(reduction="all")
    whole = scir.internal_consistency(batch, constants).losses
    assert batch.reference is not None
    for record in range(n):
        rows = slice(6 * record, 6 * record + 6)

        def part(one: ResponseLogps, rows: slice = rows) -> ResponseLogps:
            return ResponseLogps(
                torch.cat(one.split()[rows]), one.lengths[rows], torch.zeros(6, dtype=torch.long)
            )

        alone = ScoredBatch(
            part(batch.policy), part(batch.reference), torch.zeros(6, dtype=torch.long), batch.values[rows]
        )
        torch.testing.assert_close(scir.internal_consistency(alone, constants).losses[0], whole[record])


def test_the_warm_up_learns_the_penalty_alone() -> None:
    constants, state = scir.Constants(warmup_batches=2, penalty_weight=0.0), BatchCount()
    batch = batch_of(4, state=state)
    losses = []
    for _ in range(3):
        state.update(batch, constants)
        losses.append(float(scir.internal_consistency(batch, constants).losses.detach().sum()))
    assert losses[:2] == [0.0, 0.0]
    assert losses[2] > 0
    again = BatchCount()
    again.load_state_dict(state.state_dict())
    assert again == state


def test_a_batch_that_keeps_nothing_still_has_its_penalty() -> None:
    found = scir.internal_consistency(batch_of(3), scir.Constants(min_confidence=0.999))
    assert not found.metrics["internal/kept"].any()
    assert (found.losses > 0).all()


def test_a_pair_is_shown_in_both_orders_under_every_template(tmp_path: Path) -> None:
    files = (tmp_path / "one.j2", tmp_path / "two.j2")
    for file in files:
        file.write_text(f"{file.stem}: {TEMPLATE}")
    record = Preference(prompt=[{"role": "user", "content": "Why?"}], chosen="yes", rejected="no")
    first, *asked = LetterJudge(files).contexts(record)
    assert first is record
    texts = [one.prompt[0]["content"] for one in asked]
    assert [(text[:3], text.index("yes") < text.index("no")) for text in texts] == [
        ("one", True), ("one", False), ("two", True), ("two", False)
    ]  # fmt: skip
    shown = LetterJudge(files).demonstrations([record] * 20, seed=0)
    assert {one.completion for one in shown} == {"A", "B"}
    for one in shown:
        text = one.prompt[0]["content"]
        assert (one.completion == "A") == (text.index("yes") < text.index("no"))


def test_letters_are_read_by_their_first_token() -> None:
    nan = [math.nan, math.nan]
    pair = EncodedRecord(0, [1], [[5, 6], [7, 8]], None, [1.0, 0.0], False)
    letters = EncodedRecord(0, [1], [[5, 2], [6, 2]], None, nan, False)
    assert [one.response_ids for one in first_letters([pair, letters])] == [[[5, 6], [7, 8]], [[5], [6]]]
    with pytest.raises(DataError, match="begin with the same token"):
        first_letters([dataclasses.replace(letters, response_ids=[[9, 5], [9, 6]])])


def test_a_round_tells_of_its_judges(tiny_model: str, tmp_path: Path) -> None:
    run = start(tiny_model, tmp_path / "run", measure=["max_characters:5"])
    round = Round(run, 1)
    rows, verdicts = round.read("pairs"), round.read("verdicts")
    assert [row["id"] for row in rows] == [row["id"] for row in verdicts]
    assert all(0 < p < 1 for row in verdicts for p in row["p"])
    found = told(round)
    agreed = [len({p > 0.5 for p in row["p"]}) == 1 for row in verdicts]
    assert found["agreement"] == pytest.approx(sum(agreed) / len(agreed))
    assert {"selected", "label balance", "entropy", "label accuracy", "judge accuracy"} <= found.keys()
    history = round.read("history")
    assert history[0]["internal/kept"] == 0, "warm-up"
    assert all("internal/agreement" in row for row in history if "loss" in row)


def test_the_reference_is_the_start_or_m0(tiny_model: str, tmp_path: Path) -> None:
    ratios = {}
    for name in ("start", "first"):
        run = start(tiny_model, tmp_path / name, reference=name, seed_epochs=3.0)
        ratios[name] = abs(Round(run, 1).read("history")[0]["kl/policy_reference"])
    assert ratios["start"] < 1e-5
    assert ratios["first"] > 1e-3


def test_the_judge_s_labels_alone(tiny_model: str, tmp_path: Path) -> None:
    seed = write(tmp_path / "seed.jsonl", demonstrations(4))
    given = {"labels": "judge", "warmup_batches": 4, "seed_data": str(seed)}
    run = start(tiny_model, tmp_path / "run", **given)
    round = Round(run, 1)
    labels = {row["id"]: row["p"] for row in round.read("labels")}
    pairs = {row["id"]: row for row in round.read("pairs")}
    assert len(round.read("filter")) == len(pairs)
    for row in round.read("filter"):
        assert labels[row["id"]][0] == pytest.approx(0.5, abs=1e-5), "the model is its own reference"
        assert (row["chosen"] == pairs[row["id"]]["chosen"]) == (labels[row["id"]][1] > 0.5)


def test_equal_answers_are_no_pair(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match="no pair to learn from"):
        start(tiny_model, tmp_path / "run", temperature=0.0)


def test_pairs_and_what_is_told_of_them(tmp_path: Path) -> None:
    round = Round(Run.start(tmp_path / "run", "scir", scir.Config(prompts="x")), 1)
    row = {
        "id": "a",
        "prompt": [],
        "responses": ["x", "y", "same", "same ", "z"],
        "truth": [1.0, 0.0, 0.0, 0.0, 0.0],
    }
    (pair,) = sampled_pairs(round, [row])
    assert (pair["id"], pair["chosen"], pair["rejected"], pair["truth"]) == ("a/0", "x", "y", [1.0, 0.0])
    assert told(round)["equal pairs"] == 1
    many = [{**pair, "id": f"a/{n}"} for n in range(3)]
    verdicts = [{"p": [0.9, 0.8]}, {"p": [0.1, 0.8]}, {"p": None}]
    assert [one["chosen"] for one in ordered_by_judge(many, [{"p": [0.9, 0.2]}, *verdicts[1:]])] == ["y", "x"]
    tell_verdicts(round, many, verdicts, 0.5)
    found = told(round)
    assert (found["agreement"], found["selected"], found["label accuracy"], found["judge accuracy"]) == (
        0.5,
        0.5,
        1,
        1,
    )
    assert found["label balance"] == 0
    assert [one["key"] for one in round.run.events("warning")] == ["label balance"]
