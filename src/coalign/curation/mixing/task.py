"""Training on a mixture whose weights change while it trains: an objective whose records are drawn as each step begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.files import write_json
from coalign.curation.mixing.pool import Drawing, Pool
from coalign.models.modules import evaluation
from coalign.training.batches import Batch as ScoredRecords
from coalign.training.batches import Example
from coalign.training.objective import Losses, Objective, ScoredBatch
from coalign.training.task import Batch
from coalign.training.trainer import ObjectiveTask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import Sampler
    from transformers import TrainerState

    from coalign.training.watch.plan import Plan

STATE = "mixture.json"
"""In a checkpoint: weights, what was drawn, and how the weights came about."""
Told = dict[str, float]
Update = Callable[["NDArray[np.float64]", "NDArray[np.float64]", Told], tuple["NDArray[np.float64]", Told]]
FEW = 16
"""Domains up to which each has its weight among the metrics."""


def inner_product(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The inner product of two gradients of the same parameters, each tensor's in its own precision, their sum in float64."""
    return sum(float(torch.dot(x.flatten(), y.flatten())) for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Alignment:
    """How gradients are compared.

    Attributes:
        target: examples of the target; a batch of them gives the gradient that the others are compared with.
        basis: [N, K] the mixtures of domains whose gradients are taken; None: each domain's own.
        update: weights [N], alignments [N] and what was told of the last update to the next weights [N] and what is told
            of this one.
        every: steps between updates.
        rows, target_rows: examples of a gradient.
        batch_size: examples of a forward pass.
        cosine: divide by the norms of both gradients.
    """

    target: Pool
    basis: NDArray[np.float64] | None
    update: Update
    every: int
    rows: int
    target_rows: int
    batch_size: int
    cosine: bool = False


class MixtureTask(ObjectiveTask):
    """An objective on records of several domains, drawn by weights.

    The trainer's data are places in an endless order. The loader makes batches ahead of the weights, so a batch is of
    places only, and examples come into it when its step counts what it holds.

    Args:
        weights: [N] of the basis mixtures, or [K] of the domains without `alignment`.
        alignment: how the weights are updated; None leaves them as they are.
        per_step: examples of an optimizer step, of all processes.
        floor: share of the examples that is drawn from all domains alike.
        tags: of held-out records; each has its own loss.
    """

    def __init__(
        self,
        objective: Objective,
        pool: Pool,
        weights: NDArray[np.float64],
        alignment: Alignment | None = None,
        *,
        seed: int,
        per_step: int,
        floor: float = 0.0,
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(objective, None, tags=tags)
        self.pool, self.weights, self.alignment = pool, weights, alignment
        self.seed, self.floor = seed, floor
        self.drawing = Drawing(pool, seed, per_step)
        self.trajectory: list[dict[str, Any]] = [{"step": 0, "weights": weights.tolist()}]
        self.told: Told = {}

    @property
    def domain_weights(self) -> NDArray[np.float64]:
        """[K] with which domains are drawn."""
        basis = self.alignment.basis if self.alignment else None
        weights = self.weights if basis is None else self.weights @ basis
        return (1 - self.floor) * weights + self.floor / len(weights)

    def sampler(self, size: int, seed: int) -> Sampler[int]:
        from torch.utils.data import SequentialSampler

        return SequentialSampler(range(size))

    def planned(self, plan: Plan) -> Plan:
        sizes = self.pool.sizes
        return replace(
            plan, samples=f"{plan.records:,} drawn of {sum(sizes):,} records in {len(sizes):,} domains"
        )

    def collate(self, examples: Sequence[int | Example]) -> Batch:
        if isinstance(examples[0], int):
            return {"ids": [], "slots": list(examples)}
        return super().collate(examples)  # pyright: ignore[reportArgumentType]

    def count(self, batch: Batch) -> int:
        if "slots" in batch and "batch" not in batch:
            rows = self.drawing.rows(batch["slots"], self.domain_weights)
            batch.update(super().collate([self.pool.examples[row] for row in rows]))
        return super().count(batch)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        made = super().loss(model, batch, state)
        if not model.training:
            return made
        weights = self.domain_weights
        told = {"mixture/entropy": -float(np.sum(weights * np.log(weights.clip(min=1e-300)))), **self.told}
        if len(weights) <= FEW:
            told |= {f"weight/{name}": float(one) for name, one in zip(self.pool.names, weights, strict=True)}
        return Losses(
            made.losses, {**made.metrics, **{name: torch.tensor([one]) for name, one in told.items()}}
        )

    def _losses_by_source(
        self, batch: ScoredRecords, scored: ScoredBatch, losses: Tensor
    ) -> dict[str, Tensor]:
        # Of held-out records alone: in training the domains come and go with the weights.
        return {} if torch.is_grad_enabled() else super()._losses_by_source(batch, scored, losses)

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        """Update the weights where it is time: the gradients are those of the parameters that the step left."""
        if self.alignment is None or state.global_step % self.alignment.every:
            return
        alignments = self.alignments(model, self.alignment, state.global_step)
        self.weights, self.told = self.alignment.update(self.weights, alignments, self.told)
        row = {"step": state.global_step, "weights": self.weights.tolist(), "alignments": alignments.tolist()}
        self.trajectory.append({**row, **self.told})

    def alignments(self, model: nn.Module, how: Alignment, step: int) -> NDArray[np.float64]:
        """[N] inner product of each basis mixture's gradient with the target's, over the trained parameters, without
        dropout. Processes share the mixtures between them; each gradient is taken by one, of whole batches.
        """
        from accelerate import PartialState
        from accelerate.utils import reduce

        processes, found = PartialState(), torch.zeros(len(self.weights), dtype=torch.float64)
        parameters = [one for one in model.parameters() if one.requires_grad]

        def gradient(pool: Pool, weights: NDArray[np.float64], count: int, *key: int) -> list[Tensor]:
            examples = pool.sample(weights, count, np.random.default_rng([self.seed, step, *key]))
            return self.gradient(model, parameters, examples, how.batch_size)

        with evaluation(model, recompute=True), torch.enable_grad():
            target = gradient(how.target, np.ones(1), how.target_rows, 2)
            length = inner_product(target, target) ** 0.5
            for place in range(processes.process_index, len(found), processes.num_processes):
                mixture = np.eye(1, len(found), place)[0] if how.basis is None else how.basis[place]
                own = gradient(self.pool, mixture, how.rows, 3, place)
                found[place] = inner_product(own, target)
                if how.cosine:
                    found[place] /= max(length * inner_product(own, own) ** 0.5, 1e-30)
        if processes.num_processes > 1:
            found = reduce(found.to(processes.device), reduction="sum")
        return found.cpu().numpy()  # pyright: ignore[reportAttributeAccessIssue]

    def gradient(
        self, model: nn.Module, parameters: Sequence[Tensor], examples: Sequence[Example], batch_size: int
    ) -> list[Tensor]:
        """The gradient of the examples' loss, normalised as in training, in float32; the parameters' own gradients, the
        optimizer and the scaling of losses are not touched.
        """
        batches = [
            ObjectiveTask.collate(self, examples[start : start + batch_size])
            for start in range(0, len(examples), batch_size)
        ]
        count = sum(ObjectiveTask.count(self, one) for one in batches)
        total = [torch.zeros_like(one, dtype=torch.float32) for one in parameters]
        for batch in batches:
            losses = self.objective.loss(self.score(model, batch["batch"]), self.constants).losses
            parts = torch.autograd.grad(losses.sum() / count, parameters, allow_unused=True)
            for sums, part in zip(total, parts, strict=True):
                if part is not None:
                    sums += part
        return total

    def save(self, folder: Path) -> None:
        super().save(folder)
        state = {
            "weights": self.weights.tolist(),
            "counts": self.drawing.counts.tolist(),
            "trajectory": self.trajectory,
            "told": self.told,
        }
        write_json(folder / STATE, state)

    def load(self, folder: Path) -> None:
        super().load(folder)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.weights = np.array(state["weights"])
        self.drawing.counts = np.array(state["counts"], dtype=np.int64)
        self.trajectory, self.told = state["trajectory"], state["told"]
