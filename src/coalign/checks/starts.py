"""What the arms of a seed start from, model and panels of records, and training from there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.steps import LIKELIHOOD, reference_logps, trained
from coalign.checks.tiny_models import stream
from coalign.training.batches import Example
from coalign.training.objective import Objective, get_objective


class World(Protocol):
    """What everything is drawn from, and how good a model is in it."""

    @property
    def seed(self) -> int: ...

    def measure(self, model: nn.Module, reference: nn.Module, /) -> Measures: ...


M = TypeVar("M", bound=nn.Module)
W = TypeVar("W", bound=World)
S = TypeVar("S", bound="Start[Any]")


@dataclass(frozen=True)
class Start(Generic[W]):
    """What the arms of a seed share.

    Attributes:
        base: the starting model, which also is the reference.
        panels: name to records to train on.
        reference: panel to the log-probabilities of its records under `base`, for the panels that objectives with a
            reference learn from.
    """

    world: W
    base: nn.Module
    panels: dict[str, list[Example]]
    reference: dict[str, list[Tensor]]


def start_with(
    world: W, base: nn.Module, panels: dict[str, list[Example]], *, compared: Collection[str]
) -> Start[W]:
    """A start; `compared` are the panels that objectives with a reference learn from."""
    return Start(world, base, panels, {name: reference_logps(base, panels[name]) for name in compared})


def pretrained(
    model: M,
    examples: Sequence[Example],
    seed: int,
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    order: str = "base/order",
    on_step: Callable[[int, M], bool | None] | None = None,
) -> M:
    """A starting model: a copy of `model`, trained by cross-entropy on what a world shows; `on_step` as in `trained`."""
    return trained(
        model,
        examples,
        LIKELIHOOD,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        generator=stream(seed, order),
        on_step=on_step,
    )


def untrained_arm(material: Start[Any]) -> Measures:
    """The starting model itself."""
    return material.world.measure(material.base, material.base)


def training_arm(
    objective: Objective | str,
    constants: Any,
    panel: str,
    *,
    measure: Callable[[S, nn.Module], Measures] | None = None,
    **settings: Any,
) -> Callable[[S], Measures]:
    """Training from the starting model on the records of a panel: see `learned`.

    Args:
        measure: of the trained model; by default the world's own.
    """

    def arm(material: S) -> Measures:
        policy = learned(material, objective, constants, panel, **settings)
        return measure(material, policy) if measure else material.world.measure(policy, material.base)

    return arm


def learned(
    material: Start[Any],
    objective: Objective | str,
    constants: Any,
    panel: str,
    *,
    steps: int = 300,
    epochs: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    order: str = "pairs/order",
    on_step: Callable[[int, nn.Module], bool | None] | None = None,
) -> nn.Module:
    """A copy of the starting model, trained on the records of a panel, in the same order for every objective.

    Args:
        objective: or its name.
        constants: of the objective; its defaults when None.
        epochs: passes over the panel in whole batches, in place of `steps`.
        order: purpose of the stream that the order is drawn from.
        on_step: as in `trained`.
    """
    records = material.panels[panel]
    if isinstance(objective, str):
        objective = get_objective(objective)
    return trained(
        material.base,
        records,
        objective,
        constants,
        steps=steps if epochs is None else epochs * len(records) // batch_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        generator=stream(material.world.seed, order),
        reference=material.reference[panel] if objective.reference else None,
        on_step=on_step,
    )
