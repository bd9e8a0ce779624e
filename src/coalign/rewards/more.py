"""MORE: one reward model from several data sets of different taste, whose probabilities can be trusted.

On Diversified Preferences of Large Language Model Alignment (arXiv 2312.07401). At every step the data sets are weighed so
that what they share is learnt: the weights are those of the shortest vector between the gradients of their losses with
respect to the reward head (`measures/min_norm.py`). The report gives accuracy and calibration error of each data set.

    coalign run more --data helpful.jsonl --data harmless.jsonl --data summaries.jsonl --model default
    coalign run more --data mixed.jsonl --weights uniform    # the multi-task baseline; a column `tag` names the data sets

Of two data sets whose gradients are brought to one length (`--normalise l2`) the weights are equal by construction, so that
nothing differs from the mixture: take `none` or three sets or more.

With `--prompts` the reward model then chooses the best of four answers to each prompt, and a policy is fine-tuned on them
(`policy/` in the run folder).

Differences from the official code. Its weights are per row of a batch and right for one pair per data set; here they
belong to data sets. Its moving average of the gradients starts from random numbers, ours from the first gradient. It
weighs each device by its own rows; ours averages gradients over devices first, unless `--per-device` asks for that. The
reward is read at the last token of the response, its end of turn, by attention mask and not by the padding's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import ModelError
from coalign.core.options import Count, Fraction, option
from coalign.core.runs import Run, is_main_process
from coalign.measures.min_norm import min_norm_weights
from coalign.report.parts import curves
from coalign.rewards.selection.best_answers import BestAnswerOptions, learn_best_answers
from coalign.training.material import announce, read_material
from coalign.training.objective import Losses
from coalign.training.processes import assert_one_process
from coalign.training.reward_models.fit import RewardModelOptions, held_out_rewards, train_reward_model
from coalign.training.reward_models.groups import groups_of
from coalign.training.reward_models.report import write_reward_report
from coalign.training.reward_models.task import RewardExample, RewardTask

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

    from coalign.training.task import Batch

Normalise = Literal["l2", "loss", "loss+", "none"]
SMALLEST = 1e-8
"""Added to a loss that is divided by, which the official code does not guard."""


def weighed_loss(task_losses: Tensor, weights: Tensor) -> Tensor:
    """[] `sum_i lambda_i L_i`, the objective of MORE; the weights are constants.

    Args:
        task_losses: [K] mean loss of each data set.
        weights: [K].
    """
    return (weights.detach() * task_losses).sum()


def head_gradients(task_losses: Sequence[Tensor], head: Tensor) -> Tensor:
    """[K, D] gradient of each task's loss with respect to the reward head alone, so without a pass through the trunk."""
    return torch.stack([torch.autograd.grad(one, head, retain_graph=True)[0] for one in task_losses])


def normalise_gradients(gradients: Tensor, losses: Tensor, how: Normalise) -> Tensor:
    """[K, D] gradients on one scale.

    `l2`: by their norm (a zero gradient stays). `loss`: by the share of `L_i + 1` in the sum of all. `loss+`: by norm times
    loss. `none`: as they are.

    Args:
        gradients: [K, D].
        losses: [K].
    """
    norms = gradients.norm(dim=1, keepdim=True)
    norms = torch.where(norms == 0, torch.ones_like(norms), norms)
    match how:
        case "l2":
            return gradients / norms
        case "loss":
            return gradients / ((losses + 1) / (losses + 1).sum())[:, None]
        case "loss+":
            return gradients / (norms * (losses[:, None] + SMALLEST))
        case "none":
            return gradients


class MoreTask(RewardTask):
    """A reward model whose data sets are weighed anew in every forward pass of the training."""

    name = "reward model, data sets weighed"

    def __init__(self, inputs: Any, options: Config, tags: Sequence[str]) -> None:
        super().__init__(inputs, options, tags)
        self.inputs: Any = inputs
        self.settings = options
        self.smoothed: Tensor | None = None

    def collate(self, examples: Sequence[RewardExample | tuple[RewardExample, ...]]) -> Batch:
        flat = [one for each in examples for one in (each if isinstance(each, tuple) else (each,))]
        return super().collate(flat)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        made = self.inputs.states(model, batch["groups"])
        rewards = made.outputs[:, 0]
        losses, metrics = self.record_losses(rewards, batch), self.metrics(rewards.detach(), batch)
        if not model.training:
            return Losses(losses, metrics)
        weights = self.weights(made.states.detach(), _head_of(model), batch).to(losses)
        told = {f"weight/{tag}": weights[place][None] for place, tag in enumerate(self.tags)}
        return Losses(len(self.tags) * weights[batch["tags"]] * losses, {**metrics, **told})

    def weights(self, states: Tensor, head: Tensor, batch: Batch) -> Tensor:
        """[K] of the data sets, from what the head reads in this pass; keeps the moving average of the gradients."""
        if self.settings.weights == "uniform":
            return torch.full((len(self.tags),), 1 / len(self.tags))
        with torch.enable_grad():
            copy = head.detach().to(states).requires_grad_()
            losses = self.record_losses(states @ copy, batch)
            each = [losses[batch["tags"] == place].mean() for place in range(len(self.tags))]
            gradients = head_gradients(each, copy)
        found = torch.cat([gradients, torch.stack(each).detach()[:, None]], dim=1).double()
        if (
            not self.settings.per_device
            and torch.distributed.is_available()
            and torch.distributed.is_initialized()
        ):
            torch.distributed.all_reduce(found)
            found /= torch.distributed.get_world_size()
        gradients, task_losses = found[:, :-1].cpu(), found[:, -1].cpu()
        new = self.settings.grad_ema_new_weight
        before = gradients if self.smoothed is None else self.smoothed
        self.smoothed = (1 - new) * before + new * gradients
        scaled = normalise_gradients(self.smoothed, task_losses, self.settings.normalise)
        return torch.from_numpy(min_norm_weights(scaled.numpy()))

    def save(self, folder: Path) -> None:
        if self.smoothed is not None:
            torch.save(self.smoothed, folder / "smoothed_gradients.pt")

    def load(self, folder: Path) -> None:
        path = folder / "smoothed_gradients.pt"
        self.smoothed = torch.load(path, weights_only=True) if path.exists() else None


def _head_of(model: nn.Module) -> Tensor:
    """[D] the weights of the reward head.

    Raises:
        ModelError: the model has no linear head that reads one state of a text.
    """
    from coalign.models.modules import unwrap

    head: Any = getattr(unwrap(model), "score", None)
    head = getattr(head, "modules_to_save", {"default": head})["default"]
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(
            f"MORE needs a reward model with a linear head, and {type(unwrap(model)).__name__} has none.",
            hint="Give a causal language model.",
        )
    return head.weight[0]


@dataclass(kw_only=True)
class Config(BestAnswerOptions, RewardModelOptions):
    """Options of `coalign run more`."""

    __group__ = "Method"

    weights: Literal["min_norm", "uniform"] = option(
        "min_norm",
        "of the data sets: anew in every pass, or all alike, which is the multi-task baseline",
        source="paper",
    )
    normalise: Normalise = option(
        "l2",
        "scale of the gradients: by their norm, by their share of the loss, by both, or none",
        source="official code",
        only_with={"weights": "min_norm"},
    )
    grad_ema_new_weight: Fraction = option(
        0.99,
        "weight of the new gradient in the moving average that the weights are computed from",
        source="official code",
        only_with={"weights": "min_norm"},
    )
    per_device: bool = option(
        False,
        "weigh the rows of each device by themselves",
        source="official code: yes",
        only_with={"weights": "min_norm"},
    )
    resampling_size: Count | None = option(
        None,
        "records of each data set: small ones repeat, large ones are cut; by default the largest",
        source="paper: 40000",
    )
    batch_size: Count = option(
        1, "groups of one record of each data set in a forward pass", source="official code", group="Training"
    )


def run(config: Config, run: Run) -> None:
    """Train the reward model, measure it on each data set, and fine-tune a policy on its best answers where asked.

    Raises:
        DataError: records that cannot be used, or of one data set only.
        ConfigError: several processes and prompts for best answers.
    """
    if config.prompts is not None:
        assert_one_process("more samples best answers and learns from them")
    material = read_material(config, "ranking", run)
    announce(material.notes, run)
    result = train_reward_model(
        config,
        material,
        run,
        MoreTask,
        lambda examples: groups_of(examples, config.resampling_size, config.seed),
    )
    if is_main_process():
        rows = held_out_rewards(config, material, run)
        weights = sorted({key for row in result.history for key in row if key.startswith("weight/")})
        sections = [
            *(learn_best_answers(config, run) if config.prompts is not None else ()),
            *curves(
                [(key, key) for key in weights],
                {"training": result.history},
                title="Weights of the data sets",
            ),
        ]
        title = "Reward model of several data sets"
        write_reward_report(run, config, material, result, rows, title=title, sections=sections)
