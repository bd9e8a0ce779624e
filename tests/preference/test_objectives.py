"""Every objective on ragged batches against a loop over records in plain numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build, options_of
from coalign.data.records import Preference, Source
from coalign.models.types import ResponseLogps
from coalign.preference import dpo_insights
from coalign.training.examples import columns_of
from coalign.training.losses.pairwise import CONFIDENCE, WEIGHT
from coalign.training.losses.supervised import SFTConstants
from coalign.training.objective import Losses, Objective, ScoredBatch, get_objective
from tests.preference.batches import evaluate as run
from tests.preference.batches import naive_pro_ranks, naive_records, reordered, scored_batch, sigmoid

Response = dict[str, float]
NAN = math.nan


def log_odds(a: float) -> float:
    return a - math.log(1 - math.exp(a))


def loss_of_odds(w: Response, r: Response) -> float:
    return -math.log(sigmoid(log_odds(w["a"]) - log_odds(r["a"])))


def doubted(margin: float) -> float:
    """Without margins before, a pair is in doubt where the model itself has it the other way."""
    smoothing = 0.1 if margin <= 0 else 0.0
    return -(1 - smoothing) * math.log(sigmoid(margin)) - smoothing * math.log(sigmoid(-margin))


PAIRED: dict[str, Callable[[Response, Response], float]] = {
    "dpo": lambda w, r: -math.log(sigmoid(0.1 * (w["h"] - r["h"]))),
    "cdpo": lambda w, r: (
        -0.9 * math.log(sigmoid(0.1 * (w["h"] - r["h"]))) - 0.1 * math.log(sigmoid(0.1 * (r["h"] - w["h"])))
    ),
    "ipo": lambda w, r: (w["h"] - r["h"] - 5) ** 2,
    "hinge_ref": lambda w, r: max(0.0, 1 - 0.1 * (w["h"] - r["h"])),
    "ln_dpo": lambda w, r: -math.log(sigmoid(w["h"] / w["n"] - r["h"] / r["n"])),
    "cpo": lambda w, r: -math.log(sigmoid(0.1 * (w["S"] - r["S"]))) - w["S"],
    "simpo": lambda w, r: -math.log(sigmoid(2.0 * (w["a"] - r["a"]) - 1.2)),
    "orpo": lambda w, r: -w["a"] + 0.1 * loss_of_odds(w, r),
    "slic_hf": lambda w, r: max(0.0, 1 - w["S"] + r["S"]) - 0.1 * w["S"],
    "asft": lambda w, r: -2 * w["a"] - math.log(1 - math.exp(r["a"])),
    "self_refinement": lambda w, r: doubted(0.1 * (w["h"] - r["h"])),
}


def naive_rrhf(record: list[Response]) -> float:
    hinges = [max(0.0, j["a"] - i["a"]) for i in record for j in record if i["value"] > j["value"]]
    return sum(hinges) - max(record, key=lambda one: one["value"])["S"]


def naive_pro(record: list[Response]) -> float:
    record = sorted(record, key=lambda one: -one["value"])
    scores, rewards = ([one[name] for one in record] for name in ("a", "value"))
    ranks = naive_pro_ranks(scores, rewards, "reward", 1e-10)
    return ranks - 0.05 * (len(record) - 1) ** 2 * record[0]["S"]


def naive_aft(record: list[Response]) -> float:
    pairs = [(i, j) for i in record for j in record if i["value"] > j["value"]]
    reference = [one for one in record if math.isnan(one["value"])]
    ranked = [one for one in record if not math.isnan(one["value"])]
    target = reference[0] if reference else max(ranked, key=lambda one: one["value"]) if pairs else None
    contrast = math.log1p(sum(math.exp(j["a"] - i["a"]) for i, j in pairs))
    return contrast - (target["a"] if target else 0.0)


LISTED = {"rrhf": naive_rrhf, "pro": naive_pro, "aft": naive_aft}


def check_metrics(losses: Losses, batch: ScoredBatch) -> None:
    for name, values in losses.metrics.items():
        assert values.dim() == 1, name
        assert len(values) <= len(batch.record_index), name
        assert not values.requires_grad, name


sizes = st.lists(st.integers(2, 8), min_size=1, max_size=5)


@pytest.mark.parametrize("name", PAIRED)
@given(n_records=st.integers(1, 6), seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_paired_objectives_equal_a_loop(name: str, n_records: int, seed: int) -> None:
    batch = scored_batch([[1.0, 0.0]] * n_records, seed=seed, reference=get_objective(name).reference)
    losses = run(name, batch)
    assert losses.losses.tolist() == pytest.approx([PAIRED[name](w, r) for w, r in naive_records(batch)])
    margins = losses.metrics["rewards/chosen"] - losses.metrics["rewards/rejected"]
    torch.testing.assert_close(losses.metrics["rewards/margins"], margins)
    assert losses.metrics["rewards/accuracies"].tolist() == (margins > 0).double().tolist()
    check_metrics(losses, batch)


@given(
    confidence=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    weight=st.floats(0, 9),
    seed=st.integers(0, 999),
)
@settings(max_examples=30)
def test_soft_labels_equal_a_loop(confidence: list[float], weight: float, seed: int) -> None:
    batch = scored_batch([[1.0, 0.0]] * len(confidence), seed=seed)
    columns = {
        CONFIDENCE: torch.tensor(confidence).double(),
        WEIGHT: torch.full((len(confidence),), weight).double(),
    }
    losses = run("soft_dpo", dataclasses.replace(batch, extras=columns))
    margins = [0.1 * (w["h"] - r["h"]) for w, r in naive_records(batch)]
    expected = [
        -weight * (c * math.log(sigmoid(z)) + (1 - c) * math.log(sigmoid(-z)))
        for c, z in zip(columns[CONFIDENCE].tolist(), margins, strict=True)
    ]
    assert losses.losses.tolist() == pytest.approx(expected)
    check_metrics(losses, batch)


def test_soft_labels_at_full_confidence_are_dpo_and_swap_with_the_pair() -> None:
    batch = scored_batch([[1.0, 0.0]] * 4, seed=3)
    swapped = dataclasses.replace(
        batch,
        policy=reordered_pairs(batch.policy),
        reference=reordered_pairs(batch.reference) if batch.reference else None,
    )

    def soft(one: ScoredBatch, value: float) -> torch.Tensor:
        columns = {CONFIDENCE: torch.full((4,), value).double(), WEIGHT: torch.ones(4).double()}
        return run("soft_dpo", dataclasses.replace(one, extras=columns)).losses

    torch.testing.assert_close(soft(batch, 1.0), run("dpo", batch).losses)
    torch.testing.assert_close(soft(batch, 0.8), soft(swapped, 0.2))


def reordered_pairs(scored: ResponseLogps) -> ResponseLogps:
    """The rejected response of each pair first."""
    parts = scored.split()
    rows = [place ^ 1 for place in range(len(parts))]
    return ResponseLogps(torch.cat([parts[row] for row in rows]), scored.lengths[rows], scored.prompt_index)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("confidence", 1.5, "at least 0 and at most 1"), ("confidence", "high", "a number"), ("weight", -1, "at least 0"),
     ("weight", [1.0, math.nan], "a number"), ("weight", 10**400, "a number")],
)  # fmt: skip
def test_a_column_beyond_its_limits_is_named(column: str, value: Any, expected: str) -> None:
    record = Preference(
        prompt=[], chosen="a", rejected="b", extra={column: value}, source=Source("pairs.jsonl", 3)
    )
    with pytest.raises(DataError, match=rf"soft_dpo cannot read the column '{column}'") as raised:
        columns_of([record], get_objective("soft_dpo"))
    (problem,) = raised.value.problems
    assert str(problem).startswith("pairs.jsonl:3")
    assert expected in problem.expected
    assert columns_of([dataclasses.replace(record, extra={})], get_objective("soft_dpo")) == [
        {"confidence": [1.0], "weight": [1.0]}
    ]


@pytest.mark.parametrize("name", LISTED)
@given(sizes=sizes, seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_ranked_objectives_equal_a_loop(name: str, sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few levels: ties are common, and some records are all tied.
    values = [torch.randint(0, 4, (size,), generator=generator).div(2).tolist() for size in sizes]
    batch = scored_batch(values, seed=seed, reference=False)
    losses = run(name, batch)
    assert losses.losses.tolist() == pytest.approx([LISTED[name](record) for record in naive_records(batch)])
    check_metrics(losses, batch)


def test_aft_imitates_the_reference_solution() -> None:
    batch = scored_batch([[NAN, 1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], reference=False)
    losses = run("aft", batch)
    assert losses.losses.tolist() == pytest.approx([naive_aft(record) for record in naive_records(batch)])
    assert losses.losses[1] == 0
    assert losses.metrics["nll"].shape == (2,)
    assert losses.metrics["rewards/accuracies"][1].isnan()


@pytest.mark.parametrize("name", [*PAIRED, *LISTED, "kto"])
@given(data=st.data())
@settings(max_examples=10)
def test_the_order_of_records_does_not_matter(name: str, data: st.DataObject) -> None:
    shapes = {"kto": [[1.0, NAN], [0.0, NAN], [1.0, NAN]]}
    ranked = [[1.0, 0.0, 0.5], [0.0, 2.0], [1.0, 1.0, 0.0, 3.0]]
    values = shapes.get(name, ranked if name in LISTED else [[1.0, 0.0]] * 3)
    batch = scored_batch(values, seed=data.draw(st.integers(0, 99)), reference=get_objective(name).reference)
    order = data.draw(st.permutations(range(3)))
    losses, moved = run(name, batch).losses, run(name, reordered(batch, order)).losses
    torch.testing.assert_close(moved, losses[list(order)])
    by_order = torch.autograd.grad(moved.sum(), batch.policy.token_logps, retain_graph=True)[0]
    torch.testing.assert_close(by_order, torch.autograd.grad(losses.sum(), batch.policy.token_logps)[0])


@pytest.mark.parametrize("name", [*PAIRED, *LISTED, "kto", "sft"])
def test_float32_as_in_training(name: str) -> None:
    shapes = {"kto": [[1.0, NAN], [0.0, NAN]], "sft": [[NAN], [NAN]]}
    values = shapes.get(name, [[2.0, 0.0, 1.0], [0.0, 1.0]] if name in LISTED else [[1.0, 0.0]] * 2)
    single, double = (scored_batch(values, dtype=dtype) for dtype in (torch.float32, torch.float64))
    losses = run(name, single).losses
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), run(name, double).losses, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(losses.sum(), single.policy.token_logps)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", [*PAIRED, *LISTED, "kto", "sft"])
def test_an_objective_explains_itself(name: str) -> None:
    one = get_objective(name)
    assert one.equation
    assert one.when
    assert (one.loss.__doc__ or "").strip()
    assert one.reference == (name in {"dpo", "cdpo", "ipo", "hinge_ref", "ln_dpo", "kto", "self_refinement"})
    for constant in options_of(one.constants):
        assert constant.help
        assert not constant.required


def test_the_study_compares_registered_objectives() -> None:
    for name in dpo_insights.OBJECTIVES:
        assert isinstance(get_objective(name), Objective)


def test_ipo_per_token() -> None:
    batch = scored_batch([[1.0, 0.0]] * 3)
    losses = run("ipo", batch, tau=0.5, length_normalised=True)
    naive = [(w["h"] / w["n"] - r["h"] / r["n"] - 1) ** 2 for w, r in naive_records(batch)]
    assert losses.losses.tolist() == pytest.approx(naive)


def test_cpo_with_an_averaged_likelihood() -> None:
    batch = scored_batch([[1.0, 0.0]] * 3, reference=False)
    losses = run("cpo", batch, nll_weight=0.5, nll_reduction="mean", label_smoothing=0.0)
    naive = [-math.log(sigmoid(0.1 * (w["S"] - r["S"]))) - 0.5 * w["a"] for w, r in naive_records(batch)]
    assert losses.losses.tolist() == pytest.approx(naive)


def test_rrhf_with_its_constants() -> None:
    batch = scored_batch([[0.0, 1.0, 2.0]], reference=False)
    losses = run("rrhf", batch, rank_weight=3.0, length_penalty=0.5, sft_reduction="mean")
    (record,) = naive_records(batch)
    scores = [one["S"] / math.sqrt(one["n"]) for one in record]
    hinges = [max(0.0, scores[j] - scores[i]) for i in range(3) for j in range(i)]
    assert losses.losses.tolist() == pytest.approx([3 * sum(hinges) - record[2]["a"]])


def test_sft_sums_tokens() -> None:
    batch = scored_batch([[NAN], [NAN], [NAN]], reference=False)
    losses = run("sft", batch)
    assert get_objective("sft").unit(SFTConstants()) == "tokens"
    assert losses.losses.tolist() == pytest.approx([-one["S"] for (one,) in naive_records(batch)])


def test_sft_refuses_pairs() -> None:
    with pytest.raises(ValueError, match="expected one each"):
        run("sft", scored_batch([[1.0, 0.0]], reference=False))


def test_pro_refuses_responses_without_a_score() -> None:
    with pytest.raises(ValueError, match="found NaN"):
        run("pro", scored_batch([[1.0, NAN]], reference=False))


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_paired_objectives_refuse_rankings(name: str) -> None:
    with pytest.raises(ValueError, match="expected pairs"):
        run(name, scored_batch([[1.0, 0.5, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "kto"])
def test_a_missing_reference_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="no reference log-probabilities"):
        run(name, scored_batch([[1.0, NAN if name == "kto" else 0.0]], reference=False))


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("dpo", {"beta": 0}),
        ("cdpo", {"label_smoothing": 0.5}),
        ("cpo", {"label_smoothing": 0.7}),
        ("cpo", {"nll_reduction": "token_mean"}),
        ("simpo", {"gamma": -1}),
        ("pro", {"temperature": "one"}),
        ("aft", {"constraint": "clip"}),
    ],
)
def test_constants_are_checked(name: str, constants: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(constants))):
        build(get_objective(name).constants, constants)
