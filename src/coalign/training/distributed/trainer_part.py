"""What a trainer does otherwise beyond one process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer import SCHEDULER_NAME

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.runs import is_main_process
from coalign.models.modules import evaluation
from coalign.training.checkpoints import COMPLETE
from coalign.training.distributed.group_watch import GroupError, GroupWatch, watch_group
from coalign.training.distributed.sharding import (
    assert_readable,
    fit_plugin,
    in_parts,
    load_optimizer,
    load_weights,
    shard_on_cpu,
    whole_again,
)
from coalign.training.distributed.universal import complete, convert, loads_universal, parts_of
from coalign.training.processes import gathered, over_processes, told
from coalign.training.task import DivergedError, Task


class OverProcesses:
    """Part of a `transformers.Trainer`, before it in the bases: models in parts, and what all processes must agree about."""

    args: Any
    state: Any
    model: Any
    model_wrapped: Any
    accelerator: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    group: GroupWatch | None = None
    step_ids: list[str]
    """Of the examples of the optimizer step at hand, in this process."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        shard_on_cpu(self)

    def watch_group(self, name: str) -> None:
        """Watch over the other processes while this one trains; see `coalign.training.distributed.group_watch`."""
        self.group = watch_group(self.args, name)
        if self.group:
            cast(Any, self).add_callback(self.group)

    def doing(self, what: str) -> contextlib.AbstractContextManager[None]:
        """The block does what the other processes may have to wait for."""
        return self.group.doing(what) if self.group else contextlib.nullcontext()

    @contextlib.contextmanager
    def in_parts(self) -> Iterator[None]:
        """The block trains, with a model that may be cut into parts; after it the model is whole, on each process.

        Raises:
            ConfigError: the task changes weights between steps, and they are in parts.
            GroupError: another process left its loop early, and an operation of all of them failed.
        """
        cut = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if cut:
            self._assert_can_cut()
            self._rehearse()
        try:
            with whole_again(cast(nn.Module, self.model), sharded=cut):
                yield
                if self.is_deepspeed_enabled:
                    self.model_wrapped.empty_partition_cache()  # ends what it began to fetch for a next batch
        except RuntimeError as error:
            reason = self.group.gone() if self.group else None
            if reason:
                raise GroupError(reason) from error
            raise
        finally:
            if self.is_deepspeed_enabled:
                unset_hf_deepspeed_config()  # else Transformers cuts every model that is loaded later
            if self.group:
                self.group.leave()

    def _assert_can_cut(self) -> None:
        task: Any = cast(Any, self).task
        if type(task).after_step is not Task.after_step:
            raise ConfigError(
                f"{task.name} works on the weights between two steps, which needs them whole in each process.",
                hint="Start it with --recipe ddp.",
            )

    def _rehearse(self) -> None:
        """A first batch through the whole model. Engines try out once what a model can do, and can do that only with a whole
        one. Nothing random is used up.
        """
        task: Any = cast(Any, self).task
        batch = cast(Any, self)._prepare_inputs(task.collate([self.train_dataset[0]]))
        with torch.random.fork_rng(), torch.no_grad(), evaluation(self.model):
            task.loss(self.model, batch, self.state)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        if self.is_fsdp_enabled:
            fit_plugin(self.accelerator, self.model)
        resumed = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if not self.is_deepspeed_enabled or not resumed:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)  # type: ignore[misc]
        self._assert_readable(resumed)
        anew = len(parts_of(resumed)) != self.accelerator.num_processes
        if anew:
            self._convert(resumed)
        configuration = self.accelerator.state.deepspeed_plugin.deepspeed_config
        with loads_universal(configuration) if anew else contextlib.nullcontext():
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)  # type: ignore[misc]
        if anew:
            complete(self.model_wrapped, resumed)
        self.take_up(resumed)  # DeepSpeed loads weights by itself
        return prepared

    def _convert(self, checkpoint: Path) -> None:
        """The first process makes the universal form of a checkpoint of DeepSpeed, and the others wait for it.

        Raises:
            ConfigError: in every process, where it could not.
        """
        problem: tuple[str, str | None] | None = None
        if is_main_process():
            try:
                convert(checkpoint)
            except CoalignError as error:
                problem = error.message, error.hint
        problem = told(problem)
        if problem:
            raise ConfigError(*problem)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self._assert_readable(folder)
        if in_parts(folder) and not self.is_fsdp_enabled:
            load_weights(self.model if model is None else model, folder)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        self.take_up(folder)

    def take_up(self, folder: Path) -> None:
        """Called once the weights of a checkpoint are loaded."""
        raise NotImplementedError

    def _assert_readable(self, folder: Path) -> None:
        assert_readable(
            folder,
            fsdp=self.is_fsdp_enabled,
            stage=self.accelerator.state.deepspeed_plugin.zero_stage if self.is_deepspeed_enabled else 0,
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and in_parts(Path(checkpoint)) and not self.is_fsdp_enabled:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
            load_optimizer(self.model, optimizer, Path(checkpoint))
            self.lr_scheduler.load_state_dict(
                torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
            )
        else:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def anywhere(self, found: bool) -> bool:
        """Whether any process found something; to be called by each of them."""
        return over_processes(int(found)) > 0

    def together(self, ids: Sequence[str]) -> list[str]:
        """The names of all processes, each once; to be called by each of them."""
        return list(dict.fromkeys(gathered(ids)))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm of a step, before the optimizer moves a weight: one that is not finite would spoil all of
        them, also where the loss still is a number.
        """
        norm: Any = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if hasattr(norm, "full_tensor"):  # of parts: a number on each process until they are added up
            norm = norm.full_tensor()
        if norm is not None and not math.isfinite(float(norm)):
            self.stop_diverged("A gradient", self.together(self.step_ids))
        self.step_ids = []
        return norm

    def stop_diverged(self, what: str, ids: Sequence[str]) -> None:
        """Save the weights as the last step left them, and stop.

        Raises:
            DivergedError: always.
        """
        spoilt = (
            self.is_deepspeed_enabled and what == "A gradient"
        )  # DeepSpeed's backward pass moves the weights
        folder = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"
        if not spoilt and not (folder / COMPLETE).exists():
            cast(Any, self)._save_checkpoint(self.model, None)
        task: Any = cast(Any, self).task
        named = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
        raise DivergedError(
            f"{what} is NaN or infinite after step {self.state.global_step}"
            + (f", in the batch of {task.examples} {named}." if ids else "."),
            hint=("" if spoilt else f"The last good step is saved in {folder}. ")
            + f"Lower the learning rate, or {task.advice}.",
        )
