"""Activations that are made again: gradients to the last bit, what is no longer kept, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from coalign.models.scoring import recomputed
from coalign.models.scoring.engine import Path as Way
from coalign.models.scoring.engine import score_responses
from coalign.models.scoring.recomputed import recomputed_activations
from coalign.models.types import Responses
from coalign.training.objective import NoConstants
from coalign.training.trainer import AlignmentTrainer
from coalign.training.watch.plan import module_plan
from tests.models.tiny import ARCHITECTURES, make_model
from tests.training.helpers import PAIRS, arguments, make_examples

GATED = tuple(one for one in ARCHITECTURES if one != "gpt2")
TEXTS = Responses([[5, 6, 7, 8], [9, 8, 7]], [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]], [0, 0, 1, 1])


def adapted(architecture: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(make_model(architecture, scale=1.0, **changes), config)


def gradients(model: nn.Module, path: Way = "packed", **how: Any) -> list[torch.Tensor]:
    trained = [one for one in model.parameters() if one.requires_grad]
    logps = score_responses(model, TEXTS, path=path).token_logps
    return [logps.detach(), *torch.autograd.grad(logps.square().sum(), trained, **how)]


def kept_numbers(model: nn.Module) -> int:
    """How many numbers a forward pass holds for the backward pass, apart from weights."""
    held: dict[int, int] = {}
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def note(tensor: Any) -> None:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor.numel()

    with pytest.MonkeyPatch.context() as patch:
        plain = recomputed.Recomputed.pack

        def pack(self: recomputed.Recomputed, tensor: torch.Tensor) -> Any:
            kept = plain(self, tensor)
            for one in kept.recipe._sources if isinstance(kept, recomputed._Kept) else [tensor]:
                note(one)
            return kept

        patch.setattr(recomputed.Recomputed, "pack", pack)

        def saved(tensor: torch.Tensor) -> torch.Tensor:
            note(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(saved, lambda one: one):
            logps = score_responses(model, TEXTS, path="packed").token_logps
    assert logps.requires_grad
    return sum(held.values())


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_kept_activations(architecture: str, adapter: bool, path: Way) -> None:
    for dtype in (torch.float32, torch.float64):
        make = adapted if adapter else make_model
        model = make(architecture, dtype=dtype).train()
        expected = gradients(model, path)
        with recomputed_activations(model):
            actual, again = gradients(model, path), gradients(model, path)
        for one, other, third in zip(expected, actual, again, strict=True):
            assert torch.equal(one, other)
            assert torch.equal(one, third)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


@pytest.mark.parametrize("architecture", GATED)
def test_fewer_activations_are_kept(architecture: str) -> None:
    model = adapted(architecture).train()
    score_responses(model, TEXTS, path="packed")
    plain = kept_numbers(model)
    with recomputed_activations(model):
        assert kept_numbers(model) < 0.75 * plain


def test_gradients_of_gradients_are_right() -> None:
    model = adapted("llama", dtype=torch.float64, attn_implementation="eager").train()

    def second() -> list[torch.Tensor]:
        trained = [one for one in model.parameters() if one.requires_grad]
        first = gradients(model, "padded", create_graph=True)[1:]
        return list(torch.autograd.grad(sum(one.square().sum() for one in first), trained))  # type: ignore[arg-type]

    expected = second()
    with recomputed_activations(model):
        actual = second()
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_what_is_not_made_again_to_the_last_bit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the same parts that computes otherwise."""
    model: Any = adapted("llama").train()
    layer = model.get_base_model().model.layers[0].mlp
    layer.forward = lambda x: layer.down_proj(layer.act_fn(layer.gate_proj(x)) * layer.up_proj(x) * 1.5)
    expected = gradients(model)
    with recomputed_activations(model):
        actual = gradients(model)
    assert all(map(torch.equal, actual, expected))


def test_what_is_changed_in_place_is_an_error() -> None:
    model: Any = adapted("llama").train()
    states: list[torch.Tensor] = []
    with recomputed_activations(model):
        model.get_base_model().model.layers[0].mlp.up_proj.register_forward_hook(
            lambda module, inputs, output: states.append(output)
        )
        logps = score_responses(model, TEXTS, path="packed").token_logps
        states[0].detach().add_(1)
        with pytest.raises(RuntimeError, match="changed in place"):
            logps.sum().backward()


def test_memory_used_again_is_not_taken_for_what_lay_there() -> None:
    """A tensor at the place of one that was offered, and freed."""
    kept = recomputed.Recomputed()
    source = torch.arange(4.0, requires_grad=True)
    offered = source * 2
    kept.offer("product", offered, lambda one: one * 2, source)
    place = offered.data_ptr()
    del offered
    others = [torch.ones(4) for _ in range(50)]
    assert all(one.data_ptr() != place for one in others)
    offered = source * 3
    kept.offer("product", offered, lambda one: one * 3, source)
    with torch.no_grad():
        offered.detach().fill_(5.0)
    assert torch.equal(kept.unpack(kept.pack(offered)), torch.full((4,), 5.0))
    kept.clear()
    assert not isinstance(kept.pack(source * 2), recomputed._Kept)


def test_nothing_is_done_where_it_is_not_wanted_or_nothing_is_known() -> None:
    model = adapted("llama").train()
    score_responses(model, TEXTS, path="packed")
    with recomputed_activations(model, False):
        score_responses(model, TEXTS, path="packed")
        assert recomputed.current() is None
    with recomputed_activations(nn.Linear(2, 2)):
        nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()
    assert not recomputed.is_gated(nn.Linear(2, 2))


def test_a_training_learns_the_same_to_the_last_bit_and_its_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    plain = recomputed.Recomputed.offer

    def offer(self: recomputed.Recomputed, kind: str, *rest: Any) -> None:
        used.append(kind)
        plain(self, kind, *rest)

    monkeypatch.setattr(recomputed.Recomputed, "offer", offer)

    def trained(name: str, **changes: Any) -> tuple[list[float], dict[str, torch.Tensor], str]:
        model = adapted("llama")
        model.enable_input_require_grads()
        chosen = arguments(tmp_path / name, max_steps=2, **changes)
        trainer = AlignmentTrainer(model, PAIRS, NoConstants(), make_examples(4), chosen)
        rows = trainer.complete(None)
        plan = module_plan("pairs", 4, 0, chosen, model)
        return [row["loss"] for row in rows if "loss" in row], model.state_dict(), plan.device

    losses, weights, said = trained("again")
    assert set(used) == {"norm", "activated", "product", "key", "value", "attended"}
    assert said.endswith(", cheap activations made again")
    used.clear()
    whole = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    expected_losses, expected, said = trained("layers", **whole)
    assert not used
    assert "made again" not in said
    assert losses == expected_losses
    assert all(torch.equal(one, expected[name]) for name, one in weights.items())
