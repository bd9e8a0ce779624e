"""What a module learns: how examples become a batch, and a batch becomes losses. `coalign.training.modules` trains it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError
from coalign.training.objective import Losses

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.data import Sampler
    from transformers import TrainerState, TrainingArguments

    from coalign.training.watch.plan import Plan

Batch = dict[str, Any]


class DivergedError(CoalignError):
    """The loss or a gradient became NaN or infinite."""


class Task:
    """What a module learns. A subclass gives `collate` and `loss`, and the others where they differ.

    Attributes:
        name: what the plan calls the objective.
        examples: what a message calls the examples of a batch ("the clips").
        advice: what to do with them where the loss is not finite.
        leaves_unused: a step may leave weights without a gradient that a language model's step would not leave
            (`coalign.training.processes.may_leave_unused`).
    """

    name: str = "loss"
    examples: str = "records"
    advice: str = "look at these records with `coalign data check`"
    leaves_unused: bool = False

    def collate(self, examples: Sequence[Any]) -> Batch:
        """A batch: its tensors (also inside lists and dictionaries) are moved to the model's device, the rest stays.

        `ids`, a list, names the examples for messages and is what `count` counts.
        """
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        """The losses of a batch, and metrics to log.

        Args:
            model: the module, as it is wrapped for several processes: gradients are shared only of what its `forward`
                computes. `model.training` tells training from evaluation, where there is no gradient.
            state: `global_step` and `max_steps` for what changes in the course of the training.

        Returns:
            Losses whose sum over the optimizer step is divided by the step's `count`; one sum a term, [K], where
            `count` gives one number a term. Metrics have the same names in every batch, values or not.
        """
        raise NotImplementedError

    def count(self, batch: Batch) -> int | Tensor:
        """What a step's summed losses are divided by: the examples, or something else that is counted; [K] for losses of
        K terms that each are a mean over their own rows (a term without rows adds nothing).
        """
        return len(batch["ids"])

    def by_record(self, batch: Batch, losses: Tensor) -> Tensor | None:
        """[N, 2] summed loss and count of each example of a batch, on the CPU; None where an example has no loss of its own."""
        return None

    def sampler(self, size: int, seed: int) -> Sampler[int]:
        """The order of the examples; by default an `EpochShuffle`, which depends on seed and epoch alone."""
        from coalign.training.checkpoints import EpochShuffle

        return EpochShuffle(size, seed)

    def optimizer(self, model: nn.Module, args: TrainingArguments) -> Optimizer | None:
        """The optimizer, where the method asks for another than the options name, or for rates of its own for parts of the
        model; None otherwise.
        """
        return None

    def planned(self, plan: Plan) -> Plan:
        """The plan of the training as it is shown, where the task knows it better."""
        return plan

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        """What is done between an optimizer step and the evaluation, the checkpoint and the next step after it.

        Args:
            model: the module without the wrappers of several processes, in training mode.
            state: `global_step` counts the step that is done.
        """

    def save(self, folder: Path) -> None:
        """Write what the task keeps from step to step (a running statistic, averaged weights) into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote, for a training that is continued."""
