"""One trainer over every objective.

`transformers.Trainer` brings the loop, distribution, callbacks, trackers and resume; this subclass scores a batch
once with the scoring engine, calls the objective, and normalises its losses in one way: by the records (or response
tokens) of the whole optimizer step, over all micro-batches and all processes. So the update does not depend on how
a step is cut into micro-batches or spread over processes.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from coalign.core.errors import CoalignError
from coalign.core.files import write_json
from coalign.models.adapters import disabled_adapter, has_adapter
from coalign.models.quiet import no_weight_bars
from coalign.models.scoring.engine import score_responses
from coalign.training.batches import Batch, Example, collate
from coalign.training.checkpoints import EpochShuffle, WholeCheckpoints
from coalign.training.objective import Losses, Objective, ScoredBatch
from coalign.training.processes import own_batches

OBJECTIVE_STATE = "objective_state.json"


class DivergedError(CoalignError):
    """The loss or a gradient became NaN or infinite."""


class AlignmentTrainer(WholeCheckpoints, Trainer):
    """Trains a causal language model with any `Objective`.

    Args:
        model: a causal language model, with or without an adapter.
        objective: what to minimise; `constants` are passed to it.
        train_examples, eval_examples: encoded records.
        reference: a frozen model for objectives that compare with one; by default the model under its disabled
            adapter. Not asked where the examples carry their reference log-probabilities.
        args: Hugging Face training arguments.
        trainer_options: passed to `transformers.Trainer`.

    Raises:
        ValueError: the objective needs a reference, and there is neither an adapter nor a `reference`.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        constants: Any,
        train_examples: Sequence[Example],
        args: TrainingArguments,
        *,
        eval_examples: Sequence[Example] | None = None,
        reference: nn.Module | None = None,
        **trainer_options: Any,
    ) -> None:
        examples = [*train_examples, *(eval_examples or ())]
        live = objective.reference and any(one.reference is None for one in examples)
        if live and reference is None and not has_adapter(model):
            raise ValueError(f"{objective.name} compares with a reference: give one, or train an adapter")
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=collate,  # type: ignore[arg-type]
            train_dataset=list(train_examples),  # type: ignore[arg-type]
            eval_dataset=list(eval_examples) if eval_examples else None,  # type: ignore[arg-type]
            **trainer_options,
        )
        self.objective = objective
        self.constants = constants
        self.reference = reference
        if reference is not None:
            self.reference = reference.to(self.args.device).eval().requires_grad_(False)
        self.model_accepts_loss_kwargs = True
        self.objective_state = objective.state() if objective.state else None
        self._sums = _no_sums()
        self._step_ids: list[str] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """An order that depends on the seed and the epoch alone, not on how many processes share it."""
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return EpochShuffle(len(train_dataset if train_dataset is not None else self.train_dataset), seed)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Batch]], device: torch.device) -> Tensor:
        """Records or response tokens of the optimizer step over all processes."""
        count = sum(sample["batch"].count(self.objective.normalise) for sample in batch_samples)
        return self.accelerator.reduce(torch.tensor(float(count), device=device), reduction="sum")  # type: ignore[return-value]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Losses]:
        """This process's share of the step's loss, times the number of processes (DDP averages gradients).

        Raises:
            DivergedError: the loss is NaN or infinite (`_get_grad_norm`: or a gradient); a checkpoint of the last good
                step is written first.
        """
        batch: Batch = inputs["batch"]
        if model.training:
            self._step_ids += batch.ids
        scored = self.score(model, batch)
        if self.objective_state and model.training:
            with torch.no_grad():
                self.objective_state.update(scored, self.constants)
        output = self.objective.loss(scored, self.constants)
        total = output.losses.sum()
        if not math.isfinite(float(total.detach())):
            self._stop_diverged("The loss", batch.ids)
        if model.training:
            self._collect(output, scored)
        if num_items_in_batch is None:
            num_items_in_batch = batch.count(self.objective.normalise)
        loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def score(self, model: nn.Module, batch: Batch) -> ScoredBatch:
        """The batch's responses under the policy, and under the reference where the objective compares."""
        reference = batch.reference
        if self.objective.reference and reference is None:
            with torch.no_grad(), self._reference_of(model) as frozen:
                reference = score_responses(frozen, batch.responses)
        policy = score_responses(model, batch.responses)
        device = policy.token_logps.device
        if reference is not None:
            reference = reference.to(device)
        return ScoredBatch(
            policy=policy,
            reference=reference,
            record_index=batch.record_index.to(device),
            values=batch.values.to(device),
            extras={name: value.to(device) for name, value in batch.extras.items()},
            state=self.objective_state,
        )

    @contextlib.contextmanager
    def _reference_of(self, model: nn.Module) -> Iterator[nn.Module]:
        """The reference in evaluation mode: without dropout, whatever mode the policy is in."""
        if self.reference is not None:
            yield self.reference
            return
        training = model.training
        model.eval()
        try:
            with disabled_adapter(model):
                yield model
        finally:
            model.train(training)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and metrics over the evaluation records, normalised like training."""
        data: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
        model: Any = self._wrap_model(cast(nn.Module, self.model), training=False)
        model.eval()
        sums = _no_sums()
        with torch.no_grad():
            for inputs, counts in own_batches(
                data,
                self.args.per_device_eval_batch_size,
                self.data_collator,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            ):
                batch = cast(Batch, self._prepare_inputs(inputs)["batch"])
                scored = self.score(model, batch)
                output = self.objective.loss(scored, self.constants)
                count = batch.count(self.objective.normalise)
                target = sums if counts else _no_sums()
                target["loss"] += torch.tensor([float(output.losses.sum()), count], dtype=torch.float64)
                _add(target, {**self._common_metrics(scored), **output.metrics})
                for name in target:
                    sums[name] += 0  # a process whose batches do not count sums up the same names
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._means(sums).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's metrics since the last log."""
        if "loss" in logs:
            logs = {**logs, **self._means(self._sums)}
            self._sums.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: Transformers' estimate assumes padded rows."""
        return 0

    def _collect(self, output: Losses, scored: ScoredBatch) -> None:
        _add(self._sums, {**self._common_metrics(scored), **output.metrics})

    def _common_metrics(self, scored: ScoredBatch) -> dict[str, Tensor]:
        """What is told of every objective, over the responses that the record says something of.

        `length/response`: counted tokens. `kl/policy_reference`: log-probability of a response under the policy minus
        that under the reference, in nats; its mean estimates the KL divergence only for responses that the policy
        wrote. `values/all_equal`: whether all responses of a ranking have the same value.
        """
        valued = ~scored.values.isnan()
        rows = valued if bool(valued.any()) else torch.ones_like(valued)
        metrics = {"length/response": scored.policy.lengths[rows].float()}
        if scored.reference is not None:
            log_ratios = scored.policy.sums().detach() - scored.reference.sums().detach()
            metrics["kl/policy_reference"] = log_ratios[rows]
        if self.objective.data == "ranking":
            metrics["values/all_equal"] = _all_equal(scored.values, scored.record_index)
        return metrics

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        means = {}
        for name in sorted(sums):
            both = sums[name].to(torch.float32 if self.args.device.type == "mps" else torch.float64)
            total, count = self.accelerator.reduce(both.to(self.args.device), reduction="sum").tolist()  # type: ignore[union-attr]
            means[name] = total / count if count else float("nan")
        if "rewards/margins" not in means and {"rewards/chosen", "rewards/rejected"} <= means.keys():
            # Of single responses (thumbs up and down) there is no margin a record, but one between the means.
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Transformers does it, without its progress bar, and without peft asking the hub about the base's
        vocabulary: embeddings are never part of the adapter."""
        model: Any = self.model
        with no_weight_bars():
            if not has_adapter(model):
                super()._save(output_dir, state_dict)
                return
            if self.args.should_save:
                folder = output_dir or str(self.args.output_dir)
                model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
                torch.save(self.args, Path(folder) / TRAINING_ARGS_NAME)

    def save_more(self, folder: Path) -> None:
        """The objective's state, so that a resumed run goes on with it."""
        if self.objective_state:
            write_json(folder / OBJECTIVE_STATE, self.objective_state.state_dict())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.objective_state:
            text = (Path(resume_from_checkpoint) / OBJECTIVE_STATE).read_text(encoding="utf-8")
            self.objective_state.load_state_dict(json.loads(text))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm of a step, before the optimizer moves a weight: one that is not finite would spoil all of
        them, also where the loss still is a number."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(float(norm)):
            self._stop_diverged("A gradient", self._step_ids)
        self._step_ids = []
        return norm

    def _stop_diverged(self, what: str, ids: Sequence[str]) -> None:
        """Save the weights as the last step left them, and stop.

        Raises:
            DivergedError: always.
        """
        self._save_checkpoint(self.model, None)  # type: ignore[arg-type]
        named = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
        folder = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"
        raise DivergedError(
            f"{what} is NaN or infinite after step {self.state.global_step}, in the batch of records {named}.",
            hint=f"The last good step is saved in {folder}. Lower the learning rate, or look at these records with "
            "`coalign data check`.",
        )


def _all_equal(values: Tensor, record_index: Tensor) -> Tensor:
    """[R] 1 where the values of a record are all the same, else 0; NaN values say nothing."""
    size = int(record_index[-1]) + 1
    ends = [
        values.new_zeros(size).scatter_reduce(
            0, record_index, values.nan_to_num(nan=fill), how, include_self=False
        )
        for fill, how in ((-torch.inf, "amax"), (torch.inf, "amin"))
    ]
    return (ends[0] <= ends[1]).to(values.dtype)


def _no_sums() -> dict[str, Tensor]:
    """By name [2]: a sum and how many values are in it, from nothing."""
    return defaultdict(lambda: torch.zeros(2, dtype=torch.float64))


def _add(sums: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
    for name, values in metrics.items():
        clean = values.detach().double()
        clean = clean[~clean.isnan()]
        sums[name] = sums[name] + torch.tensor([float(clean.sum()), clean.numel()], dtype=torch.float64)
