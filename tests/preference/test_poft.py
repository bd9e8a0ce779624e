"""PoFT: the loss, the end-of-turn tokens, and the aligned models' scores kept on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedTokenizerBase

from coalign.data.encoding import EncodedRecord, encode_prompt
from coalign.data.records import Demonstration
from coalign.models.scoring.engine import score_responses
from coalign.models.types import ResponseLogps
from coalign.preference.data.aligned_scores import (
    ALIGNED_LOGP,
    END_TOKENS,
    Scorer,
    count_end_tokens,
    mean_content_logps,
    precompute_scores,
    split_end,
    whole_texts,
)
from coalign.preference.poft import PoFTConstants, poft_coefficients, poft_loss
from coalign.training.batches import collate
from coalign.training.examples import prepare_examples
from coalign.training.objective import ScoredBatch, get_objective
from coalign.training.options import TrainingOptions
from tests.models.tiny import make_model
from tests.preference.batches import evaluate, reordered, scored_batch, sigmoid
from tests.preference.fitting import fit_tiny
from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer

# the loss


@given(
    policy=st.lists(st.floats(-1e4, 0), min_size=1, max_size=6),
    aligned=st.floats(-1e4, 0),
    beta=st.floats(0.1, 5),
    gamma=st.floats(-2, 2),
)
@settings(max_examples=60)
def test_the_gradient_is_the_coefficient(
    policy: list[float], aligned: float, beta: float, gamma: float
) -> None:
    scores = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    votes = torch.full_like(scores, aligned).detach()
    losses = poft_loss(scores, votes, beta=beta, gamma=gamma)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    coefficients = poft_coefficients(scores.detach(), votes, beta=beta, gamma=gamma)
    assert bool(losses.isfinite().all())
    torch.testing.assert_close(gradient, -beta * coefficients)
    assert bool(((coefficients >= 0) & (coefficients <= 1)).all())


def test_gradcheck_and_no_gradient_for_the_votes() -> None:
    scores = torch.randn(3, dtype=torch.float64, requires_grad=True)
    votes = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: poft_loss(s, votes.detach(), beta=0.7, gamma=0.1), (scores,))
    poft_loss(scores, votes).sum().backward()
    assert votes.grad is None


@given(shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=6))
@settings(max_examples=40)
def test_content_and_end_are_split(shapes: list[tuple[int, int]]) -> None:
    lengths = torch.tensor([content + end for content, end in shapes])
    logps = -torch.rand(int(lengths.sum()), dtype=torch.float64)
    means, ends = split_end(
        ResponseLogps(logps, lengths, torch.arange(len(shapes))), torch.tensor([end for _, end in shapes])
    )
    for tokens, (content, _), mean, end in zip(
        torch.split(logps, lengths.tolist()), shapes, means, ends, strict=True
    ):
        assert float(mean) == pytest.approx(float(tokens[:content].mean()) if content else 0.0)
        assert float(end) == pytest.approx(float(tokens[content:].sum()))


def batch_with(aligned: Sequence[float], end_tokens: Sequence[int], seed: int = 0) -> ScoredBatch:
    batch = scored_batch([[math.nan]] * len(aligned), seed=seed, reference=False)
    votes, ends = torch.tensor(aligned).double(), torch.tensor(end_tokens).float()
    return replace(batch, extras={ALIGNED_LOGP: votes, END_TOKENS: ends})


run = partial(evaluate, "poft")


def test_the_objective_equals_a_loop() -> None:
    aligned, ends = [-0.4, -1.0, -3.0], [1, 0, 1]
    batch = batch_with(aligned, ends, seed=5)
    losses = run(batch, beta=2.0, gamma=0.3, end_weight=0.25)
    naive = []
    for tokens, vote, end in zip(batch.policy.split(), aligned, ends, strict=True):
        tokens = tokens.detach()
        content = tokens[: len(tokens) - end]
        mean = float(content.mean()) if len(content) else 0.0
        naive.append(
            -math.log(sigmoid(2 * (mean - vote) + 0.3)) - 0.25 * float(tokens[len(tokens) - end :].sum())
        )
    assert losses.losses.tolist() == pytest.approx(naive)
    assert all(not values.requires_grad and len(values) == 3 for values in losses.metrics.values())


def test_the_order_of_records_does_not_matter() -> None:
    batch = batch_with([-0.4, -1.0, -3.0], [1, 0, 1])
    order = [2, 0, 1]
    torch.testing.assert_close(run(reordered(batch, order)).losses, run(batch).losses[order])


def test_the_end_is_learned_even_when_the_preference_is_satisfied() -> None:
    batch = batch_with([-1000.0], [1])
    (gradient,) = torch.autograd.grad(run(batch, end_weight=0.1).losses.sum(), batch.policy.token_logps)
    assert gradient[-1] == pytest.approx(-0.1)
    assert bool((gradient[:-1].abs() < 1e-12).all())


# the scores of aligned models


def demonstration(answer: str, index: int = 0) -> Demonstration:
    return Demonstration(
        prompt=[{"role": "user", "content": "Say it."}], completion=answer, extra={"id": index}
    )


def model(seed: int = 0) -> nn.Module:
    return make_model("llama", seed=seed, vocab_size=VOCABULARY)


class Loader:
    """Counts how often a model is loaded."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.calls = 0

    def __call__(self) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        self.calls += 1
        return model(self.seed), tiny_tokenizer()


def naive_mean(one: nn.Module, record: Demonstration) -> float:
    tokenizer = tiny_tokenizer()
    prompt = encode_prompt(tokenizer, record.prompt)
    answer = tokenizer(record.completion)["input_ids"]
    with torch.no_grad():
        logits = one(input_ids=torch.tensor([prompt + answer])).logits[0]  # type: ignore[operator]
    logps = logits.log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)) / len(answer)


def test_scores_are_means_over_content_tokens() -> None:
    records = [demonstration("yes"), demonstration("no, never"), demonstration("")]
    scores = mean_content_logps(records, model(), tiny_tokenizer())
    assert scores[:2] == pytest.approx([naive_mean(model(), record) for record in records[:2]], rel=1e-4)
    assert math.isnan(scores[2])


def test_scores_are_averaged_over_models_and_kept(tmp_path: Path) -> None:
    records = [demonstration("yes", 0), demonstration("", 1), demonstration("no", 2)]
    loaders = [Loader(0), Loader(1)]
    scorers = [Scorer("one", loaders[0]), Scorer("org/two", loaders[1])]
    first = precompute_scores(records, scorers, tiny_tokenizer(), tmp_path)
    assert [record.extra["id"] for record in first.records] == [0, 2]
    assert "one, org/two" in str(first.dropped[0])
    extra = first.records[0].extra
    assert extra[ALIGNED_LOGP] == pytest.approx((extra["one.logp"] + extra["org/two.logp"]) / 2)
    assert extra["one.logp"] == pytest.approx(naive_mean(model(0), records[0]), rel=1e-4)
    assert extra[END_TOKENS] == 1
    again = precompute_scores(records, scorers, tiny_tokenizer(), tmp_path)
    assert [record.extra for record in again.records] == [record.extra for record in first.records]
    assert [loader.calls for loader in loaders] == [1, 1]


def test_only_missing_scores_are_computed(tmp_path: Path) -> None:
    records = [demonstration("yes"), demonstration("no")]
    whole = precompute_scores(records, [Scorer("m", Loader())], tiny_tokenizer(), tmp_path / "whole")
    loader = Loader()
    precompute_scores(records[:1], [Scorer("m", loader)], tiny_tokenizer(), tmp_path / "cut")
    with (tmp_path / "cut" / "m.jsonl").open("a") as file:
        file.write('{"key": "torn')  # a kill while appending
    cut = precompute_scores(records, [Scorer("m", loader)], tiny_tokenizer(), tmp_path / "cut")
    assert loader.calls == 2
    rows = [json.loads(line) for line in (tmp_path / "cut" / "m.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    values = [[record.extra[ALIGNED_LOGP] for record in scored.records] for scored in (cut, whole)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("names", [[], ["same", "same"]])
def test_scorers_need_names_of_their_own(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one aligned model"):
        precompute_scores([], [Scorer(name, Loader()) for name in names], tiny_tokenizer(), tmp_path)


def test_a_response_that_was_cut_has_no_end() -> None:
    records = [demonstration("a long answer"), demonstration("x")]
    prompt = len(encode_prompt(tiny_tokenizer(), records[0].prompt))
    assert count_end_tokens(records, tiny_tokenizer(), max_length=prompt + 4) == [0, 1]


def test_whole_texts_score_all_but_the_first_token() -> None:
    records = [
        EncodedRecord(0, [1, 2, 3], [[4, 5]], None, [math.nan], False),
        EncodedRecord(1, [1], [[4]], None, [math.nan], True),
    ]
    first, second = whole_texts(records)
    assert (first.prompt_ids, first.response_ids) == ([1], [[2, 3, 4, 5]])
    assert (second.prompt_ids, second.response_ids, second.truncated) == ([1], [[4]], True)


def test_with_prompt_tokens_the_mean_runs_over_the_whole_text(tmp_path: Path) -> None:
    records = [demonstration("yes", 0), demonstration("no, never", 1)]
    scored = precompute_scores(records, [Scorer("m", Loader(1))], tiny_tokenizer(), tmp_path, max_length=200)
    options = TrainingOptions(max_length=200)
    example = prepare_examples(scored.records[:1], get_objective("poft_whole"), tiny_tokenizer(), options)
    batch = collate(example.examples)["batch"]
    one = ScoredBatch(
        score_responses(model(), batch.responses), None, batch.record_index, batch.values, batch.extras
    )
    ids = encode_prompt(tiny_tokenizer(), records[0].prompt) + tiny_tokenizer()("yes")["input_ids"]
    with torch.no_grad():
        logits = model()(input_ids=torch.tensor([ids])).logits[0]
    logps = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])
    found = get_objective("poft_whole").loss(one, PoFTConstants()).metrics["logps/policy_mean"]
    assert float(found) == pytest.approx(float(logps.mean()), rel=1e-4)
    plain = fit_tiny(tmp_path / "plain", scored.records, "poft", max_steps=1)
    whole = fit_tiny(tmp_path / "whole", scored.records, "poft_whole", max_steps=1)
    assert whole.history[0]["logps/policy_mean"] != plain.history[0]["logps/policy_mean"]


def test_training(tmp_path: Path) -> None:
    records = [demonstration(f"answer {n}", n) for n in range(4)]
    scored = precompute_scores(records, [Scorer("m", Loader(1))], tiny_tokenizer(), tmp_path, max_length=200)
    result = fit_tiny(tmp_path, scored.records, "poft", max_steps=3)
    rows = [row for row in result.history if "coefficient" in row]
    assert rows[-1]["logps/policy_mean"] > rows[0]["logps/policy_mean"]
    assert rows[-1]["coefficient"] < rows[0]["coefficient"]
