"""Activations that the backward pass makes again instead of keeping them.

Much of what autograd keeps of a layer follows from something else that it keeps: the output of a norm from its input, an
activated gate and its product from gate and up projection, repeated heads from the heads. Inside of
`recomputed_activations` these are made again when they are asked for, by the operations that made them. The forward pass is
untouched, and gradients are the same to the last bit. What is made again costs a pass over memory, no matrix product.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from coalign.models.modules import unwrap
from coalign.models.scoring.token_head import autocast_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""What modules whose product is down(act(gate) * up) call their parts, in Transformers' models built like Llama."""
_current = threading.local()


class Recipe:
    """How a tensor is made again.

    Args:
        make: the operations that made it, from the sources; no gradient is taken.
        sources: are kept, and must not be written to before the backward pass.
    """

    def __init__(self, make: Callable[..., Tensor], sources: Sequence[Tensor]) -> None:
        self._make = make
        self._sources = [one.detach() for one in sources]
        self._versions = [one._version for one in sources]  # pyright: ignore[reportPrivateUsage]
        self._autocast = autocast_of(sources[0])

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Raises:
        RuntimeError: a source was written to since.
        """
        if [one._version for one in self._sources] != self._versions:  # pyright: ignore[reportPrivateUsage]
            raise RuntimeError("an activation that the backward pass needs was changed in place")
        with self._autocast:
            return self._make(*self._sources).contiguous()


class _Offer(NamedTuple):
    tensor: Tensor
    version: int
    recipe: Recipe


class _Kept(NamedTuple):
    """In the place of a tensor: a view of what the recipe makes."""

    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Recomputed:
    """What autograd keeps during forward passes of one model."""

    def __init__(self) -> None:
        self._offers: dict[str, _Offer] = {}
        self._last: tuple[Recipe, Tensor] | None = None

    def offer(self, kind: str, tensor: Tensor, make: Callable[..., Tensor], *sources: Tensor) -> None:
        """Say how a whole tensor can be made again, should autograd keep it or a view of it.

        Args:
            kind: an offer stands until the next of its kind, so that few tensors live longer by it.
        """
        if not tensor.requires_grad or not tensor.is_contiguous():
            return
        if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize:
            version = tensor._version  # pyright: ignore[reportPrivateUsage]
            self._offers[kind] = _Offer(tensor.detach(), version, Recipe(make, sources))

    def pack(self, tensor: Tensor) -> Any:
        """For `torch.autograd.graph.saved_tensors_hooks`."""
        if type(tensor) is torch.Tensor and tensor.numel():
            place = tensor.untyped_storage().data_ptr()
            for offer in self._offers.values():
                if (
                    offer.tensor.untyped_storage().data_ptr() == place
                    and offer.tensor.dtype == tensor.dtype
                    and offer.tensor._version == offer.version  # pyright: ignore[reportPrivateUsage]
                ):
                    return _Kept(offer.recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))
        kept = tensor.detach()  # an output that kept itself would never be freed
        return kept, None if tensor.is_leaf else kept._version  # pyright: ignore[reportPrivateUsage]

    def unpack(self, kept: Any) -> Tensor:
        """The tensor again. Neighbours ask for the same: what was made last is held until another is asked for.

        Raises:
            RuntimeError: it was changed in place, which autograd itself does not see under such hooks.
        """
        if not isinstance(kept, _Kept):
            tensor, version = kept
            if version is not None and tensor._version != version:
                raise RuntimeError("an activation that the backward pass needs was changed in place")
            return tensor
        if self._last is None or self._last[0] is not kept.recipe:
            self._last = None
            self._last = kept.recipe, kept.recipe()
        return self._last[1].as_strided(kept.size, kept.stride, kept.offset)

    def clear(self) -> None:
        """No tensor is held any more: offers hold theirs, for places in memory tell them apart."""
        self._offers.clear()
        self._last = None


def current() -> Recomputed | None:
    """Of the forward pass that the calling thread is in, where gradients are taken."""
    return getattr(_current, "kept", None) if torch.is_grad_enabled() else None


@contextlib.contextmanager
def recomputed_activations(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside the block forward passes of a model keep less for the backward pass.

    What can be made again is looked for by the structure of modules: norms as wide as the hidden states, and modules with
    `gate_proj`, `up_proj`, `down_proj` and `act_fn`. Each is tried at its first call, and left alone where what is made again
    is not the same to the last bit. Other modules are as they were. Under gradient checkpointing, which has hooks of its own,
    nothing changes.

    Args:
        model: bare or wrapped; a module that is no model of Transformers stays as it is.
        wanted: whether to do it at all.
    """
    bare = unwrap(model)
    decoder: Any = getattr(bare, "base_model", None)
    if not wanted or not isinstance(decoder, torch.nn.Module):
        yield
        return
    kept = Recomputed()
    entered: list[contextlib.ExitStack] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack))
        stack.callback(setattr, _current, "kept", getattr(_current, "kept", None))
        stack.callback(kept.clear)
        _current.kept = kept
        entered.append(stack)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if entered:
            entered.pop().close()

    with contextlib.ExitStack() as hooks:
        hooks.callback(kept.clear)
        hooks.callback(decoder.register_forward_pre_hook(enter).remove)
        hooks.callback(decoder.register_forward_hook(leave, always_call=True).remove)
        for module in decoder.modules():
            for handle in (*_watch_norm(module, decoder), *_watch_gated(module)):
                hooks.callback(handle.remove)
        yield


def is_gated(model: nn.Module) -> bool:
    """Whether a model has gated layers of the structure that `recomputed_activations` looks for, where it spares most."""
    decoder: Any = getattr(unwrap(model), "base_model", None)
    return isinstance(decoder, torch.nn.Module) and any(map(_is_gated, decoder.modules()))


def _is_gated(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), torch.nn.Module) for name in _GATED)


class _Trial:
    """Whether something is made again to the last bit, tried once."""

    def __init__(self) -> None:
        self._good: bool | None = None

    def __call__(self, tensor: Tensor, make: Callable[..., Tensor], *sources: Tensor) -> bool:
        if self._good is None:
            again = Recipe(make, sources)()
            self._good = again.dtype == tensor.dtype and torch.equal(again, tensor.detach())
        return self._good


def _watch_norm(module: nn.Module, decoder: Any) -> list[Any]:
    width = getattr(getattr(decoder, "config", None), "hidden_size", None)
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith(("RMSNorm", "LayerNorm")) or weight is None:
        return []
    if tuple(weight.shape) != (width,):
        return []
    good = _Trial()

    def seen(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept = current()
        if kept and len(inputs) == 1 and good(output, module.forward, *inputs):
            kept.offer("norm", output, module.forward, *inputs)

    return [module.register_forward_hook(seen)]


def _watch_gated(module: nn.Module) -> list[Any]:
    if not _is_gated(module):
        return []
    parts: dict[str, Tensor] = {}
    gate, up, down, act = (getattr(module, name) for name in _GATED)
    activate, good, good_product = act.forward, _Trial(), _Trial()

    def product(gate: Tensor, up: Tensor) -> Tensor:
        return activate(gate) * up

    def note(name: str) -> Callable[..., None]:
        def noted(_: nn.Module, inputs: Any, output: Any) -> None:
            if current():
                parts[name] = output

        return noted

    def activated(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept = current()
        if kept and good(output, activate, *inputs):
            kept.offer("activated", output, activate, *inputs)

    def multiplied(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept, gated, raised = current(), parts.pop("gate", None), parts.pop("up", None)
        if (
            kept
            and gated is not None
            and raised is not None
            and good_product(inputs[0], product, gated, raised)
        ):
            kept.offer("product", inputs[0], product, gated, raised)

    return [
        gate.register_forward_hook(note("gate")),
        up.register_forward_hook(note("up")),
        act.register_forward_hook(activated),
        down.register_forward_pre_hook(multiplied),
    ]
