"""Whether a fast way of computing gives what the plain one gives: tried out once on every model."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from coalign.models.modules import evaluation, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

_FAILURES = (
    NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError,
)  # fmt: skip


class OnceAModel:
    """A question about models, asked once of each whatever wraps it; the answer is kept as long as the model lives."""

    def __init__(self, probe: Callable[[nn.Module], bool]) -> None:
        self.probe = probe
        self.known: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def __call__(self, model: nn.Module) -> bool:
        bare = unwrap(model)
        if bare not in self.known:
            self.known[bare] = self.probe(model)
        return self.known[bare]


def similar_logits(actual: Tensor, expected: Tensor, half: bool) -> bool:
    """Whether logits [..., V] differ by rounding alone, measured by their spread; `half`: of a half-precision model."""
    scale = (expected - expected.mean(-1, keepdim=True)).norm()
    return bool((actual - expected).norm() <= scale * (0.1 if half else 1e-3))


def agree(
    model: nn.Module,
    plain: Callable[[], Tensor],
    fast: Callable[[], Tensor],
    *,
    lacks: str,
    differs: str,
    instead: str,
    similar: Callable[[Tensor, Tensor, bool], bool] = similar_logits,
) -> bool:
    """Whether both ways give the same numbers on a probe, computed in evaluation mode. Where not, a warning says why.

    Args:
        plain, fast: compute the probe's numbers.
        lacks: what the model cannot do then: `X cannot <lacks>`.
        differs: the reason where both can be computed.
        instead: what is done then.
        similar: the rule, from actual and expected numbers and whether the model is of half precision.

    Raises:
        OutOfMemoryError: the probe does not fit; it says nothing about the model.
    """
    bare: Any = unwrap(model)
    products = getattr(bare, "autocast_dtype", None) or next(bare.parameters()).dtype
    half = products in (torch.bfloat16, torch.float16)
    reason = differs
    try:
        with evaluation(model), torch.no_grad():
            expected, actual = plain(), fast()
        if similar(actual, expected, half):
            return True
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    logger.warning("%s cannot %s (%s): %s.", type(bare).__name__, lacks, reason, instead)
    return False


def probe_ids(model: nn.Module, *shape: int) -> Tensor:
    """Random token ids, the same every time."""
    config: Any = unwrap(model).config
    size = min(config.get_text_config(decoder=True).vocab_size, 1000)
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(0))
