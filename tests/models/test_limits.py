"""Token ids and lengths that a model has no embedding for are refused before anything is computed."""

from __future__ import annotations

import pytest

from coalign.core.errors import ModelError
from coalign.models.limits import assert_fits, learned_positions
from tests.models.tiny import VOCABULARY, make_model


@pytest.mark.parametrize(("architecture", "positions"), [("llama", None), ("qwen3", None), ("gpt2", 256)])
def test_positions(architecture: str, positions: int | None) -> None:
    assert learned_positions(make_model(architecture)) == positions


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, VOCABULARY], f"token id {VOCABULARY}, and the model embeds {VOCABULARY} tokens"),
        ([1] * 257, "A text has 257 tokens, and the model has 256 positions"),
    ],
)
def test_what_does_not_fit(ids: list[int], message: str) -> None:
    model = make_model("gpt2")
    assert_fits(model, [[1] * 256, []])
    with pytest.raises(ModelError, match=message):
        assert_fits(model, [[1], ids])
