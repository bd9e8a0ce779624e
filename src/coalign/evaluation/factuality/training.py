"""Unified training of an alignment function on records of many tasks: one trainer, three heads, optional masked tokens."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from coalign.core.runs import Run
from coalign.evaluation.factuality.model import IGNORED, PairClassifier, head_weights, joint_sums
from coalign.evaluation.factuality.options import EncoderTraining
from coalign.evaluation.factuality.pair_scoring import EncodedPair, PairEncoder
from coalign.evaluation.factuality.records import LabelledPair, TaskRecord, assert_usable, labelled_pair
from coalign.training.checkpoints import KeyedShuffle
from coalign.training.modules import fit_module
from coalign.training.objective import Losses
from coalign.training.processes import over_processes
from coalign.training.task import Batch, Task

if TYPE_CHECKING:
    from transformers import TrainerState

HEADS = ("mlm", "bin", "tri", "reg")
CLASSIFIERS = ("bin", "tri")
MASKED_SHARE = 0.15


class TaskRecordData(Dataset[tuple[LabelledPair, int]]):
    """Records as pairs; which pair a record gives depends on seed, epoch and record alone.

    Item `epoch * size + index` is record `index` as it is in that epoch, with the seed of its masked tokens.
    """

    def __init__(self, records: Sequence[TaskRecord], seed: int, augmentation: float) -> None:
        self.records = list(records)
        self.seed = seed
        self.augmentation = augmentation
        self._of_task: dict[str, list[TaskRecord]] = defaultdict(list)
        for one in self.records:
            self._of_task[one.task].append(one)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int) -> tuple[LabelledPair, int]:
        record = self.records[key % len(self.records)]
        draw = random.Random(f"{self.seed}/{key}")
        pair = labelled_pair(record, draw, others=self._of_task[record.task], augmentation=self.augmentation)
        return pair, draw.getrandbits(62)


@dataclass
class PairCollator:
    """Pairs as inputs and labels; masked tokens are drawn from each pair's own seed.

    Of the masked tokens 80 % become the mask token, 10 % a random one, 10 % stay.
    """

    encoder: PairEncoder
    masked: bool = False

    def __call__(self, items: Sequence[tuple[LabelledPair, int]]) -> dict[str, Any]:
        encoded = self.encoder.encode([(one.text_a, one.text_b) for one, _ in items])
        self.encoder.forget()
        inputs = self.encoder.pad(encoded)
        labels = {
            head: torch.tensor([_label(one, head) for one, _ in items], dtype=kind)
            for head, kind in (("bin", torch.long), ("tri", torch.long), ("reg", torch.float))
        }
        if self.masked:
            labels["mlm"] = self._mask(inputs, encoded, [seed for _, seed in items])
        return {"inputs": inputs, "pair_labels": labels, "truncated": sum(one.truncated for one in encoded)}

    def _mask(self, inputs: dict[str, Tensor], encoded: Sequence[EncodedPair], seeds: list[int]) -> Tensor:
        tokenizer, ids = self.encoder.tokenizer, inputs["input_ids"]
        special = set(tokenizer.all_special_ids)
        labels = torch.full_like(ids, IGNORED)
        for row, (pair, seed) in enumerate(zip(encoded, seeds, strict=True)):
            draw = random.Random(seed)
            for place, token in enumerate(pair.ids):
                if token in special or draw.random() >= MASKED_SHARE:
                    continue
                labels[row, place] = token
                kind = draw.random()
                if kind < 0.9:
                    other = tokenizer.mask_token_id if kind < 0.8 else draw.randrange(len(tokenizer))
                    ids[row, place] = other
        return labels


def _label(pair: LabelledPair, head: str) -> float:
    return pair.label if pair.head == head else IGNORED


class PairTask(Task):
    """Trains an `PairClassifier`: a head's loss is a mean over its rows of the whole optimizer step.

    Attributes:
        truncated: pairs of which tokens were cut off, over the training steps of this process.
    """

    name = "alignment"

    def __init__(self, collator: PairCollator) -> None:
        self.collator = collator
        self.heads = HEADS if collator.masked else HEADS[1:]
        self.truncated = 0

    def collate(self, examples: Sequence[tuple[LabelledPair, int]]) -> Batch:
        return self.collator(examples)

    def sampler(self, size: int, seed: int) -> KeyedShuffle:
        return KeyedShuffle(size, seed)

    def count(self, batch: Batch) -> Tensor:
        """[4] rows or tokens of each head."""
        labels = batch["pair_labels"]
        return torch.tensor([int((labels[head] != IGNORED).sum()) if head in labels else 0 for head in HEADS])

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        """Weighted sums [4] of the heads, and of every head the loss and, of a classifier, the accuracy."""
        logits, labels = model(**batch["inputs"]), batch["pair_labels"]
        sums, counts = joint_sums(logits, labels)
        if model.training:
            self.truncated += int(batch["truncated"])
        prefix = "losses/" if model.training else ""
        metrics = {}
        for place, head in enumerate(HEADS):
            if head in self.heads:
                rows = int(counts[place])
                metrics[prefix + head] = (sums[place].detach().cpu().double() / max(rows, 1)).expand(rows)
            if head in CLASSIFIERS and not model.training:
                told = labels[head] != IGNORED
                metrics[f"accuracy/{head}"] = (getattr(logits, head).argmax(-1) == labels[head])[told]
        return Losses(head_weights(sums) * sums, metrics)


@dataclass(frozen=True)
class Trained:
    """What training did.

    Attributes:
        history: one row per log line.
        truncated: pairs of which tokens were cut off, over the steps since the last resume.
    """

    steps: int
    history: list[dict[str, float]]
    truncated: int


def fit_pair_classifier(
    model: PairClassifier,
    tokenizer: Any,
    training: Sequence[TaskRecord],
    held_out: Sequence[TaskRecord],
    options: EncoderTraining,
    run: Run,
    *,
    name: str = "train",
) -> Trained:
    """Train `model` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.

    Raises:
        DataError: records that cannot be used together (`alignment_records.assert_usable`).
    """
    assert_usable(training)
    collator = PairCollator(PairEncoder(tokenizer, options.max_length), masked=model.mlm_head is not None)
    task = PairTask(collator)
    fitted = fit_module(
        model,
        task,
        TaskRecordData(training, options.seed, options.augmentation),
        options,
        run,
        name=name,
        held_out=TaskRecordData(held_out, options.seed + 1, 0.0),
        processor=tokenizer,
        adam_epsilon=options.adam_epsilon,
    )
    history = [{key: value for key, value in row.items() if math.isfinite(value)} for row in fitted.history]
    return Trained(fitted.steps, history, over_processes(task.truncated))
