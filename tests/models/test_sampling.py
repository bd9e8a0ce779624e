"""The pure sampling functions: against Transformers' warpers, against the wanted distribution, at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from coalign.core.errors import ConfigError, ModelError
from coalign.models.generation import sampling
from coalign.models.generation import sampling as drawing
from coalign.models.types import Sampling


def random_logits(rows, vocabulary, seed=0, scale=3.0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, dtype=torch.float64, generator=draw) * scale


def as_transformers(logits, temperature, top_k, top_p):
    scores = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    return TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores


@settings(max_examples=60)
@given(
    vocabulary=st.sampled_from([2, 5, 97, 700, 5000]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 60, 10_000]),
    top_p=st.floats(0.01, 1.0),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    seed=st.integers(0, 10_000),
)
@example(vocabulary=97, temperature=0.3, top_k=0, top_p=0.9999999999999999, scale=8.0, seed=0)
def test_filter_is_that_of_transformers(vocabulary, temperature, top_k, top_p, scale, seed):
    logits = random_logits(3, vocabulary, seed, scale)
    expected = as_transformers(logits, temperature, top_k, top_p)
    actual = drawing.filter_logits(logits, temperature, top_k, top_p)
    # Rounding alone decides over a token where the mass of those above it is `top_p` to the last digits, as with
    # 0.9999999999999999: there, and only there, the two may differ.
    differ = actual.isfinite() != expected.isfinite()
    probabilities = as_transformers(logits, temperature, top_k, 1.0).softmax(-1)
    for row, token in differ.nonzero().tolist():
        above = probabilities[row][probabilities[row] > probabilities[row, token]].sum()
        assert abs(float(above) - top_p) < 1e-14
    torch.testing.assert_close(actual[~differ], expected[~differ])


@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_few_candidates_give_the_result_of_the_whole_sort(monkeypatch, scale):
    logits = random_logits(8, 6000, scale=scale)
    few = drawing.filter_logits(logits, top_p=0.9)
    monkeypatch.setattr(sampling, "CANDIDATES", 6000)
    assert torch.equal(few, drawing.filter_logits(logits, top_p=0.9))


def test_largest_values_come_from_blocks_too():
    values = random_logits(5, 6013)
    assert torch.equal(sampling._largest(values, 40), values.topk(40).values)
    tied = values.round()
    assert torch.equal(sampling._largest(tied, 40), tied.topk(40).values)


@pytest.mark.parametrize("cut", [{"top_k": 2}, {"top_p": 0.55}])
def test_equals_of_the_last_one_stay(cut):
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, -3.0]], dtype=torch.float64)
    assert drawing.filter_logits(logits, **cut).isfinite().tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (0, 0.0), (0, 1e-12), (1, 0.0)])
def test_one_token_always_stays(top_k, top_p):
    logits = random_logits(4, 300)
    kept = drawing.filter_logits(logits, top_k=top_k, top_p=top_p)
    assert kept.isfinite().sum(-1).tolist() == [1] * 4
    assert torch.equal(kept.argmax(-1), logits.argmax(-1))


def test_draws_follow_the_distribution():
    logits = random_logits(1, 40, scale=1.5).expand(40_000, -1)
    uniforms = drawing.row_uniforms(3, [(n, 0) for n in range(40_000)], 1)[:, 0]
    for temperature, top_k, top_p in [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.3, 12, 1.0), (1.0, 20, 0.8)]:
        drawn = drawing.sample_tokens(logits, uniforms, temperature, top_k, top_p)
        wanted = torch.softmax(drawing.filter_logits(logits[:1], temperature, top_k, top_p), -1)[0]
        counts = torch.bincount(drawn, minlength=40).double()
        assert (counts[wanted == 0] == 0).all()
        kept = wanted > 0
        chi = ((counts - 40_000 * wanted) ** 2 / (40_000 * wanted))[kept].sum()
        freedom = int(kept.sum()) - 1
        assert chi < freedom + 4 * math.sqrt(2 * freedom)  # about 1 in 10 000 for a right sampler


@settings(max_examples=100)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 0.3, 1.0, 7.0]), max_size=600).filter(any),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.just(1 - 2**-53), st.just(0.0)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_inverse_hits_the_right_token_and_never_an_impossible_one(weights, uniform, dtype):
    row = torch.tensor([weights], dtype=dtype)
    index = int(sampling._invert_cdf(row, torch.tensor([uniform], dtype=torch.float64)))
    assert row[0, index] > 0
    cumulative = row.double().cumsum(-1)[0]
    target = uniform * float(cumulative[-1])
    slack = 1e-6 * float(cumulative[-1])
    assert float(cumulative[index]) >= target - slack
    assert (float(cumulative[index - 1]) if index else 0.0) <= target + slack


def test_greedy_takes_the_first_of_equals():
    logits = torch.zeros(3, 1000)
    logits[[1, 1, 2], [700, 999, 999]] = 1.0
    assert drawing.sample_tokens(logits, torch.zeros(3), temperature=0.0).tolist() == [0, 700, 999]


@pytest.mark.parametrize("cut", [(0.0,), (1.0,), (1.0, 0, 0.9), (1.0, 5), (1.0, 5, 0.9)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_refused(cut, bad):
    logits = torch.zeros(2, 300)
    logits[1, 7] = bad
    with pytest.raises(ModelError, match="not numbers"):
        drawing.sample_tokens(logits, torch.zeros(2, dtype=torch.float64), *cut)


def test_impossible_tokens_are_allowed():
    logits = torch.full((2, 300), -torch.inf)
    logits[:, 5] = 0.0
    assert drawing.sample_tokens(logits, torch.tensor([0.0, 0.999]), top_p=0.9).tolist() == [5, 5]
    assert drawing.sample_tokens(logits, torch.zeros(2), temperature=0.0).tolist() == [5, 5]


def test_streams_depend_on_seed_prompt_and_sample_alone():
    rows = [(0, 0), (0, 1), (1, 0), (7, 3)]
    streams = drawing.row_uniforms(5, rows, 8)
    assert torch.equal(drawing.row_uniforms(5, rows[2:3], 20)[:, :8], streams[2:3])
    assert len({tuple(one) for one in streams.tolist()}) == 4
    assert not torch.equal(drawing.row_uniforms(6, rows, 8), streams)
    assert drawing.row_uniforms(-1, rows, 2).shape == (4, 2)
    assert 0 <= streams.min() <= streams.max() < 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"temperature": math.nan}, "temperature: nan"),
        ({"top_p": 1.5}, "top_p: 1.5"),
        ({"top_k": -1}, "top_k: -1"),
        ({"n": 0}, "n: 0"),
        ({"stop": ("",)}, "stop"),
        ({"stop": "end"}, "one text"),
    ],
)
def test_meaningless_options_are_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        drawing.check_sampling(Sampling(**changes))
