"""Rows of different length that grow and are cut back, against the model on whole texts."""

from __future__ import annotations

import logging
import random

import pytest
import torch

from coalign.models.scoring.ragged_rows import RaggedRows, plan_passes
from tests.models.tiny import VOCABULARY, make_model

pytestmark = pytest.mark.usefixtures("exact_norms")


@torch.inference_mode()
def expected(model, ids, keep):
    return model(input_ids=torch.tensor([ids])).logits[0, -keep:]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2", "mistral", "gemma2"])
def test_rows_that_grow_and_are_cut_give_the_logits_of_their_texts(architecture, caplog):
    changes = {"sliding_window": 12} if architecture in ("mistral", "gemma2") else {}
    model = make_model(architecture, dtype=torch.float64, **changes)
    draw = random.Random(0)
    with caplog.at_level(logging.WARNING):
        rows = RaggedRows(model, 4)
        assert rows.cached
        for _ in range(12):
            chosen = draw.sample(range(4), draw.randint(1, 4))
            for row in chosen:
                rows.cut(row, draw.randint(len(rows.ids[row]) // 2, len(rows.ids[row])))
            new = [[draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 9))] for _ in chosen]
            keep = [draw.randint(1, len(one)) for one in new]
            whole = [rows.ids[row] + one for row, one in zip(chosen, new, strict=True)]
            found = rows.extend(chosen, new, keep)
            assert [rows.ids[row] for row in chosen] == whole
            for logits, ids, wanted in zip(found, whole, keep, strict=True):
                # float64_norms leaves Gemma 2's norms in float32
                torch.testing.assert_close(logits, expected(model, ids, wanted), atol=1e-5, rtol=1e-5)
    assert rows.cached == (not changes)  # these rows outgrew the window
    assert ("outgrew" in caplog.text) == bool(changes)


def test_memory_grows_and_keeps_what_is_there():
    model = make_model("llama", dtype=torch.float64, max_position_embeddings=512)
    rows = RaggedRows(model, 2)
    text = [(7 * n) % VOCABULARY for n in range(400)]
    rows.extend([1], [text[:5]])
    for start in range(5, 400, 79):
        (logits,) = rows.extend([1], [text[start : start + 79]], [1])
    torch.testing.assert_close(logits, expected(model, text, 1))


def test_a_model_without_keys_and_values_computes_whole_rows(caplog):
    model = make_model("mamba")
    with caplog.at_level(logging.WARNING):
        rows = RaggedRows(model, 2)
        RaggedRows(model, 1)
    assert caplog.text.count("whole rows") == 1
    assert not rows.cached
    rows.extend([0, 1], [[3, 4, 5], [6]])
    rows.cut(0, 2)
    (logits,) = rows.extend([0], [[8, 9]])
    torch.testing.assert_close(logits, expected(model, [3, 4, 8, 9], 2).float())


def test_half_precision_and_a_keep_that_does_not_fit():
    rows = RaggedRows(make_model("llama", dtype=torch.bfloat16), 1)
    assert rows.cached
    (logits,) = rows.extend([0], [[3, 4, 5]])
    assert logits.dtype == torch.float32
    with pytest.raises(ValueError, match="keep"):
        rows.extend([0], [[1, 2]], [3])


def test_passes_hold_little_padding():
    assert plan_passes([1, 1, 1], 24, 256) == [[0, 1, 2]]
    assert plan_passes([1, 16, 1], 24, 256) == [[1, 0], [2]]
    assert plan_passes([300, 290, 10, 1], 8, 256) == [[0, 1], [2], [3]]
    assert plan_passes([5, 5, 2], 0, 8) == [[0, 1], [2]]
    assert plan_passes([], 0, 0) == []
