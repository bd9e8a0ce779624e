"""Trees of tokens in the cache give the logits of the texts they stand for."""

from __future__ import annotations

import random

import pytest
import torch

from coalign.models.scoring import token_tree
from coalign.models.scoring.token_tree import ROOT, CachedTrees, PlainTrees, open_trees
from tests.models.tiny import ARCHITECTURES, VOCABULARY, make_model

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]


def grown(trees, steps, seed=0):
    """The logits of a random history of growing and pruning."""
    draw = random.Random(seed)
    logits = [trees.start(PROMPTS)]
    paths = {row: [[]] for row in range(len(PROMPTS))}
    for step in range(steps):
        new = [(row, draw.choice(paths[row])) for row in paths for _ in range(draw.randint(0, 3))]
        if new:
            tokens = [draw.randrange(3, VOCABULARY) for _ in new]
            nodes, found = trees.grow(
                [row for row, _ in new], [path[-1] if path else ROOT for _, path in new], tokens
            )
            logits.append(found)
            for (row, path), node in zip(new, nodes, strict=True):
                paths[row].append([*path, node])
        if step % 3 == 2:
            rows = [draw.choice(list(paths)) for _ in range(draw.randint(1, 4))]
            kept = [draw.choice(paths[row]) for row in rows]
            trees.keep(rows, kept)
            paths = {
                place: [list(range(size)) for size in range(len(path) + 1)] for place, path in enumerate(kept)
            }
    return torch.cat(logits)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mistral", "gemma2"])
def test_cached_and_plain_agree(architecture):
    model = make_model(architecture)
    with torch.inference_mode():
        expected, found = grown(PlainTrees(model), 9), grown(CachedTrees(model), 9)
    assert len(expected) > 20
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_any_history_agrees_in_double_precision(seed):
    model = make_model("gpt2", dtype=torch.float64)
    with torch.inference_mode():
        expected, found = grown(PlainTrees(model), 12, seed), grown(CachedTrees(model), 12, seed)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_nothing_is_computed_twice(monkeypatch):
    model = make_model("llama")
    computed = []
    forward = type(model).forward

    def counted(self, **inputs):
        computed.append(inputs["input_ids"].numel())
        return forward(self, **inputs)

    trees = CachedTrees(model)
    with torch.inference_mode():
        trees.start(PROMPTS[:1])
        monkeypatch.setattr(type(model), "__call__", counted)
        nodes, _ = trees.grow([0, 0, 0], [ROOT] * 3, [20, 21, 22])
        trees.grow([0, 0, 0], nodes, [30, 31, 32])
        trees.keep([0], [[nodes[1]]])
        trees.grow([0], [0], [40])
    assert computed == [3, 3, 1]


def test_a_model_that_keeps_other_states_takes_the_plain_path(caplog):
    model = make_model("mamba")
    assert isinstance(open_trees(model, 10), PlainTrees)
    assert "computed anew" in caplog.text
    with torch.inference_mode():
        assert open_trees(model, 10).start(PROMPTS).shape == (3, VOCABULARY)


def test_a_text_beyond_the_sliding_window_takes_the_plain_path():
    model = make_model("mistral", sliding_window=32)
    assert isinstance(open_trees(model, 32), CachedTrees)
    assert isinstance(open_trees(model, 33), PlainTrees)


def test_the_probe_is_made_once_a_model(monkeypatch):
    model = make_model("llama")
    assert isinstance(open_trees(model, 10), CachedTrees)
    monkeypatch.setattr(token_tree._can_grow, "probe", lambda model: pytest.fail("asked again"))
    assert isinstance(open_trees(model, 10), CachedTrees)
