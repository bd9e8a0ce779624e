"""The trainer below every training: `transformers.Trainer` with one order, one normalisation and exact resume.

`transformers.Trainer` brings the loop, distribution, callbacks, trackers and schedule. This subclass divides the losses
by what is counted in the whole optimizer step, over all micro-batches and all processes, so that the update does not
depend on how a step is cut into micro-batches or spread over processes.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.models.adapters import has_adapter, quicken_b, save_adapter
from coalign.models.modules import unwrap
from coalign.models.quiet import no_weight_bars
from coalign.models.scoring.embedding_noise import embedding_noise
from coalign.models.scoring.products import fast_products
from coalign.models.scoring.recomputed import recomputed_activations
from coalign.models.scoring.returned import returned_memory
from coalign.training.checkpoints import WholeCheckpoints
from coalign.training.distributed.even import COUNTED, Evenly, WithFillers, without_fillers
from coalign.training.distributed.trainer_part import OverProcesses
from coalign.training.objective import Losses
from coalign.training.processes import gathered, may_leave_unused, own_batches
from coalign.training.task import Batch, Task
from coalign.training.watch.callbacks import ProgressBar, RunEvents
from coalign.training.watch.held_out import Losses as HeldOutLosses
from coalign.training.watch.held_out import RecordLosses, read_losses, write_losses
from coalign.training.watch.monitor import Monitor
from coalign.training.watch.plan import Estimate, Together, spares_activations

ADAPTER_LEARNING_RATE = 1e-4
FULL_LEARNING_RATE = 1e-6
INTERVAL = "interval.json"
"""In a checkpoint: the sums since the last log line before it."""
START_LOSSES, LOSSES = "before_losses.json", "held_out_losses.json"
"""Beside the checkpoints: losses of single held-out records, of the start model and of the last evaluation."""


@dataclass
class Arguments(TrainingArguments):
    """Transformers' arguments, and the rate of LoRA's matrices B as a multiple of `learning_rate`."""

    loraplus_lr_ratio: float | None = None


class ModuleTrainer(WholeCheckpoints, OverProcesses, Trainer):
    """Trains any module on a `Task`.

    Args:
        examples, held_out: to train and to evaluate on.
        args: Hugging Face training arguments.
        trainer_options: passed to `transformers.Trainer`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        examples: Sized,
        args: TrainingArguments,
        *,
        held_out: Sized = (),
        **trainer_options: Any,
    ) -> None:
        several = args.world_size > 1
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = task.leaves_unused or may_leave_unused(model)
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=without_fillers(task.collate) if several else task.collate,  # type: ignore[arg-type]
            train_dataset=cast(Any, WithFillers(examples) if several else examples),
            eval_dataset=cast(Any, held_out) if len(held_out) else None,
            **trainer_options,
        )
        self.neftune_noise_alpha = None  # Transformers' noise takes a packed row for one sequence
        self.task = task
        self.model_accepts_loss_kwargs = True  # `compute_loss` divides by the step's count itself
        self._sums = _no_sums()
        self.step_ids: list[str] = []
        self._interval: dict[str, Any] = {}
        self._resumed: Path | None = None
        self._bar = ProgressBar("Training")

    def watch(self, run: Run, name: str, monitor: Monitor, *, quiet: bool = False) -> None:
        """Show progress, write the log lines to the run, and watch for signs of failure."""
        for unused in (PrinterCallback, ProgressCallback):
            self.remove_callback(unused)
        shown = [] if quiet else [Estimate(run, name)]
        together = Together(run, name, quiet=quiet)
        for one in (together, self._bar, RunEvents(run, name), monitor, *shown, Hooks(self)):
            self.add_callback(one)
        self.watch_group(name)

    def before(self, path: Path) -> dict[str, float]:
        """Metrics of the start model on the held-out examples; kept in a file, because a resumed run has no start model."""
        if self.eval_dataset is None:
            return {}
        if not path.exists():
            metrics = {name.removeprefix("eval_"): value for name, value in self.evaluate().items()}
            self.state.log_history.clear()
            if self.accelerator.is_main_process:
                if (path.parent / LOSSES).exists():
                    (path.parent / LOSSES).replace(path.parent / START_LOSSES)
                write_json(path, {name: value for name, value in metrics.items() if math.isfinite(value)})
            return metrics
        return json.loads(path.read_text(encoding="utf-8"))

    def record_losses(self) -> tuple[HeldOutLosses, HeldOutLosses]:
        """Losses of single held-out records: of the start model, and after the last step; empty where there are none."""
        folder, last = Path(self.args.output_dir or "."), self.state.global_step
        return read_losses(folder / START_LOSSES, 0), read_losses(folder / LOSSES, last)

    def complete(self, checkpoint: Path | None) -> list[dict[str, float]]:
        """Train from `checkpoint` (or the beginning) to the end, and evaluate there.

        Returns:
            The history: one row per log line.
        """
        noise = embedding_noise(cast(nn.Module, self.model), self.args.neftune_noise_alpha)
        try:
            model, spared = cast(nn.Module, self.model), spares_activations(self.args)
            lean, returned = recomputed_activations(model, spared), returned_memory(model, spared)
            with self.in_parts(), noise, lean, returned, fast_products(not self.args.torch_compile):
                self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                rows, last = self.state.log_history, self.state.global_step
                if self.eval_dataset is not None and not any(
                    row.get("step") == last and "eval_loss" in row for row in rows
                ):
                    self.evaluate()
        finally:
            self._bar.close()
        return [
            {key: value for key, value in row.items() if key != "epoch"} for row in self.state.log_history
        ]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """An order that depends on the seed and the epoch alone, not on how many processes share it."""
        data: Any = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        order = self.task.sampler(len(data), seed)
        share = self.args.per_device_train_batch_size * self.args.world_size
        return Evenly(order, share) if self.args.world_size > 1 else order

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        """Not beyond the last step: resumed from the checkpoint of the last step inside of an epoch, Transformers takes one
        step more.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **named)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The task's optimizer, where it has one of its own; LoRA's B at a rate of their own where the arguments say so."""
        made, learner = self.optimizer is None, self.model if model is None else model
        if made:
            self.optimizer = self.task.optimizer(learner, self.args)  # type: ignore[assignment]
        optimizer = super().create_optimizer(model)
        if made and (ratio := getattr(self.args, "loraplus_lr_ratio", None)):
            quicken_b(optimizer, cast(nn.Module, learner), ratio)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that the arguments name; a warm-up that would be all of the run is left out, since its first step,
        and so a run of one step, has the rate 0.
        """
        if self.args.get_warmup_steps(num_training_steps) >= num_training_steps:
            self.args.warmup_steps = 0
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        """The task's count of the optimizer step over all processes."""
        count = sum(self.task.count(batch) * batch.get(COUNTED, True) for batch in batch_samples)
        counted = torch.as_tensor(count, dtype=torch.float32, device=device)
        return self.accelerator.reduce(counted, reduction="sum")  # type: ignore[return-value]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Losses]:
        """This process's share of the step's loss, times the number of processes (DDP averages gradients).

        Raises:
            DivergedError: the loss of any process is NaN or infinite (`_get_grad_norm`: or a gradient), on all of them; a
                checkpoint of the last good step is written first.
        """
        ids, counts = inputs.get("ids", []), inputs.get(COUNTED, True)
        if model.training and counts:
            self.step_ids += ids
        output = self.task.loss(model, inputs, self.state)
        if num_items_in_batch is None:
            num_items_in_batch = self.task.count(inputs)
        loss = _normalised(output.losses, num_items_in_batch)
        finite = math.isfinite(float(loss.detach()))
        if self.anywhere(not finite):
            self.stop_diverged("The loss", self.together([] if finite else ids))
        if model.training:
            # A process whose batches do not count sums up the same names, too.
            none = {name: one.new_zeros(0) for name, one in output.metrics.items()}
            _add(self._sums, output.metrics if counts else none)
        loss = loss * self.accelerator.num_processes * counts
        return (loss, output) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and metrics over the held-out examples, normalised like training."""
        data: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
        model: Any = self._wrap_model(cast(nn.Module, self.model), training=False)
        model.eval()
        sums = _no_sums()
        single = RecordLosses(self.accelerator.process_index, self.accelerator.num_processes)
        with self.doing("evaluates"), torch.no_grad():
            for inputs, counts in own_batches(
                data,
                self.args.per_device_eval_batch_size,
                self.task.collate,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            ):
                batch = cast(Batch, self._prepare_inputs(inputs))
                output = self.task.loss(model, batch, self.state)
                count = torch.as_tensor(self.task.count(batch)).cpu().double()
                losses = output.losses if count.ndim else output.losses.sum()
                both = torch.stack([losses.cpu().double(), count])
                target = sums if counts else _no_sums()
                if counts:
                    single.add(self.task.by_record(batch, output.losses))
                target["loss"] = both if "loss" not in target else target["loss"] + both
                _add(target, output.metrics)
                for name, value in target.items():
                    # A process whose batches do not count sums up the same names.
                    sums[name] = sums.get(name, torch.zeros_like(value))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._means(sums).items()}
        found = single.gathered()
        if found and self.accelerator.is_main_process:
            folder = Path(self.args.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            write_losses(folder / LOSSES, self.state.global_step, found)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics since the last log."""
        if "loss" in logs:
            logs = {**logs, **self._means(self._sums)}
            self._sums.clear()
        if "train_loss" in logs:  # Transformers' own is over the steps since the last start
            logs = {**logs, "train_loss": self._total_loss_scalar / max(self.state.global_step, 1)}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: Transformers' estimate assumes padded rows of tokens."""
        return 0

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        means = {}
        for name in _names(sums):
            total, count = self._reduced(sums[name])
            means[name] = float(_normalised(total, count))
        return means

    def _reduced(self, sums: Tensor) -> Tensor:
        """A sum and a count over all processes."""
        both = sums.to(torch.float32 if self.args.device.type == "mps" else torch.float64)
        return cast(Tensor, self.accelerator.reduce(both.to(self.args.device), reduction="sum"))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Transformers does it, without its progress bar, and of an adapter what is trained alone."""
        model: Any = self.model
        with no_weight_bars():
            if not has_adapter(model):
                super()._save(output_dir, state_dict)
                return
            if self.args.should_save:
                folder = output_dir or str(self.args.output_dir)
                save_adapter(model, Path(folder), state_dict=state_dict, checkpoint=True)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
                torch.save(self.args, Path(folder) / TRAINING_ARGS_NAME)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        since_log: Any = self._tr_loss
        mean = self.accelerator.reduce(since_log.detach().clone(), reduction="mean")
        sums = {name: self._reduced(self._sums[name]).tolist() for name in _names(self._sums)}
        self._interval = {
            "last": self._globalstep_last_logged,
            "loss": float(cast(Tensor, mean)),
            "total": self._total_loss_scalar,
            "sums": sums,
        }
        with self.doing("writes a checkpoint"):
            super()._save_checkpoint(model, trial)

    def save_more(self, folder: Path) -> None:
        """What the task keeps from step to step, and what was summed up since the last log line."""
        self.task.save(folder)
        write_json(folder / INTERVAL, self._interval)

    def begin(self) -> None:
        """Take up the sums of the interval between two log lines that a loaded checkpoint lies in, and make up for the
        evaluation at the end of its epoch, which comes after the checkpoint.
        """
        if self._resumed is None:
            return
        if (self._resumed / INTERVAL).exists():  # checkpoints of earlier versions have none
            kept = json.loads((self._resumed / INTERVAL).read_text(encoding="utf-8"))
            self._globalstep_last_logged = kept["last"]
            self._tr_loss += kept["loss"]
            self._total_loss_scalar = kept["total"]
            if self.accelerator.is_main_process:
                for name, pair in kept["sums"].items():
                    self._sums[name] = torch.tensor(pair, dtype=torch.float64)
        ended = self.state.epoch is not None and self.state.epoch > 0 and float(self.state.epoch).is_integer()
        if ended and self.args.eval_strategy == "epoch" and self.eval_dataset is not None:
            rows = self.state.log_history
            if not any(row.get("step") == self.state.global_step and "eval_loss" in row for row in rows):
                self.evaluate()

    def take_up(self, folder: Path) -> None:
        """What the task keeps, from a checkpoint whose weights are loaded."""
        self.task.load(folder)
        self._resumed = folder


class Hooks(TrainerCallback):
    """Lets a trainer go on inside an interval, once Transformers has set its sums to nothing, and its task do what it does
    after a step.
    """

    def __init__(self, trainer: ModuleTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.task.after_step(cast(nn.Module, self.trainer.model), state)


def training_arguments(
    options: Any, folder: Path, model: nn.Module, *, n_eval: int = 0, **changes: Any
) -> TrainingArguments:
    """Hugging Face training arguments for the options.

    Args:
        options: `TrainingOptions`, or a class with the options that `fit_module` asks for.
        n_eval: held-out examples; without any nothing is evaluated.
        changes: arguments in place of those that the options give.
    """
    usual = ADAPTER_LEARNING_RATE if has_adapter(model) else FULL_LEARNING_RATE
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "learning_rate": options.learning_rate or usual,
        "num_train_epochs": options.epochs,
        "max_steps": options.max_steps or -1,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation,
        "optim": _optimizer_name(getattr(options, "optimizer", "adamw")),
        "loraplus_lr_ratio": getattr(options, "loraplus_lr_ratio", None),
        "lr_scheduler_type": options.schedule,
        "lr_scheduler_kwargs": dict(getattr(options, "schedule_options", {})),
        "warmup_steps": options.warmup_ratio,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "neftune_noise_alpha": getattr(options, "neftune_noise_alpha", None),
        **_checkpointing(options.gradient_checkpointing and hasattr(model, "gradient_checkpointing_enable")),
        "eval_strategy": "no" if not n_eval else ("steps" if options.eval_steps else "epoch"),
        "eval_steps": options.eval_steps,
        "logging_steps": options.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if options.save_steps else "no",
        "save_steps": options.save_steps or 1,
        "save_total_limit": 2,
        "report_to": list(options.report_to) or "none",
        "seed": options.seed,
        "data_seed": options.seed,
        "use_cpu": next(model.parameters()).device.type == "cpu",
        "bf16": getattr(unwrap(model), "autocast_dtype", None) is torch.bfloat16,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return Arguments(**{**settings, **changes})


def _optimizer_name(name: str) -> str:
    """What Transformers calls an optimizer."""
    default = str(TrainingArguments.__dataclass_fields__["optim"].default)
    return {"adamw": default, "adamw_8bit": "adamw_bnb_8bit"}.get(name, name)


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """The arguments for recomputing activations, under the names that the installed Transformers has for them."""
    new = any(one.name == "activation_checkpointing" for one in fields(TrainingArguments))
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}


def _normalised(losses: Tensor, count: Tensor | int) -> Tensor:
    """The sum of losses over a count; of [K] terms with a count each, the sum of their means."""
    if isinstance(count, Tensor) and count.ndim:
        return (losses / count.clamp(min=1)).sum()
    return losses.sum() / count


def _names(sums: dict[str, Tensor]) -> list[str]:
    """The metrics of all processes: one whose share of the steps had nothing to tell of some takes part in their sums."""
    return sorted({*gathered(list(sums))})


def _no_sums() -> dict[str, Tensor]:
    """By name [2]: a sum and how many values are in it, from nothing."""
    return defaultdict(lambda: torch.zeros(2, dtype=torch.float64))


def _add(sums: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
    for name, values in metrics.items():
        clean = values.detach().cpu().double()  # an Apple GPU has no float64
        clean = clean[~clean.isnan()]
        sums[name] = sums[name] + torch.tensor([float(clean.sum()), clean.numel()], dtype=torch.float64)
