"""What an objective is: a pure function on log-probabilities and a small declaration of what it needs.

The trainer reads the declaration, collates what is needed, scores it once with the scoring engine, calls the
function, and does reduction, accumulation and logging for every objective alike. A new objective is one file::

    @dataclass(kw_only=True)
    class Constants:
        beta: Positive = option(0.1, "inverse temperature of the implicit reward", source="DPO paper, section 6")

    @objective("dpo", data="preference", reference=True, constants=Constants)
    def dpo(batch: ScoredBatch, constants: Constants) -> Losses:
        '''DPO, equation 7.'''
        chosen, rejected = batch.pairs()
        ...
        return Losses(losses, {"reward_margin": margin})
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from coalign.core.errors import ConfigError
from coalign.data.encoding import EncodedRecord
from coalign.data.records import Kind, Record
from coalign.models.types import ResponseLogps

if TYPE_CHECKING:
    from torch import Tensor

Normalisation = Literal["records", "tokens", "sequences"]
Prepare = Callable[[Sequence[EncodedRecord], int | None], list[EncodedRecord]]
Contexts = Callable[[Any], Sequence[Record]]


@dataclass(frozen=True)
class ScoredBatch:
    """A batch of R records with B responses in all, scored. Built by the trainer, read by objectives.

    Attributes:
        policy: log-probabilities under the model in training, with gradient.
        reference: the same under the frozen reference, without gradient; None unless the objective declares it.
        record_index: [B] the record of each response, non-decreasing, 0..R-1.
        values: [B] what the record says of the response: a ranking's score, a preference's 1 (chosen) and 0
            (rejected) or its scores where it has them, feedback's 1 and 0; NaN where nothing is said.
        extras: further tensors that an objective asked for by `columns`: name to [R] or [B].
        state: what the objective keeps from step to step; None unless it declares a `state`.
        extrapolated: the same as `policy` under logits that go on from the reference past the policy, without gradient;
            None unless the objective declares an `extrapolation` above 0.
        progress: share of the training's optimizer steps that are done, in [0, 1); 1 outside training.
    """

    policy: ResponseLogps
    reference: ResponseLogps | None
    record_index: Tensor
    values: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    state: ObjectiveState | None = None
    extrapolated: ResponseLogps | None = None
    progress: float = 1.0

    @property
    def n_records(self) -> int:
        return int(self.record_index[-1]) + 1 if len(self.record_index) else 0

    def empty(self) -> ScoredBatch:
        """The same without a record."""

        def none(scored: ResponseLogps | None) -> Any:
            return scored and ResponseLogps(
                scored.token_logps[:0], scored.lengths[:0], scored.prompt_index[:0]
            )

        return replace(
            self,
            policy=none(self.policy),
            reference=none(self.reference),
            extrapolated=none(self.extrapolated),
            record_index=self.record_index[:0],
            values=self.values[:0],
            extras={name: value[:0] for name, value in self.extras.items()},
        )

    def pairs(self) -> tuple[Tensor, Tensor]:
        """([R], [R]) rows of the chosen and of the rejected response of each record, to index [B] tensors with.

        Raises:
            ValueError: a record does not have exactly two responses.
        """
        if len(self.record_index) != 2 * self.n_records:
            raise ValueError(
                f"{len(self.record_index)} responses for {self.n_records} records, expected pairs"
            )
        rows = torch.arange(self.n_records, device=self.record_index.device) * 2
        return rows, rows + 1

    def reference_sums(self) -> Tensor:
        """[B] log-probabilities under the reference, summed over response tokens, without gradient.

        Raises:
            ValueError: the batch was scored without a reference.
        """
        if self.reference is None:
            raise ValueError(
                "the batch has no reference log-probabilities: declare the objective with reference=True"
            )
        return self.reference.sums().detach()

    def groups(self) -> list[Tensor]:
        """R index tensors: the rows of each record's responses."""
        counts = torch.bincount(self.record_index, minlength=self.n_records).tolist()
        rows = torch.arange(len(self.record_index), device=self.record_index.device)
        return list(torch.split(rows, counts))


@dataclass(frozen=True)
class Losses:
    """What an objective returns.

    Attributes:
        losses: [R] one loss a record, not reduced. Under `normalise="records"` the step's loss is their mean over
            all records of the optimizer step (all micro-batches, all processes); under `"tokens"` it is their sum
            divided by the counted response tokens of the step; under `"sequences"` by its records that have counted
            tokens at all.
        metrics: name to [R] or [B] values without gradient, averaged over the logging interval. Common names:
            `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies`.
    """

    losses: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class ObjectiveState(Protocol):
    """What an objective keeps from step to step, a running statistic for instance.

    The trainer makes one for each training, passes it in `ScoredBatch.state`, and saves and restores it with every
    checkpoint. The loss reads it and never changes it.
    """

    def update(self, batch: ScoredBatch, constants: Any) -> None:
        """Take in a training batch. Called before the loss of every forward pass in training, without gradient and by
        all processes together, also by one that has no record left (`ScoredBatch.empty`); never in evaluation.
        """
        ...

    def state_dict(self) -> dict[str, float]:
        """Everything that a resumed run needs, ready for JSON."""
        ...

    def load_state_dict(self, values: Mapping[str, float]) -> None:
        """Take over what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class Column:
    """A column of numbers that an objective reads.

    Attributes:
        low, high: least and greatest value.
        default: of records without it; None: every record needs it.
    """

    name: str
    _: KW_ONLY
    low: float = -math.inf
    high: float = math.inf
    default: float | None = None


@dataclass(kw_only=True)
class NoConstants:
    """For objectives without constants."""


Loss = Callable[[ScoredBatch, Any], Losses]


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What an objective needs, as a decorator: it registers the function below it as the objective `name`.

    Attributes:
        name: the field's name in lower case with underscores (`dpo`, `ln_dpo`, `simpo`).
        data: the kind of record it learns from.
        reference: it compares with a frozen reference model.
        normalise: see `Losses.losses`; or a function of the constants that says it.
        constants: dataclass of its constants (options with sources); an instance is passed to the function.
        columns: what it needs of `Record.extra` as tensors in `ScoredBatch.extras`: names of columns that every record
            has, or a `Column` with limits or a default.
        equation: the loss in LaTeX, for the docs and `--objective-help`.
        title: the name as people write it; by default `name` in capitals.
        when: one line: when to choose it.
        prepare: applied once to all encoded records, with the length limit of prompt and response together; may add
            responses that the objective needs scored.
        state: makes its `ObjectiveState`, for objectives that keep something from step to step.
        contexts: the records under which a record is scored, for objectives that compare one response under several
            prompts: their responses, in order, are the record's rows of a batch. By default the record itself.
        extrapolation: of its constants, the strength with which `ScoredBatch.extrapolated` leads from the reference
            past the policy (`coalign.models.scoring.extrapolation`). Above 0 the reference is computed in every step.
    """

    name: str = field(kw_only=False)
    data: Kind
    reference: bool
    normalise: Normalisation | Callable[[Any], Normalisation] = "records"
    constants: type = NoConstants
    columns: tuple[str | Column, ...] = ()
    equation: str = ""
    title: str = ""
    when: str = ""
    prepare: Prepare | None = None
    state: Callable[[], ObjectiveState] | None = None
    contexts: Contexts | None = None
    extrapolation: Callable[[Any], float] | None = None

    def __call__(self, loss: Loss) -> Loss:
        _OBJECTIVES[self.name] = Objective(**vars(self), loss=loss)
        return loss


@dataclass(frozen=True, kw_only=True)
class Objective(Declaration):
    """An objective: what it needs, and the function."""

    loss: Loss

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: one of the library by its name and by what was replaced of it."""
        known = _OBJECTIVES.get(self.name)
        if known is None:
            return functools.partial(Objective, **vars(self)), ()
        own = {key: value for key, value in vars(self).items() if value is not getattr(known, key)}
        return _rebuilt, (self.name, own)

    @property
    def shown(self) -> str:
        """The name as people write it."""
        return self.title or self.name.replace("_", "-").upper()

    def unit(self, constants: Any) -> Normalisation:
        """What the summed losses of a step are divided by under these constants."""
        return self.normalise(constants) if callable(self.normalise) else self.normalise

    def strength(self, constants: Any) -> float:
        """Of the extrapolation under these constants; 0 without one."""
        return self.extrapolation(constants) if self.extrapolation else 0.0

    def compares_live(self, options: Any, constants: Any) -> bool:
        """Whether the reference model is needed in every step: by `reference_logps`, or for an extrapolation."""
        return self.reference and (options.reference_logps == "live" or self.strength(constants) > 0)


def _rebuilt(name: str, own: dict[str, Any]) -> Objective:
    return replace(get_objective(name), **own)


objective = Declaration
_OBJECTIVES: dict[str, Objective] = {}
_PACKAGES = ("coalign.training.losses", "coalign.preference", "coalign.selfalign")
"""Where objectives stand, the shared ones first; their modules register them when they are imported."""


def get_objective(name: str) -> Objective:
    """The objective `name`.

    Raises:
        ConfigError: there is none; the known ones are listed.
    """
    for package in _PACKAGES:
        if name not in _OBJECTIVES:
            _import_modules(package)
    if name not in _OBJECTIVES:
        raise ConfigError(f"objective: {name!r} is unknown, expected one of: {', '.join(all_objectives())}")
    return _OBJECTIVES[name]


def own_objective(code: str) -> Objective:
    """The objective that `file.py:function` declares with `@objective`.

    Raises:
        ConfigError: it cannot be imported, or is no objective.
    """
    from coalign.core.own_code import load_code

    function = load_code(code, "objective")
    found = [one for one in _OBJECTIVES.values() if one.loss is function]
    if not found:
        raise ConfigError(
            f"objective: {code} is not an objective.",
            hint="Declare it with @objective(NAME, data=..., reference=...) of coalign.training.objective.",
        )
    return found[0]


@functools.cache
def _import_modules(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, prefix=f"{package}."):
        if not module.ispkg:
            importlib.import_module(module.name)


def all_objectives() -> dict[str, Objective]:
    """Every objective of the library, and those that other modules have registered, by name."""
    for package in _PACKAGES:
        _import_modules(package)
    return dict(sorted(_OBJECTIVES.items()))
