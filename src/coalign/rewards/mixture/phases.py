"""The trainings of a mixture of reward models: the router, and of each category a base, its experts, their aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from coalign.core.files import atomic_path, write_json
from coalign.core.runs import Run, is_main_process
from coalign.data.records import Ranking, Record
from coalign.data.splits import split_records
from coalign.training.distributed.shared_work import by_all
from coalign.training.material import Material
from coalign.training.objective import Losses
from coalign.training.reward_models.fit import RewardModelOptions, make_inputs, train_reward_model
from coalign.training.reward_models.task import RewardTask, make_examples, tag_of
from coalign.training.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

    from coalign.models.reward_inputs import RewardInputs, RewardText
    from coalign.training.task import Batch


@dataclass(frozen=True)
class Phases:
    """What every phase needs.

    Attributes:
        config: model, data and training options; see `coalign.rewards.dmoerm.Config` for those of the phases.
        folder: of the mixture.
    """

    config: Any
    run: Run
    folder: Path

    def experts(self, number: int) -> Path:
        """The folder of a category."""
        return self.folder / "experts" / str(number)

    def options(self, **changes: Any) -> RewardModelOptions:
        return RewardModelOptions.of(self.config, **changes)

    def stopping(self, held_out: Sequence[Any], patience: int) -> dict[str, Any]:
        """Arguments of a training that keeps its best evaluation and stops after `patience` ones without gain; none
        without anything to evaluate on.
        """
        if not held_out:
            return {}
        from transformers import EarlyStoppingCallback

        steps = self.config.evaluate_every
        return {
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=patience)],
            "eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps,
            "load_best_model_at_end": True, "metric_for_best_model": "rewards/accuracies", "greater_is_better": True,
        }  # fmt: skip

    def validated(self, records: Sequence[Ranking]) -> Material:
        """Records to train and to stop on, split by prompt; too few are all trained on."""
        share = self.config.validation_fraction if len({str(one.prompt) for one in records}) > 3 else 0.0
        training, held_out = split_records(list(records), share, self.config.seed)
        return Material(
            cast("list[Record]", training), cast("list[Record]", held_out[: self.config.validation_pairs]), []
        )

    def train(self, records: Sequence[Ranking], name: str, folder: Path, **changes: Any) -> None:
        """One reward model of the mixture."""
        material = self.validated(records)
        train_reward_model(
            self.options(**changes),
            material,
            self.run,
            name=name,
            folder=folder,
            **self.stopping(material.held_out, self.config.patience),
        )

    def base(self, number: int, records: Sequence[Ranking]) -> None:
        """Phase 1: a reward model of the category, all weights unless the options say otherwise."""
        from coalign.models.reward_mixture import BASE

        tuning = "full" if self.config.tuning == "auto" else self.config.tuning
        own = {} if tuning == "lora" else {"adapter_rank": 16, "adapter_alpha": 32.0, "adapter_dropout": 0.0,
                                           "adapter_targets": ["all-linear"]}  # fmt: skip
        changes = {**own, "tuning": tuning, "save": "whole"}
        self.train(records, f"base-{number}", self.experts(number) / BASE, **changes)

    def expert(self, number: int, point: int, records: Sequence[Ranking]) -> None:
        """Phase 2: an adapter with a head, which starts as the base's, from pairs that were compared in one respect."""
        from coalign.models.reward_mixture import BASE, POINTS

        folder = self.experts(number)
        changes = {"model": str(folder / BASE), "revision": None, "tuning": "lora", "save": "adapter"}
        rate = self.config.expert_learning_rate
        self.train(
            records, f"expert-{number}-{point}", folder / POINTS / str(point), learning_rate=rate, **changes
        )

    @by_all
    def aggregator(self, number: int, points: int, records: Sequence[Ranking]) -> None:
        """Phase 3: what combines the states of the frozen experts."""
        from safetensors.torch import save_file
        from transformers import set_seed

        from coalign.models.devices import pick_device
        from coalign.models.reward_mixture import (
            AGGREGATOR,
            Aggregator,
            adapter_names,
            expert_states,
            load_experts,
        )
        from coalign.training.modules import fit_module

        path = self.experts(number) / AGGREGATOR
        if path.exists():
            return
        model, inputs = load_experts(self.experts(number), points, pick_device(self.config.device))
        material, parts = self.validated(records), []
        for part in (material.training, material.held_out):
            rankings = cast("list[Ranking]", part)
            texts = inputs.texts(rankings)
            states = iter(expert_states(model, adapter_names(points), inputs, texts)) if texts else iter(())
            parts.append(make_examples(rankings, [[next(states) for _ in group] for group in texts], "none"))
        set_seed(self.config.seed)
        combined = Aggregator(points, parts[0][0].inputs[0].shape[0] // points)
        task = RewardTask(_States(), self.options(), sorted({one.tag for part in parts for one in part}))
        options = self.options(learning_rate=self.config.aggregator_learning_rate)
        stopping = self.stopping(parts[1], self.config.patience)
        fit_module(
            combined,
            task,
            parts[0],
            options,
            self.run,
            name=f"aggregator-{number}",
            held_out=parts[1],
            **stopping,
        )
        if is_main_process():
            with atomic_path(path) as temporary:
                save_file(combined.state_dict(), temporary)

    @by_all
    def router(self, queries: Mapping[str, Sequence[Record]]) -> None:
        """The router, from the queries of each category; saved as the mixture's own folder."""
        from transformers import set_seed

        from coalign.models.files.classifiers import choose_pad_token, new_classifier
        from coalign.models.files.saving import save_model
        from coalign.models.reward_inputs import write_settings
        from coalign.models.reward_mixture import query_text
        from coalign.training.modules import fit_module

        done = self.run.artefacts / "router.json"
        if done.exists():
            return
        options = self.options(learning_rate=self.config.router_learning_rate, save="whole")
        inputs = make_inputs(options)
        examples = [
            (query_text(inputs, record.prompt), number)
            for number, records in enumerate(queries.values())
            for record in records
        ]
        set_seed(self.config.seed)
        model = new_classifier(options, outputs=len(queries))
        choose_pad_token(model, inputs.tokenizer)
        fitted = fit_module(model, RouterTask(inputs), examples, options, self.run, name="router")
        if is_main_process():
            staged = self.run.path / "router"
            save_model(cast(Any, model), inputs.tokenizer, staged, merge=True)
            write_settings(staged, inputs)
            counts = {name: len(one) for name, one in queries.items()}
            write_json(done, {"steps": fitted.steps, "queries": counts})

    def routed(
        self, labelled: Mapping[str, Sequence[Ranking]], without: Sequence[Ranking]
    ) -> dict[str, list[Ranking]]:
        """The labelled records with those that name no category, put where the router puts them."""
        found = {name: list(mine) for name, mine in labelled.items()}
        if without:
            from coalign.models.devices import pick_device
            from coalign.models.files.classifiers import load_classifier
            from coalign.models.files.places import locate
            from coalign.models.reward_mixture import RewardMixture, stored_inputs

            folder = self.run.path / "router"
            router = load_classifier(locate(str(folder)), what="router", dtype=torch.float32)
            router = router.to(pick_device(self.config.device)).eval()
            routes = RewardMixture(router, stored_inputs(folder), ()).route([one.prompt for one in without])
            names = [*labelled]
            for record, (number, _) in zip(without, routes, strict=True):
                found[names[number]].append(record)
            sure = sum(one for _, one in routes) / len(routes)
            self.run.log("routed", records=len(without), probability=round(sure, 4))
        return found


class _States:
    """States of experts as what an aggregator reads."""

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[Tensor]]) -> Tensor:
        device = next(model.parameters()).device
        return model(torch.stack([one for group in groups for one in group]).to(device))


class RouterTask(Task):
    """Cross-entropy of the category on the logits; the official code takes a softmax twice, which weakens the gradients."""

    name = "router"
    examples = "queries"

    def __init__(self, inputs: RewardInputs) -> None:
        self.inputs = inputs

    def collate(self, examples: Sequence[tuple[RewardText, int]]) -> Batch:
        return {
            "ids": [str(place) for place in range(len(examples))],
            "groups": [[text] for text, _ in examples],
            "labels": torch.tensor([label for _, label in examples]),
        }

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        logits, labels = self.inputs.states(model, batch["groups"]).outputs, batch["labels"]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return Losses(losses, {"router/accuracy": (logits.detach().argmax(-1) == labels).float()})


def category_of(record: Ranking) -> str | None:
    """The category that a record names, None where it names none."""
    return str(record.extra.get("category") or tag_of(record) or "") or None


def shares(records: Sequence[Ranking], fraction: float, seed: int) -> tuple[list[Ranking], list[Ranking]]:
    """Records of a category for its base and for its aggregator, split by prompt; a single prompt serves both."""
    if len({str(one.prompt) for one in records}) < 2:
        return list(records), list(records)
    return split_records(list(records), 1 - fraction, seed + 1)
