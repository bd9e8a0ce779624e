"""Demonstrations beside rollouts: the term and its gradient by hand, which are drawn when, and a run with them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.data.encoding import EncodedRecord
from coalign.training.losses.likely_tokens import divergences, likely_tokens
from coalign.training.online.keeping import Keeping, KeepingOptions
from tests.models.tiny import float64_norms, make_model


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with float64_norms():
        yield


def example(prompt: list[int], response: list[int], mask: list[bool] | None = None) -> EncodedRecord:
    return EncodedRecord(
        record_index=0,
        prompt_ids=prompt,
        response_ids=[response],
        trained=None if mask is None else [mask],
        values=[],
        truncated=False,
    )


EXAMPLES = [
    example([5, 6], [7, 8, 2]),
    example([9], [10, 2]),
    example([11, 12], [13, 14, 15], [True, False, True]),
]


def keeping(start: Any, **options: Any) -> Keeping:
    settings = build(KeepingOptions, {"ptx_data": "x.jsonl", "ptx_batch_size": 3, **options})
    return Keeping(EXAMPLES, settings, lambda: contextlib.nullcontext(start))


@pytest.mark.parametrize("kind", ["kl", "nll"])
def test_the_term_by_hand(kind):
    policy, start = (make_model("llama", seed=seed, dtype=torch.float64, scale=1.0) for seed in (0, 1))
    top = {"ptx_top_k": 9} if kind == "kl" else {}
    term, metrics = keeping(start, ptx_loss=kind, ptx_weight=0.25, **top).loss(policy, 0)
    pieces = []
    for one in EXAMPLES:
        ids = torch.tensor([one.prompt_ids + one.response_ids[0]])
        ours, theirs = (model(ids).logits[0, len(one.prompt_ids) - 1 : -1] for model in (policy, start))
        losses = (
            divergences(ours, likely_tokens(theirs, 9))
            if kind == "kl"
            else cross_entropy(ours, torch.tensor(one.response_ids[0]), reduction="none")
        )
        pieces.append(losses[torch.tensor(one.trained[0])] if one.trained else losses)
    expected = 0.25 * torch.cat(pieces).mean()
    torch.testing.assert_close(term, expected)
    assert metrics[f"ptx/{kind}"].mean().item() == pytest.approx(4 * expected.item())
    found, wanted = (
        torch.autograd.grad(one, policy.get_input_embeddings().weight)[0] for one in (term, expected)
    )
    torch.testing.assert_close(found, wanted)
    assert all(one.grad is None for one in start.parameters())


def test_a_policy_that_is_its_start_has_no_divergence():
    policy = make_model("llama", dtype=torch.float64)
    term, metrics = keeping(policy).loss(policy, 0)
    assert term.item() == pytest.approx(0, abs=1e-12)
    assert metrics["ptx/seen_mass"].tolist() == pytest.approx([1.0] * 7)


def test_every_demonstration_comes_once_before_any_comes_again():
    kept = keeping(None, ptx_batch_size=1)
    order = [tuple(kept.drawn(step).response_ids[0]) for step in range(6)]
    assert len({*order[:3]}) == len({*order[3:]}) == 3
    assert order == [tuple(kept.drawn(step).response_ids[0]) for step in range(6)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ptx_weight": 1}, "ptx_weight has no effect without ptx_data"),
        (
            {"ptx_data": "a.jsonl", "ptx_loss": "nll", "ptx_top_k": 5},
            "ptx_top_k has no effect with ptx_loss: nll",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        build(KeepingOptions, values)


def test_a_run_is_held_to_demonstrations(tiny_model, tmp_path):
    from coalign.cli.running.run import execute, find

    prompts, chats = tmp_path / "prompts.jsonl", tmp_path / "chats.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(6)))
    chats.write_text(
        "".join(json.dumps({"prompt": f"Ask {n}?", "completion": f"It is {n}."}) + "\n" for n in range(5))
    )
    implementation = find("grpo")[1]
    values = {
        "model": tiny_model, "prompts": str(prompts), "reward": ["max_words:3"], "ptx_data": str(chats),
        "ptx_batch_size": 2, "max_steps": 2, "max_new_tokens": 4, "samples": 2, "prompts_per_step": 2, "beta": 0.1,
        "kl_top_k": 20, "kl_in": "advantage", "eval_fraction": 0.0, "save_steps": 0,
    }  # fmt: skip
    run = execute("grpo", implementation, build(implementation.Config, values), tmp_path / "run")
    logged = [
        row for row in json.loads((run.artefacts / "train.json").read_text())["history"] if "loss" in row
    ]
    assert len(logged) == 2
    assert logged[0]["ptx/kl"] == pytest.approx(0, abs=1e-5)
    assert 0 < logged[0]["ptx/seen_mass"] <= 1
