"""One trainer over every objective: the scoring engine and an objective as a `Task` of the trainer below.

A batch is scored once with the scoring engine, the objective is called, and its losses are divided by the records (or
response tokens) of the whole optimizer step (`coalign.training.module_trainer`).
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerState, TrainingArguments

from coalign.core.files import write_json
from coalign.models.adapters import disabled_adapter, has_adapter
from coalign.models.scoring.engine import score_responses
from coalign.models.scoring.extrapolation import score_extrapolated
from coalign.training import task as tasks
from coalign.training.batches import Batch, Example, collate, have_reference, tags_of, tokens_of
from coalign.training.checkpoints import SortedGroups
from coalign.training.distributed.even import COUNTED
from coalign.training.module_trainer import ModuleTrainer
from coalign.training.objective import Losses, Objective, ScoredBatch
from coalign.training.options import Batching

OBJECTIVE_STATE = "objective_state.json"


class ObjectiveTask(tasks.Task):
    """An objective as what a language model learns; `reference` as in `AlignmentTrainer`.

    Args:
        tags: the sources of a mix; each has its own loss among the metrics.
        lengths: of the training examples, in tokens, where those of like length share a forward pass of `together`
            examples; None shuffles all of them.
    """

    def __init__(
        self,
        objective: Objective,
        constants: Any,
        reference: nn.Module | None = None,
        *,
        tags: Sequence[str] = (),
        lengths: Sequence[int] | None = None,
        together: int = 1,
    ) -> None:
        self.name = objective.name
        self.objective = objective
        self.constants = constants
        self.reference = reference
        self.tags = tags
        self.lengths = lengths
        self.together = together
        self.objective_state = objective.state() if objective.state else None

    def collate(self, examples: Sequence[Example]) -> tasks.Batch:
        return {**collate(examples), "ids": [one.id for one in examples]}

    def count(self, batch: tasks.Batch) -> int:
        """What the step's losses are divided by: records, those with counted tokens, or response tokens."""
        return batch["batch"].count(self.objective.unit(self.constants))

    def by_record(self, batch: tasks.Batch, losses: Tensor) -> Tensor | None:
        counts = torch.tensor(batch["batch"].counts(self.objective.unit(self.constants)), dtype=torch.float64)
        return torch.stack([losses.cpu().double(), counts], dim=1) if losses.shape == counts.shape else None

    def sampler(self, size: int, seed: int) -> Sampler[int]:
        if self.lengths is None:
            return super().sampler(size, seed)
        return SortedGroups(self.lengths, self.together, seed)

    def loss(self, model: nn.Module, batch: tasks.Batch, state: TrainerState) -> Losses:
        """The objective's losses, with its metrics and those that every objective has."""
        progress = state.global_step / state.max_steps if model.training and state.max_steps else 1.0
        scored = self.score(model, batch["batch"], progress)
        if self.objective_state and model.training:
            with torch.no_grad():
                counted = batch.get(COUNTED, True)
                self.objective_state.update(scored if counted else scored.empty(), self.constants)
        output = self.objective.loss(scored, self.constants)
        common = {
            **self._common_metrics(scored),
            **self._losses_by_source(batch["batch"], scored, output.losses),
        }
        return Losses(output.losses, {**common, **output.metrics})

    def save(self, folder: Path) -> None:
        if self.objective_state:
            write_json(folder / OBJECTIVE_STATE, self.objective_state.state_dict())

    def load(self, folder: Path) -> None:
        if self.objective_state:
            text = (folder / OBJECTIVE_STATE).read_text(encoding="utf-8")
            self.objective_state.load_state_dict(json.loads(text))

    def score(self, model: nn.Module, batch: Batch, progress: float = 1.0) -> ScoredBatch:
        """The batch's responses under the policy, and under the reference where the objective compares."""
        reference, extrapolated = batch.reference, None
        strength = self.objective.strength(self.constants)
        if strength > 0:
            frozen_model = functools.partial(self._reference_of, model)
            extrapolated, reference = score_extrapolated(model, frozen_model, batch.responses, strength)
        elif self.objective.reference and reference is None:
            with torch.no_grad(), self._reference_of(model) as frozen:
                reference = score_responses(frozen, batch.responses)
        policy = score_responses(model, batch.responses)
        device = policy.token_logps.device
        return ScoredBatch(
            policy=policy,
            reference=reference.to(device) if reference is not None else None,
            record_index=batch.record_index.to(device),
            values=batch.values.to(device),
            extras={name: value.to(device) for name, value in batch.extras.items()},
            state=self.objective_state,
            extrapolated=extrapolated,
            progress=progress,
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

    def _losses_by_source(self, batch: Batch, scored: ScoredBatch, losses: Tensor) -> dict[str, Tensor]:
        """`loss/<tag>` of every source of a mix, normalised as the loss is; NaN elsewhere, which no mean counts.

        Every batch has the same names, whichever sources are in it: processes sum them up together.
        """
        if not self.tags:
            return {}
        losses = losses.detach()
        owners = torch.arange(len(losses), device=losses.device)
        unit = self.objective.unit(self.constants)
        counts = torch.zeros_like(owners).index_add(0, scored.record_index, scored.policy.lengths)
        if unit == "tokens":
            # A mean over tokens: of each record as many values as it has counted tokens, which sum to its loss.
            owners = owners.repeat_interleave(counts)
            losses = losses / counts.clamp(min=1)
        elif unit == "sequences":
            owners = owners[counts > 0]
        places = torch.tensor([self.tags.index(one) for one in batch.tags], device=losses.device)
        return {
            f"loss/{tag}": losses.masked_fill(places != place, torch.nan)[owners]
            for place, tag in enumerate(self.tags)
        }


class AlignmentTrainer(ModuleTrainer):
    """Trains a causal language model with any `Objective`.

    Args:
        model: a causal language model, with or without an adapter.
        objective: what to minimise; `constants` are passed to it.
        train_examples, eval_examples: encoded records.
        reference: a frozen model for objectives that compare with one; by default the model under its disabled
            adapter. Not asked where the examples carry their reference log-probabilities.
        batching: `shuffled`, or `sorted`: examples of like length share a forward pass.
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
        batching: Batching = "shuffled",
        **trainer_options: Any,
    ) -> None:
        sides = [train_examples, eval_examples or []]
        live = objective.reference and not all(map(have_reference, sides))
        live = live or objective.strength(constants) > 0
        if live and reference is None and not has_adapter(model):
            raise ValueError(f"{objective.name} compares with a reference: give one, or train an adapter")
        if reference is not None:
            reference = reference.to(args.device).eval().requires_grad_(False)
        tags = sorted(set().union(*map(tags_of, sides)))
        task = ObjectiveTask(
            objective,
            constants,
            reference,
            tags=tags if len(tags) > 1 else (),
            lengths=tokens_of(train_examples).tolist() if batching == "sorted" else None,
            together=args.per_device_train_batch_size * args.world_size,
        )
        super().__init__(model, task, train_examples, args, held_out=eval_examples or [], **trainer_options)

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        means = super()._means(sums)
        if "rewards/margins" not in means and {"rewards/chosen", "rewards/rejected"} <= means.keys():
            # Of single responses (thumbs up and down) there is no margin a record, but one between the means.
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means


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
