"""Both rewards learn from what people say, and are measured on pictures that were held out."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.curation.visual_instructions.annotations import Annotations, RankedTexts, augmented
from coalign.training.processes import wait_for_all

if TYPE_CHECKING:
    from torch import nn

    from coalign.curation.visual_instructions.rewards import Item, Reads
    from coalign.training.reward_models.task import RewardExample

SIDES = ("question", "answer")
FEATURES, TOKENS = {"learning_rate": 1e-3, "epochs": 10.0}, {"learning_rate": 2e-5, "epochs": 5.0}


def items_of(group: RankedTexts) -> list[Item]:
    """What a reward model reads of each text of a group."""
    from coalign.curation.visual_instructions.rewards import Item

    if not group.question:
        return [Item(group.image, one) for one in group.texts]
    return [Item(group.image, group.question, one) for one in group.texts]


def split_groups(
    groups: Sequence[RankedTexts], fraction: float, seed: int
) -> tuple[list[RankedTexts], list[RankedTexts]]:
    """(to learn from, held out): all groups of one picture are on the same side; those without a pair are on none."""
    told = [one for one in groups if one.pairs]
    pictures = sorted({one.image or one.id for one in told})
    random.Random(f"{seed}/held out").shuffle(pictures)
    out = {*pictures[: round(fraction * len(pictures))]}
    return [one for one in told if (one.image or one.id) not in out], [
        one for one in told if (one.image or one.id) in out
    ]


def learn_rewards(config: Any, run: Run, found: Annotations) -> dict[str, Any]:
    """Train the reward of questions and that of answers into `model/question` and `model/answer`; what is done is not done again.

    Returns:
        Side to its figures: groups, pairs, held-out pairs, accuracy on them, history.

    Raises:
        DataError: a side without a pair to learn from.
    """
    told: dict[str, Any] = {}
    for side, groups in zip(SIDES, (found.questions, found.answers), strict=True):
        done = run.artefacts / f"{side}-reward.json"
        if not done.exists():
            _learn(config, run, side, groups, done)
            wait_for_all()  # the first process alone writes
        told[side] = json.loads(done.read_text(encoding="utf-8"))
    return told


def _learn(config: Any, run: Run, side: str, groups: Sequence[RankedTexts], done: Path) -> None:
    from transformers import set_seed

    from coalign.curation.image_text.training import RankedCaptionTask
    from coalign.curation.visual_instructions.rewards import FeatureReads, new_reward, save_reward
    from coalign.training.modules import fit_module

    learning, held_out = split_groups(groups, config.eval_fraction, config.seed)
    if not learning:
        raise DataError(
            f"{len(groups)} annotated groups of {side}s without one in which a {side} is better than another.",
            hint=f"Both rewards are learnt: give {side}s with ranks or scores.",
        )
    set_seed(config.seed)
    model, reads, settings = new_reward(
        config.reward_model, 2 if side == "question" else 3, device=config.device, dropout=config.dropout
    )
    examples = [_example(one) for one in [*learning, *augmented(learning, config.augment, config.seed)]]
    testing = [_example(one) for one in held_out]
    if isinstance(reads, FeatureReads):
        reads.read([item for one in [*examples, *testing] for item in one.inputs])
    usual = FEATURES if isinstance(reads, FeatureReads) else TOKENS
    fitted = fit_module(
        model,
        RankedCaptionTask(reads, "exclude", config.average),
        examples,
        config,
        run,
        name=f"{side} reward",
        held_out=testing,
        learning_rate=config.learning_rate or usual["learning_rate"],
        num_train_epochs=config.epochs or usual["epochs"],
    )
    model.eval()
    if not is_main_process():
        return
    save_reward(model, settings, run.model, side)
    write_json(
        done,
        {
            "groups": len(learning),
            "pairs": sum(one.pairs for one in learning),
            "augmented": len(examples) - len(learning),
            "held out": len(held_out),
            "accuracy": accuracy(model, reads, held_out, config.batch_size),
            "history": fitted.history,
        },
    )


def _example(group: RankedTexts) -> RewardExample:
    from coalign.training.reward_models.task import RewardExample

    return RewardExample(group.id, "", tuple(items_of(group)), group.values)


def accuracy(
    model: nn.Module, reads: Reads, groups: Sequence[RankedTexts], batch: int
) -> dict[str, Any] | None:
    """Share of the held-out pairs that the reward orders as people do, ties half, with an interval over groups; None without
    a pair.
    """
    from coalign.measures.statistics import bootstrap_mean

    shares = []
    for start in range(0, len(groups), batch):
        part = groups[start : start + batch]
        rewards = iter(score(model, reads, [item for one in part for item in items_of(one)]))
        for one in part:
            own = [next(rewards) for _ in one.texts]
            shares.append(pair_share(own, one.values))
    return bootstrap_mean(shares).to_dict() if shares else None


def pair_share(scores: Sequence[float], values: Sequence[float]) -> float:
    """Share of the pairs of different value that the scores order alike; equal scores count half."""
    pairs = [
        (scores[one], scores[other])
        for one in range(len(values))
        for other in range(len(values))
        if values[one] > values[other]
    ]
    return sum((one > other) + 0.5 * (one == other) for one, other in pairs) / len(pairs)


def score(model: nn.Module, reads: Reads, items: Sequence[Item]) -> list[float]:
    """The rewards of items, without gradient."""
    import torch

    with torch.no_grad():
        return reads.rewards(model, [items]).float().tolist() if items else []
