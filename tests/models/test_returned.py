"""Freed memory is returned in forward passes that are large enough, and changes no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coalign.models.scoring import returned
from coalign.models.scoring.returned import returned_memory
from tests.models.tiny import ARCHITECTURES, make_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_memory_is_returned_after_layers_of_large_inputs_alone(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(returned, "return_freed_memory", lambda: calls.append(None))
    monkeypatch.setattr(returned, "LAYERS", 1)
    model: Any = make_model(architecture)
    ids = torch.arange(12)[None] + 3

    def gradients() -> list[torch.Tensor]:
        logits = model(input_ids=ids).logits
        return [logits.detach(), *torch.autograd.grad(logits.square().sum(), [*model.parameters()])]

    plain = gradients()
    for least, wanted, expected in (
        (2**20, True, 0),
        (1, True, model.config.num_hidden_layers),
        (1, False, 0),
    ):
        monkeypatch.setattr(returned, "_LEAST", least)
        with returned_memory(model, wanted):
            found = gradients()
        assert len(calls) == expected
        assert all(map(torch.equal, found, plain))
        calls.clear()
    gradients()
    assert not calls
